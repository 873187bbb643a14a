//! Which rule serves which tensor.

use super::depth::Slot;
use super::linear::Duty;
use super::maps::Map;
use super::vectors::Residue;
use super::{Options, attention, embedding, mlp, norm};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Branch, Lens, Linear, Model, Norm, NormKind, Op, Output, Step, Sublayer};
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
    Vector { map: Arc<Map>, residue: Residue },
    /// All zero.
    Zeros,
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
            Duty::Same => Rule::Vector { map, residue: Residue::Zero },
            Duty::SameOrAnything => Rule::Vector { map, residue: Residue::Any(0.0) },
            Duty::Nothing | Duty::Cancel => Rule::Zeros,
        };
        jobs.push(Job::new(from, to, rule));
    }
    jobs
}

/// The residual stream's map and what follows from it.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// E of the stream: s·T_avg before LayerNorms, s·T_zero before RMSNorms.
    pub map: Arc<Map>,
    /// E of what norms write: T_zero.
    pub read: Arc<Map>,
    /// η = sqrt(k·D_S/D_T).
    pub eta: f64,
    /// (s·η)², the factor on every ε.
    pub eps_factor: f64,
    /// s·k, the factor by which tied logits would grow.
    pub tied_factor: f64,
}

impl Stream {
    /// The maps for the norms of `model` at a width of `expanded`.
    ///
    /// # Errors
    /// If no map serves all norms.
    pub fn of(model: &Model, expanded: usize) -> Result<Stream> {
        let source = model.sizes.hidden;
        let norms = norms(model);
        let layer = norms.iter().any(|n| n.kind == NormKind::Layer);
        let rms = norms.iter().any(|n| n.kind == NormKind::Rms);
        let divisible = expanded.is_multiple_of(source);
        if !divisible && (layer == rms || is_post_norm(model)) {
            return Err(Error::refused(
                "the stream has no norm, or several kinds, which only a multiple of the width \
                 suits",
            )
            .help(format!("use a multiple of {source}")));
        }
        // Where ε cannot be changed, a smaller or larger stream makes up for it.
        let eps_is_stored = norms.iter().all(|n| n.eps_field.is_some());
        let kind = if layer { NormKind::Layer } else { NormKind::Rms };
        Ok(Stream::before(kind, eps_is_stored, source, expanded))
    }

    /// The maps in front of norms of this kind.
    pub fn before(kind: NormKind, eps_is_stored: bool, source: usize, expanded: usize) -> Stream {
        let copies = (expanded / source) as f64;
        let eta_squared = copies * source as f64 / expanded as f64;
        let eta = eta_squared.sqrt();
        let (scale, eps_factor) = match eps_is_stored || eta_squared == 1.0 {
            true => (1.0, eta_squared),
            false => (1.0 / eta, 1.0),
        };
        let map = match kind {
            NormKind::Layer => Map::average(source, expanded),
            NormKind::Rms => Map::zero(source, expanded),
        };
        Stream {
            map: Arc::new(map.scaled(scale)),
            read: Arc::new(Map::zero(source, expanded)),
            eta,
            eps_factor,
            tied_factor: scale * copies,
        }
    }
}

/// Whether norms write the stream itself.
pub(super) fn is_post_norm(model: &Model) -> bool {
    model.embedding.norm.is_some() || model.layers.iter().flatten().any(|s| s.post_norm.is_some())
}

fn norms(model: &Model) -> Vec<&Norm> {
    let sublayers = model.layers.iter().flatten();
    let inner = sublayers
        .flat_map(|s| s.branches.iter().filter_map(|b| b.norm.as_ref()).chain(&s.post_norm));
    let steps = model.outputs.iter().flat_map(|o| &o.steps);
    let last = steps.filter_map(|s| if let Step::Norm(norm) = s { Some(norm) } else { None });
    model.embedding.norm.iter().chain(inner).chain(last).collect()
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

/// The jobs that make `expanded` from `source`.
///
/// # Errors
/// If a part cannot be expanded losslessly.
pub(super) fn jobs(
    source: &Model,
    expanded: &Model,
    stream: &Stream,
    slots: &[Slot],
    options: &Options,
) -> Result<Vec<Job>> {
    let mut jobs = embedding::jobs(&source.embedding, &expanded.embedding, stream)?;
    for (slot, layer) in slots.iter().zip(&expanded.layers) {
        let duty = slot.duty(options.new_layers);
        for (from, to) in source.layers[slot.source].iter().zip(layer) {
            jobs.extend(sublayer_jobs(from, to, stream, duty, options)?);
        }
    }
    for (from, to) in source.outputs.iter().zip(&expanded.outputs) {
        jobs.extend(output_jobs(source, (from, to), stream)?);
    }
    Ok(jobs)
}

fn sublayer_jobs(
    source: &Sublayer,
    expanded: &Sublayer,
    stream: &Stream,
    duty: Duty,
    options: &Options,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (from, to) in source.branches.iter().zip(&expanded.branches) {
        check_plain(from)?;
        let mut read = &stream.map;
        if let (Some(from), Some(to)) = (&from.norm, &to.norm) {
            jobs.extend(norm::jobs(from, to, stream, 1.0)?);
            read = &stream.read;
        }
        let ports = Ports { read: read.clone(), write: stream.map.clone() };
        jobs.extend(match (&from.op, &to.op) {
            (Op::Attention(from), Op::Attention(to)) => {
                attention::jobs(from, to, &ports, duty, options.free)?
            }
            (Op::Mlp(from), Op::Mlp(to)) => mlp::jobs(from, to, &ports, duty)?,
            _ => return Err(Error::unsupported("the two models have different kinds of layers")),
        });
    }
    if let (Some(from), Some(to)) = (&source.post_norm, &expanded.post_norm) {
        jobs.extend(norm::jobs(from, to, stream, 1.0)?);
    }
    Ok(jobs)
}

/// Refuses what no rule expands.
fn check_plain(branch: &Branch) -> Result<()> {
    let what = match &branch.op {
        _ if branch.post_norm.is_some() => "a norm behind a branch",
        _ if branch.scale.is_some() => "LayerScale",
        Op::Attention(a) if a.head_norms.is_some() => "norms of queries and keys",
        Op::Experts(_) => "a mixture of experts",
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("no rule expands {what}")))
}

fn output_jobs(
    source: &Model,
    (from, to): (&Output, &Output),
    stream: &Stream,
) -> Result<Vec<Job>> {
    let tables: Vec<&str> = source.embedding.tables.iter().map(|t| t.lens.name()).collect();
    let is_tied = |step: Option<&Step>| match step {
        Some(Step::Linear(linear)) => tables.contains(&linear.weight.name()),
        _ => false,
    };
    let mut jobs = Vec::new();
    let mut read = stream.map.clone();
    for (index, steps) in from.steps.iter().zip(&to.steps).enumerate() {
        match steps {
            (Step::Position(_), Step::Position(_)) => {}
            (Step::Activation(_), Step::Activation(_)) if read.commutes_with_activations() => {}
            (Step::Norm(from_norm), Step::Norm(to_norm)) => {
                // A tied table reads k copies where the source's read one; its norm makes up for
                // it.
                let tied = is_tied(from.steps.get(index + 1));
                let divisor = if tied { stream.tied_factor } else { 1.0 };
                if *read != *stream.map {
                    return Err(Error::unsupported("a norm of something other than the stream"));
                }
                jobs.extend(norm::jobs(from_norm, to_norm, stream, divisor)?);
                read = Arc::new(Map::clone(&stream.read).scaled(1.0 / divisor));
            }
            (Step::Linear(from_linear), Step::Linear(to_linear)) => {
                let rows = (from_linear.weight.rows(), to_linear.weight.rows());
                let write = Arc::new(Map::circular(rows.0, rows.1));
                let ports = Ports { read, write: write.clone() };
                let mut layer = linear_jobs(from_linear, to_linear, &ports, Duty::Same);
                if is_tied(from.steps.get(index)) {
                    check_tied_after_norm(from.steps[..index].last(), from_linear)?;
                    layer.remove(0);
                }
                jobs.extend(layer);
                read = write;
            }
            _ => {
                let problem = format!("no rule expands step {index} of the output `{}`", from.name);
                return Err(Error::unsupported(problem));
            }
        }
    }
    if from.fixed && *read != Map::identity(read.sources()) {
        let problem = format!("the output `{}` would change its size", from.name);
        return Err(Error::unsupported(problem));
    }
    Ok(jobs)
}

/// A tied head can only make up for its growth in the norm in front of it.
fn check_tied_after_norm(before: Option<&Step>, head: &Linear) -> Result<()> {
    match before {
        Some(Step::Norm(_)) => Ok(()),
        _ => Err(Error::unsupported("a tied head without a norm in front of it")
            .tensor(head.weight.name())),
    }
}
