//! Readers of the stream: linear layers behind a norm, with the norm folded in.
//!
//! Folding γ and β into the reader makes the equations independent of how a factor was split
//! between a norm and its reader:
//! `W_T diag(γ_T) P E / η = W_S diag(γ_S) P` and `W_T β_T + b_T = W_S β_S + b_S`.

use super::bounded::Bounded;
use super::map::Map;
use super::side::Side;
use super::stream::eta_squared;
use crate::error::Result;
use crate::model::{Linear, Norm, NormKind};

/// How a model's linear layers read one point of the stream.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub side: &'a Side<'a>,
    pub norm: Option<&'a Norm>,
    /// In the expanded model: the map of the stream, and the factor of its copies after the norm.
    pub through: Option<(&'a Map, f64)>,
}

/// A linear layer as a function of the source's normalised stream.
pub(super) struct Folded {
    /// `[out, d_source]`.
    pub weight: Bounded,
    /// `[out, 1]`.
    pub bias: Bounded,
}

/// The readers of both models at one point; `None` where the norm does not commute with the map.
pub(super) fn readers<'a>(
    (source, expanded): (&'a Side<'a>, &'a Side<'a>),
    map: &'a Map,
    norms: (Option<&'a Norm>, Option<&'a Norm>),
) -> Option<(Reader<'a>, Reader<'a>)> {
    let factor = match (norms.0, norms.1) {
        (Some(s), Some(t)) if s.kind == t.kind => map.scale / eta_squared(map, s.kind)?.sqrt(),
        (None, None) => map.scale,
        _ => return None,
    };
    let reader = |side, norm, through| Reader { side, norm, through };
    Some((reader(source, norms.0, None), reader(expanded, norms.1, Some((map, factor)))))
}

impl Reader<'_> {
    /// Folds a whole layer.
    pub fn fold(&self, linear: &Linear) -> Result<Folded> {
        self.fold_rows(linear, 0, linear.weight.rows())
    }

    /// Folds `count` output rows from `first` on.
    pub fn fold_rows(&self, linear: &Linear, first: usize, count: usize) -> Result<Folded> {
        let mut weight = self.side.read_rows(&linear.weight, first, count)?;
        let mut bias = match &linear.bias {
            Some(bias) => self.side.read_rows(bias, first, count)?,
            None => Bounded::zeros(count, 1),
        };
        if let Some(norm) = self.norm {
            if let Some(beta) = &norm.bias {
                bias = bias.plus(&weight.apply(&self.side.read(beta)?));
            }
            weight = weight.times_columns(&self.side.read(&norm.weight)?);
        }
        if let Some((map, factor)) = self.through {
            weight = map.fold(&weight).times(factor);
        }
        if self.is_layer_norm() {
            weight = weight.centre_rows();
        }
        Ok(Folded { weight, bias })
    }

    fn is_layer_norm(&self) -> bool {
        self.norm.is_some_and(|norm| norm.kind == NormKind::Layer)
    }

    /// The relative error that all folded entries may share: the norm weight's rounding, or the
    /// fitted scale's.
    pub fn shared(&self) -> f64 {
        match (self.norm, self.through) {
            (Some(norm), _) => self.side.unit(&norm.weight),
            (None, Some((map, _))) => map.scale_error,
            (None, None) => 0.0,
        }
    }
}

impl Folded {
    /// Weight and bias side by side: `[out, d_source + 1]`.
    pub fn joined(&self) -> Bounded {
        self.weight.beside(&self.bias)
    }
}
