//! A witness for outputs that are hidden channels: no linear map explains them.

use super::probes::many;
use super::sample::{Described, PASSES, Resolution, Side, both, cost, longest, stacked};
use super::witness::Witness;
use crate::certify::Failure;
use crate::compare::{COMPUTING_FLOOR, Image, NOISE_FACTOR};
use crate::error::Result;
use crate::model::{Input, Model, Step};
use ndarray::{Array2, ArrayView1};

/// Tokens of an input whose every position is returned.
const LENGTH: usize = 16;
/// Tokens of an input of which the first position alone is returned.
const FIRST_LENGTH: usize = 2;

/// What the search for inputs that no linear map explains came to.
#[derive(Default)]
pub(super) struct Fitted {
    pub witness: Option<Witness>,
    pub resolution: Option<Resolution>,
    pub inputs: usize,
}

/// Tries every output that has no fixed channels; those of which enough rows can be had with so
/// many `operations`.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn search(
    source: Described,
    expanded: Described,
    failures: &[Failure],
    operations: f64,
) -> Result<Fitted> {
    let mut fitted = Fitted::default();
    // Outputs of every position first: they give many rows for one input.
    for first in [false, true] {
        let outputs: Vec<usize> = (0..source.1.outputs.len())
            .filter(|o| !source.1.outputs[*o].fixed && takes_first(source.1, *o) == first)
            .collect();
        if outputs.is_empty() || fitted.witness.is_some() {
            continue;
        }
        let length = if first { FIRST_LENGTH } else { LENGTH };
        let count = inputs(source.1, length, first);
        let most = longest(source, expanded, operations / count as f64).max(4 * length);
        let probes = many(source.1, failures, count, (length, most));
        let tokens = count * positions(source.1, length);
        if PASSES * (cost(source, tokens) + cost(expanded, tokens)) > operations {
            continue;
        }
        fitted.inputs += probes.len();
        let sides = (Side::run(source, &probes)?, Side::run(expanded, &probes)?);
        for output in outputs {
            let found = fit(source.1.outputs[output].name, &sides, output);
            fitted.resolution = both(fitted.resolution, found.resolution);
            fitted.witness = fitted.witness.or(found.witness);
        }
    }
    Ok(fitted)
}

fn takes_first(model: &Model, output: usize) -> bool {
    model.outputs[output]
        .steps
        .iter()
        .any(|step| matches!(step, Step::Position(_) | Step::MeanFrom(_)))
}

/// Positions of an input that has up to `length` tokens, or is an image.
fn positions(model: &Model, length: usize) -> usize {
    match model.embedding.input {
        Input::Tokens { positions, .. } => positions.unwrap_or(length).min(length),
        Input::Image { height, width, patch, .. } => 1 + (height / patch) * (width / patch),
    }
}

/// How many inputs give the rows that are needed. Some that reach a failure are shorter, so they
/// are a few more.
fn inputs(model: &Model, length: usize, first: bool) -> usize {
    let rows = if first { 1 } else { positions(model, length).div_ceil(2) };
    Image::rows_needed(model.sizes.hidden).div_ceil(rows)
}

struct Fit {
    resolution: Option<Resolution>,
    witness: Option<Witness>,
}

/// No map of a lossless expansion, whose channels are copies, means, signs or turned, reads one
/// channel with a larger coefficient.
const LARGEST_COEFFICIENT: f64 = 16.0;

/// Compares, for each channel of the expanded output, what no linear map explains with how far
/// rounding moves that: root mean squares over all rows, which neither a projection nor a map that
/// is nearly singular can enlarge.
fn fit(name: &'static str, (source, expanded): &(Side, Side), output: usize) -> Fit {
    let small = stacked(&source.exact, output);
    let large = stacked(&expanded.exact, output);
    let moved: Vec<Array2<f64>> = source.moved.iter().map(|all| stacked(all, output)).collect();
    let space = Image::of(small.view(), |column| {
        let change =
            |moved: &Array2<f64>| size((&moved.column(column) - &small.column(column)).view());
        let noise: f64 = moved.iter().map(change).sum();
        NOISE_FACTOR * noise + COMPUTING_FLOOR * size(small.column(column))
    });
    let rest = space.residual(large.view());
    let mut noises: Vec<Array2<f64>> = Vec::new();
    for (moved_small, moved_large) in moved.iter().zip(&expanded.moved) {
        let change = &stacked(moved_large, output) - &large;
        noises.push(space.residual(change.view()));
        noises.push(&space.of_same_columns(moved_small.view()).residual(large.view()) - &rest);
    }
    let enough_rows = small.nrows() >= Image::rows_needed(small.ncols());
    let mut found = Fit { resolution: None, witness: None };
    let mut worst = 0.0;
    for channel in 0..large.ncols() {
        let noise: f64 = noises.iter().map(|n| size(n.column(channel))).sum();
        let scale = size(large.column(channel));
        let left_out = LARGEST_COEFFICIENT * space.left_out();
        let threshold = NOISE_FACTOR * noise + COMPUTING_FLOOR * scale + left_out;
        let residual = size(rest.column(channel));
        if scale > 0.0 {
            found.resolution = both(found.resolution, Resolution::of(threshold / scale));
        }
        let excess = if threshold > 0.0 { residual / threshold } else { 0.0 };
        if enough_rows && excess > 1.0 && excess > worst {
            worst = excess;
            let (inputs, rows) = (source.exact.len(), small.nrows());
            let relative = residual / scale;
            let output = name;
            found.witness = Some(Witness::NoLinearMap {
                output,
                inputs,
                rows,
                channel,
                residual,
                noise,
                relative,
            });
        }
    }
    found
}

/// Root mean square.
fn size(column: ArrayView1<f64>) -> f64 {
    (column.dot(&column) / column.len().max(1) as f64).sqrt()
}
