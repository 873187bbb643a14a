//! How well rows that were put in one group agree, all of them together.
//!
//! Rows are one if every entry is, within its bound. A factor of 1.01 hides in each entry of a bf16
//! row; it does not hide in the sum over all rows. So what was matched is held once more, as one
//! equation for the weights and one for the biases, with the test of the common scale.

use super::bounded::{Ratio, Row};
use super::head_norm::HeadEpsilon;
use super::squares::Residual;

/// The equations `row = ratio · representative` over all matched rows.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    pub weight: Residual,
    pub bias: Residual,
    /// Norms of queries and keys whose ε does not fit the rows in front of them.
    pub head_epsilons: Vec<HeadEpsilon>,
}

impl Agreement {
    /// Over no row yet; `shared` as in [`Residual::new`].
    pub fn new(shared: f64) -> Self {
        let (weight, bias) = (Residual::new(shared), Residual::new(shared));
        Agreement { weight, bias, head_epsilons: Vec::new() }
    }

    /// Adds row number `number`, made of pieces of `period` entries of which the last is a bias; 0
    /// where there are no biases.
    pub fn add(&mut self, row: &Row, other: &Row, ratio: Ratio, number: usize, period: usize) {
        for col in 0..row.value.len() {
            let is_bias = period > 0 && col % period == period - 1;
            let residual = if is_bias { &mut self.bias } else { &mut self.weight };
            let expected = ratio.factor * other.value[col];
            let variance = row.variance[col]
                + ratio.factor * ratio.factor * other.variance[col]
                + (ratio.error * other.value[col]).powi(2);
            residual.add_entry((number, col), row.value[col], expected, variance);
        }
    }

    /// Whether both equations hold. The ε of norms of queries and keys are conditions of their own.
    pub fn holds(&self) -> bool {
        self.weight.holds() && self.bias.holds()
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounded::Bounded;
    use super::*;
    use ndarray::Array2;

    #[test]
    fn a_common_factor_within_every_entrys_rounding_is_seen_over_all_rows() {
        let unit = 2f64.powi(-8);
        let values =
            Array2::from_shape_fn((64, 64), |(i, j)| ((i * 37 + j * 11) % 17) as f64 - 8.0);
        let source = Bounded::stored(values.clone(), unit, 0.0);
        let scaled = Bounded::stored(values * 1.01, unit, 0.0);
        let mut agreement = Agreement::new(0.0);
        for row in 0..64 {
            let (a, b) = (scaled.row(row), source.row(row));
            assert!(a.equals(&b, Ratio::ONE, 8.0));
            agreement.add(&a, &b, Ratio::ONE, row, 0);
        }
        assert!(!agreement.holds());
    }
}
