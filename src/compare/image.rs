//! Whether outputs of another width are a linear image of the source's.
//!
//! A model without a head returns hidden channels. Its lossless expansion returns `y_T = E y_S`
//! with some fixed matrix E that a sample does not know. What holds for *every* E: over n inputs
//! the expanded outputs `Y` `[n, d_T]` lie, column by column, in the space that the columns of the
//! source outputs `X` `[n, d_S]` span. With more rows than `d_S` this can fail, and what is left of
//! `Y` outside that space is a number to compare with noise. Projecting never enlarges noise, so no
//! E, however badly conditioned, turns rounding into a refutation.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// An orthonormal basis of the space that the columns of a source's outputs span.
pub struct Image {
    /// `[rows, rank]`.
    basis: Array2<f64>,
}

impl Image {
    /// How many rows (positions over all inputs) are needed to judge `d_source` channels: twice as
    /// many, so that half of a deviation stays visible.
    pub fn rows_needed(d_source: usize) -> usize {
        2 * d_source + 16
    }

    /// The space of the columns of `source` `[rows, d_source]`, by Gram-Schmidt.
    pub fn of(source: ArrayView2<f64>) -> Self {
        let (rows, columns) = source.dim();
        let mut basis = Array2::zeros((rows, columns.min(rows)));
        let mut rank = 0;
        for column in source.axis_iter(Axis(1)) {
            if rank == basis.ncols() {
                break;
            }
            if let Some(direction) = outside(basis.slice(s![.., ..rank]), column.to_owned()) {
                basis.column_mut(rank).assign(&direction);
                rank += 1;
            }
        }
        Image { basis: basis.slice(s![.., ..rank]).to_owned() }
    }

    /// What no linear map explains of `expanded` `[rows, d_expanded]`: of the same shape.
    ///
    /// # Panics
    /// If it has other rows than the source.
    pub fn residual(&self, expanded: ArrayView2<f64>) -> Array2<f64> {
        let mut rest = expanded.to_owned();
        for _ in 0..2 {
            let parts = self.basis.t().dot(&rest);
            rest -= &self.basis.dot(&parts);
        }
        rest
    }
}

/// The direction in which `rest` leaves the space of `basis`, if it does.
///
/// A column that depends on the others leaves a rounding error. Taking such an error into the basis
/// can only hide a deviation, never make one up; but it must be orthogonal, so it is projected
/// until that no longer shortens it.
fn outside(basis: ArrayView2<f64>, mut rest: Array1<f64>) -> Option<Array1<f64>> {
    let mut length = rest.dot(&rest).sqrt();
    for _ in 0..6 {
        let parts = basis.t().dot(&rest);
        rest -= &basis.dot(&parts);
        let shorter = rest.dot(&rest).sqrt();
        if shorter == 0.0 {
            return None;
        }
        if shorter > 0.5 * length {
            return Some(rest / shorter);
        }
        length = shorter;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without structure, in [-1, 1).
    fn noise(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
        let mut state = seed;
        Array2::from_shape_fn((rows, columns), |_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
    }

    fn largest(matrix: &Array2<f64>) -> f64 {
        matrix.iter().fold(0.0, |most, value| value.abs().max(most))
    }

    #[test]
    fn a_linear_image_leaves_nothing() {
        let source = noise(40, 6, 1);
        let expanded = source.dot(&noise(6, 11, 2));
        assert!(largest(&Image::of(source.view()).residual(expanded.view())) < 1e-13);
    }

    #[test]
    fn one_changed_number_is_left_over() {
        let source = noise(40, 6, 1);
        let mut expanded = source.dot(&noise(6, 11, 2));
        expanded[[7, 3]] += 0.5;
        let rest = Image::of(source.view()).residual(expanded.view());
        assert!(rest[[7, 3]] > 0.25, "{}", rest[[7, 3]]);
        assert!(rest.column(2).iter().all(|v| v.abs() < 1e-13));
    }

    #[test]
    fn dependent_source_channels_do_no_harm() {
        let thin = noise(40, 3, 1);
        let source = thin.dot(&noise(3, 6, 5));
        let expanded = source.dot(&noise(6, 11, 2));
        assert!(largest(&Image::of(source.view()).residual(expanded.view())) < 1e-13);
    }
}
