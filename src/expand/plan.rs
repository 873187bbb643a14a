//! Which rule serves which tensor.

use super::depth::Slot;
use super::linear::Duty;
use super::rules::Map;
use super::stream::Stream;
use super::vectors::Residue;
use super::{Options, branch, embedding, norm, outputs, post_norm};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Lens, Linear, Model, Sublayer};
use ndarray::Array2;
use std::sync::Arc;

/// One matrix or vector of the expanded model, where its source lies, and the rule between them.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub source: Lens,
    pub expanded: Lens,
    pub rule: Rule,
}

/// How one tensor is expanded.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// See [`super::linear`].
    Linear { ports: Ports, duty: Duty },
    /// See [`super::vectors`].
    Vector { map: Arc<Map>, residue: Residue, offset: f64 },
    /// This number everywhere.
    Constant(f64),
    /// These numbers.
    Given(Arc<Array2<f64>>),
    /// Each row is mapped: see [`super::embedding`].
    Table { map: Arc<Map> },
}

/// The maps of what a layer reads and of what it writes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ports {
    pub read: Arc<Map>,
    pub write: Arc<Map>,
}

impl Job {
    /// A job by `rule` from lens to lens.
    pub fn new(source: &Lens, expanded: &Lens, rule: Rule) -> Self {
        Job { source: source.clone(), expanded: expanded.clone(), rule }
    }
}

/// Expands a linear layer between `ports`. A layer that must compute nothing has no bias.
pub(super) fn linear_jobs(from: &Linear, to: &Linear, ports: &Ports, duty: Duty) -> Vec<Job> {
    let rule = Rule::Linear { ports: ports.clone(), duty };
    let mut jobs = vec![Job::new(&from.weight, &to.weight, rule)];
    if let (Some(from), Some(to)) = (&from.bias, &to.bias) {
        let map = ports.write.clone();
        let rule = match duty {
            Duty::Same | Duty::SameRows => {
                Rule::Vector { map, residue: Residue::Zero, offset: 0.0 }
            }
            Duty::SameOrAnything => Rule::Vector { map, residue: Residue::Any(0.0), offset: 0.0 },
            Duty::Nothing | Duty::Cancel => Rule::Constant(0.0),
        };
        jobs.push(Job::new(from, to, rule));
    }
    jobs
}

/// Refuses a checkpoint with tensors that the model does not read: their expansion is unknown.
///
/// # Errors
/// Names the first of them.
pub(super) fn check_every_tensor_is_known(source: &Checkpoint, model: &Model) -> Result<()> {
    match model.strangers(source).first() {
        None => Ok(()),
        Some(name) => Err(Error::unsupported("no rule expands it: the model does not read it")
            .tensor(name)
            .help("remove it from the file if the model does not need it")),
    }
}

/// The layers of the expanded model.
pub(super) struct Slots {
    /// Those of [`Model::layers`].
    pub layers: Vec<Slot>,
    /// Those of the encoder beside them; empty without one.
    pub encoder: Vec<Slot>,
}

/// The jobs that make `expanded` from `source`, which `checkpoint` holds.
///
/// # Errors
/// If a part cannot be expanded losslessly.
pub(super) fn jobs(
    (source, expanded): (&Model, &Model),
    checkpoint: &Checkpoint,
    stream: &Stream,
    slots: &Slots,
    options: &Options,
) -> Result<Vec<Job>> {
    let layers = |(from, to): (&[Vec<Sublayer>], &[Vec<Sublayer>]), slots: &[Slot]| {
        let mut jobs = Vec::new();
        for (slot, layer) in slots.iter().zip(to) {
            let duty = slot.duty(options.new_layers);
            for pair in from[slot.source].iter().zip(layer) {
                for branches in pair.0.branches.iter().zip(&pair.1.branches) {
                    jobs.extend(branch::jobs(branches, stream, duty, options, checkpoint)?);
                }
            }
        }
        jobs.extend(post_norm::jobs((from, to), slots, stream)?);
        Ok::<_, Error>(jobs)
    };
    let mut jobs = Vec::new();
    if let (Some(from), Some(to)) = (&source.encoder, &expanded.encoder) {
        jobs.extend(embedding::jobs(&from.embedding, &to.embedding, stream)?);
        jobs.extend(layers((&from.layers, &to.layers), &slots.encoder)?);
        let (made, written) = norm::jobs(&from.norm, &to.norm, &stream.map, 1.0)?;
        if *written != encoded(stream) {
            return Err(Error::unsupported("cross-attention cannot read what the encoder writes"));
        }
        jobs.extend(made);
    }
    jobs.extend(embedding::jobs(&source.embedding, &expanded.embedding, stream)?);
    jobs.extend(layers((&source.layers, &expanded.layers), &slots.layers)?);
    for outputs in source.outputs.iter().zip(&expanded.outputs) {
        jobs.extend(outputs::jobs((source, expanded), outputs, stream)?);
    }
    Ok(jobs)
}

/// The map of what an encoder returns, the norm behind whose last layer is like all others.
pub(super) fn encoded(stream: &Stream) -> Map {
    Map::zero(stream.map.sources(), stream.map.len())
}
