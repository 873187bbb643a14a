//! Below what size a stored number may be rounding of its neighbours.
//!
//! Expanders compute copies as sums: `c − mean(c)` of drawn numbers leaves rounding of the size of
//! the drawn ones even where little is left. So the bound of a stored number has a floor: the
//! rounding of a number as large as its neighbours are.
//!
//! The neighbours are those of its row *and* its column. What is halved in one factor of a product
//! may be doubled in the other without changing the function (a value row against a column of the
//! output, a channel of γ against a column of what reads it), so a row that is small as a whole
//! may count as much as any: it is rounding of nothing. So may a number that is small because its
//! row is and its column is, each for its own reason. The usual size of a number is therefore taken
//! as the size of its row times that of its column, as if the matrix were scaled on both sides. Nor
//! is a row of exact zeros rounding: noise would have left something, and summed with copies that
//! are small as a whole, a floor as high as the tensor's would hide these.
//!
//! A number that is multiplied by nothing says nothing of what its row rounds to, so a row's size
//! is taken from the columns that count alone: see [`super::inputs`]. Numbers of a row that are
//! smaller than its others by all of a format's digits are rounding of the sum that the row forms.

use crate::checkpoint::Checkpoint;
use crate::model::Lens;

/// Numbers of a tensor that its typical size is taken from.
const SAMPLES: usize = 4096;

/// Numbers of a row or column that its typical size is taken from.
const LINE_SAMPLES: usize = 32;

/// Lines may be this much smaller than the tensor: the sizes within a line differ as well.
const NEAR: f64 = 16.0;

/// The unit of the coarsest arithmetic in which expansions are computed, whatever they are stored
/// in: a sum that should be zero is zero to this, relative to its terms.
const ARITHMETIC: f64 = 1.0 / (1u64 << 24) as f64;

/// The floors of a matrix: for each number the size of its row times that of its column, within
/// limits that all of its column have in common.
#[derive(Clone, Debug)]
pub(super) struct Floors {
    /// Sizes of the rows, relative to one another; matrices that stand side by side have their own.
    rows: Vec<Vec<f64>>,
    columns: Vec<Column>,
    /// What the sizes of the columns are multiplied by.
    near: f64,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    /// Times the size of the row it is the floor.
    size: f64,
    /// The floor is no lower and no higher than these.
    limits: (f64, f64),
    /// Which sizes of the rows are meant.
    rows: usize,
}

/// The floors of one stored matrix: that of a number is the size of its row times that of its
/// column, within the limits.
pub(super) struct Lines {
    pub rows: Vec<f64>,
    pub columns: Vec<f64>,
    pub limits: (f64, f64),
}

impl Floors {
    /// One floor for all.
    pub fn even(rows: usize, cols: usize, floor: f64) -> Self {
        let column = Column { size: floor, limits: (floor, floor), rows: 0 };
        Floors { rows: vec![vec![1.0; rows]], columns: vec![column; cols], near: 1.0 }
    }

    /// Those of a stored matrix, whose numbers are rounded to `unit` relative to themselves;
    /// `inputs` are the usual sizes of what its columns multiply, relative to one another.
    /// A yardstick, not a verdict: it is taken from evenly spaced numbers.
    pub fn of(checkpoint: &Checkpoint, lens: &Lens, unit: f64, inputs: Option<&[f64]>) -> Self {
        let (rows, cols) = (lens.rows(), lens.cols());
        let Ok(tensor) = checkpoint.tensor(lens.name()) else {
            return Floors::even(rows, cols, 0.0);
        };
        let Some(dtype) = tensor.dtype else { return Floors::even(rows, cols, 0.0) };
        let (bytes, starts) = (tensor.bytes(), (0..rows).map(|row| lens.position(row, 0)));
        let starts: Vec<usize> = starts.collect();
        let apart = if rows * cols > 0 { lens.position(0, 1) - lens.position(0, 0) } else { 0 };
        let size = |row: usize, col: usize| dtype.get(bytes, starts[row] + col * apart).abs();
        let least = dtype.subnormal_roundoff();
        let whole = median(rows * cols, SAMPLES, |at| size(at / cols, at % cols));
        let Some(whole) = whole else { return Floors::even(rows, cols, least) };
        // The median of a row is its size if all rows meet the same columns; that of a column, and
        // then of the row once more, relative to what the other lines are.
        let every = |count: usize| (0..count).step_by(step(count, LINE_SAMPLES)).collect();
        let rows_seen = Sampled::of(rows, every(cols), size);
        let columns_seen = Sampled::of(cols, every(rows), |col, row| size(row, col));
        let columns = columns_seen.sizes(&rows_seen.sizes(&vec![1.0; cols]));
        let rows = match inputs.and_then(|inputs| counting(&columns, inputs)) {
            Some(counting) => Sampled::of(rows, counting, size).sizes(&columns),
            None => rows_seen.sizes(&columns),
        };
        let unit = unit.min(ARITHMETIC);
        let near = NEAR * unit;
        let column = |size: &f64| Column {
            size: near * size,
            limits: (least, (unit * whole).max(least)),
            rows: 0,
        };
        Floors { columns: columns.iter().map(column).collect(), rows: vec![rows], near }
    }

    /// Those of one stored matrix, line by line.
    pub fn lines(&self) -> Lines {
        let first = self.columns.first();
        Lines {
            rows: self.rows.first().cloned().unwrap_or_default(),
            columns: self.columns.iter().map(|column| column.size).collect(),
            limits: first.map_or((0.0, 0.0), |column| column.limits),
        }
    }

    /// The usual sizes of the rows and of the columns of one stored matrix: products of them are
    /// the sizes of its numbers.
    pub fn sizes(&self) -> [Vec<f64>; 2] {
        let columns = self.columns.iter().map(|column| column.size / self.near);
        [self.rows.first().cloned().unwrap_or_default(), columns.collect()]
    }

    /// The floors of `count` rows from `first` on.
    pub fn slice(&self, first: usize, count: usize) -> Floors {
        let rows = self.rows.iter().map(|rows| rows[first..first + count].to_vec());
        Floors { rows: rows.collect(), columns: self.columns.clone(), near: self.near }
    }

    /// Adds those of a matrix that stands on the right of this one, times `share`, and of `missing`
    /// columns of exact zeros behind it.
    pub fn append(&mut self, other: &Floors, share: f64, missing: usize) {
        let behind = self.rows.len();
        let column = |column: &Column| Column {
            size: share * column.size,
            limits: (share * column.limits.0, share * column.limits.1),
            rows: behind + column.rows,
        };
        self.columns.extend(other.columns.iter().map(column));
        self.rows.extend(other.rows.iter().cloned());
        let zero = Column { size: 0.0, limits: (0.0, 0.0), rows: 0 };
        self.columns.extend(std::iter::repeat_n(zero, missing));
    }

    /// The floor of one number.
    #[inline]
    pub fn at(&self, row: usize, col: usize) -> f64 {
        let Column { size, limits, rows } = self.columns[col];
        (size * self.rows[rows][row]).min(limits.1).max(limits.0)
    }
}

/// A few numbers of each line, evenly spaced.
struct Sampled {
    sizes: Vec<f64>,
    /// Which numbers of a line.
    places: Vec<usize>,
}

impl Sampled {
    /// Of `lines` lines at these places; `size(line, place)` is the size of a number.
    fn of(lines: usize, places: Vec<usize>, size: impl Fn(usize, usize) -> f64) -> Sampled {
        let mut sizes = Vec::with_capacity(lines * places.len());
        for line in 0..lines {
            sizes.extend(places.iter().map(|place| size(line, *place)));
        }
        Sampled { sizes, places }
    }

    /// The usual size of each line, relative to the sizes of the lines across; zero where there is
    /// none.
    fn sizes(&self, across: &[f64]) -> Vec<f64> {
        let across: Vec<f64> = self.places.iter().map(|place| across[*place]).collect();
        let mut room = Vec::with_capacity(across.len());
        let lines = self.sizes.chunks_exact(self.places.len().max(1));
        lines
            .map(|line| {
                room.clear();
                room.extend(line.iter().zip(&across).map(|(size, across)| size / across));
                median_of(&mut room).unwrap_or(0.0)
            })
            .collect()
    }
}

/// Some of the columns that count in what a row makes: all but those whose usual number, times what
/// it multiplies, is far below that of the columns that make up half of it. `None` if none count,
/// or all do.
fn counting(columns: &[f64], inputs: &[f64]) -> Option<Vec<usize>> {
    let shares: Vec<f64> = columns.iter().zip(inputs).map(|(size, input)| size * input).collect();
    let mut sorted = shares.clone();
    sorted.sort_unstable_by(f64::total_cmp);
    let half = sorted.iter().sum::<f64>() / 2.0;
    let mut below = 0.0;
    let middle = sorted.iter().copied().find(|share| {
        below += share;
        below > half
    })?;
    let counting: Vec<usize> =
        (0..shares.len()).filter(|column| NEAR * shares[*column] >= middle).collect();
    if counting.len() == columns.len() {
        return None;
    }
    let step = step(counting.len(), LINE_SAMPLES);
    Some(counting.into_iter().step_by(step).collect())
}

/// From one of about `samples` numbers of `count` to the next; odd, so that no layout in powers of
/// two hides behind it.
fn step(count: usize, samples: usize) -> usize {
    (count / samples).max(1) | 1
}

/// The median of the sizes that are not zero, from at most about `samples` evenly spaced ones of
/// `count`. A median, since free numbers and outliers may be of any size.
fn median(count: usize, samples: usize, size: impl Fn(usize) -> f64) -> Option<f64> {
    median_of(&mut (0..count).step_by(step(count, samples)).map(size).collect())
}

/// The median of those that are neither zero nor infinite.
fn median_of(sizes: &mut Vec<f64>) -> Option<f64> {
    sizes.retain(|size| *size > 0.0 && size.is_finite());
    if sizes.is_empty() {
        return None;
    }
    let middle = sizes.len() / 2;
    Some(*sizes.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Config, Dtype, Tensor};
    use crate::model::Dim;
    use ndarray::Array2;
    use std::collections::BTreeMap;

    fn floors(matrix: &Array2<f64>) -> Floors {
        let (rows, cols) = matrix.dim();
        let tensor = Tensor::from_values(Dtype::F64, vec![rows, cols], matrix.iter().copied());
        let config = Config::new("test", Default::default());
        let tensors = BTreeMap::from([("w".to_string(), tensor)]);
        let checkpoint = Checkpoint::in_memory("test", config, tensors);
        let lens = Lens::matrix("w", Dim::new(rows, "rows"), [Dim::new(cols, "cols")]);
        Floors::of(&checkpoint, &lens, 1e-9, None)
    }

    /// Numbers of sizes 1 to 4.
    fn plain() -> Array2<f64> {
        Array2::from_shape_fn((40, 30), |(i, j)| 1.0 + ((i * 7 + j * 11) % 13) as f64 / 4.0)
    }

    #[test]
    fn a_floor_follows_the_sizes_of_its_row_and_its_column() {
        let power = |index: usize| 2f64.powi([-40, 0, 40][index % 3]);
        let scaled =
            Array2::from_shape_fn((40, 30), |(i, j)| plain()[[i, j]] * power(i) * power(j));
        let floors = floors(&scaled);
        for ((i, j), value) in scaled.indexed_iter() {
            assert!(floors.at(i, j) <= 64.0 * 1e-9 * value, "{i} {j}");
        }
    }

    #[test]
    fn matrices_side_by_side_keep_their_floors_each_times_its_share() {
        // A column of small numbers has a floor of its own, below that of the whole.
        let mut small = plain() * 8.0;
        small.column_mut(3).mapv_inplace(|value| value * 2f64.powi(-40));
        let (one, other) = (floors(&plain()), floors(&small));
        assert!(other.at(0, 3) < 1e-6 * other.at(0, 2));
        let mut both = one.clone();
        both.append(&other, 0.25, 2);
        for (i, j) in (0..40).flat_map(|i| (0..30).map(move |j| (i, j))) {
            assert_eq!(both.at(i, j), one.at(i, j));
            assert_eq!(both.at(i, 30 + j), 0.25 * other.at(i, j));
        }
        assert_eq!((both.at(0, 60), both.at(39, 61)), (0.0, 0.0));
    }

    #[test]
    fn a_number_far_smaller_than_its_row_and_its_column_is_below_its_floor() {
        let mut matrix = plain();
        (matrix[[3, 5]], matrix[[8, 5]]) = (1e-17, 0.0);
        assert!(floors(&matrix).at(3, 5) > 1e-9);
        assert!(floors(&matrix).at(8, 5) > 1e-9);
        matrix.row_mut(3).fill(0.0);
        assert_eq!(floors(&matrix).at(3, 5), 0.0);
    }
}
