//! The reference forward pass of residual convolutional networks.

use super::{Real, Weights};
use crate::error::{Error, Result};
use crate::model::convolutional::{BatchNorm, Block, ConvNet, Convolution};
use ndarray::{Array1, Array2, Array3, Axis};

/// The logits of `net` for an image `[colours, height, width]` of any size.
///
/// # Errors
/// - the image has other colour channels, no pixel, or one that is not finite
/// - a weight cannot be read, or is NaN or infinite; a logit overflows, or a running variance is
///   negative
pub fn run_convnet<R: Real>(
    weights: &Weights,
    net: &ConvNet,
    pixels: &Array3<f64>,
) -> Result<Array1<R>> {
    check(net, pixels)?;
    let mut image = maximum(&relu(convolve(weights, &net.stem, &pixels.mapv(R::from_f64))?));
    for block in net.stages.iter().flatten() {
        image = residual(weights, block, &image)?;
    }
    let count = R::from_f64((image.len_of(Axis(1)) * image.len_of(Axis(2))) as f64);
    let means = image.sum_axis(Axis(2)).sum_axis(Axis(1)).mapv(|sum| sum / count);
    let weight: Array2<R> = weights.rows(&net.head.weight, 0, net.head.weight.rows())?;
    let mut logits = weight.dot(&means);
    if let Some(bias) = &net.head.bias {
        logits += &weights.vector::<R>(bias)?;
    }
    match logits.iter().all(|value| value.is_finite()) {
        true => Ok(logits),
        false => Err(Error::bad_input(format!("computed in {}, its logits overflow", R::NAME))
            .at(weights.checkpoint().path())
            .help("look for weights of absurd size, and for negative running variances")),
    }
}

fn check(net: &ConvNet, pixels: &Array3<f64>) -> Result<()> {
    let [colours, height, width] = [0, 1, 2].map(|axis| pixels.len_of(Axis(axis)));
    if colours != net.colours || height == 0 || width == 0 {
        let shape = pixels.shape();
        let problem = format!("the image has shape {shape:?}, the model {} colours", net.colours);
        return Err(Error::bad_input(problem).help("give pixels as [colours, height, width]"));
    }
    match pixels.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(Error::bad_input("a pixel is not finite").help("pixels must be finite")),
    }
}

/// `relu(shortcut(x) + f(x))`.
fn residual<R: Real>(weights: &Weights, block: &Block, x: &Array3<R>) -> Result<Array3<R>> {
    let mut written = x.clone();
    for (index, convolution) in block.convolutions.iter().enumerate() {
        let read = if index == 0 { written } else { relu(written) };
        written = convolve(weights, convolution, &read)?;
    }
    match &block.shortcut {
        Some(shortcut) => written += &convolve(weights, shortcut, x)?,
        None => written += x,
    }
    Ok(relu(written))
}

fn relu<R: Real>(x: Array3<R>) -> Array3<R> {
    // Compared this way round, a NaN stays one.
    x.mapv_into(|value| if value < R::zero() { R::zero() } else { value })
}

/// The convolution of `x` `[in, height, width]`, normalised.
fn convolve<R: Real>(
    weights: &Weights,
    convolution: &Convolution,
    x: &Array3<R>,
) -> Result<Array3<R>> {
    let (windows, (height, width)) = windows(convolution, x);
    let kernel: Array2<R> = weights.rows(&convolution.weight, 0, convolution.outputs())?;
    let mut y = kernel.dot(&windows);
    normalise(weights, &convolution.norm, &mut y)?;
    let shape = (convolution.outputs(), height, width);
    Ok(y.into_shape_with_order(shape).expect("one row per channel, one column per place"))
}

/// What the kernel sees at each place, `[in·kernel·kernel, places]`, and the places' height and
/// width.
fn windows<R: Real>(convolution: &Convolution, x: &Array3<R>) -> (Array2<R>, (usize, usize)) {
    let Convolution { kernel, stride, .. } = *convolution;
    let (channels, height, width) = x.dim();
    let pad = kernel / 2;
    let places = |size: usize| (size + 2 * pad - kernel) / stride + 1;
    let (down, across) = (places(height), places(width));
    let mut windows = Array2::zeros((channels * kernel * kernel, down * across));
    for (tap, mut row) in windows.outer_iter_mut().enumerate() {
        let (channel, dy, dx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
        for (place, slot) in row.iter_mut().enumerate() {
            let (y, x_at) = (place / across * stride + dy, place % across * stride + dx);
            let inside = (pad..pad + height).contains(&y) && (pad..pad + width).contains(&x_at);
            if inside {
                *slot = x[[channel, y - pad, x_at - pad]];
            }
        }
    }
    (windows, (down, across))
}

/// Normalises every channel of `y` `[channels, places]`.
fn normalise<R: Real>(weights: &Weights, norm: &BatchNorm, y: &mut Array2<R>) -> Result<()> {
    let vector = |lens| weights.vector::<R>(lens);
    let (gamma, beta) = (vector(&norm.weight)?, vector(&norm.bias)?);
    let (mean, variance) = (vector(&norm.mean)?, vector(&norm.variance)?);
    let eps = R::from_f64(norm.eps);
    for (channel, mut row) in y.outer_iter_mut().enumerate() {
        let deviation = (variance[channel] + eps).sqrt();
        row.mapv_inplace(|value| {
            (value - mean[channel]) / deviation * gamma[channel] + beta[channel]
        });
    }
    Ok(())
}

/// The largest of each 3×3 window, with stride 2 and one row and column of nothing around.
fn maximum<R: Real>(x: &Array3<R>) -> Array3<R> {
    let (channels, height, width) = x.dim();
    let shape = (channels, height.div_ceil(2), width.div_ceil(2));
    let around = |centre: usize, size: usize| centre.saturating_sub(1)..(centre + 2).min(size);
    Array3::from_shape_fn(shape, |(channel, y, x_at)| {
        let mut most = x[[channel, 2 * y, 2 * x_at]];
        for row in around(2 * y, height) {
            for column in around(2 * x_at, width) {
                let value = x[[channel, row, column]];
                // Compared this way round, a NaN wins.
                most = if value <= most { most } else { value };
            }
        }
        most
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_maximum_looks_at_what_is_there() {
        let x = array![[[1.0, 5.0, 2.0], [0.0, 3.0, 4.0], [7.0, 1.0, 6.0]]];
        assert_eq!(maximum(&x), array![[[5.0, 5.0], [7.0, 6.0]]]);
        assert_eq!(maximum(&array![[[-2.0]]]), array![[[-2.0]]]);
    }
}
