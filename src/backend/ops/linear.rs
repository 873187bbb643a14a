//! `linear`: y = x Wᵀ + b.
//!
//! Reads `x` `[rows, in]`, `weight` `[out, in]` and, maybe, `bias` `[out]`; returns `y`
//! `[rows, out]`.

use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use ndarray::{Array1, Array2};

pub(super) fn make(maker: &mut Maker) {
    let [rows, inputs, outputs] = ["rows", "in", "out"].map(|name| maker.size(name));
    maker.numbers("x", &[rows, inputs]);
    maker.weights("weight", &[outputs, inputs], 0.0, 1.0 / (inputs as f64).sqrt());
    if maker.on("bias") {
        maker.weights("bias", &[outputs], 0.0, 1.0);
    }
}

pub(super) fn compute<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let bias = inputs.has("bias").then(|| inputs.vector("bias"));
    let y = linear(&inputs.matrix("x"), &inputs.matrix("weight"), bias.as_ref());
    Outputs::matrix("y", y)
}

/// x Wᵀ + b.
pub(super) fn linear<F: Format>(
    x: &Array2<Bounded<F>>,
    weight: &Array2<Bounded<F>>,
    bias: Option<&Array1<Bounded<F>>>,
) -> Array2<Bounded<F>> {
    Array2::from_shape_fn((x.nrows(), weight.nrows()), |(row, out)| {
        let products = x.row(row).into_iter().zip(weight.row(out)).map(|(x, w)| *x * *w);
        products.chain(bias.map(|bias| bias[out])).sum()
    })
}
