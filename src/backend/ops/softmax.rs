//! `softmax` of each row.
//!
//! Reads `x` `[rows, columns]` and maybe `mask` `[columns]` (1 visible, 0 hidden, whole numbers);
//! returns `y` `[rows, columns]`, which sums to one over what is visible and is zero elsewhere.

use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::forward::Real;
use ndarray::{Array1, Array2, ArrayView1};
use num_traits::Zero;

pub(super) fn make(maker: &mut Maker) {
    let [rows, columns] = ["rows", "columns"].map(|name| maker.size(name));
    maker.numbers("x", &[rows, columns]);
    if maker.on("mask") {
        maker.mask("mask", columns);
    }
}

pub(super) fn compute<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let x = inputs.matrix("x");
    let visible = inputs.mask("mask", x.ncols());
    let mut y = Array2::from_elem(x.dim(), Bounded::zero());
    for (row, mut out) in x.outer_iter().zip(y.outer_iter_mut()) {
        out.assign(&softmax(row, &visible));
    }
    Outputs::matrix("y", y)
}

/// The weights of one row, at least one entry of which is visible.
pub(super) fn softmax<F: Format>(
    row: ArrayView1<Bounded<F>>,
    visible: &[bool],
) -> Array1<Bounded<F>> {
    let seen = || row.iter().zip(visible).filter(|(_, seen)| **seen).map(|(value, _)| *value);
    // What is subtracted cancels in the quotient, so that its own error does not matter.
    let largest = Bounded::exact(seen().fold(f64::NEG_INFINITY, |most, v| most.max(v.value())));
    let sum: Bounded<F> = seen().map(|value| (value - largest).exp()).sum();
    let weight = |(value, seen): (&Bounded<F>, &bool)| match seen {
        true => (*value - largest).exp() / sum,
        false => Bounded::zero(),
    };
    row.iter().zip(visible).map(weight).collect()
}
