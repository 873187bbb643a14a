//! The residual stream: what the embeddings write, and what a norm writes.
//!
//! All that is added to the stream maps by one `E`. Where everything that reads the stream is a
//! LayerNorm, a constant over the channels changes nothing, so equations hold *modulo the all-ones
//! vector*; and a constant row may move between summed tables.

use super::bounded::Bounded;
use super::certificate::Reach;
use super::discover::Part;
use super::explain;
use super::map::{Entry, Map};
use super::side::Side;
use super::squares::{Ledger, Place, Residual, failure};
use crate::error::Result;
use crate::model::{Lens, Norm, NormKind, TableIndex};
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
            let plain = self.residual(part, Gauge::Plain)?;
            let mut best = plain;
            if !best.holds() && self.layer_norm {
                best = better(best, self.residual(part, Gauge::Centred)?);
            }
            let several = parts.iter().filter(|p| !p.turned).count() > 1;
            if !best.holds() && part.index.is_some() && several {
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
            let cause = self.cause(&residual, channel);
            let rule = "every row of the embeddings maps to the expanded stream";
            let index = part.expanded.stored_index(r, c);
            let mut failure = failure(rule, place, &residual, index, cause);
            failure.reach = match part.index {
                Some(TableIndex::Token) => Reach::Token(row),
                Some(TableIndex::Position(_)) => Reach::Position(row),
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
        let count = if part.turned { part.source.cols() } else { part.source.rows() };
        let starts: Vec<usize> = (0..count).step_by(BLOCK).collect();
        if part.turned || matches!(gauge, Gauge::Differences) {
            let (s, t) = (self.source.read(part.source)?, self.expanded.read(part.expanded)?);
            let (s, t) = if part.turned { (s.transposed(), t.transposed()) } else { (s, t) };
            return Ok(self.compare(s, t, gauge, 0));
        }
        starts
            .into_par_iter()
            .map(|first| {
                let rows = BLOCK.min(count - first);
                let s = self.source.read_rows(part.source, first, rows)?;
                let t = self.expanded.read_rows(part.expanded, first, rows)?;
                Ok(self.compare(s, t, gauge, first))
            })
            .try_reduce(|| Residual::new(self.map.scale_error), |a, b| Ok(a.merge(b)))
    }

    fn compare(&self, s: Bounded, t: Bounded, gauge: Gauge, first: usize) -> Residual {
        let (mut lhs, mut rhs) = (t, self.map.image_of_rows(&s));
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

    /// Holds the sums in which constants may have moved: of the tables' smallest rows; of class
    /// token and position 0; of patch bias and every other position.
    fn sums<'p>(
        &self,
        parts: &'p [Part<'p>],
        failures: &mut Vec<(&'p Part<'p>, Residual)>,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let image = parts.iter().any(|p| p.turned);
        let total = |side: &Side, expanded: bool| -> Result<Bounded> {
            let lens = |p: &Part| if expanded { p.expanded.clone() } else { p.source.clone() };
            if !image {
                let mut sum: Option<Bounded> = None;
                for part in parts {
                    let number = smallest_row(&self.source.read(part.source)?);
                    let row = side.read_rows(&lens(part), number, 1)?;
                    sum = Some(match sum {
                        Some(sum) => sum.plus(&row),
                        None => row,
                    });
                }
                return Ok(sum.expect("at least one table"));
            }
            let mut positions = None;
            let (mut class, mut bias) = (None, None);
            for part in parts {
                match (part.index, part.turned, part.name) {
                    (Some(_), ..) => positions = Some(side.read(&lens(part))?),
                    (None, false, _) => class = Some(side.read(&lens(part))?),
                    (None, true, "patch bias") => bias = Some(side.read(&lens(part))?.transposed()),
                    _ => {}
                }
            }
            let mut sum = positions.expect("image models have positions");
            for row in 0..sum.rows() {
                let Some(constant) = (if row == 0 { &class } else { &bias }) else { continue };
                let mut value = sum.value.row_mut(row);
                value += &constant.value.row(0);
                let mut variance = sum.variance.row_mut(row);
                variance += &constant.variance.row(0);
            }
            Ok(sum)
        };
        let (s, t) = (total(self.source, false)?, total(self.expanded, true)?);
        let gauge = if self.layer_norm { Gauge::Centred } else { Gauge::Plain };
        let residual = self.compare(s, t, gauge, 0);
        if residual.holds() {
            ledger.hold(&residual);
            // The sums hold: constants have moved between the parts, which is no mistake.
            failures.retain(|(part, _)| !image || part.name == "patch convolution");
        } else if failures.is_empty() {
            failures.push((&parts[0], residual));
        }
        Ok(())
    }
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

/// The map that a norm writes to the stream, or returns: coordinate by coordinate
/// `diag(γ_T) P E / η = E' diag(γ_S) P` and `β_T = E' β_S`, with one factor for all of E'.
///
/// Books both equations; they name the norm's tensor where there is no such map. `None` if no norm
/// commutes with `map`. The factor is fitted unless `returned`: what a model returns must be the
/// source's numbers.
pub(super) fn written_map(
    (source, expanded): (&Side, &Side),
    map: &Map,
    norms: (&Norm, &Norm),
    (place, returned): (&str, bool),
    ledger: &mut Ledger,
) -> Result<Option<Map>> {
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
    let mut lhs = expanded.gamma(norms.1, map.expanded())?.times(map.scale / eta_squared.sqrt());
    for (i, entry) in weight_map.entries.iter().enumerate() {
        if *entry == Entry::Zero {
            (lhs.value[[i, 0]], lhs.variance[[i, 0]]) = (0.0, 0.0);
        }
    }
    let rhs = weight_map.image(&source.gamma(norms.0, map.source)?);
    let unit = expanded.unit_of_gamma(norms.1);
    let factor = Residual::of(&lhs, &rhs, 0.0).factor();
    let known = returned || (factor - 1.0).abs() <= unit || factor <= 0.0;
    let (scale, scale_error) = if known { (1.0, 0.0) } else { (factor, unit) };
    let written = Map { entries: with(|sign| sign), scale, scale_error, ..weight_map };
    let shared = unit + map.scale_error;
    let weights = Residual::of(&lhs, &rhs.times(scale), shared);
    match (&norms.1.weight, &norms.0.weight) {
        (Some(t), Some(s)) => book(ledger, &weights, place, (t, s)),
        _ if weights.holds() => ledger.hold(&weights),
        _ => return Ok(None),
    }
    if let (Some(s), Some(t)) = (&norms.0.bias, &norms.1.bias) {
        let biases = Residual::of(&expanded.read(t)?, &written.image(&source.read(s)?), shared);
        book(ledger, &biases, place, (t, s));
    }
    Ok(Some(written))
}

fn book(ledger: &mut Ledger, residual: &Residual, place: &str, tensors: (&Lens, &Lens)) {
    if residual.holds() {
        return ledger.hold(residual);
    }
    let index = tensors.0.stored_index(residual.worst.0, 0);
    let rule = "a norm that writes the stream maps it like the rest";
    let cause = explain::constant_ratio(residual, &[]);
    ledger.fail(failure(rule, Place { name: place, tensors }, residual, index, cause));
}
