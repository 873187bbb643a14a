//! Where on the way to the outputs two models part, as measured on one input.
//!
//! The certificate knows by which map the expanded stream must be the source's. Both models are run
//! on the witness, and the streams are held against each other behind every layer that corresponds
//! to one of the source's, by the yardstick by which outputs are.

use super::probes::Probe;
use super::sample::{Described, Side};
use crate::certify::Junction;
use crate::compare::{COMPUTING_FLOOR, Difference, NOISE_FACTOR};
use crate::error::Result;
use crate::model::Model;
use ndarray::Array2;
use serde::Serialize;

/// The first place at which the expanded stream is not the image of the source's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub enum Divergence {
    /// In front of the first layer.
    Embedding {
        /// Largest difference relative to the spread of what the stream must be.
        relative: f64,
    },
    /// Behind a layer.
    Layer {
        /// The expanded model's layer.
        layer: usize,
        /// The source's layer behind which its stream is compared; `None` for its embedding.
        source_layer: Option<usize>,
        /// Largest difference relative to the spread of what the stream must be.
        relative: f64,
    },
    /// Nowhere: the streams agree up to the last layer, and what makes outputs of them differs.
    Outputs,
}

/// Runs both models on an input and finds where they part; `None` where that cannot be told,
/// because layers correspond only in part.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn divergence(
    (source, expanded): (Described, Described),
    junctions: &[Junction],
    probe: &Probe,
) -> Result<Option<Divergence>> {
    if junctions.is_empty() {
        return Ok(None);
    }
    let probes = std::slice::from_ref(probe);
    let sides = (Side::run(source, probes)?, Side::run(expanded, probes)?);
    let (small, large) = (borders(source.1), borders(expanded.1));
    let mut last = None;
    for junction in junctions {
        let at = |borders: &[usize], count| borders.iter().position(|border| *border == count);
        let places = (at(&small, junction.source), at(&large, junction.expanded));
        let (Some(i), Some(j)) = places else { continue };
        if let Some(relative) = differs(&sides, junction, (i, j)) {
            // Behind a layer that the source alone has: the expanded stream was right here, and
            // is wrong behind the next layer that should have done the same.
            if last.is_some_and(|(_, before)| before == j) {
                continue;
            }
            return Ok(Some(match j.checked_sub(1) {
                None => Divergence::Embedding { relative },
                Some(layer) => {
                    Divergence::Layer { layer, source_layer: i.checked_sub(1), relative }
                }
            }));
        }
        last = Some((i, j));
    }
    let all = (source.1.layers.len(), expanded.1.layers.len());
    Ok((last == Some(all)).then_some(Divergence::Outputs))
}

/// How many sublayers are in front of each layer, and in all.
fn borders(model: &Model) -> Vec<usize> {
    let counts = model.layers.iter().scan(0, |count, layer| {
        *count += layer.len();
        Some(*count)
    });
    std::iter::once(0).chain(counts).collect()
}

/// By how much of its spread the stream behind layer j is not the image of the source's behind
/// layer i, if that is more than rounding explains.
fn differs(
    (source, expanded): &(Side, Side),
    junction: &Junction,
    (i, j): (usize, usize),
) -> Option<f64> {
    let image = |side: &Array2<f64>| junction.image(side);
    let seen = |side: &Array2<f64>| junction.seen(side);
    let wanted = image(&source.exact[0].hidden[i]);
    let got = seen(&expanded.exact[0].hidden[j]);
    let moved = |side: &Side, place: usize, exact: &Array2<f64>, of: &dyn Fn(&_) -> Array2<f64>| {
        let changes =
            side.moved.iter().map(|moved| largest(&(of(&moved[0].hidden[place]) - exact)));
        changes.fold(0.0, f64::max)
    };
    let noise = moved(source, i, &wanted, &image) + moved(expanded, j, &got, &seen);
    let floor = COMPUTING_FLOOR + NOISE_FACTOR * junction.factor_error();
    let values = |stream: &Array2<f64>| stream.iter().copied().collect::<Vec<_>>();
    let difference = Difference::between(&values(&wanted), &values(&got));
    let threshold = NOISE_FACTOR * noise + floor * largest(&wanted);
    (difference.largest > threshold).then_some(difference.relative)
}

fn largest(values: &Array2<f64>) -> f64 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}
