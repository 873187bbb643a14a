//! Readers of the stream: linear layers behind a norm, with the norm folded in.
//!
//! Folding γ and β into the reader makes the equations independent of how a factor was split
//! between a norm and its reader:
//! `W_T diag(γ_T) P E / η = W_S diag(γ_S) P` and `W_T β_T + b_T = W_S β_S + b_S`.

use super::bounded::Bounded;
use super::map::{Entry, Map};
use super::side::Side;
use super::stream::eta_squared;
use crate::error::Result;
use crate::model::{Attention, Lens, Linear, Norm, NormKind, Op};
use ndarray::Zip;

/// How a model's linear layers read one point of the stream.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub side: &'a Side<'a>,
    pub norm: Option<&'a Norm>,
    /// In the expanded model: the map of the stream, and the factor of its copies after the norm.
    pub through: Option<(&'a Map, f64)>,
    /// The largest relative error that all folded entries may have in common: the norm weight's
    /// rounding, or the fitted scale's.
    pub shared: f64,
    /// LayerScale of the branch that reads: a factor on what it writes.
    pub scale: Option<&'a Lens>,
    /// How cross-attention reads what the encoder returned.
    pub memory: Option<Memory<'a>>,
}

/// How a model's cross-attention reads what the encoder returned: fields as those of [`Reader`].
#[derive(Clone, Copy)]
pub(super) struct Memory<'a> {
    norm: Option<&'a Norm>,
    through: Option<(&'a Map, f64)>,
    shared: f64,
}

/// A linear layer as a function of the source's normalised stream.
pub(super) struct Folded {
    /// `[out, d_source]`.
    pub weight: Bounded,
    /// `[out, 1]`.
    pub bias: Bounded,
}

/// The readers of both models at one point; `None` where the norm does not commute with the map.
///
/// # Errors
/// If a norm's weight cannot be read.
pub(super) fn readers<'a>(
    (source, expanded): (&'a Side<'a>, &'a Side<'a>),
    map: &'a Map,
    norms: (Option<&'a Norm>, Option<&'a Norm>),
) -> Result<Option<(Reader<'a>, Reader<'a>)>> {
    let (factor, shared) = match (norms.0, norms.1) {
        (Some(s), Some(t)) if s.kind == t.kind => {
            let Some(eta_squared) = eta_squared(map, s.kind) else { return Ok(None) };
            let factor = map.scale / eta_squared.sqrt();
            (factor, rounding_of_norm((source, expanded), map, (s, t), factor)?)
        }
        (None, None) => (map.scale, map.scale_error),
        _ => return Ok(None),
    };
    let reader =
        |side, norm, through| Reader { side, norm, through, shared, scale: None, memory: None };
    Ok(Some((reader(source, norms.0, None), reader(expanded, norms.1, Some((map, factor))))))
}

/// The reader of a sublayer that stands alone, in the expanded model if there is a `map` to read
/// through; `None` where the norm does not commute with it.
pub(super) fn reader_alone<'a>(
    side: &'a Side<'a>,
    map: Option<&'a Map>,
    norm: Option<&'a Norm>,
) -> Option<Reader<'a>> {
    let through = match (map, norm) {
        (None, _) => None,
        (Some(map), None) => Some((map, map.scale)),
        (Some(map), Some(norm)) => Some((map, map.scale / eta_squared(map, norm.kind)?.sqrt())),
    };
    Some(Reader { side, norm, through, shared: 0.0, scale: None, memory: None })
}

/// How far the expanded norm's weight is from the source's, scaled and copied: at most its unit of
/// rounding, where it is that weight and no other split between norm and readers.
fn rounding_of_norm(
    (source, expanded): (&Side, &Side),
    map: &Map,
    (s, t): (&Norm, &Norm),
    factor: f64,
) -> Result<f64> {
    let (small, large) = (source.gamma(s, map.source)?, expanded.gamma(t, map.expanded())?);
    let mut error = 0.0f64;
    for (i, entry) in map.entries.iter().enumerate() {
        if let Entry::Copy { of, .. } = entry {
            let (expected, got) = (small.value[[*of, 0]], factor * large.value[[i, 0]]);
            let off = if got == expected { 0.0 } else { ((got - expected) / expected).abs() };
            error = error.max(off);
        }
    }
    Ok(error.min(expanded.unit_of_gamma(t)))
}

impl<'a> Reader<'a> {
    /// This way of reading, for cross-attention behind an encoder.
    pub fn as_memory(&self) -> Memory<'a> {
        Memory { norm: self.norm, through: self.through, shared: self.shared }
    }

    /// How keys and values are made: from the stream, or from what the encoder returned.
    pub fn keys(&self, attention: &Attention) -> Reader<'a> {
        match self.memory {
            Some(Memory { norm, through, shared }) if attention.reads_encoder => {
                Reader { norm, through, shared, ..*self }
            }
            _ => *self,
        }
    }

    /// [`Reader::shared`] of all that an op reads.
    pub fn shared_by(&self, op: &Op) -> f64 {
        match op {
            Op::Attention(attention) => self.shared.max(self.keys(attention).shared),
            _ => self.shared,
        }
    }

    /// Folds a whole layer.
    pub fn fold(&self, linear: &Linear) -> Result<Folded> {
        self.fold_rows(linear, 0, linear.weight.rows())
    }

    /// Folds `count` output rows from `first` on, each in one pass.
    pub fn fold_rows(&self, linear: &Linear, first: usize, count: usize) -> Result<Folded> {
        let stored = self.side.stored_rows(&linear.weight, first, count)?;
        let mut bias = match &linear.bias {
            Some(bias) => self.side.read_rows(bias, first, count)?,
            None => Bounded::zeros(count, 1),
        };
        if let Some(beta) = self.norm.and_then(|norm| norm.bias.as_ref()) {
            bias = bias.plus(&stored.apply(&self.side.read(beta)?));
        }
        let gamma = match self.norm {
            Some(norm) => self.side.gamma(norm, stored.value.ncols())?,
            None => Bounded::ones(stored.value.ncols()),
        };
        let (width, targets) = self.targets(stored.value.ncols());
        let means = self.means();
        let mut weight = Bounded::zeros(count, width);
        Zip::indexed(stored.value.rows())
            .and(weight.value.rows_mut())
            .and(weight.variance.rows_mut())
            .for_each(|i, row, mut values, mut variances| {
                let mut mean = (0.0, 0.0);
                for (j, w) in row.iter().enumerate() {
                    let own = stored.variance((i, j), *w);
                    if let Some(factor) = &means {
                        mean.0 += factor[j] * w;
                        mean.1 += factor[j] * factor[j] * own;
                    }
                    let Some((of, factor)) = targets[j] else { continue };
                    let (g, spread) = (gamma.value[[j, 0]], gamma.variance[[j, 0]]);
                    values[of] += factor * g * w;
                    variances[of] += factor * factor * (own * g * g + w * w * spread);
                }
                if means.is_some() {
                    values += mean.0;
                    variances += mean.1;
                }
            });
        if self.is_layer_norm() {
            weight = weight.centre_rows();
        }
        Ok(Folded { weight, bias })
    }

    /// The width of a folded row, and where each column goes and by what factor.
    pub fn targets(&self, columns: usize) -> (usize, Vec<Option<(usize, f64)>>) {
        let Some((map, factor)) = self.through else {
            return (columns, (0..columns).map(|j| Some((j, 1.0))).collect());
        };
        let target = |entry: &Entry| match entry {
            Entry::Copy { of, sign } => Some((*of, sign * factor)),
            Entry::Mean | Entry::Zero => None,
        };
        (map.source, map.entries.iter().map(target).collect())
    }

    /// What each column takes of every source channel: a norm makes channels that hold the mean
    /// zero, and a reader without one reads them. `None` where there are none.
    pub fn means(&self) -> Option<Vec<f64>> {
        let (map, factor) = self.through.filter(|_| self.norm.is_none())?;
        let share = |entry: &Entry| match entry {
            Entry::Mean => factor / map.source as f64,
            Entry::Copy { .. } | Entry::Zero => 0.0,
        };
        map.entries.contains(&Entry::Mean).then(|| map.entries.iter().map(share).collect())
    }

    /// Whether a LayerNorm stands in front.
    pub fn is_layer_norm(&self) -> bool {
        self.norm.is_some_and(|norm| norm.kind == NormKind::Layer)
    }
}

impl Folded {
    /// Weight and bias side by side: `[out, d_source + 1]`.
    pub fn joined(&self) -> Bounded {
        self.weight.beside(&self.bias)
    }
}
