//! How much a wrong ε can matter.
//!
//! A norm divides by `sqrt(v + ε)`, `v` the variance (RMSNorm: mean square) of what it reads. With
//! another ε' in place of ε everything behind the norm, before β is added, is `sqrt((v + ε)/(v +
//! ε'))` times what it must be. That is furthest from 1 where v is smallest, and never further than
//! `sqrt(ε/ε')`, its value at v = 0.

use super::probes::{LONG, probes};
use super::sample::Described;
use crate::certify::{Certificate, Reach};
use crate::error::Result;
use crate::forward::{Input, smallest_variances};
use serde::Serialize;

/// What one wrong ε can change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpsLimit {
    /// The configuration field of the expanded model, or which norms in a row act as one.
    pub field: String,
    /// The ε that would be right, in squared units of the expanded stream.
    pub right: f64,
    /// The ε that is there.
    pub got: f64,
    /// The smallest variance that a norm with this ε met on the inputs that were run.
    pub smallest_variance: f64,
    /// The relative change of what these norms write at that variance.
    pub change: f64,
    /// The relative change at variance zero: no input can make it larger.
    pub bound: f64,
    /// How many inputs were run.
    pub inputs: usize,
}

/// `|sqrt((v + right)/(v + got)) − 1|`.
fn change(variance: f64, right: f64, got: f64) -> f64 {
    (((variance + right) / (variance + got)).sqrt() - 1.0).abs()
}

/// The limits, if ε conditions are all that fails; else none.
///
/// # Errors
/// If a weight of the expanded model cannot be read or an output overflows.
pub(super) fn limits(certificate: &Certificate, expanded: Described) -> Result<Vec<EpsLimit>> {
    if !certificate.only_epsilon_fails() {
        return Ok(Vec::new());
    }
    let probes = probes(expanded.1, &[], 0, LONG);
    let inputs: Vec<Input> = probes.into_iter().map(|probe| probe.input).collect();
    let met = smallest_variances(expanded.0, expanded.1, &inputs)?;
    let failures = certificate.failures.iter().filter(|f| f.reach == Reach::Epsilon);
    Ok(failures
        .map(|failure| {
            let (right, got) = (failure.expected, failure.got);
            // Of norms in a row, which have no ε of their own, any may be the one.
            let own = met.iter().find(|(eps, _)| *eps == got);
            let least = || met.iter().map(|(_, variance)| *variance).reduce(f64::min);
            let variance = own.map(|(_, v)| *v).or_else(least).unwrap_or(0.0);
            EpsLimit {
                field: failure.tensor.clone(),
                right,
                got,
                smallest_variance: variance,
                change: change(variance, right, got),
                bound: change(0.0, right, got),
                inputs: inputs.len(),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_grows_as_the_variance_falls_and_its_bound_is_at_zero() {
        let at = |variance| change(variance, 4e-5, 1e-5);
        assert_eq!(at(0.0), 1.0);
        assert!((at(1.0) - 1.5e-5).abs() < 1e-9, "{}", at(1.0));
        assert!(at(1e-3) < at(1e-4) && at(1e-4) < at(0.0));
    }
}
