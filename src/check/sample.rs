//! What both models return for some inputs, and how far the rounding of their weights moves it.

use super::probes::Probe;
use crate::checkpoint::Checkpoint;
use crate::compare::{COMPUTING_FLOOR, Difference, NOISE_FACTOR, Spread};
use crate::error::Result;
use crate::forward::{self, Input, Outputs, Perturbation, Weights};
use crate::model::{Model, Op};
use ndarray::{Array2, Axis, concatenate};

/// Random draws of the roundings, per model.
const SEEDS: [u64; 2] = [0, 1];

/// A checkpoint and what its tensors mean.
pub(super) type Described<'a> = (&'a Checkpoint, &'a Model);

/// What one model returned in f64, exactly as stored and with rounded weights perturbed.
pub(super) struct Side {
    /// One for each input.
    pub exact: Vec<Outputs<f64>>,
    /// One for each seed and input: every weight moved by up to one unit of its storage rounding.
    pub moved: Vec<Vec<Outputs<f64>>>,
}

impl Side {
    /// Runs a model on all `probes`.
    ///
    /// # Errors
    /// If a weight cannot be read or an output overflows.
    pub fn run((checkpoint, model): Described, probes: &[Probe]) -> Result<Self> {
        let inputs: Vec<Input> = probes.iter().map(|probe| probe.input.clone()).collect();
        let exact = forward::run_batch(checkpoint, model, &inputs)?;
        let perturbed = |seed| {
            let weights = Weights::perturbed(checkpoint, Perturbation { units: 1.0, seed });
            forward::run_weights(&weights, model, &inputs)
        };
        let moved = SEEDS.into_iter().map(perturbed).collect::<Result<_>>()?;
        Ok(Side { exact, moved })
    }

    /// Storage noise: the largest change of a meaningful number of output `output` of input
    /// `input`, over the seeds; in the output's own units.
    pub fn noise(&self, input: usize, output: usize) -> f64 {
        let exact = meaningful(&self.exact[input], output);
        let changes = self.moved.iter().flat_map(|moved| {
            let moved = meaningful(&moved[input], output);
            exact.iter().zip(moved).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
        });
        changes.fold(0.0, f64::max)
    }
}

/// How one output of one input compares.
pub(super) struct Compared {
    /// Row (position) of the largest difference.
    pub row: usize,
    /// Channel (word, class) of the largest difference.
    pub channel: usize,
    pub difference: Difference,
    /// How far the rounding of both models' weights moves the output, in its own units.
    pub noise: f64,
    /// What a difference must exceed to be more than rounding explains, in the same units.
    threshold: f64,
    spread: Spread,
}

impl Compared {
    /// Compares output `output` of input `input`.
    pub fn of((source, expanded): &(Side, Side), input: usize, output: usize) -> Self {
        let expected = meaningful(&source.exact[input], output);
        let difference =
            Difference::between(&expected, &meaningful(&expanded.exact[input], output));
        let noise = source.noise(input, output) + expanded.noise(input, output);
        let size = expected.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        let values = &source.exact[input].outputs[output];
        let channels = values.values.ncols();
        let mut rows = (0..values.values.nrows()).filter(|row| values.meaningful[*row]);
        Compared {
            row: rows.nth(difference.at / channels).expect("compared rows are meaningful"),
            channel: difference.at % channels,
            threshold: NOISE_FACTOR * noise + COMPUTING_FLOOR * size,
            spread: Spread::of(&expected),
            difference,
            noise,
        }
    }

    /// Whether it differs by more than rounding explains.
    pub fn differs(&self) -> bool {
        self.difference.largest > self.threshold
    }

    /// The smallest error of the output, relative to its spread, that would differ.
    pub fn resolution(&self) -> f64 {
        self.spread.units(self.threshold)
    }
}

/// The meaningful numbers of one output, row by row.
pub(super) fn meaningful(outputs: &Outputs<f64>, output: usize) -> Vec<f64> {
    let output = &outputs.outputs[output];
    let rows = output.values.outer_iter().zip(&output.meaningful);
    rows.filter(|(_, kept)| **kept).flat_map(|(row, _)| row.to_vec()).collect()
}

/// The rows of one output over all inputs, `[rows, channels]`.
pub(super) fn stacked(all: &[Outputs<f64>], output: usize) -> Array2<f64> {
    let views: Vec<_> = all.iter().map(|outputs| outputs.outputs[output].values.view()).collect();
    concatenate(Axis(0), &views).expect("every input's output has the same channels")
}

/// Operations of one forward pass over `tokens` positions, roughly: two for each weight.
pub(super) fn cost((checkpoint, _): Described, tokens: usize) -> f64 {
    let weights: usize = checkpoint.tensors().values().map(|tensor| tensor.len()).sum();
    2.0 * weights as f64 * tokens as f64
}

/// What a head's softmax takes for a pair of positions, in operations.
const SOFTMAX: f64 = 200.0;

/// Operations of one forward pass for each pair of positions of an input.
fn cost_of_pairs((_, model): Described) -> f64 {
    let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let heads = branches.map(|branch| match &branch.op {
        Op::Attention(attention) => {
            attention.heads as f64 * (4.0 * attention.head_dim as f64 + SOFTMAX)
        }
        Op::Mlp(_) | Op::Experts(_) => 0.0,
    });
    heads.sum()
}

/// Operations of [`Side::run`] on both models for each position and for each pair of positions.
fn costs(source: Described, expanded: Described) -> (f64, f64) {
    let each = PASSES * (cost(source, 1) + cost(expanded, 1));
    (each, PASSES * (cost_of_pairs(source) + cost_of_pairs(expanded)))
}

/// Positions of the longest input on which both models can be run by [`Side::run`] in so many
/// `operations`.
pub(super) fn longest(source: Described, expanded: Described, operations: f64) -> usize {
    let (each, pairs) = costs(source, expanded);
    // pairs·n² + each·n = operations
    (2.0 * operations / (each + (each * each + 4.0 * pairs * operations).sqrt())) as usize
}

/// Positions on which a model computes in about the time that it takes to read its weights.
const READING: f64 = 32.0;

/// Operations of running both models by [`Side::run`] on as many of `inputs` of so many positions,
/// from the first on, as can be run in so many `operations`; and how many these are.
pub(super) fn affordable(
    (source, expanded): (Described, Described),
    inputs: impl Iterator<Item = usize>,
    operations: f64,
) -> (usize, f64) {
    let (each, pairs) = costs(source, expanded);
    let (mut count, mut spent) = (0, READING * each);
    for positions in inputs {
        let positions = positions as f64;
        let more = positions * (each + pairs * positions);
        if spent + more > operations {
            break;
        }
        (count, spent) = (count + 1, spent + more);
    }
    (count, spent)
}

/// More operations are not spent on a search: at 20 to 40 thousand million a second, about two
/// minutes.
pub(super) const OPERATIONS_LIMIT: f64 = 3e12;

/// More are not spent on making an input short that shows a difference: about ten seconds.
pub(super) const SHORTENING_LIMIT: f64 = 3e11;

/// As [`OPERATIONS_LIMIT`], where equations prove that nothing is to be found: about a second.
pub(super) const DOUBT_LIMIT: f64 = 3e10;

/// Forward passes that [`Side::run`] makes.
pub(super) const PASSES: f64 = 1.0 + SEEDS.len() as f64;

/// What two have together, of which either may be missing.
pub(super) fn both(one: Option<Resolution>, other: Option<Resolution>) -> Option<Resolution> {
    one.into_iter().chain(other).reduce(|a, b| Resolution {
        finest: a.finest.min(b.finest),
        coarsest: a.coarsest.max(b.coarsest),
    })
}

/// The smallest errors of outputs, relative to their spread, that a forward pass can tell from
/// rounding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolution {
    /// Of the output and the input that show most.
    pub finest: f64,
    /// Of those that show least.
    pub coarsest: f64,
}

impl Resolution {
    /// Of one output of one input.
    pub fn of(smallest: f64) -> Option<Resolution> {
        Some(Resolution { finest: smallest, coarsest: smallest })
    }
}
