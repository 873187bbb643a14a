//! Branches: `x + scale ∘ post_norm(op(norm(x)))`, from the norm in front to what is added.
//!
//! Each part is expanded between the map that it finds and the one that its reader needs. A norm
//! behind the op (Gemma 2, Post-Res-Norm) reads what suits it (means for LayerNorm, zeros for
//! RMSNorm) and writes the stream's map by its γ, so that the stream holds zeros (LEMON, section
//! 4.1, with w* = s·η·w). A new layer's is silent: γ and β zero. Cancelling fan-outs would not do,
//! since the norm divides the rounding error that is left of them by sqrt(ε).

use super::Options;
use super::linear::Duty;
use super::plan::{Job, Ports, Rule, encoded};
use super::rules::{Map, layer_scale};
use super::stream::Stream;
use super::{attention, experts, mlp, norm};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Branch, Norm, Op};
use std::sync::Arc;

/// Expands a branch beside `stream`; `duty` is what it must add to it.
///
/// # Errors
/// If a part cannot be expanded losslessly, or LayerScale's factors cannot be read.
pub(super) fn jobs(
    (source, expanded): (&Branch, &Branch),
    stream: &Stream,
    duty: Duty,
    options: &Options,
    checkpoint: &Checkpoint,
) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut ports = Ports { read: stream.map.clone(), write: stream.map.clone() };
    if let (Some(from), Some(to)) = (&source.norm, &expanded.norm) {
        let (made, written) = norm::jobs(from, to, &ports.read, 1.0)?;
        jobs.extend(made);
        ports.read = written;
    }
    if let (Some(from), Some(to)) = (&source.scale, &expanded.scale) {
        let scale = layer_scale(&from.read(checkpoint)?, &ports.write)?;
        jobs.push(Job::new(from, to, Rule::Given(Arc::new(scale.factors))));
        ports.write = Arc::new(scale.write);
    }
    let mut duty = duty;
    if let (Some(from), Some(to)) = (&source.post_norm, &expanded.post_norm) {
        jobs.extend(behind((from, to), duty, &ports.write, stream)?);
        ports.write = stream.in_front_of(from.kind);
        // The norm is silent: what it reads need not be.
        if duty == Duty::Nothing && from.weight.is_some() {
            duty = Duty::Same;
        }
    }
    jobs.extend(match (&source.op, &expanded.op) {
        (Op::Attention(from), Op::Attention(to)) => {
            // Queries read the stream, keys and values the encoder's: one map for both.
            if from.reads_encoder && *ports.read != encoded(stream) {
                return Err(Error::unsupported("cross-attention reads two maps"));
            }
            attention::jobs(from, to, &ports, duty, options.free)?
        }
        (Op::Mlp(from), Op::Mlp(to)) => mlp::jobs(from, to, &ports, duty, 1.0)?,
        (Op::Experts(from), Op::Experts(to)) => {
            experts::jobs(from, to, &ports, duty, options.free)?
        }
        _ => return Err(Error::unsupported("the two models have different kinds of layers")),
    });
    Ok(jobs)
}

/// Expands the norm behind an op, which must write `write`, or nothing.
fn behind(
    (from, to): (&Norm, &Norm),
    duty: Duty,
    write: &Map,
    stream: &Stream,
) -> Result<Vec<Job>> {
    match duty {
        Duty::Nothing => return Ok(norm::silent_jobs(from, to)),
        Duty::Cancel => {
            return Err(Error::refused(
                "fan-outs that cancel leave rounding errors, which the norm behind them divides by \
                 the square root of its ε",
            )
            .help("ask for new layers of zeros"));
        }
        Duty::Same | Duty::SameOrAnything | Duty::SameRows => {}
    }
    let (jobs, written) = norm::jobs(from, to, &stream.in_front_of(from.kind), write.scale())?;
    if written.entries() == write.entries() && written.scale() == write.scale() {
        return Ok(jobs);
    }
    Err(Error::unsupported("the norm behind a branch cannot write what the stream holds"))
}
