//! A mixture of experts.

use super::mlp::mlp;
use super::ops::{linear, softmax};
use super::{Real, Weights};
use crate::error::Result;
use crate::model::Experts;
use ndarray::{Array2, ArrayView1, Axis};
use std::cmp::Ordering;

/// Every token through its active experts: `[positions, hidden]` to the same. An expert's weights
/// are read only if a token goes to it.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn experts<R: Real>(
    weights: &Weights,
    op: &Experts,
    x: &Array2<R>,
) -> Result<Array2<R>> {
    let mut shares = linear(weights, &op.router, x)?;
    for mut row in shares.outer_iter_mut() {
        let active = largest(row.view(), op.active);
        softmax(row.view_mut(), |expert| active.contains(&expert));
    }
    let mut sum = Array2::zeros(x.dim());
    for (expert, share) in op.experts.iter().zip(shares.axis_iter(Axis(1))) {
        let tokens: Vec<usize> = (0..x.nrows()).filter(|t| share[*t] != R::zero()).collect();
        if tokens.is_empty() {
            continue;
        }
        let written = mlp(weights, expert, &x.select(Axis(0), &tokens))?;
        for (token, row) in tokens.into_iter().zip(written.outer_iter()) {
            sum.row_mut(token).scaled_add(share[token], &row);
        }
    }
    Ok(sum)
}

/// The `count` places with the largest values; of equal ones the first.
fn largest<R: Real>(values: ArrayView1<R>, count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    let descending =
        |a: &usize, b: &usize| values[*b].partial_cmp(&values[*a]).unwrap_or(Ordering::Equal);
    places.sort_by(descending);
    places.truncate(count);
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_largest_are_taken_and_of_equal_ones_the_first() {
        assert_eq!(largest(array![1.0, 3.0, 2.0, 3.0].view(), 3), [1, 3, 2]);
        assert_eq!(largest(array![1.0, 1.0, 1.0].view(), 2), [0, 1]);
    }
}
