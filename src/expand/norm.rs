//! Norms: average-expanded in (LayerNorm) or zero-expanded in (RMSNorm), zero-expanded out.
//!
//! With x_T = s·T x_S, k whole copies and η = sqrt(k·D_S/D_T), the variance (or mean square) of x_T
//! is (s·η)² that of x_S. So ε* = (s·η)²ε makes the whole root s·η times the source's, the
//! normalised copies 1/η times the source's, and γ* = η[γ×k; any], β* = [β×k; 0] restores them. The
//! residue normalises to zero: for LayerNorm it holds the mean, for RMSNorm zero (LEMON, section
//! 4.1).

use super::maps::Map;
use super::plan::{Job, Rule, Stream};
use super::vectors::Residue;
use crate::error::{Error, Result};
use crate::model::Norm;
use std::sync::Arc;

/// Expands a norm, whose output is then what its readers read, divided by `divisor`.
///
/// # Errors
/// If the expanded model's ε is not the one that the rule needs.
pub(super) fn jobs(
    source: &Norm,
    expanded: &Norm,
    stream: &Stream,
    divisor: f64,
) -> Result<Vec<Job>> {
    let (Some(from), Some(to), true) = (&source.weight, &expanded.weight, source.offset == 0.0)
    else {
        return Err(Error::unsupported("no rule expands a norm whose γ is not what is stored"));
    };
    let eps = source.eps * stream.eps_factor;
    if (expanded.eps - eps).abs() > 1e-14 * eps {
        return Err(Error::unsupported(format!(
            "its ε must become {eps:e}, but the expanded configuration makes it {:e}",
            expanded.eps
        ))
        .tensor(to.name()));
    }
    let scaled = |factor: f64| Arc::new(Map::clone(&stream.read).scaled(factor));
    let weight = Rule::Vector { map: scaled(stream.eta / divisor), residue: Residue::Any(1.0) };
    let mut jobs = vec![Job::new(from, to, weight)];
    if let (Some(from), Some(to)) = (&source.bias, &expanded.bias) {
        let rule = Rule::Vector { map: scaled(1.0 / divisor), residue: Residue::Zero };
        jobs.push(Job::new(from, to, rule));
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::random::Random;
    use crate::expand::vectors;
    use crate::model::NormKind;
    use ndarray::{Array2, array};

    /// A norm without γ and β.
    fn normalise(kind: NormKind, x: &Array2<f64>, eps: f64) -> Array2<f64> {
        let mean = if kind == NormKind::Layer { x.mean().unwrap() } else { 0.0 };
        let variance = x.mapv(|v| (v - mean).powi(2)).mean().unwrap();
        x.mapv(|v| (v - mean) / (variance + eps).sqrt())
    }

    #[test]
    fn the_expanded_norm_writes_the_zero_expansion_of_what_the_norm_wrote() {
        let x = array![[0.3], [-1.2], [2.0], [0.1]];
        let gamma = array![[1.5], [-0.5], [0.7], [2.0]];
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (expanded, eps_is_stored) in [(4, true), (8, true), (11, true), (11, false)] {
                let stream = Stream::before(kind, eps_is_stored, 4, expanded);
                let eps = 0.1 * stream.eps_factor;
                assert!(eps_is_stored || eps == 0.1);
                let map = Map::clone(&stream.read).scaled(stream.eta);
                let mut random = Random::new(0, "gamma", 0);
                let free = Some(&mut random);
                let weight = vectors::expand(&gamma, &map, Residue::Any(1.0), free);
                let got = normalise(kind, &stream.map.expand_rows(&x), eps) * weight;
                let wanted = stream.read.expand_rows(&(normalise(kind, &x, 0.1) * &gamma));
                let error = got - wanted;
                assert!(error.iter().all(|e| e.abs() < 1e-14), "{kind:?} {expanded}");
            }
        }
    }
}
