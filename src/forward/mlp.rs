//! The feed-forward network.

use super::ops::{activate, linear};
use super::{Real, Weights};
use crate::error::Result;
use crate::model::Mlp;
use ndarray::Array2;

/// `down(act(up x))`, or `down(act(gate x) ∘ up x)`: `[positions, hidden]` to the same.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn mlp<R: Real>(weights: &Weights, op: &Mlp, x: &Array2<R>) -> Result<Array2<R>> {
    let up = linear(weights, &op.up, x)?;
    let neurons = match &op.gate {
        None => {
            let mut neurons = up;
            activate(op.activation, &mut neurons);
            neurons
        }
        Some(gate) => {
            let mut neurons = linear(weights, gate, x)?;
            activate(op.activation, &mut neurons);
            neurons * up
        }
    };
    linear(weights, &op.down, &neurons)
}
