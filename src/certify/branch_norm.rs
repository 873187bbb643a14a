//! A norm behind a branch (Gemma 2's second norm, Post-Res-Norm).
//!
//! What the op writes is not added to the stream, so it has a map `M` of its own: E's copies, and
//! where E is zero what the norm turns into zero, which is the mean for a LayerNorm and zero for an
//! RMSNorm; with a factor of its own, which the fan-outs say. Inside, the equations are those of
//! any op with `M` for `E`; behind, `norm_T(M y) = E norm_S(y)` is the rule of a norm that writes
//! the stream, with E given, and a condition on ε.

use super::channels::{Equations, equations};
use super::map::{Entry, Map};
use super::ops::writes;
use super::reader::Reader;
use super::squares::{Ledger, Residual};
use super::stream::{Factor, written_map};
use super::sublayer::{NO_NORM, Network};
use super::writes::Writes;
use crate::error::Result;
use crate::model::{Branch, Norm, NormKind};

/// The map in front of the norm, without its factor; `None` if no norm can write `stream`.
fn in_front(stream: &Map, kind: NormKind) -> Option<Map> {
    let entry = |entry: &Entry| match (entry, kind) {
        (Entry::Copy { .. }, _) => Some(*entry),
        (Entry::Zero, NormKind::Layer) => Some(Entry::Mean),
        (Entry::Zero, NormKind::Rms) => Some(Entry::Zero),
        (Entry::Mean, _) => None,
    };
    let entries = stream.entries.iter().map(entry).collect::<Option<Vec<_>>>()?;
    Some(Map { source: stream.source, entries, scale: 1.0, scale_error: 0.0 })
}

impl<'a> Network<'a> {
    /// Holds a branch with a norm behind it; the equations of its inside are the caller's to judge,
    /// with the map in front of the norm. `None` where that has been called unknown.
    pub(super) fn in_front_of_norm(
        &self,
        stream: &Map,
        norms: (&Norm, &Norm),
        readers: (&Reader<'a>, &Reader<'a>),
        (source, expanded): (&Branch, &Branch),
        (place, ledger): (&str, &mut Ledger),
    ) -> Result<Option<Map>> {
        let kind = norms.0.kind;
        let map = in_front(stream, kind).filter(|_| norms.1.kind == kind);
        let Some(mut map) = map else {
            ledger.unknown(place, NO_NORM);
            return Ok(None);
        };
        let (s, t) = (writes(readers.0, &source.op)?, writes(readers.1, &expanded.op)?);
        let shared = readers.1.shared;
        let hold = |map: &Map| equations(Some(&s), Some(&t), map, kind == NormKind::Layer, shared);
        let found = hold(&map);
        if !found.hold() {
            let candidates = self.scaled(&map, &found, (&t, expanded));
            map = candidates.into_iter().find(|scaled| hold(scaled).hold()).unwrap_or(map);
        }
        self.epsilon(&map, norms, place, ledger);
        let factor = Factor::Known { scale: stream.scale, error: stream.scale_error };
        let sides = (self.source, self.expanded);
        if written_map(sides, &map, norms, (place, factor), ledger)?.is_none() {
            ledger.unknown(place, NO_NORM);
            return Ok(None);
        }
        Ok(Some(map))
    }

    /// The map with the factor that the fan-outs have in common, or that the biases have: where the
    /// fan-outs write nothing, only those say it.
    fn scaled(
        &self,
        map: &Map,
        found: &Equations,
        (writes, branch): (&Writes, &Branch),
    ) -> Vec<Map> {
        let units = branch.op.writers().into_iter().map(|w| self.expanded.unit(&w.weight));
        let unit = units.fold(0.0, f64::max);
        let scaled = |(written, entries): (&Residual, usize)| {
            let scale = written.factor();
            let scale_error = written.factor_error().max(2.0 * unit / (entries as f64).sqrt());
            let is_other = scale > 0.0 && scale.is_finite() && (scale - 1.0).abs() > unit;
            is_other.then(|| Map { scale, scale_error, ..map.clone() })
        };
        let fan_outs = (&found.fan_out, writes.fan_out.value.len().max(1));
        let biases = (&found.bias, found.bias.entries.max(1));
        [fan_outs, biases].into_iter().filter_map(scaled).collect()
    }
}
