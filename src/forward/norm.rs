//! LayerNorm and RMSNorm.

use super::{Real, Weights};
use crate::error::Result;
use crate::model::{Norm, NormKind};
use ndarray::{Array1, Array2, ArrayViewMut1, Axis};

/// Normalises every position of `x` `[positions, channels]` in place.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn normalise<R: Real>(weights: &Weights, norm: &Norm, x: &mut Array2<R>) -> Result<()> {
    let eps = R::from_f64(norm.eps);
    for row in x.axis_iter_mut(Axis(0)) {
        let variance = standardise(row, norm.kind, eps);
        weights.met(norm.eps, || variance.to_f64());
    }
    if let Some(weight) = &norm.weight {
        let offset = R::from_f64(norm.offset);
        let gain: Array1<R> = weights.vector(weight)?;
        *x *= &gain.mapv_into(|weight| offset + weight);
    }
    if let Some(bias) = &norm.bias {
        *x += &weights.vector::<R>(bias)?;
    }
    Ok(())
}

/// `(x − mean)/sqrt(variance + ε)`, or `x/sqrt(mean square + ε)`. Two passes: the mean first, then
/// the mean square of what is left, so that a large mean does not cancel. Gives that mean square.
fn standardise<R: Real>(mut row: ArrayViewMut1<R>, kind: NormKind, eps: R) -> R {
    let count = R::from_f64(row.len() as f64);
    if kind == NormKind::Layer {
        let mean = row.iter().copied().sum::<R>() / count;
        row.mapv_inplace(|value| value - mean);
    }
    let mean_square = row.iter().map(|&value| value * value).sum::<R>() / count;
    let deviation = (mean_square + eps).sqrt();
    row.mapv_inplace(|value| value / deviation);
    mean_square
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn layer_norm_uses_the_biased_variance_and_eps() {
        let mut row = array![1.0, 3.0];
        standardise(row.view_mut(), NormKind::Layer, 3.0);
        assert_eq!(row, array![-0.5, 0.5]);
    }

    #[test]
    fn rms_norm_does_not_centre() {
        let mut row = array![1.0, 7.0];
        standardise(row.view_mut(), NormKind::Rms, 0.0);
        assert_eq!(row, array![0.2, 1.4]);
    }

    #[test]
    fn a_large_mean_does_not_cancel_the_variance() {
        let mut row = array![1e8 - 1.0, 1e8 + 1.0];
        standardise(row.view_mut(), NormKind::Layer, 0.0);
        assert_eq!(row, array![-1.0, 1.0]);
    }
}
