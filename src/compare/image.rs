//! Whether outputs of another width are a linear image of the source's.
//!
//! A model without a head returns hidden channels. Its lossless expansion returns `y_T = E y_S`
//! with some fixed matrix E that a sample does not know. What holds for *every* E: over n inputs
//! the expanded outputs `Y` `[n, d_T]` lie, column by column, in the space that the columns of the
//! source outputs `X` `[n, d_S]` span. With more rows than `d_S` this can fail, and what is left of
//! `Y` outside that space is a number to compare with noise. Projecting never enlarges noise, so no
//! E, however badly conditioned, turns rounding into a refutation.
//!
//! Channels of a source may depend on one another: copies, if it is itself an expansion; their sum,
//! behind a norm without weight. Such a column leaves only rounding outside the space of those
//! before it. That is no direction of the source: it is another one in every computation, so that
//! what it takes from a deviation looks like noise. It is left out of the space, and what it leaves
//! is told: a Y that reads that column with a coefficient `c` may lie `c` times as far outside.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

/// An orthonormal basis of the space that the columns of a source's outputs span.
pub struct Image {
    /// `[rows, rank]`.
    basis: Array2<f64>,
    /// The columns that the basis is of.
    columns: Vec<usize>,
    /// Root mean square, over the rows, of what all other columns leave outside the space.
    left_out: f64,
}

impl Image {
    /// How many rows (positions over all inputs) are needed to judge `d_source` channels: twice as
    /// many, so that half of a deviation stays visible.
    pub fn rows_needed(d_source: usize) -> usize {
        2 * d_source + 16
    }

    /// The space of the columns of `source` `[rows, d_source]`, by Gram-Schmidt. A column whose
    /// rest is no larger than `rounding` says of it (a root mean square, in the output's own units)
    /// is left out.
    pub fn of(source: ArrayView2<f64>, rounding: impl Fn(usize) -> f64) -> Self {
        let (rows, columns) = source.dim();
        let mut image = Image {
            basis: Array2::zeros((rows, columns.min(rows))),
            columns: Vec::new(),
            left_out: 0.0,
        };
        for (number, column) in source.axis_iter(Axis(1)).enumerate() {
            let rank = image.columns.len();
            if rank == image.basis.ncols() {
                break;
            }
            let basis = image.basis.slice(s![.., ..rank]);
            let mut rest = column.to_owned();
            remove(basis, &mut rest);
            let size = (rest.dot(&rest) / rows as f64).sqrt();
            match outside(basis, rest).filter(|_| size > rounding(number)) {
                Some(direction) => {
                    image.basis.column_mut(rank).assign(&direction);
                    image.columns.push(number);
                }
                None => image.left_out = image.left_out.hypot(size),
            }
        }
        image.basis = image.basis.slice(s![.., ..image.columns.len()]).to_owned();
        image
    }

    /// The space of the same columns of the outputs of another computation, of the same shape.
    pub fn of_same_columns(&self, source: ArrayView2<f64>) -> Image {
        Image::of(source.select(Axis(1), &self.columns).view(), |_| 0.0)
    }

    /// Root mean square, over the rows, of what the columns that were left out leave outside the
    /// space; in the output's own units.
    pub fn left_out(&self) -> f64 {
        self.left_out
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

/// Takes from `rest` what lies in the space of `basis`.
fn remove(basis: ArrayView2<f64>, rest: &mut Array1<f64>) {
    let parts = basis.t().dot(rest);
    *rest -= &basis.dot(&parts);
}

/// The direction in which `rest` leaves the space of `basis`, if it does.
///
/// A direction must be orthogonal to the basis, so it is projected until that no longer shortens
/// it.
fn outside(basis: ArrayView2<f64>, mut rest: Array1<f64>) -> Option<Array1<f64>> {
    let mut length = rest.dot(&rest).sqrt();
    for _ in 0..6 {
        remove(basis, &mut rest);
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

    #[test]
    fn twice_as_many_rows_are_needed_as_there_are_channels() {
        assert_eq!([0, 1, 768].map(Image::rows_needed), [16, 18, 1552]);
    }

    /// The space of a source whose columns are computed to a relative 1e-13.
    fn exact(source: &Array2<f64>) -> Image {
        Image::of(source.view(), |_| 1e-13)
    }

    fn largest(matrix: &Array2<f64>) -> f64 {
        matrix.iter().fold(0.0, |most, value| value.abs().max(most))
    }

    #[test]
    fn a_linear_image_leaves_nothing() {
        let source = noise(40, 6, 1);
        let expanded = source.dot(&noise(6, 11, 2));
        assert!(largest(&exact(&source).residual(expanded.view())) < 1e-13);
    }

    #[test]
    fn one_changed_number_is_left_over() {
        let source = noise(40, 6, 1);
        let mut expanded = source.dot(&noise(6, 11, 2));
        expanded[[7, 3]] += 0.5;
        let rest = exact(&source).residual(expanded.view());
        assert!(rest[[7, 3]] > 0.25, "{}", rest[[7, 3]]);
        assert!(rest.column(2).iter().all(|v| v.abs() < 1e-13));
    }

    #[test]
    fn dependent_source_channels_do_no_harm() {
        let thin = noise(40, 3, 1);
        let source = thin.dot(&noise(3, 6, 5));
        let expanded = source.dot(&noise(6, 11, 2));
        assert!(largest(&exact(&source).residual(expanded.view())) < 1e-13);
    }

    #[test]
    fn what_dependent_channels_leave_takes_nothing_from_a_deviation() {
        let thin = noise(40, 3, 1);
        let source = thin.dot(&noise(3, 30, 5));
        let mut expanded = source.dot(&noise(30, 11, 2));
        expanded[[7, 3]] += 0.5;
        let image = exact(&source);
        assert_eq!(image.columns.len(), 3);
        assert!(image.left_out() < 1e-13);
        let rest = image.residual(expanded.view());
        assert!(rest[[7, 3]] > 0.4, "{}", rest[[7, 3]]);
        // The same after another rounding.
        let moved = &source + &(1e-12 * noise(40, 30, 9));
        let again = image.of_same_columns(moved.view()).residual(expanded.view());
        assert!(largest(&(again - rest)) < 1e-9);
    }

    #[test]
    fn what_a_column_that_is_left_out_leaves_is_told() {
        let thin = noise(40, 3, 1);
        let mut source = thin.dot(&noise(3, 4, 5));
        // Rounding at right angles to nothing: most of it is outside the space of three columns.
        let rest = 1e-4 * &noise(40, 1, 9);
        let mut last = source.column_mut(3);
        last += &rest.column(0);
        let image = Image::of(source.view(), |_| 1e-3);
        assert_eq!(image.columns, [0, 1, 2]);
        let size = (rest.mapv(|v| v * v).sum() / 40.0).sqrt();
        assert!((0.8 * size..=size).contains(&image.left_out()), "{}", image.left_out());
    }
}
