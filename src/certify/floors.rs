//! Below what size a stored number may be rounding of its neighbours.
//!
//! Expanders compute copies as sums: `c − mean(c)` of drawn numbers leaves rounding of the size of
//! the drawn ones even where little is left. So the bound of a stored number has a floor: the
//! rounding of a number as large as its neighbours are.
//!
//! The neighbours are those of its tensor, its row *and* its column, whichever are smallest. What
//! is halved in one factor of a product may be doubled in the other without changing the function
//! (a value row against a column of the output, a channel of γ against a column of what reads it),
//! so a row that is small as a whole may count as much as any: it is rounding of nothing. Nor is a
//! row of exact zeros: noise would have left something, and summed with copies that are small as a
//! whole, a floor as high as the tensor's would hide these.

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

/// A floor for each row and column of a matrix; a number's is the smaller of its two.
#[derive(Clone, Debug)]
pub(super) struct Floors {
    /// `[rows]`.
    pub rows: Vec<f64>,
    /// `[cols]`.
    pub cols: Vec<f64>,
}

impl Floors {
    /// One floor for all.
    pub fn even(rows: usize, cols: usize, floor: f64) -> Self {
        Floors { rows: vec![floor; rows], cols: vec![floor; cols] }
    }

    /// Those of a stored matrix, whose numbers are rounded to `unit` relative to themselves.
    /// A yardstick, not a verdict: it is taken from evenly spaced numbers.
    pub fn of(checkpoint: &Checkpoint, lens: &Lens, unit: f64) -> Self {
        let (rows, cols) = (lens.rows(), lens.cols());
        let Ok(tensor) = checkpoint.tensor(lens.name()) else {
            return Floors::even(rows, cols, 0.0);
        };
        let Some(dtype) = tensor.dtype else { return Floors::even(rows, cols, 0.0) };
        let size = |row, col| dtype.get(tensor.bytes(), lens.position(row, col)).abs();
        let whole = median(rows * cols, SAMPLES, |at| size(at / cols, at % cols));
        let Some(whole) = whole else {
            return Floors::even(rows, cols, dtype.subnormal_roundoff());
        };
        let floor = |line: Option<f64>| {
            let typical = line.map_or(0.0, |line| whole.min(NEAR * line));
            (unit.min(ARITHMETIC) * typical).max(dtype.subnormal_roundoff())
        };
        let row = |row| floor(median(cols, LINE_SAMPLES, |col| size(row, col)));
        let col = |col| floor(median(rows, LINE_SAMPLES, |row| size(row, col)));
        Floors { rows: (0..rows).map(row).collect(), cols: (0..cols).map(col).collect() }
    }

    /// The floors of `count` rows from `first` on.
    pub fn slice(&self, first: usize, count: usize) -> Floors {
        Floors { rows: self.rows[first..first + count].to_vec(), cols: self.cols.clone() }
    }

    /// The floor of one number.
    #[inline]
    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.rows[row].min(self.cols[col])
    }
}

/// The median of the sizes that are not zero, from at most about `samples` evenly spaced ones of
/// `count`. A median, since free numbers and outliers may be of any size.
fn median(count: usize, samples: usize, size: impl Fn(usize) -> f64) -> Option<f64> {
    let step = (count / samples).max(1) | 1;
    let sizes = (0..count).step_by(step).map(size);
    let mut sizes: Vec<f64> = sizes.filter(|size| *size > 0.0 && size.is_finite()).collect();
    if sizes.is_empty() {
        return None;
    }
    let middle = sizes.len() / 2;
    Some(*sizes.select_nth_unstable_by(middle, f64::total_cmp).1)
}
