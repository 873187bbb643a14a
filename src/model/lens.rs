//! Lenses: matrices inside stored tensors.
//!
//! A [`Lens`] says which matrix a part of the model is and where it lies in a named tensor:
//! transposed or not (GPT-2's `Conv1D`), which rows (fused or per-head interleaved query, key and
//! value). Reading and writing through a lens hides all of that from everything above.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use ndarray::Array2;
use std::ops::Range;

/// One dimension of a stored shape and the configuration field that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    /// Length (count of rows, columns, channels …).
    pub size: usize,
    /// The field, or the expression in fields, that says so: `n_embd`, `3·n_embd`.
    pub from: String,
}

impl Dim {
    /// A dimension of `size` that `from` says.
    pub fn new(size: usize, from: impl Into<String>) -> Self {
        Dim { size, from: from.into() }
    }

    /// A dimension that is always one.
    pub fn one() -> Self {
        Dim::new(1, "1")
    }

    /// `count` times this dimension.
    pub fn times(&self, count: usize) -> Self {
        Dim::new(self.size.saturating_mul(count), format!("{count}·{}", self.from))
    }
}

/// A matrix `[rows, cols]` inside a stored tensor.
///
/// The stored shape is read as a matrix too: the trailing dimensions are joined to the columns, so
/// a patch convolution `[d, channels, p, p]` is `[d, channels·p·p]`. Element `(r, c)` of the lens
/// is element `(r', c)` of it, or `(c, r')` if transposed, with `r' = first + (r / block)·stride +
/// r mod block`. A vector is a matrix of one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lens {
    tensor: String,
    stored: Vec<Dim>,
    /// Stored rows (along the lens's row axis) and columns, before rows are selected.
    extent: (usize, usize),
    transposed: bool,
    rows: usize,
    first: usize,
    block: usize,
    stride: usize,
}

impl Lens {
    /// A matrix stored as it is: `rows` by the product of `cols`.
    pub fn matrix(tensor: impl Into<String>, rows: Dim, cols: impl Into<Vec<Dim>>) -> Self {
        let cols = cols.into();
        let extent = (rows.size, cols.iter().fold(1usize, |n, d| n.saturating_mul(d.size)));
        Self::whole(tensor, [vec![rows], cols].concat(), extent, false)
    }

    /// A matrix `[rows, cols]` that is stored as `[cols, rows]`, as GPT-2's `Conv1D` does.
    pub fn transposed(tensor: impl Into<String>, rows: Dim, cols: Dim) -> Self {
        let extent = (rows.size, cols.size);
        Self::whole(tensor, vec![cols, rows], extent, true)
    }

    /// A vector, as a matrix of one column.
    pub fn vector(tensor: impl Into<String>, size: Dim) -> Self {
        let extent = (size.size, 1);
        Self::whole(tensor, vec![size], extent, false)
    }

    /// A table `[rows, cols]` behind leading dimensions of length one, such as ViT's class token
    /// `[1, 1, d]` and positions `[1, tokens, d]`.
    pub fn table_behind_ones(tensor: impl Into<String>, ones: usize, rows: Dim, cols: Dim) -> Self {
        let extent = (rows.size, cols.size);
        let stored = [vec![Dim::one(); ones], vec![rows, cols]].concat();
        Self::whole(tensor, stored, extent, false)
    }

    /// All `count` matrices `[rows, cols]` of a tensor `[count, rows, cols]`, one below the other.
    pub fn stack(tensor: impl Into<String>, count: Dim, rows: Dim, cols: Dim) -> Self {
        let extent = (count.size.saturating_mul(rows.size), cols.size);
        Self::whole(tensor, vec![count, rows, cols], extent, false)
    }

    fn whole(
        tensor: impl Into<String>,
        stored: Vec<Dim>,
        extent: (usize, usize),
        transposed: bool,
    ) -> Self {
        let rows = extent.0;
        let (first, block, stride) = (0, rows.max(1), rows.max(1));
        Lens { tensor: tensor.into(), stored, extent, transposed, rows, first, block, stride }
    }

    /// The `count` rows from `first` on.
    ///
    /// # Panics
    /// If there are not that many rows.
    pub fn slice(self, first: usize, count: usize) -> Self {
        self.interleaved(first, count.max(1), count.max(1), count)
    }

    /// `count` rows in blocks of `block`, the first at row `first`, each `stride` after the last.
    ///
    /// # Panics
    /// If a row lies outside the stored matrix.
    pub fn interleaved(mut self, first: usize, block: usize, stride: usize, count: usize) -> Self {
        (self.first, self.block, self.stride, self.rows) = (first, block, stride, count);
        assert!(
            count == 0 || self.stored_row(count - 1) < self.extent.0,
            "the rows lie inside `{}`",
            self.tensor
        );
        self
    }

    /// The name of the tensor that it lies in.
    pub fn name(&self) -> &str {
        &self.tensor
    }

    /// The shape that the tensor must have, with the fields that say so.
    pub fn stored(&self) -> &[Dim] {
        &self.stored
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix (1 for a vector).
    pub fn cols(&self) -> usize {
        self.extent.1
    }

    /// Rows of the whole stored matrix, of which [`Lens::rows`] are selected.
    pub fn whole_rows(&self) -> usize {
        self.extent.0
    }

    fn stored_row(&self, row: usize) -> usize {
        self.first + row / self.block * self.stride + row % self.block
    }

    /// Where element `(row, col)` lies in the stored tensor, counted in numbers.
    pub fn position(&self, row: usize, col: usize) -> usize {
        let row = self.stored_row(row);
        if self.transposed { col * self.extent.0 + row } else { row * self.extent.1 + col }
    }

    /// Where the numbers of the matrix lie in the stored tensor: ranges of consecutive ones that
    /// together hold each once.
    pub fn spans(&self) -> Vec<Range<usize>> {
        let span = |first: usize, len: usize| first..first + len;
        let whole = self.rows == self.extent.0;
        let stretch = if self.stride == self.block { self.rows.max(1) } else { self.block };
        let starts = (0..self.rows).step_by(stretch);
        match (self.transposed, whole) {
            (_, true) => vec![span(0, self.extent.0 * self.extent.1)],
            (false, false) => starts
                .map(|row| {
                    let count = stretch.min(self.rows - row);
                    span(self.position(row, 0), count * self.extent.1)
                })
                .collect(),
            (true, false) => (0..self.cols())
                .flat_map(|col| {
                    let rows = starts.clone();
                    rows.map(move |row| (row, col))
                })
                .map(|(row, col)| span(self.position(row, col), stretch.min(self.rows - row)))
                .collect(),
        }
    }

    /// The index of element `(row, col)` in the stored tensor's own shape.
    pub fn stored_index(&self, row: usize, col: usize) -> Vec<usize> {
        let mut rest = self.position(row, col);
        let mut index = vec![0; self.stored.len()];
        for (slot, dim) in index.iter_mut().zip(&self.stored).rev() {
            *slot = rest % dim.size;
            rest /= dim.size;
        }
        index
    }

    /// Checks the stored tensor's shape and number format against what the configuration says.
    ///
    /// # Errors
    /// If the tensor is missing, is stored in a format that weights are not read in, or has another
    /// shape: then the error names the first dimension that disagrees and its field.
    pub fn check<'a>(&self, checkpoint: &'a Checkpoint) -> Result<&'a Tensor> {
        let tensor = checkpoint.tensor(&self.tensor)?;
        let fail = |problem: String| {
            Err(Error::bad_input(problem).at(checkpoint.path()).tensor(&self.tensor))
        };
        if tensor.dtype.is_none() {
            let stored = tensor.format_name();
            return Err(Error::unsupported(format!(
                "it is stored as {stored}; weights must be F64, F32, F16 or BF16"
            ))
            .at(checkpoint.path())
            .tensor(&self.tensor)
            .help("check the checkpoint as it was before it was quantised"));
        }
        let expected: Vec<usize> = self.stored.iter().map(|d| d.size).collect();
        if tensor.shape == expected {
            return Ok(tensor);
        }
        let origin = checkpoint.config().origin().display();
        let shape = &tensor.shape;
        let Some((axis, dim)) = self
            .stored
            .iter()
            .enumerate()
            .find(|(axis, dim)| shape.len() == expected.len() && shape[*axis] != dim.size)
        else {
            return fail(format!(
                "its shape is {shape:?}, but {origin} describes one of shape {expected:?}"
            ));
        };
        fail(format!(
            "its shape is {shape:?}, but {origin} says {expected:?}: dimension {axis} is {got}, \
             and `{from}` = {want}",
            got = shape[axis],
            from = dim.from,
            want = dim.size,
        ))
        .map_err(|e: Error| e.help("correct the configuration, or point to the one of this file"))
    }

    /// Reads the whole matrix, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Lens::check`], and if a number is NaN or infinite.
    pub fn read(&self, checkpoint: &Checkpoint) -> Result<Array2<f64>> {
        self.read_rows(checkpoint, 0, self.rows)
    }

    /// Reads `count` rows from `first` on, `[count, cols]`.
    ///
    /// # Errors
    /// As [`Lens::read`].
    ///
    /// # Panics
    /// If there are not that many rows.
    pub fn read_rows(
        &self,
        checkpoint: &Checkpoint,
        first: usize,
        count: usize,
    ) -> Result<Array2<f64>> {
        assert!(first + count <= self.rows, "rows {first}+{count} of {}", self.rows);
        let tensor = self.check(checkpoint)?;
        let dtype = tensor.dtype.expect("checked");
        let bytes = tensor.bytes();
        let mut matrix = Array2::zeros((count, self.cols()));
        let finite = if self.transposed {
            self.read_turned(&mut matrix, first, |at, out| dtype.read(bytes, at, out))
        } else {
            let rows = (first..first + count).map(|row| self.position(row, 0));
            rows.zip(matrix.outer_iter_mut()).fold(true, |finite, (start, mut row)| {
                let row = row.as_slice_mut().expect("rows of a new matrix");
                dtype.read(bytes, start, row);
                finite & all_finite(row)
            })
        };
        if finite {
            return Ok(matrix);
        }
        let ((row, col), value) =
            matrix.indexed_iter().find(|(_, v)| !v.is_finite()).expect("one is not finite");
        Err(Error::bad_input(format!(
            "it holds {value} at {:?}",
            self.stored_index(first + row, col)
        ))
        .at(checkpoint.path())
        .tensor(&self.tensor)
        .help("weights must be finite; find the step that wrote this number"))
    }

    /// Fills `matrix` with the rows from `first` on, which are stored as columns, and says whether
    /// all numbers are finite. `read` reads consecutive numbers.
    ///
    /// It goes by strips of a few rows, so that whole cache lines are read, and the rows that are
    /// written stay in the cache.
    fn read_turned(
        &self,
        matrix: &mut Array2<f64>,
        first: usize,
        read: impl Fn(usize, &mut [f64]),
    ) -> bool {
        const STRIP: usize = 16;
        let mut strip = [0.0; STRIP];
        let mut finite = true;
        let cols = self.cols();
        let count = matrix.nrows();
        let values = matrix.as_slice_mut().expect("a new matrix");
        let mut row = 0;
        while row < count {
            // Rows that are stored side by side.
            let start = self.stored_row(first + row);
            let together =
                |n: &usize| row + n < count && self.stored_row(first + row + n) == start + n;
            let width = (1..STRIP).take_while(together).count() + 1;
            let strip = &mut strip[..width];
            for col in 0..cols {
                read(self.position(first + row, col), strip);
                finite &= all_finite(strip);
                for (offset, value) in strip.iter().enumerate() {
                    values[(row + offset) * cols + col] = *value;
                }
            }
            row += width;
        }
        finite
    }

    /// Writes `matrix` `[rows, cols]` into `values`, the numbers of the stored tensor.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn write(&self, values: &mut [f64], matrix: &Array2<f64>) {
        assert_eq!(matrix.dim(), (self.rows, self.cols()), "shape of `{}`", self.tensor);
        for ((row, col), value) in matrix.indexed_iter() {
            values[self.position(row, col)] = *value;
        }
    }
}

/// Whether no number is NaN or infinite.
fn all_finite(values: &[f64]) -> bool {
    values.iter().fold(true, |finite, value| finite & value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Config, Dtype};
    use ndarray::array;

    fn checkpoint(name: &str, shape: Vec<usize>) -> Checkpoint {
        let count = shape.iter().product::<usize>();
        let tensor = Tensor::from_values(Dtype::F32, shape, (0..count).map(|i| i as f64));
        let config = Config::new("config.json", Default::default());
        Checkpoint::in_memory("memory", config, [(name.to_string(), tensor)].into())
    }

    #[test]
    fn a_transposed_lens_reads_columns_as_rows() {
        let stored = checkpoint("w", vec![2, 6]);
        let lens = Lens::transposed("w", Dim::new(6, "3·d"), Dim::new(2, "d")).slice(2, 2);
        assert_eq!(lens.read(&stored).unwrap(), array![[2.0, 8.0], [3.0, 9.0]]);
        assert_eq!(lens.stored_index(1, 1), vec![1, 3]);
    }

    #[test]
    fn an_interleaved_lens_takes_one_block_of_each_stride() {
        let stored = checkpoint("qkv", vec![8, 1]);
        let all = Lens::matrix("qkv", Dim::new(8, "4·d"), [Dim::one()]);
        let keys = all.interleaved(1, 1, 4, 2);
        assert_eq!(keys.read(&stored).unwrap(), array![[1.0], [5.0]]);
    }

    #[test]
    fn a_stack_has_its_matrices_below_each_other() {
        let stored = checkpoint("experts", vec![3, 2, 2]);
        let [count, rows, cols] = [(3, "experts"), (2, "f"), (2, "d")].map(|(n, f)| Dim::new(n, f));
        let second = Lens::stack("experts", count, rows, cols).slice(3, 1);
        assert_eq!(second.read(&stored).unwrap(), array![[6.0, 7.0]]);
        assert_eq!(second.stored_index(0, 1), vec![1, 1, 1]);
    }

    #[test]
    fn writing_then_reading_gives_the_same_matrix() {
        let lens = Lens::transposed("w", Dim::new(6, "3·d"), Dim::new(2, "d")).slice(4, 2);
        let mut values = vec![0.0; 12];
        let matrix = array![[1.0, 2.0], [3.0, 4.0]];
        lens.write(&mut values, &matrix);
        let tensor = Tensor::from_values(Dtype::F64, vec![2, 6], values);
        let config = Config::new("config.json", Default::default());
        let stored = Checkpoint::in_memory("memory", config, [("w".to_string(), tensor)].into());
        assert_eq!(lens.read(&stored).unwrap(), matrix);
    }

    #[test]
    fn spans_hold_every_number_once() {
        let dim = |size| Dim::new(size, "n");
        let plain = Lens::matrix("w", dim(12), [dim(5)]);
        let turned = Lens::transposed("w", dim(12), dim(5));
        for lens in [plain, turned] {
            for part in [lens.clone(), lens.clone().slice(3, 6), lens.interleaved(2, 2, 4, 5)] {
                let all = (0..part.rows()).flat_map(|r| (0..5).map(move |c| (r, c)));
                let mut expected: Vec<usize> = all.map(|(r, c)| part.position(r, c)).collect();
                let mut held: Vec<usize> = part.spans().into_iter().flatten().collect();
                expected.sort();
                held.sort();
                assert_eq!(held, expected, "{part:?}");
            }
        }
    }

    #[test]
    fn a_wrong_shape_names_tensor_dimension_and_field() {
        let stored = checkpoint("w", vec![2, 6]);
        let lens = Lens::transposed("w", Dim::new(9, "3·n_embd"), Dim::new(2, "n_embd"));
        let message = lens.read(&stored).unwrap_err().to_string();
        for part in ["`w`", "dimension 1 is 6", "`3·n_embd` = 9"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_nan_is_named_with_its_index() {
        let tensor = Tensor::from_values(Dtype::F32, vec![2, 2], [0.0, 1.0, f64::NAN, 3.0]);
        let config = Config::new("config.json", Default::default());
        let stored = Checkpoint::in_memory("memory", config, [("w".to_string(), tensor)].into());
        let lens = Lens::matrix("w", Dim::new(2, "a"), [Dim::new(2, "b")]);
        let message = lens.read(&stored).unwrap_err().to_string();
        assert!(message.contains("NaN at [1, 0]"), "{message}");
    }
}
