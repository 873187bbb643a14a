//! The forward pass's operations one by one, for those who hold other implementations against them.

use super::input::Batch;
use super::{Memory, Real, Weights, attention, mlp, norm, ops};
use crate::error::Result;
use crate::model::{Activation, Attention, Linear, Mlp, Norm, Rotary};
use ndarray::Array2;

/// `x Wᵀ + b`: `[rows, in]` to `[rows, out]`.
///
/// # Errors
/// If a weight cannot be read.
pub fn linear<R: Real>(weights: &Weights, layer: &Linear, x: &Array2<R>) -> Result<Array2<R>> {
    ops::linear(weights, layer, x)
}

/// Normalises each row.
///
/// # Errors
/// If a weight cannot be read.
pub fn normalise<R: Real>(weights: &Weights, op: &Norm, mut x: Array2<R>) -> Result<Array2<R>> {
    norm::normalise(weights, op, &mut x)?;
    Ok(x)
}

/// The softmax of each row over the columns that are visible.
pub fn softmax<R: Real>(mut x: Array2<R>, visible: &[bool]) -> Array2<R> {
    x.outer_iter_mut().for_each(|row| ops::softmax(row, |column| visible[column]));
    x
}

/// A pointwise function of every entry.
pub fn activate<R: Real>(activation: Activation, mut x: Array2<R>) -> Array2<R> {
    ops::activate(activation, &mut x);
    x
}

/// The feed-forward network of each row.
///
/// # Errors
/// If a weight cannot be read.
pub fn feed_forward<R: Real>(weights: &Weights, op: &Mlp, x: &Array2<R>) -> Result<Array2<R>> {
    mlp::mlp(weights, op, x)
}

/// Turns the pairs of each head of `x` `[positions, heads·head_dim]`.
pub fn rotate<R: Real>(
    rotary: &Rotary,
    head_dim: usize,
    positions: &[usize],
    mut x: Array2<R>,
) -> Array2<R> {
    attention::rotate(rotary, head_dim, positions, &mut x);
    x
}

/// Attention from each row of `x` to those rows of `read` that are visible; both are sequences that
/// begin at position 0, and the same one unless `op` reads an encoder.
///
/// # Errors
/// If a weight cannot be read.
pub fn attend<R: Real>(
    weights: &Weights,
    op: &Attention,
    x: &Array2<R>,
    read: &Array2<R>,
    visible: &[bool],
) -> Result<Array2<R>> {
    let batch = |rows: usize, visible: Vec<bool>| Batch {
        sequences: std::iter::once(0..rows).collect(),
        positions: (0..rows).collect(),
        visible,
        ..Batch::default()
    };
    let others = batch(read.nrows(), visible.to_vec());
    if !op.reads_encoder {
        return attention::attention(weights, op, x, &others, None);
    }
    let own = batch(x.nrows(), vec![true; x.nrows()]);
    let memory = Memory { values: read.clone(), batch: &others };
    attention::attention(weights, op, x, &own, Some(&memory))
}
