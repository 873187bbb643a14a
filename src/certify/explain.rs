//! Naming the tensor and the mistake behind an equation that fails.

use super::bounded::Bounded;
use super::map::{Entry, Map};
use super::reader::Reader;
use super::squares::Residual;
use crate::error::Result;
use crate::model::{Lens, Linear, Norm};
use std::collections::BTreeMap;

/// A tensor that is wrong by itself, and where.
pub(super) struct Blame<'a> {
    pub tensor: &'a Lens,
    pub source_tensor: &'a Lens,
    /// Row and column in the expanded lens.
    pub at: (usize, usize),
    pub residual: Residual,
    pub cause: Option<String>,
}

/// The words for a residual that is a constant ratio: `2.0000 times too large everywhere`, with the
/// name of the ratio if it is one of `known`.
pub(super) fn constant_ratio(residual: &Residual, known: &[(f64, &str)]) -> Option<String> {
    let factor = residual.factor();
    let plain = residual.wrong * 2 > residual.entries
        && residual.relative_after_factor() <= 0.01 * (factor - 1.0).abs();
    if !plain || !factor.is_finite() {
        return None;
    }
    let named = known.iter().find(|(ratio, _)| (factor / ratio - 1.0).abs() < 1e-3);
    let name = named.map_or(String::new(), |(_, name)| format!(": {name}"));
    Some(match factor {
        f if f < 0.0 => format!("{f:.4} times what it must be everywhere{name}"),
        f if f < 1e-6 => format!("zero everywhere{name}"),
        f if f < 1.0 => format!("{:.4} times too small everywhere{name}", 1.0 / f),
        f => format!("{f:.4} times too large everywhere{name}"),
    })
}

/// Whether the expanded norm is not the source's, scaled and copied: then a reader that is as it
/// should be reads wrong values. γ first, then β. `divisor` is what γ and β are divided by on
/// purpose (the tied head's factor), 1 elsewhere.
pub(super) fn norm_fault<'a>(
    (source, expanded): (&Reader<'a>, &Reader<'a>),
    divisor: f64,
) -> Result<Option<Blame<'a>>> {
    let (Some(s), Some(t)) = (source.norm, expanded.norm) else { return Ok(None) };
    let Some((map, factor)) = expanded.through else { return Ok(None) };
    let readers = (source, expanded);
    if let (Some(small), Some(large)) = (&s.weight, &t.weight)
        && let Some(mut blame) = vector_fault(readers, map, (small, large), factor * divisor)?
    {
        blame.cause = blame.cause.or_else(|| ratio_of_norm(&blame.residual, s, map, divisor));
        if blame.cause.is_none() && without_offset((source, expanded), map, factor * divisor)? {
            let offset = t.offset;
            let cause = format!("it is scaled as if it were γ, but γ is {offset} + weight");
            blame.cause = Some(cause);
        }
        return Ok(Some(blame));
    }
    match (&s.bias, &t.bias) {
        (Some(s), Some(t)) => vector_fault(readers, map, (s, t), divisor),
        _ => Ok(None),
    }
}

/// The words for a norm's weight that is off by a constant ratio.
pub(super) fn ratio_of_norm(
    residual: &Residual,
    norm: &Norm,
    map: &Map,
    divisor: f64,
) -> Option<String> {
    let eta = super::stream::eta_squared(map, norm.kind)?.sqrt() / map.scale;
    let known = [
        (1.0 / eta, "eta is missing"),
        (eta, "eta is there twice"),
        (1.0 / (eta * eta), "eta is inverted"),
        (divisor, "the factor of the tied head is missing"),
        (divisor / eta, "eta and the factor of the tied head are missing"),
    ];
    constant_ratio(residual, &known)
}

/// Whether two norms whose γ is more than their weight have weights that would be right if it were
/// not.
fn without_offset((source, expanded): (&Reader, &Reader), map: &Map, factor: f64) -> Result<bool> {
    let (Some(s), Some(t)) = (source.norm, expanded.norm) else { return Ok(false) };
    let (Some(small), Some(large)) = (&s.weight, &t.weight) else { return Ok(false) };
    if s.offset == 0.0 || s.offset != t.offset {
        return Ok(false);
    }
    let (small, large) = (source.side.read(small)?, expanded.side.read(large)?.times(factor));
    let mut expected = large.clone();
    for (i, entry) in map.entries.iter().enumerate() {
        if let Entry::Copy { of, .. } = entry {
            expected.value[[i, 0]] = small.value[[*of, 0]];
        }
    }
    Ok(Residual::of(&large, &expected, 0.0).holds())
}

/// Compares `factor · expanded` with the copies of a source vector; means and zeros: only a bias
/// must be zero there, and only in a LayerNorm, whose mean channels normalise to zero. A weight
/// there multiplies zero: it is free, and does not count.
fn vector_fault<'a>(
    (source, expanded): (&Reader<'a>, &Reader<'a>),
    map: &Map,
    (s, t): (&'a Lens, &'a Lens),
    factor: f64,
) -> Result<Option<Blame<'a>>> {
    let unsigned = Map {
        source: map.source,
        entries: map.entries.iter().map(unsigned).collect(),
        scale: 1.0,
        scale_error: 0.0,
    };
    let is_weight = expanded.norm.is_some_and(|norm| norm.weight.as_ref() == Some(t));
    let read = |reader: &Reader, lens: &Lens| match reader.norm {
        Some(norm) if is_weight => reader.side.gamma(norm, lens.rows()),
        _ => reader.side.read(lens),
    };
    let (lhs, rhs) = (read(expanded, t)?.times(factor), unsigned.image(&read(source, s)?));
    let mut residual = Residual::new(expanded.side.unit(t));
    for (i, entry) in unsigned.entries.iter().enumerate() {
        if *entry != Entry::Zero || !is_weight {
            residual.add(&lhs.slice(i, 1), &rhs.slice(i, 1), i);
        }
    }
    if residual.holds() {
        return Ok(None);
    }
    let (at, cause) = (residual.worst, constant_ratio(&residual, &[]));
    let cause = cause.filter(|_| !is_weight);
    Ok(Some(Blame { tensor: t, source_tensor: s, at, residual, cause }))
}

/// Whether a norm treats copies of one channel differently, or has a bias where no channel is: so
/// it is wrong by itself, with nothing to hold it against.
pub(super) fn uneven_norm<'a>(reader: &Reader<'a>) -> Result<Option<Blame<'a>>> {
    let (Some(norm), Some((map, _))) = (reader.norm, reader.through) else { return Ok(None) };
    for lens in norm.lenses() {
        let got = reader.side.read(lens)?;
        let mut even = Bounded::zeros(got.rows(), 1);
        let mut first = BTreeMap::new();
        for (i, entry) in map.entries.iter().enumerate() {
            let like = match entry {
                Entry::Copy { of, .. } => *first.entry(of).or_insert(i),
                Entry::Mean | Entry::Zero if norm.weight.as_ref() == Some(lens) => i,
                Entry::Mean | Entry::Zero => continue,
            };
            even.value[[i, 0]] = got.value[[like, 0]];
            even.variance[[i, 0]] = got.variance[[like, 0]];
        }
        let residual = Residual::of(&got, &even, 0.0);
        if !residual.holds() {
            let cause = Some("copies of one channel must have one value, others none".to_string());
            let at = residual.worst;
            return Ok(Some(Blame { tensor: lens, source_tensor: lens, at, residual, cause }));
        }
    }
    Ok(None)
}

fn unsigned(entry: &Entry) -> Entry {
    match entry {
        Entry::Copy { of, .. } => Entry::Copy { of: *of, sign: 1.0 },
        Entry::Mean | Entry::Zero => Entry::Zero,
    }
}

/// Compares one folded row with bias (`[1, d_source + 1]`) of the expanded model with the source's,
/// and says which stored number differs most.
pub(super) fn row_fault<'a>(
    (source, expanded): (&Reader<'a>, &Reader<'a>),
    linears: (&'a Linear, &'a Linear),
    rows: (&Bounded, &Bounded),
    row: usize,
) -> Option<Blame<'a>> {
    let shared = source.shared;
    let whole = Residual::of(rows.1, rows.0, shared);
    if whole.holds() {
        return None;
    }
    let width = rows.0.cols() - 1;
    // A weight that is wrong may spoil the folded bias (through β), not the other way round.
    let weights = Residual::of(&rows.1.columns(0, width), &rows.0.columns(0, width), shared);
    let (residual, column) = match weights.holds() {
        true => (Residual::of(&rows.1.columns(width, 1), &rows.0.columns(width, 1), shared), width),
        false => {
            let column = weights.worst.1;
            (weights, column)
        }
    };
    let pair = if column == width {
        linears.1.bias.as_ref().zip(linears.0.bias.as_ref()).map(|(t, s)| (t, s, 0))
    } else {
        None
    };
    let channel = |of: usize| match expanded.through {
        Some((map, _)) => map
            .entries
            .iter()
            .position(|e| matches!(e, Entry::Copy { of: o, .. } if *o == of))
            .unwrap_or(of),
        None => of,
    };
    let (tensor, source_tensor, col) =
        pair.unwrap_or((&linears.1.weight, &linears.0.weight, channel(column.min(width - 1))));
    // A single number is always some multiple of another.
    let cause = constant_ratio(&residual, &[]).filter(|_| residual.entries > 1);
    Some(Blame { tensor, source_tensor, at: (row, col), residual, cause })
}
