//! LayerNorm and RMSNorm: average-expanded or zero-expanded in, zero-expanded out.

use super::Map;
use crate::error::{Error, Result};
use crate::model::NormKind;

/// What becomes of a norm.
#[derive(Clone, Debug, PartialEq)]
pub struct NormRule {
    /// γ* is this map of γ, its residue free; see [`super::vector()`] where γ = 1 + w is stored as
    /// w.
    pub weight: Map,
    /// β* is this map of β, its residue zero.
    pub bias: Map,
    /// The map of what the norm then writes.
    pub written: Map,
    /// ε* = this factor times ε.
    pub eps_factor: f64,
}

/// η = sqrt(k·D_S/D_T), with k = ⌊D_T/D_S⌋ whole copies: by how much the standard deviation of
/// T_avg x, and the root mean square of T_zero x, is smaller than that of x. 0 where there is no
/// whole copy.
pub fn eta(source: usize, expanded: usize) -> f64 {
    eta_squared(source, expanded).sqrt()
}

pub(in crate::expand) fn eta_squared(source: usize, expanded: usize) -> f64 {
    let copies = expanded.checked_div(source).unwrap_or(0);
    (copies * source) as f64 / expanded.max(1) as f64
}

/// What a norm of this kind must read, times any scale: T_avg, or T_zero for an RMSNorm.
pub fn norm_reads(kind: NormKind, source: usize, expanded: usize) -> Map {
    match kind {
        NormKind::Layer => Map::average(source, expanded),
        NormKind::Rms => Map::zero(source, expanded),
    }
}

/// The rule for a norm that reads s·T_avg (LayerNorm) or s·T_zero (RMSNorm), given as `read`, and
/// shall write `scale`·T_zero. Without a weight (γ is 1, as in OLMo) it writes T_zero/η instead,
/// and its readers must make up for that.
///
/// Lossless, because the variance (or mean square) of s·T x is (s·η)² that of x, so that ε* =
/// (s·η)²ε makes the whole root s·η times the source's and the normalised copies 1/η times: γ* =
/// η·scale·[γ×k; any] and β* = scale·[β×k; 0] restore them. The residue normalises to zero: for
/// LayerNorm it holds the mean, for RMSNorm zero (LEMON, section 4.1).
///
/// # Errors
/// If `read` is no such map, or has no whole copy.
pub fn norm(kind: NormKind, read: &Map, scale: f64, weighted: bool) -> Result<NormRule> {
    let (source, expanded) = (read.sources(), read.len());
    if read.entries() != norm_reads(kind, source, expanded).entries() || expanded < source {
        return Err(Error::unsupported("no rule expands a norm of what it reads"));
    }
    let eta_squared = eta_squared(source, expanded);
    let eta = eta_squared.sqrt();
    let written = Map::zero(source, expanded).scaled(if weighted { scale } else { 1.0 / eta });
    Ok(NormRule {
        weight: written.clone().scaled(eta),
        bias: written.clone(),
        written,
        eps_factor: eta_squared * read.scale().powi(2),
    })
}

/// What a row of norms computes, all but the last with γ = 1 and β = 0: what one norm does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormRow {
    /// The one norm's γ is the last one's times this.
    pub gain: f64,
    /// The one norm's ε.
    pub eps: f64,
}

/// The one norm that `count` norms with the same `eps` in a row are (Post-LN, behind a new layer
/// that adds nothing).
///
/// A norm with the gain g writes g·y/sqrt(v + ε₁), whose variance is g²v/(v + ε₁). So the next
/// writes g·y/sqrt(g²v + ε₂(v + ε₁)), as one norm would with the gain g/sqrt(g² + ε₂) and the ε
/// ε₁ε₂/(g² + ε₂). With γ divided by the last gain, that ε is all that is left of the difference.
/// (Not LEMON's, which leaves the depth of Post-LN models open.)
pub fn norms_in_a_row(eps: f64, count: usize) -> NormRow {
    let first = NormRow { gain: 1.0, eps };
    (1..count).fold(first, |row, _| {
        let square = row.gain * row.gain + eps;
        NormRow { gain: row.gain / square.sqrt(), eps: row.eps * eps / square }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::rules::vector;
    use ndarray::{Array2, array};

    /// A norm without γ and β.
    fn normalise(kind: NormKind, x: &Array2<f64>, eps: f64) -> Array2<f64> {
        let mean = if kind == NormKind::Layer { x.mean().unwrap() } else { 0.0 };
        let variance = x.mapv(|v| (v - mean).powi(2)).mean().unwrap();
        x.mapv(|v| (v - mean) / (variance + eps).sqrt())
    }

    /// The largest error of the expanded norm.
    fn error(kind: NormKind, read: &Map, weighted: bool, offset: f64, scale: f64) -> f64 {
        let x = array![[0.3], [-1.2], [2.0], [0.1]];
        let stored = array![[1.5], [-0.5], [0.7], [2.0]];
        let beta = array![[0.3], [0.2], [-4.0], [1.0]];
        let rule = norm(kind, read, scale, weighted).unwrap();
        let (gain, large_gain) = match weighted {
            true => {
                let large = vector(&stored, &rule.weight, offset, |i| i as f64 - 3.0).unwrap();
                (&stored + offset, large + offset)
            }
            false => (Array2::ones((4, 1)), Array2::ones((read.len(), 1))),
        };
        let shift = vector(&beta, &rule.bias, 0.0, |_| 0.0).unwrap();
        let eps = 0.1 * rule.eps_factor;
        let got = normalise(kind, &read.expand_rows(&x), eps) * large_gain + shift;
        let wanted = rule.written.expand_rows(&(normalise(kind, &x, 0.1) * gain + beta));
        assert!(rule.written.scale() == scale || !weighted);
        (got - wanted).fold(0.0, |worst, e| e.abs().max(worst))
    }

    #[test]
    fn the_expanded_norm_writes_the_zero_expansion_of_what_the_norm_wrote() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (expanded, s) in [(4, 1.0), (8, 1.0), (11, 1.0), (11, 1.0 / eta(4, 11))] {
                let read = norm_reads(kind, 4, expanded).scaled(s);
                for (weighted, offset) in [(true, 0.0), (true, 1.0), (false, 0.0)] {
                    let worst = error(kind, &read, weighted, offset, 1.0);
                    assert!(worst < 1e-14, "{kind:?} {expanded} {offset}: {worst:e}");
                }
                assert!(error(kind, &read, true, 1.0, 0.3) < 1e-14, "{kind:?} {expanded}");
            }
        }
    }

    #[test]
    fn a_stream_of_one_over_eta_keeps_epsilon() {
        let read = norm_reads(NormKind::Layer, 4, 11).scaled(1.0 / eta(4, 11));
        let rule = norm(NormKind::Layer, &read, 1.0, true).unwrap();
        assert!((rule.eps_factor - 1.0).abs() < 1e-15);
    }

    #[test]
    fn norms_in_a_row_are_one_norm() {
        let x = array![[0.3], [-1.2], [2.0], [0.1]];
        for kind in [NormKind::Layer, NormKind::Rms] {
            let mut repeated = x.clone();
            for count in 1..5 {
                repeated = normalise(kind, &repeated, 0.1);
                let row = norms_in_a_row(0.1, count);
                let error = &repeated - &(normalise(kind, &x, row.eps) * row.gain);
                assert!(error.iter().all(|e| e.abs() < 1e-14), "{kind:?} {count}: {error}");
            }
        }
    }

    #[test]
    fn a_norm_of_what_it_cannot_undo_is_refused() {
        assert!(norm(NormKind::Layer, &Map::zero(4, 11), 1.0, true).is_err());
        assert!(norm(NormKind::Rms, &Map::average(4, 11), 1.0, true).is_err());
        assert!(norm(NormKind::Rms, &Map::circular(4, 11), 1.0, true).is_err());
        assert!(norm(NormKind::Rms, &Map::zero(4, 3), 1.0, true).is_err());
    }
}
