//! Norms: average-expanded in (LayerNorm) or zero-expanded in (RMSNorm), zero-expanded out.
//!
//! With x_T = s·T x_S, k whole copies and η = sqrt(k·D_S/D_T), the variance (or mean square) of x_T
//! is (s·η)² that of x_S. So ε* = (s·η)²ε makes the whole root s·η times the source's, the
//! normalised copies 1/η times the source's, and γ* = η[γ×k; any], β* = [β×k; 0] restores them. The
//! residue normalises to zero: for LayerNorm it holds the mean, for RMSNorm zero (LEMON, section
//! 4.1).
//!
//! Where the model stores w and computes γ = 1 + w (Gemma), w* = γ* − 1, on the residue too. Where
//! γ is no parameter (OLMo), what is written is 1/η times the source's, and its readers make up for
//! it.

use super::maps::Map;
use super::plan::{Job, Rule};
use super::stream::{eta_squared, read_by};
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
    let sizes = (read.sources(), read.len());
    if read.entries() != read_by(source.kind, sizes.0, sizes.1).entries() {
        return Err(named(Error::unsupported("no rule expands a norm of what it reads"), expanded));
    }
    check_eps(source, expanded, eta_squared(sizes.0, sizes.1) * read.scale().powi(2))?;
    let eta = eta_squared(sizes.0, sizes.1).sqrt();
    let scale = if source.weight.is_some() { scale } else { 1.0 / eta };
    let written = Map::zero(sizes.0, sizes.1).scaled(scale);
    let mut jobs = Vec::new();
    if let (Some(from), Some(to)) = (&source.weight, &expanded.weight) {
        let map = Arc::new(written.clone().scaled(eta));
        let rule = Rule::Vector { map, residue: Residue::Any(1.0), offset: source.offset };
        jobs.push(Job::new(from, to, rule));
    }
    if let (Some(from), Some(to)) = (&source.bias, &expanded.bias) {
        let map = Arc::new(written.clone());
        jobs.push(Job::new(from, to, Rule::Vector { map, residue: Residue::Zero, offset: 0.0 }));
    }
    Ok((jobs, Arc::new(written)))
}

/// Makes γ and β zero, as far as they are parameters: the norm writes zero, whatever it reads, if
/// γ is one.
pub(super) fn silent_jobs(source: &Norm, expanded: &Norm) -> Vec<Job> {
    let weights = source.weight.iter().zip(&expanded.weight);
    let weights = weights.map(|(from, to)| Job::new(from, to, Rule::Constant(0.0 - source.offset)));
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
    use crate::expand::random::Random;
    use crate::expand::stream::Stream;
    use crate::expand::vectors;
    use crate::model::{Dim, Lens};
    use ndarray::{Array2, array};

    /// A norm without γ and β.
    fn normalise(kind: NormKind, x: &Array2<f64>, eps: f64) -> Array2<f64> {
        let mean = if kind == NormKind::Layer { x.mean().unwrap() } else { 0.0 };
        let variance = x.mapv(|v| (v - mean).powi(2)).mean().unwrap();
        x.mapv(|v| (v - mean) / (variance + eps).sqrt())
    }

    /// A norm of `size` channels, with what is stored of γ if `weighted`.
    fn norm(kind: NormKind, size: usize, weighted: bool, offset: f64, eps: f64) -> Norm {
        let stored = Norm::rms("norm", &Dim::new(size, "hidden"), eps, Some("eps"));
        let weight = stored.weight.clone().filter(|_| weighted);
        Norm { kind, weight, offset, ..stored }
    }

    /// The largest error of the expanded norm, and the scale of what it writes.
    fn error(kind: NormKind, weighted: bool, offset: f64, stream: &Stream, scale: f64) -> f64 {
        let x = array![[0.3], [-1.2], [2.0], [0.1]];
        let stored = array![[1.5], [-0.5], [0.7], [2.0]];
        let gamma = if weighted { stored.mapv(|w| offset + w) } else { Array2::ones((4, 1)) };
        let expanded = stream.map.len();
        let from = norm(kind, 4, weighted, offset, 0.1);
        let to = norm(kind, expanded, weighted, offset, 0.1 * stream.eps_factor);
        let (jobs, written) = jobs(&from, &to, &stream.map, scale).unwrap();
        let gains = match jobs.first().map(|job| &job.rule) {
            Some(Rule::Vector { map, residue, offset }) => {
                let free = Some(&mut Random::new(0, "gamma", 0));
                let stored = vectors::expand(&stored, map, *residue, *offset, free);
                stored.mapv(|w| offset + w)
            }
            _ => Array2::ones((expanded, 1)),
        };
        let got = normalise(kind, &stream.map.expand_rows(&x), to.eps) * gains;
        let wanted = written.expand_rows(&(normalise(kind, &x, 0.1) * gamma));
        assert_eq!(written.scale() == scale, weighted || written.scale() == 1.0);
        (got - wanted).fold(0.0, |worst, e| e.abs().max(worst))
    }

    #[test]
    fn the_expanded_norm_writes_the_zero_expansion_of_what_the_norm_wrote() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (expanded, eps_is_free) in [(4, true), (8, true), (11, true), (11, false)] {
                let stream = Stream::before(kind, eps_is_free, 4, expanded);
                for (weighted, offset) in [(true, 0.0), (true, 1.0), (false, 0.0)] {
                    let worst = error(kind, weighted, offset, &stream, 1.0);
                    assert!(worst < 1e-14, "{kind:?} {expanded} {offset}: {worst:e}");
                }
            }
        }
    }

    #[test]
    fn a_norm_writes_at_the_scale_asked_for_if_it_has_a_weight() {
        let stream = Stream::before(NormKind::Rms, true, 4, 11);
        for offset in [0.0, 1.0] {
            assert!(error(NormKind::Rms, true, offset, &stream, 0.3) < 1e-14);
        }
    }

    #[test]
    fn a_norm_of_what_it_cannot_undo_is_refused() {
        let (from, to) = (norm(NormKind::Layer, 4, true, 0.0, 0.1), Map::zero(4, 11));
        let expanded = norm(NormKind::Layer, 11, true, 0.0, 0.1 * 8.0 / 11.0);
        assert!(jobs(&from, &expanded, &to, 1.0).is_err());
        let message = jobs(&from, &from.clone(), &Map::average(4, 11), 1.0).unwrap_err();
        assert!(message.to_string().contains("its ε must become"), "{message}");
    }

    #[test]
    fn a_silent_norm_has_no_gain_whatever_is_added_to_its_weight() {
        let from = norm(NormKind::Rms, 4, true, 1.0, 0.1);
        let bias = Some(Lens::vector("beta", Dim::new(4, "hidden")));
        let from = Norm { bias, ..from };
        let rules: Vec<Rule> = silent_jobs(&from, &from).into_iter().map(|job| job.rule).collect();
        assert_eq!(rules, [Rule::Constant(-1.0), Rule::Constant(0.0)]);
    }
}
