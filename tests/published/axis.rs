//! How one activation space grows: which source coordinate each new coordinate copies.

use lemon_check::testing::random::Draw;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;

/// What stands where nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    Zero,
    Random,
}

/// A grown activation space. Layers that write it get copied rows; layers that read it get copied
/// columns, divided by how many copies there are (Net2Net, equation 6; bert2BERT, equation 5;
/// HyperCloning, section 3).
#[derive(Clone, Debug)]
pub struct Axis {
    /// For each new coordinate the source's that it copies.
    pub of: Vec<Option<usize>>,
    /// What writes a coordinate that copies nothing.
    pub rows: Fill,
    /// What reads it.
    pub columns: Fill,
}

impl Axis {
    fn copying(of: impl IntoIterator<Item = usize>) -> Axis {
        let of = of.into_iter().map(Some).collect();
        Axis { of, rows: Fill::Zero, columns: Fill::Zero }
    }

    /// As it is.
    pub fn same(size: usize) -> Axis {
        Axis::copying(0..size)
    }

    /// `times` copies of the whole, one behind the other.
    pub fn tiled(size: usize, times: usize) -> Axis {
        Axis::copying((0..times).flat_map(|_| 0..size))
    }

    /// Another order.
    pub fn permuted(size: usize, rng: &mut ChaCha8Rng) -> Axis {
        Axis::copying(rng.permutation(size))
    }

    /// Itself, then copies of coordinates drawn at random (Net2Net's g).
    pub fn drawn(size: usize, grown: usize, rng: &mut ChaCha8Rng) -> Axis {
        Axis::copying((0..grown).map(|i| if i < size { i } else { rng.below(size) }))
    }

    /// Itself, then coordinates that are written by `rows` and read by `columns`.
    pub fn padded(size: usize, grown: usize, rows: Fill, columns: Fill) -> Axis {
        let of = (0..grown).map(|i| (i < size).then_some(i)).collect();
        Axis { of, rows, columns }
    }

    pub fn len(&self) -> usize {
        self.of.len()
    }

    /// How many copies each of `size` coordinates has.
    pub fn counts(&self, size: usize) -> Vec<usize> {
        (0..size).map(|i| self.of.iter().filter(|of| **of == Some(i)).count()).collect()
    }

    /// Heads of `size` source channels each, whose channels grow by `inner`.
    pub fn heads(&self, inner: &Axis, size: usize) -> Axis {
        let of = self.of.iter().flat_map(|head| {
            inner.of.iter().map(move |channel| Some((*head)? * size + (*channel)?))
        });
        let part = |fill: fn(&Axis) -> Fill| {
            let grown = |axis: &Axis| axis.of.contains(&None).then(|| fill(axis));
            grown(self).or(grown(inner)).unwrap_or(Fill::Zero)
        };
        Axis { of: of.collect(), rows: part(|a| a.rows), columns: part(|a| a.columns) }
    }

    /// `[source, n]` becomes `[grown, n]`.
    pub fn write(&self, matrix: &Array2<f64>, rng: &mut ChaCha8Rng) -> Array2<f64> {
        let mut grown = Array2::zeros((self.len(), matrix.ncols()));
        for (of, mut row) in self.of.iter().zip(grown.rows_mut()) {
            match (of, self.rows) {
                (Some(of), _) => row.assign(&matrix.row(*of)),
                (None, Fill::Random) => row.mapv_inplace(|_| 0.5 * rng.normal()),
                (None, Fill::Zero) => {}
            }
        }
        grown
    }

    /// `[n, source]` becomes `[n, grown]`.
    pub fn read(&self, matrix: &Array2<f64>, rng: &mut ChaCha8Rng) -> Array2<f64> {
        let counts = self.counts(matrix.ncols());
        let mut grown = Array2::zeros((matrix.nrows(), self.len()));
        for (of, mut column) in self.of.iter().zip(grown.columns_mut()) {
            match (of, self.columns) {
                (Some(of), _) => column.assign(&(&matrix.column(*of) / counts[*of] as f64)),
                (None, Fill::Random) => column.mapv_inplace(|_| 0.5 * rng.normal()),
                (None, Fill::Zero) => {}
            }
        }
        grown
    }
}
