//! `layer_norm` and `rms_norm`, of each row.
//!
//! `layer_norm` reads `x` `[rows, columns]`, maybe `weight` and `bias` `[columns]`, and `eps`;
//! returns `y = (x − mean)/√(variance + eps) · weight + bias`, with the biased variance. The bound
//! is that of the mean square of what is left after the mean is taken away; the mean square minus
//! the squared mean cancels, and does not stay within it.
//!
//! `rms_norm` reads `x`, maybe `weight`, `eps` and `offset`; returns
//! `y = x/√(mean square + eps) · (offset + weight)`; without `weight` there is no factor.

use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::forward::Real;
use ndarray::{Array2, ArrayView1};
use num_traits::Zero;

fn make(maker: &mut Maker) {
    let [rows, columns] = ["rows", "columns"].map(|name| maker.size(name));
    maker.numbers("x", &[rows, columns]);
    maker.set("eps", if maker.on("large_eps") { 0.1 } else { 1e-5 });
    if maker.on("weight") {
        let mean = if maker.on("offset") { 0.0 } else { 1.0 };
        maker.weights("weight", &[columns], mean, 0.3);
    }
}

pub(super) fn make_layer(maker: &mut Maker) {
    make(maker);
    if maker.on("bias") {
        maker.weights("bias", &[maker.size("columns")], 0.0, 0.5);
    }
}

pub(super) fn make_rms(maker: &mut Maker) {
    make(maker);
    maker.set("offset", if maker.on("offset") { 1.0 } else { 0.0 });
}

pub(super) fn layer<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    normalise(inputs, |row| {
        let count = Bounded::exact(row.len() as f64);
        row.iter().copied().sum::<Bounded<F>>() / count
    })
}

pub(super) fn rms<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    normalise(inputs, |_| Bounded::zero())
}

fn normalise<F: Format>(
    inputs: &Inputs<F>,
    centre: impl Fn(ArrayView1<Bounded<F>>) -> Bounded<F>,
) -> Outputs<F> {
    let x = inputs.matrix("x");
    let count = Bounded::exact(x.ncols() as f64);
    let eps = inputs.constant("eps");
    let mut y = Array2::from_elem(x.dim(), Bounded::zero());
    for (row, mut out) in x.outer_iter().zip(y.outer_iter_mut()) {
        let mean = centre(row);
        let centred = row.mapv(|value| value - mean);
        let square: Bounded<F> = centred.iter().map(|value| *value * *value).sum();
        let deviation = (square / count + eps).sqrt();
        out.assign(&centred.mapv(|value| value / deviation));
    }
    if inputs.has("weight") {
        let offset = inputs.constant("offset");
        y = y * inputs.vector("weight").mapv(|weight| offset + weight);
    }
    if inputs.has("bias") {
        y = y + inputs.vector("bias");
    }
    Outputs::matrix("y", y)
}
