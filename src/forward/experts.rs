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
    let mut choices = Vec::new();
    for mut row in shares.outer_iter_mut() {
        let active = largest(row.view(), op.active);
        choices.push(margins(row.view(), &active));
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
    for (mut row, margins) in sum.outer_iter_mut().zip(choices) {
        for margin in margins {
            row.mapv_inplace(|value| value.chosen_by(margin));
        }
    }
    Ok(sum)
}

/// By how much each of the `active` is above each of the others.
fn margins<R: Real>(values: ArrayView1<R>, active: &[usize]) -> Vec<R> {
    let others = (0..values.len()).filter(|place| !active.contains(place));
    others
        .flat_map(|other| active.iter().map(move |one| (*one, other)))
        .map(|(one, other)| values[one] - values[other])
        .collect()
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

    #[test]
    fn margins_are_those_over_all_that_are_not_taken() {
        let values = array![1.0, 4.0, 2.5, 3.0];
        assert_eq!(margins(values.view(), &[1, 3]), [3.0, 2.0, 1.5, 0.5]);
        assert!(margins(values.view(), &[1, 3, 2, 0]).is_empty());
    }
}
