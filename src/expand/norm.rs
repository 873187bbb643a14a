//! Norms of the expanded model, by [`super::rules::norm()`].
//!
//! Where the model stores w and computes γ = 1 + w (Gemma), w* = γ* − 1, on the residue too. Where
//! γ is no parameter (OLMo), what is written is 1/η times the source's, and its readers make up for
//! it.

use super::plan::{Job, Rule};
use super::rules::{Map, NormRule, norm};
use super::vectors::Residue;
use crate::error::{Error, Result};
use crate::model::{Norm, NormKind};
use std::sync::Arc;

/// Expands a norm of something whose map is `read`, so that it writes `scale`·T_zero: returns the
/// jobs and the map of what it does write, which differs where γ is no parameter.
///
/// # Errors
/// If `read` is no map that the norm can undo, or the expanded model's ε is not the one that the
/// rule needs.
pub(super) fn jobs(
    source: &Norm,
    expanded: &Norm,
    read: &Map,
    scale: f64,
) -> Result<(Vec<Job>, Arc<Map>)> {
    amplified_jobs(source, expanded, read, scale, 1.0)
}

/// As [`jobs`], with γ `gain` times as large, for what is normalised already and by so much too
/// small.
///
/// # Errors
/// As [`jobs`], and if γ is no parameter.
pub(super) fn amplified_jobs(
    source: &Norm,
    expanded: &Norm,
    read: &Map,
    scale: f64,
    gain: f64,
) -> Result<(Vec<Job>, Arc<Map>)> {
    let rule = rule_of(source, expanded, read, scale)?;
    let mut jobs = Vec::new();
    match (&source.weight, &expanded.weight) {
        (Some(from), Some(to)) => {
            let (map, residue) = (Arc::new(rule.weight.scaled(gain)), Residue::Any(1.0));
            jobs.push(Job::new(from, to, Rule::Vector { map, residue, offset: source.offset }));
        }
        _ if gain == 1.0 => {}
        _ => {
            let problem = "a norm without γ cannot make up for the norms in front of it";
            return Err(Error::refused(problem).help("keep the number of layers"));
        }
    }
    if let (Some(from), Some(to)) = (&source.bias, &expanded.bias) {
        let map = Arc::new(rule.bias);
        jobs.push(Job::new(from, to, Rule::Vector { map, residue: Residue::Zero, offset: 0.0 }));
    }
    Ok((jobs, Arc::new(rule.written)))
}

/// As [`jobs`], for a norm with γ = 1 and β = 0 in place of the source's.
///
/// # Errors
/// As [`jobs`].
pub(super) fn plain_jobs(
    source: &Norm,
    expanded: &Norm,
    read: &Map,
    scale: f64,
) -> Result<(Vec<Job>, Arc<Map>)> {
    let rule = rule_of(source, expanded, read, scale)?;
    let gamma = rule.weight.scale() - source.offset;
    Ok((constant_jobs(source, expanded, gamma), Arc::new(rule.written)))
}

fn rule_of(source: &Norm, expanded: &Norm, read: &Map, scale: f64) -> Result<NormRule> {
    let rule = norm(source.kind, read, scale, source.weight.is_some())
        .map_err(|error| named(error, expanded))?;
    check_eps(source, expanded, rule.eps_factor)?;
    Ok(rule)
}

/// Makes γ and β zero, as far as they are parameters: the norm writes zero, whatever it reads, if
/// γ is one.
pub(super) fn silent_jobs(source: &Norm, expanded: &Norm) -> Vec<Job> {
    constant_jobs(source, expanded, 0.0 - source.offset)
}

/// Stores `gamma` on all channels, and β = 0.
fn constant_jobs(source: &Norm, expanded: &Norm, gamma: f64) -> Vec<Job> {
    let weights = source.weight.iter().zip(&expanded.weight);
    let weights = weights.map(|(from, to)| Job::new(from, to, Rule::Constant(gamma)));
    let biases = source.bias.iter().zip(&expanded.bias);
    weights.chain(biases.map(|(from, to)| Job::new(from, to, Rule::Constant(0.0)))).collect()
}

fn check_eps(source: &Norm, expanded: &Norm, factor: f64) -> Result<()> {
    let eps = source.eps * factor;
    if (expanded.eps - eps).abs() <= 1e-14 * eps {
        return Ok(());
    }
    let problem = format!(
        "its ε must become {eps:e}, but the expanded configuration makes it {:e}",
        expanded.eps
    );
    Err(named(Error::unsupported(problem), expanded))
}

/// The error with the norm's tensor, or its kind where it stores none.
fn named(error: Error, norm: &Norm) -> Error {
    match norm.lenses().next() {
        Some(lens) => error.tensor(lens.name()),
        None if norm.kind == NormKind::Layer => error.tensor("a LayerNorm without weights"),
        None => error.tensor("an RMSNorm without weights"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Lens};

    fn norm_of(kind: NormKind, size: usize, offset: f64, eps: f64) -> Norm {
        Norm { kind, offset, ..Norm::rms("norm", &Dim::new(size, "hidden"), eps, Some("eps")) }
    }

    #[test]
    fn an_epsilon_that_the_configuration_did_not_take_is_refused() {
        let (small, read) = (norm_of(NormKind::Layer, 4, 0.0, 0.1), Map::average(4, 11));
        let right = norm_of(NormKind::Layer, 11, 0.0, 0.1 * 8.0 / 11.0);
        assert!(jobs(&small, &right, &read, 1.0).is_ok());
        let wrong = norm_of(NormKind::Layer, 11, 0.0, 0.1);
        let message = jobs(&small, &wrong, &read, 1.0).unwrap_err().to_string();
        assert!(message.contains("its ε must become"), "{message}");
    }

    #[test]
    fn a_silent_norm_has_no_gain_whatever_is_added_to_its_weight() {
        let bias = Some(Lens::vector("beta", Dim::new(4, "hidden")));
        let norm = Norm { bias, ..norm_of(NormKind::Rms, 4, 1.0, 0.1) };
        let rules: Vec<Rule> = silent_jobs(&norm, &norm).into_iter().map(|j| j.rule).collect();
        assert_eq!(rules, [Rule::Constant(-1.0), Rule::Constant(0.0)]);
    }
}
