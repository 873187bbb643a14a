//! Linear layers, softmax and pointwise functions.

use super::{Real, Weights};
use crate::error::Result;
use crate::model::{Activation, Linear};
use ndarray::linalg::general_mat_mul;
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayViewMut1, ArrayViewMut2, Axis, s};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
use std::ops::Range;

/// How many weights are read at a time (1 MiB in f64): few enough to stay in the cache until they
/// are multiplied, and so that a model larger than memory can be run.
const BLOCK: usize = 1 << 17;

/// `y = x Wᵀ + b`: `[positions, in]` to `[positions, out]`.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn linear<R: Real>(
    weights: &Weights,
    layer: &Linear,
    x: &Array2<R>,
) -> Result<Array2<R>> {
    let mut y = Array2::zeros((x.nrows(), layer.weight.rows()));
    let block = (BLOCK / layer.weight.cols().max(1)).max(1);
    let done: Vec<Result<()>> = y
        .axis_chunks_iter_mut(Axis(1), block)
        .into_par_iter()
        .enumerate()
        .map(|(index, mut part)| {
            let matrix = weights.rows::<R>(&layer.weight, index * block, part.ncols())?;
            general_mat_mul(R::one(), x, &matrix.t(), R::zero(), &mut part);
            Ok(())
        })
        .collect();
    // In order, so that of several errors it is always the same one that is reported.
    done.into_iter().collect::<Result<()>>()?;
    if let Some(bias) = &layer.bias {
        y += &weights.vector::<R>(bias)?;
    }
    Ok(y)
}

/// Turns logits into weights that sum to one, over the entries that are `visible`; the others
/// become zero. If none is, all are zero.
pub(super) fn softmax<R: Real>(mut row: ArrayViewMut1<R>, visible: impl Fn(usize) -> bool) {
    let seen = row.iter().enumerate().filter(|(i, _)| visible(*i)).map(|(_, v)| *v);
    let Some(largest) = seen.reduce(|a, b| if b > a { b } else { a }) else {
        return row.fill(R::zero());
    };
    let mut sum = R::zero();
    for (index, value) in row.iter_mut().enumerate() {
        *value = if visible(index) { (*value - largest).exp() } else { R::zero() };
        sum += *value;
    }
    row.mapv_inplace(|value| value / sum);
}

/// `x` becomes `cap·tanh(x/cap)`, which lies between −cap and cap.
pub(super) fn softcap<R: Real>(cap: f64, mut x: ArrayViewMut2<R>) {
    let cap = R::from_f64(cap);
    x.mapv_inplace(|value| cap * (value / cap).tanh());
}

/// The mean of each range of rows without its first `skipped`: `[ranges, channels]`.
pub(super) fn means<R: Real>(x: &Array2<R>, ranges: &[Range<usize>], skipped: usize) -> Array2<R> {
    let mut means = Array2::zeros((ranges.len(), x.ncols()));
    for (rows, mut mean) in ranges.iter().zip(means.outer_iter_mut()) {
        let part = x.slice(s![rows.start + skipped..rows.end, ..]);
        mean.assign(&part.sum_axis(Axis(0)));
        let count = R::from_f64(part.nrows() as f64);
        mean.mapv_inplace(|sum| sum / count);
    }
    means
}

/// Applies a pointwise function to every entry.
pub(super) fn activate<R: Real>(activation: Activation, x: &mut Array2<R>) {
    x.par_mapv_inplace(|value| apply(activation, value));
}

fn apply<R: Real>(activation: Activation, x: R) -> R {
    let (one, half) = (R::one(), R::from_f64(0.5));
    match activation {
        Activation::GeluErf => half * x * (one + (x * R::from_f64(FRAC_1_SQRT_2)).erf()),
        Activation::GeluTanh | Activation::GeluFast => {
            let factor = match activation {
                Activation::GeluFast => 0.7978845608,
                // √(2/π) = (2/√π)/√2.
                _ => FRAC_2_SQRT_PI * FRAC_1_SQRT_2,
            };
            let cubic = R::from_f64(0.044715) * x * x * x;
            half * x * (one + (R::from_f64(factor) * (x + cubic)).tanh())
        }
        Activation::Relu => x.positive_part(),
        Activation::Silu => x / (one + (R::zero() - x).exp()),
        Activation::Tanh => x.tanh(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, Config, Dtype, Tensor};
    use crate::model::{Dim, Lens};
    use ndarray::array;

    #[test]
    fn activations_have_their_known_values() {
        // Φ(1) = 0.8413447460685429; tanh, sigmoid and √(2/π) from their definitions.
        for (activation, at_one) in [
            (Activation::GeluErf, 0.8413447460685429),
            (Activation::GeluTanh, 0.8411919906082768),
            (Activation::GeluFast, 0.841191990607477),
            (Activation::Relu, 1.0),
            (Activation::Silu, 0.7310585786300049),
            (Activation::Tanh, 0.7615941559557649),
        ] {
            assert!((apply(activation, 1.0f64) - at_one).abs() < 1e-15, "{activation:?}");
            assert!((apply(activation, 1.0f32) as f64 - at_one).abs() < 1e-7, "{activation:?}");
            assert_eq!(apply(activation, 0.0f64), 0.0, "{activation:?}");
        }
    }

    #[test]
    fn activations_of_huge_numbers_are_not_nan() {
        let all = [Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu];
        for activation in all {
            for value in [1e4f32, 1e30, f32::MAX] {
                assert_eq!(apply(activation, value), value, "{activation:?} {value:e}");
                assert_eq!(apply(activation, -value), 0.0, "{activation:?} -{value:e}");
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_over_what_is_visible() {
        let mut row = array![1000.0, 7.0, 1000.0, -1000.0];
        softmax(row.view_mut(), |index| index != 1);
        assert_eq!(row, array![0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn softmax_of_nothing_visible_is_zero() {
        let mut row = array![1.0f32, 2.0];
        softmax(row.view_mut(), |_| false);
        assert_eq!(row, array![0.0, 0.0]);
    }

    #[test]
    fn a_linear_layer_read_in_blocks_is_the_whole_product() {
        let (rows, cols) = (5, BLOCK / 2 + 1);
        let value = |i: usize| (i % 7) as f64 - 3.0;
        let weight = Tensor::from_values(Dtype::F32, vec![rows, cols], (0..rows * cols).map(value));
        let bias = Tensor::from_values(Dtype::F32, vec![rows], (0..rows).map(value));
        let config = Config::new("config.json", Default::default());
        let tensors = [("w.weight".to_string(), weight), ("w.bias".to_string(), bias)];
        let checkpoint = Checkpoint::in_memory("memory", config, tensors.into());
        let layer = Linear {
            weight: Lens::matrix("w.weight", Dim::new(rows, "out"), [Dim::new(cols, "in")]),
            bias: Some(Lens::vector("w.bias", Dim::new(rows, "out"))),
        };
        let x = Array2::from_shape_fn((2, cols), |(i, j)| (i + j % 3) as f64);
        let y = linear(&Weights::new(&checkpoint), &layer, &x).unwrap();
        let expected = |i: usize, j: usize| -> f64 {
            value(j) + (0..cols).map(|k| x[[i, k]] * value(j * cols + k)).sum::<f64>()
        };
        assert_eq!(y, Array2::from_shape_fn((2, rows), |(i, j)| expected(i, j)));
    }
}
