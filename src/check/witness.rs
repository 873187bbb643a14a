//! Searching for inputs on which two models differ.

use super::divergence::{Divergence, divergence};
use super::image_map;
use super::probes::{LONG, Probe, probes};
use super::sample::{
    Compared, Described, OPERATIONS_LIMIT, Resolution, SHORTENING_LIMIT, Side, both, cost, longest,
    meaningful,
};
use super::shorten::shorten;
use crate::certify::{Certificate, Failure};
use crate::compare::Difference;
use crate::error::Result;
use crate::model::Model;

/// Inputs that show that two models differ.
#[derive(Clone, Debug)]
pub enum Witness {
    /// One input for which an output with fixed channels differs: a short one, if it was easy to
    /// shorten.
    Outputs {
        /// What both models read.
        probe: Box<Probe>,
        /// The output's name.
        output: &'static str,
        /// Row (position) of the largest difference.
        row: usize,
        /// Channel (word, class) of the largest difference.
        channel: usize,
        /// Both sides there, and how they compare.
        difference: Difference,
        /// How far the rounding of both models' weights moves this output, in its own units.
        noise: f64,
        /// Where the models part on this input, if that can be told.
        diverges: Option<Divergence>,
    },
    /// Many inputs for which no matrix maps the source's hidden channels to the expanded model's.
    NoLinearMap {
        /// The output's name.
        output: &'static str,
        /// How many inputs.
        inputs: usize,
        /// How many rows (positions) they gave; more than the source has channels.
        rows: usize,
        /// The expanded model's channel that is worst.
        channel: usize,
        /// What the best matrix leaves of that channel, as a root mean square.
        residual: f64,
        /// How far rounding moves that, as a root mean square.
        noise: f64,
        /// `residual` relative to the channel's own root mean square.
        relative: f64,
    },
}

/// How far the outputs of a lossless pair are apart, as measured on a few inputs.
#[derive(Clone, Debug)]
pub struct Effect {
    /// The output's name.
    pub output: &'static str,
    /// Largest difference relative to the spread of the source's output (dimensionless).
    pub relative: f64,
    /// How many inputs were run.
    pub inputs: usize,
}

/// Inputs that are tried beyond a few where a forward pass is cheap: a neuron may be silent on
/// some.
const MORE: usize = 24;
/// Operations for one token up to which it is.
const SMALL: f64 = 1e8;

/// What a search came to.
#[derive(Default)]
pub(super) struct Search {
    pub witness: Option<Witness>,
    pub resolution: Option<Resolution>,
    pub inputs: usize,
}

/// Runs both models in f64 on inputs that reach what fails, and on random ones; makes short what
/// shows a difference, and finds where the models part on it.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn search(
    (source, expanded): (Described, Described),
    certificate: &Certificate,
) -> Result<Search> {
    let failures = &certificate.failures;
    let Tried { shown, resolution, inputs } =
        outputs(source, expanded, failures, OPERATIONS_LIMIT)?;
    let mut search = Search { witness: None, resolution, inputs };
    if let Some(shown) = shown {
        let pair = (source, expanded);
        let shown = shorten(pair, shown, SHORTENING_LIMIT)?;
        // Beside something unknown, the maps of the stream may be none.
        let known = certificate.unknown.is_empty();
        let junctions = if known { &certificate.junctions[..] } else { &[] };
        let diverges = divergence(pair, junctions, &shown.probe)?;
        search.witness = Some(shown.witness(source.1, diverges));
    } else if source.1.outputs.iter().any(|output| !output.fixed) {
        let fitted = image_map::search(source, expanded, failures, OPERATIONS_LIMIT)?;
        search.inputs += fitted.inputs;
        search.resolution = both(search.resolution, fitted.resolution);
        search.witness = fitted.witness;
    }
    Ok(search)
}

/// What comparing fixed outputs came to.
#[derive(Default)]
pub(super) struct Tried {
    /// The shortest input that shows a difference.
    pub shown: Option<Shown>,
    /// As [`super::Check::forward_resolution`].
    pub resolution: Option<Resolution>,
    /// How many inputs were run.
    pub inputs: usize,
}

/// Like [`search`], in fixed outputs alone; long inputs are tried where so many `operations`
/// suffice.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn outputs(
    source: Described,
    expanded: Described,
    failures: &[Failure],
    operations: f64,
) -> Result<Tried> {
    let mut tried = Tried::default();
    if !source.1.outputs.iter().any(|output| output.fixed) {
        return Ok(tried);
    }
    let small = [source, expanded].iter().all(|model| cost(*model, 1) <= SMALL);
    let more = if small && !failures.is_empty() { MORE } else { 0 };
    let most = longest(source, expanded, operations).max(LONG);
    let probes = probes(source.1, failures, more, most);
    let sides = (Side::run(source, &probes)?, Side::run(expanded, &probes)?);
    tried.inputs = probes.len();
    for (index, probe) in probes.iter().enumerate() {
        let fixed = source.1.outputs.iter().enumerate().filter(|(_, output)| output.fixed);
        for (output, _) in fixed {
            let compared = Compared::of(&sides, index, output);
            tried.resolution = both(tried.resolution, Resolution::of(compared.resolution()));
            if compared.differs() && tried.shown.is_none() {
                tried.shown = Some(Shown { probe: probe.clone(), output, compared });
            }
        }
    }
    Ok(tried)
}

/// An input that shows a difference.
pub(super) struct Shown {
    pub probe: Probe,
    /// The number of the output.
    pub output: usize,
    pub compared: Compared,
}

impl Shown {
    fn witness(self, model: &Model, diverges: Option<Divergence>) -> Witness {
        let Shown { probe, output, compared } = self;
        Witness::Outputs {
            probe: Box::new(probe),
            output: model.outputs[output].name,
            row: compared.row,
            channel: compared.channel,
            difference: compared.difference,
            noise: compared.noise,
            diverges,
        }
    }
}

/// Measures how far the fixed outputs of a lossless pair are apart; `None` without fixed outputs.
///
/// # Errors
/// If a weight cannot be read or an output overflows.
pub(super) fn effect(source: Described, expanded: Described) -> Result<Option<Effect>> {
    let Some(output) = source.1.outputs.iter().position(|output| output.fixed) else {
        return Ok(None);
    };
    let probes = probes(source.1, &[], 0, LONG);
    let inputs: Vec<_> = probes.iter().map(|probe| probe.input.clone()).collect();
    let run = |(checkpoint, model): Described| {
        crate::forward::run_batch::<f64>(checkpoint, model, &inputs)
    };
    let (small, large) = (run(source)?, run(expanded)?);
    let differences = small.iter().zip(&large).map(|(small, large)| {
        Difference::between(&meaningful(small, output), &meaningful(large, output)).relative
    });
    let relative = differences.fold(0.0, f64::max);
    let output = source.1.outputs[output].name;
    Ok(Some(Effect { output, relative, inputs: inputs.len() }))
}
