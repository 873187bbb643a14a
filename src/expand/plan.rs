//! Which rule serves which tensor.

use super::depth::Slot;
use super::linear::Duty;
use super::maps::Map;
use super::stream::Stream;
use super::vectors::Residue;
use super::{Options, branch, embedding, norm, outputs};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Lens, Linear, Model};
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

/// The jobs that make `expanded` from `source`, which `checkpoint` holds.
///
/// # Errors
/// If a part cannot be expanded losslessly.
pub(super) fn jobs(
    (source, expanded): (&Model, &Model),
    checkpoint: &Checkpoint,
    stream: &Stream,
    slots: &[Slot],
    options: &Options,
) -> Result<Vec<Job>> {
    let mut jobs = embedding::jobs(&source.embedding, &expanded.embedding, stream)?;
    for (slot, layer) in slots.iter().zip(&expanded.layers) {
        let duty = slot.duty(options.new_layers);
        for (from, to) in source.layers[slot.source].iter().zip(layer) {
            for branches in from.branches.iter().zip(&to.branches) {
                jobs.extend(branch::jobs(branches, stream, duty, options, checkpoint)?);
            }
            if let (Some(from), Some(to)) = (&from.post_norm, &to.post_norm) {
                let (made, written) = norm::jobs(from, to, &stream.map, stream.map.scale())?;
                if written != stream.map {
                    return Err(Error::unsupported("a norm of the stream cannot write it again"));
                }
                jobs.extend(made);
            }
        }
    }
    for outputs in source.outputs.iter().zip(&expanded.outputs) {
        jobs.extend(outputs::jobs((source, expanded), outputs, stream)?);
    }
    Ok(jobs)
}
