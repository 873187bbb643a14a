//! The residual stream: what the embeddings write, and what a norm writes.
//!
//! All that is added to the stream maps by one `E`. Where everything that reads the stream is a
//! LayerNorm, a constant over the channels changes nothing, so equations hold *modulo the all-ones
//! vector*; and a constant row may move between summed tables.

use super::bounded::Bounded;
use super::certificate::Reach;
use super::discover::Part;
use super::explain::{self, constant_ratio};
use super::map::{Entry, Map};
use super::side::Side;
use super::squares::{Ledger, Place, Residual, failure};
use super::streamed;
use crate::error::Result;
use crate::model::{Count, Input, Lens, Norm, NormKind, Positions, TableIndex};
use rayon::prelude::*;

/// Rows of a table that are held at a time.
const BLOCK: usize = 1024;

/// What the embedding equations need.
pub(super) struct Stream<'a> {
    pub source: &'a Side<'a>,
    pub expanded: &'a Side<'a>,
    pub map: &'a Map,
    pub layer_norm: bool,
}

/// How rows are compared.
#[derive(Clone, Copy)]
enum Gauge {
    /// As they are.
    Plain,
    /// After removing each row's mean.
    Centred,
    /// Differences to the smallest row, centred for LayerNorm streams.
    Differences,
}

impl Stream<'_> {
    /// Holds every part of the embedding.
    pub fn embedding<'p>(&self, parts: &'p [Part<'p>], ledger: &mut Ledger) -> Result<()> {
        let mut failures = Vec::new();
        let mut shifted = false;
        for part in parts {
            if let 1.. = part.first() {
                let words = format!("{} in front are read by no input: not judged", part.first());
                ledger.map(format!("rows of the {}", part.name), words);
            }
            let plain = self.residual(part, Gauge::Plain)?;
            let mut best = plain;
            if !best.holds() && self.layer_norm && !part.kept {
                best = better(best, self.residual(part, Gauge::Centred)?);
            }
            let several = parts.iter().filter(|p| !p.turned && !p.kept).count() > 1;
            if !best.holds() && part.index.is_some() && !part.kept && several {
                let differences = self.residual(part, Gauge::Differences)?;
                shifted |= differences.holds();
                best = better(best, differences);
            }
            if best.holds() {
                ledger.hold(&best);
            } else {
                failures.push((part, best));
            }
        }
        // A constant taken from one summand must have been added to another.
        if shifted || failures.iter().any(|(part, _)| part.name != "patch convolution") {
            self.sums(parts, &mut failures, ledger)?;
        }
        for (part, residual) in failures {
            let (row, channel) = residual.worst;
            let (r, c) = if part.turned { (channel, row) } else { (row, channel) };
            let place = Place { name: "embedding", tensors: (part.expanded, part.source) };
            let in_code = part.scale.1 / part.scale.0;
            let known = [
                (in_code, "the factor in code, which changes with the width, is not made up for"),
                (1.0 / in_code, "the factor in code is made up for the wrong way round"),
            ];
            let known = if in_code == 1.0 { &[][..] } else { &known };
            let cause = match part.kept {
                true => None,
                false => constant_ratio(&residual, known)
                    .or_else(|| only_row(part, &residual))
                    .or_else(|| self.cause(&residual, channel)),
            };
            let rule = match part.kept {
                true => "a table in front of a projection must be the source's",
                false => "every row of the embeddings maps to the expanded stream",
            };
            let index = part.expanded.stored_index(r, c);
            let mut failure = failure(rule, place, &residual, index, cause);
            failure.reach = match part.index {
                Some(TableIndex::Token) => Reach::Token(row),
                Some(TableIndex::Position(positions)) => match row.checked_sub(positions.offset) {
                    Some(position) => Reach::Position(position),
                    None => Reach::Any,
                },
                Some(TableIndex::TokenType) => Reach::TokenType(row),
                None => Reach::Any,
            };
            ledger.fail(failure);
        }
        Ok(())
    }

    fn cause(&self, residual: &Residual, channel: usize) -> Option<String> {
        let what = match self.map.entries[channel] {
            Entry::Copy { of, .. } => format!("a copy of channel {of}"),
            Entry::Mean => "the mean of the source's channels".to_string(),
            Entry::Zero => "zero".to_string(),
        };
        let got = match (self.map.entries[channel], residual.got == 0.0) {
            (Entry::Mean, true) => ", and is zero: average replaced by zero",
            _ => "",
        };
        Some(format!("channel {channel} must hold {what}{got}"))
    }

    /// All rows of one part.
    fn residual(&self, part: &Part, gauge: Gauge) -> Result<Residual> {
        if !part.turned && matches!(gauge, Gauge::Plain) {
            return streamed::table((self.source, self.expanded), part, self.map);
        }
        let (first, count) = (part.first(), part.rows());
        let factors = part.scale;
        if part.turned || matches!(gauge, Gauge::Differences) {
            let (s, t) = (self.source.read(part.source)?, self.expanded.read(part.expanded)?);
            let (s, t) = if part.turned { (s.transposed(), t.transposed()) } else { (s, t) };
            let (s, t) = (s.slice(first, count - first), t.slice(first, count - first));
            let (s, t) = (s.times(factors.0), t.times(factors.1));
            return Ok(self.compare(s, t, gauge, first, part.kept));
        }
        let starts: Vec<usize> = (first..count).step_by(BLOCK).collect();
        starts
            .into_par_iter()
            .map(|first| {
                let rows = BLOCK.min(count - first);
                let s = self.source.read_rows(part.source, first, rows)?.times(factors.0);
                let t = self.expanded.read_rows(part.expanded, first, rows)?.times(factors.1);
                Ok(self.compare(s, t, gauge, first, part.kept))
            })
            .try_reduce(|| Residual::new(self.map.scale_error), |a, b| Ok(a.merge(b)))
    }

    /// Compares rows of the source with rows of the expanded model, which must be their images, or
    /// the same where they are `kept`.
    fn compare(&self, s: Bounded, t: Bounded, gauge: Gauge, first: usize, kept: bool) -> Residual {
        let rhs = if kept { s.clone() } else { self.map.image_of_rows(&s) };
        let (mut lhs, mut rhs) = (t, rhs);
        if matches!(gauge, Gauge::Differences) {
            let row = smallest_row(&s);
            (lhs, rhs) = (minus_row(lhs, row), minus_row(rhs, row));
        }
        let centre = match gauge {
            Gauge::Plain => false,
            Gauge::Centred => true,
            Gauge::Differences => self.layer_norm,
        };
        if centre {
            (lhs, rhs) = (lhs.centre_rows(), rhs.centre_rows());
        }
        let mut residual = Residual::new(self.map.scale_error);
        residual.add(&lhs, &rhs, first);
        residual
    }

    /// Holds the sums in which constants may have moved: of the tables' smallest rows; for images,
    /// of what is added at every position.
    fn sums<'p>(
        &self,
        parts: &'p [Part<'p>],
        failures: &mut Vec<(&'p Part<'p>, Residual)>,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let image = self.source.model.embedding.patch.is_some();
        let plain: Vec<&Part> = parts.iter().filter(|part| !part.turned && !part.kept).collect();
        if !image && plain.is_empty() {
            return Ok(());
        }
        let (s, t) = match image {
            true => (added(self.source, parts, false)?, added(self.expanded, parts, true)?),
            false => self.smallest(&plain)?,
        };
        let gauge = if self.layer_norm { Gauge::Centred } else { Gauge::Plain };
        let residual = self.compare(s, t, gauge, 0, false);
        if residual.holds() {
            ledger.hold(&residual);
            // The sums hold: constants have moved between the parts, which is no mistake.
            failures.retain(|(part, _)| !image || part.name == "patch convolution");
        } else if failures.is_empty() {
            failures.push((&parts[0], residual));
        }
        Ok(())
    }

    /// The sum of the tables' smallest rows, in both models.
    fn smallest(&self, parts: &[&Part]) -> Result<(Bounded, Bounded)> {
        let width = |side: &Side| Bounded::zeros(1, side.model.sizes.hidden);
        let mut sums = (width(self.source), width(self.expanded));
        for part in parts {
            let rows = self.source.read(part.source)?;
            let first = part.first();
            let number = first + smallest_row(&rows.slice(first, rows.rows() - first));
            let s = self.source.read_rows(part.source, number, 1)?.times(part.scale.0);
            let t = self.expanded.read_rows(part.expanded, number, 1)?.times(part.scale.1);
            sums = (sums.0.plus(&s), sums.1.plus(&t));
        }
        Ok(sums)
    }
}

/// What an image model adds at every position, whatever the image: `[positions, hidden]`. Prefix
/// tokens in front, the patch bias behind them, and the position's row where it has one.
fn added(side: &Side, parts: &[Part], expanded: bool) -> Result<Bounded> {
    let read = |part: &Part| {
        let (lens, scale) = match expanded {
            true => (part.expanded, part.scale.1),
            false => (part.source, part.scale.0),
        };
        Ok(side.read(lens)?.times(scale))
    };
    let patches = match side.model.embedding.input {
        Input::Image { height, width, patch, .. } => (height / patch) * (width / patch),
        Input::Tokens { .. } => 0,
    };
    let prefix: usize = side.model.embedding.prefix.iter().map(Lens::rows).sum();
    let mut sum = Bounded::zeros(prefix + patches, side.model.sizes.hidden);
    let mut next = 0;
    for part in parts {
        match (part.index, part.name) {
            (Some(TableIndex::Position(Positions { count, offset })), _) => {
                let rows = read(part)?;
                let behind = if let Count::Behind(first) = count { first } else { 0 };
                let numbered = (behind..sum.rows()).zip(offset..rows.rows());
                numbered.for_each(|(position, row)| sum.add_row(position, &rows.row(row)));
            }
            (None, "class token") => {
                let rows = read(part)?;
                (0..rows.rows()).for_each(|row| sum.add_row(next + row, &rows.row(row)));
                next += rows.rows();
            }
            (None, "patch bias") => {
                let bias = read(part)?.transposed();
                (prefix..prefix + patches).for_each(|row| sum.add_row(row, &bias.row(0)));
            }
            _ => {}
        }
    }
    Ok(sum)
}

fn better(a: Residual, b: Residual) -> Residual {
    if b.holds() || b.wrong < a.wrong { b } else { a }
}

/// The row of the source's table whose rounding disturbs the others least.
fn smallest_row(rows: &Bounded) -> usize {
    let size = |row: usize| rows.value.row(row).dot(&rows.value.row(row));
    (0..rows.rows()).min_by(|a, b| size(*a).total_cmp(&size(*b))).unwrap_or(0)
}

fn minus_row(mut rows: Bounded, number: usize) -> Bounded {
    let row = (rows.value.row(number).to_owned(), rows.variance.row(number).to_owned());
    rows.value -= &row.0;
    rows.variance += &row.1;
    // The row itself is held with the sums.
    rows.variance.row_mut(number).fill(0.0);
    rows
}

/// The factor by which the norm of the expanded stream is smaller, squared: `η² = c·D_S/D_T` with
/// `Eᵀ P E = c P` for LayerNorm (P removes the mean), `Eᵀ E = c I` for RMSNorm. `None` where the
/// map is not of that kind, so that no norm commutes with it.
pub(super) fn eta_squared(map: &Map, kind: NormKind) -> Option<f64> {
    let copies = map.even_copies()? as f64;
    let fits = |entry: &Entry| match (kind, entry) {
        (NormKind::Layer, Entry::Copy { sign, .. }) => *sign > 0.0,
        (NormKind::Layer, Entry::Mean) => true,
        (NormKind::Layer, Entry::Zero) => false,
        (NormKind::Rms, Entry::Mean) => false,
        (NormKind::Rms, _) => true,
    };
    let ratio = map.source as f64 / map.expanded() as f64;
    map.entries.iter().all(fits).then_some(map.scale * map.scale * copies * ratio)
}

/// The factor of the map that a norm writes.
#[derive(Clone, Copy)]
pub(super) enum Factor {
    /// Whatever it is: a norm that starts a new map.
    Fitted,
    /// This one, with its relative error.
    Known { scale: f64, error: f64 },
}

impl Factor {
    /// What a model returns must be the source's numbers.
    pub const SAME: Factor = Factor::Known { scale: 1.0, error: 0.0 };
}

/// What is asked of the map that a norm writes.
#[derive(Clone, Copy)]
pub(super) struct Written {
    /// Its factor.
    pub factor: Factor,
    /// How much larger the expanded model's γ is in effect, for what norms in front of it did.
    pub gain: f64,
}

impl From<Factor> for Written {
    fn from(factor: Factor) -> Self {
        Written { factor, gain: 1.0 }
    }
}

/// The map that a norm writes to the stream, or returns: coordinate by coordinate
/// `diag(γ_T) P E / η = E' diag(γ_S) P` and `β_T = E' β_S`, with one factor for all of E'.
///
/// Books both equations; they name the norm's tensor where there is no such map. `None` if no norm
/// commutes with `map`, or the two are of other kinds.
pub(super) fn written_map(
    (source, expanded): (&Side, &Side),
    map: &Map,
    norms: (&Norm, &Norm),
    (place, wanted): (&str, impl Into<Written>),
    ledger: &mut Ledger,
) -> Result<Option<Map>> {
    let Written { factor: wanted, gain } = wanted.into();
    if norms.0.kind != norms.1.kind {
        return Ok(None);
    }
    let Some(eta_squared) = eta_squared(map, norms.0.kind) else { return Ok(None) };
    // A copy with its sign turned normalises to the turned value: γ itself has no sign to copy.
    // Mean channels normalise to zero: what they write is β alone, which must be zero there.
    let with = |sign_of: fn(f64) -> f64| -> Vec<Entry> {
        let entry = |e: &Entry| match e {
            Entry::Copy { of, sign } => Entry::Copy { of: *of, sign: sign_of(*sign) },
            Entry::Mean | Entry::Zero => Entry::Zero,
        };
        map.entries.iter().map(entry).collect()
    };
    let weight_map =
        Map { source: map.source, entries: with(|_| 1.0), scale: 1.0, scale_error: 0.0 };
    let growth = gain * map.scale / eta_squared.sqrt();
    let mut lhs = expanded.gamma(norms.1, map.expanded())?.times(growth);
    for (i, entry) in weight_map.entries.iter().enumerate() {
        if *entry == Entry::Zero {
            (lhs.value[[i, 0]], lhs.variance[[i, 0]]) = (0.0, 0.0);
        }
    }
    let rhs = weight_map.image(&source.gamma(norms.0, map.source)?);
    let unit = expanded.unit_of_gamma(norms.1);
    // The factor in front of γ is computed; and fitted, perhaps. Where γ is 1 in code, that is all.
    let computed = if norms.1.weight.is_none() { unit } else { 0.0 };
    let spread = lhs.value.mapv(|factor| (factor * (computed + map.scale_error)).powi(2));
    lhs.variance += &spread;
    let (scale, scale_error, shared) = match wanted {
        Factor::Known { scale, error } => (scale, error, unit + map.scale_error + error),
        Factor::Fitted => {
            let factor = Residual::of(&lhs, &rhs, 0.0).factor();
            let plain = (factor - 1.0).abs() <= unit || factor <= 0.0;
            let (scale, error) = if plain { (1.0, 0.0) } else { (factor, unit) };
            (scale, error, unit + map.scale_error)
        }
    };
    let written = Map { entries: with(|sign| sign), scale, scale_error, ..weight_map };
    let weights = Residual::of(&lhs, &rhs.times(scale), shared);
    match (&norms.1.weight, &norms.0.weight) {
        (Some(t), Some(s)) => {
            let cause = explain::ratio_of_norm(&weights, norms.0, map, 1.0);
            book(ledger, &weights, (place, cause), (t, s));
        }
        _ if weights.holds() => ledger.hold(&weights),
        _ => return Ok(None),
    }
    let beta = |side: &Side, norm: &Norm, channels: usize| match &norm.bias {
        Some(bias) => side.read(bias),
        None => Ok(Bounded::zeros(channels, 1)),
    };
    if let Some(bias) = norms.1.bias.as_ref().or(norms.0.bias.as_ref()) {
        let rhs = written.image(&beta(source, norms.0, map.source)?);
        let biases = Residual::of(&beta(expanded, norms.1, map.expanded())?, &rhs, shared);
        let tensors = (norms.1.bias.as_ref(), norms.0.bias.as_ref());
        let cause = explain::constant_ratio(&biases, &[]);
        book(
            ledger,
            &biases,
            (place, cause),
            (tensors.0.unwrap_or(bias), tensors.1.unwrap_or(bias)),
        );
    }
    Ok(Some(written))
}

/// Says so if one row of several is wrong.
fn only_row(part: &Part, residual: &Residual) -> Option<String> {
    if residual.wrong_rows != 1 || part.rows() - part.first() < 2 {
        return None;
    }
    let row = residual.worst.0;
    let what = match part.index? {
        TableIndex::Token => format!("token {row}"),
        TableIndex::Position(positions) => {
            format!("position {}", row.checked_sub(positions.offset)?)
        }
        TableIndex::TokenType => format!("token type {row}"),
    };
    Some(format!("only the row of {what} is wrong"))
}

fn book(
    ledger: &mut Ledger,
    residual: &Residual,
    (place, cause): (&str, Option<String>),
    tensors: (&Lens, &Lens),
) {
    if residual.holds() {
        return ledger.hold(residual);
    }
    let index = tensors.0.stored_index(residual.worst.0, 0);
    let rule = "a norm that writes the stream maps it like the rest";
    ledger.fail(failure(rule, Place { name: place, tensors }, residual, index, cause));
}
