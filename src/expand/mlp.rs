//! Feed-forward networks: neurons are copied, and each one's fan-out is split over its copies.
//!
//! A pointwise activation commutes with copying, so the copies compute what the neuron computed,
//! and shares that sum to its fan-out add up to the same output. With a gate, gate and neuron are
//! copied alike, so that each product keeps its partners (LEMON, section 4.2).

use super::linear::Duty;
use super::plan::{Job, Ports, linear_jobs};
use super::rules::Map;
use crate::error::{Error, Result};
use crate::model::Mlp;
use std::sync::Arc;

/// Expands an MLP between `ports`; `duty` is that of its output. What neurons write is multiplied by
/// `fan_out`, but for the bias.
///
/// # Errors
/// If fan-outs are to cancel and some neuron has no second copy.
pub(super) fn jobs(
    source: &Mlp,
    expanded: &Mlp,
    ports: &Ports,
    duty: Duty,
    fan_out: f64,
) -> Result<Vec<Job>> {
    let (from, to) = (source.up.weight.rows(), expanded.up.weight.rows());
    let neurons = Arc::new(Map::circular(from, to));
    if duty == Duty::Cancel && !neurons.replicates() {
        return Err(Error::refused(format!(
            "fan-outs of {to} neurons, copies of {from}, cannot cancel: each needs a second copy"
        ))
        .help(format!("ask for at least {} neurons, or for new layers of zeros", 2 * from)));
    }
    let inner = Ports { read: ports.read.clone(), write: neurons.clone() };
    let shares = Arc::new(Map::clone(&neurons).scaled(1.0 / fan_out));
    let outer = Ports { read: shares, write: ports.write.clone() };
    let mut jobs = linear_jobs(&source.up, &expanded.up, &inner, Duty::Same);
    if let (Some(from), Some(to)) = (&source.gate, &expanded.gate) {
        jobs.extend(linear_jobs(from, to, &inner, Duty::Same));
    }
    jobs.extend(linear_jobs(&source.down, &expanded.down, &outer, duty));
    Ok(jobs)
}
