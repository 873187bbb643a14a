//! Layers whose norms write the stream (Post-LN): every norm starts a new map, in order.
//!
//! Where the expanded model has more layers, those that add nothing leave norms behind, which
//! normalise again what the norm in front of them wrote. Norms in a row are one norm: if the first
//! has the same γ = c and the same β on all channels, it writes c·y/sqrt(v + ε₁) and a constant, y
//! being what it reads less the mean, v the variance of that. The second then writes
//! γ₂·c·y/sqrt(c²v + ε₂(v + ε₁)) + β₂: what one norm with γ = γ₂·c/sqrt(c² + ε₂) and
//! ε = ε₁ε₂/(c² + ε₂) would. That one norm is held against the source's.

use super::Behind;
use super::junction::Junction;
use super::map::Map;
use super::side::Side;
use super::squares::Ledger;
use super::stream::{Factor, Written, written_map};
use super::sublayer::{NO_NORM, Network};
use crate::error::Result;
use crate::model::{Norm, NormKind, Sublayer};
use rayon::prelude::*;

/// A sublayer that adds something, with the norms up to the next such sublayer.
struct Step<'a> {
    sublayer: &'a Sublayer,
    /// All sublayers.
    all: &'a [Sublayer],
    /// Its number.
    index: usize,
    row: Option<Row>,
    /// The numbers of the sublayers behind it that add nothing.
    silent: Vec<usize>,
}

impl Step<'_> {
    /// The number of sublayers up to its last.
    fn end(&self) -> usize {
        1 + self.silent.last().unwrap_or(&self.index)
    }
}

/// Norms in a row, as one.
struct Row {
    /// The last one, with the ε of all.
    norm: Norm,
    /// What the norms in front of the last one make of its γ.
    gain: f64,
    /// How many there are.
    norms: usize,
}

/// Holds the layers, of which the first reads a stream that is mapped by `first`.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn hold(
    network: &Network,
    (first, in_front): (Map, Junction),
    (s, t): (&[Sublayer], &[Sublayer]),
    places: &[String],
    ledger: &mut Ledger,
) -> Result<Behind> {
    let steps = match s.len() == t.len() {
        true => Some((one_each(s), one_each(t))),
        false => steps_of(network, &first, s, false)?.zip(steps_of(network, &first, t, true)?),
    };
    let Some((s, t)) = steps.filter(|(s, t)| s.len() == t.len()) else {
        let unmatched = places.get(s.len()).map_or("depth", String::as_str);
        ledger.unknown(
            unmatched,
            format!(
                "a norm behind every sublayer makes {} layers out of {} something else: only new \
                 layers that add nothing, behind norms with one γ and β for all channels, are \
                 understood",
                network.expanded.model.layers.len(),
                network.source.model.layers.len()
            ),
        );
        return Ok((first, vec![in_front]));
    };
    let mut maps = vec![first];
    let mut junctions = vec![in_front];
    let mut norms = Vec::new();
    for (i, (a, b)) in s.iter().zip(&t).enumerate() {
        let mut found = Ledger::new();
        let place = &places[b.index];
        let written = match (&a.row, &b.row) {
            (Some(a), Some(b)) => held_norms(network, &maps[i], (a, b), place, &mut found)?,
            (None, None) => Some(maps[i].clone()),
            _ => {
                found.unknown(place, "only one of the two has a norm behind it");
                None
            }
        };
        if let Some(map) = &written {
            junctions.push(junctions[0].later((a.end(), b.end()), map.clone()));
        }
        maps.push(written.unwrap_or_else(|| maps[i].clone()));
        norms.push(found);
    }
    let ledgers: Vec<Result<Ledger>> = (0..s.len())
        .into_par_iter()
        .map(|i| {
            let (a, b, place) = (&s[i], &t[i], &places[t[i].index]);
            let mut all = network.pair(&maps[i], (a.sublayer, b.sublayer), place)?;
            for j in &b.silent {
                all.append(network.alone(&maps[i + 1], &b.all[*j], true, &places[*j])?);
            }
            for j in &a.silent {
                let place = format!("the source's sublayer {j}");
                all.append(network.alone(&maps[i + 1], &a.all[*j], false, &place)?);
            }
            Ok(all)
        })
        .collect();
    for (sublayer, norm) in ledgers.into_iter().zip(norms) {
        ledger.append(sublayer?);
        ledger.append(norm);
    }
    Ok((maps.pop().expect("at least the first"), junctions))
}

/// Holds the norms behind a sublayer; gives the map that they write.
fn held_norms(
    network: &Network,
    map: &Map,
    (s, t): (&Row, &Row),
    place: &str,
    ledger: &mut Ledger,
) -> Result<Option<Map>> {
    let mut of_epsilon = Ledger::new();
    network.epsilon(map, (&s.norm, &t.norm), place, &mut of_epsilon);
    if t.norms > 1 || s.norms > 1 {
        for failure in &mut of_epsilon.certificate.failures {
            failure.rule = "norms in a row must be the source's norm".into();
            failure.tensor = format!("ε of {} norms in a row", t.norms);
            failure.cause = Some(format!(
                "a new layer normalises again: with {:e} in place of {:e}, the norm in front of \
                 it in effect loses its ε",
                failure.got, failure.expected
            ));
        }
    }
    ledger.append(of_epsilon);
    let sides = (network.source, network.expanded);
    let wanted = Written { factor: Factor::Fitted, gain: t.gain / s.gain };
    let written = written_map(sides, map, (&s.norm, &t.norm), (place, wanted), ledger)?;
    if written.is_none() {
        ledger.unknown(place, NO_NORM);
    }
    Ok(written)
}

/// Every sublayer by itself.
fn one_each(sublayers: &[Sublayer]) -> Vec<Step<'_>> {
    let numbered = sublayers.iter().enumerate();
    let steps = numbered.map(|(index, sublayer)| Step {
        row: sublayer.post_norm.clone().map(|norm| Row { norm, gain: 1.0, norms: 1 }),
        silent: Vec::new(),
        all: sublayers,
        sublayer,
        index,
    });
    steps.collect()
}

/// The sublayers that add something. `None` where norms in a row are not understood, or the first
/// sublayer adds nothing.
fn steps_of<'a>(
    network: &Network,
    map: &Map,
    sublayers: &'a [Sublayer],
    expanded: bool,
) -> Result<Option<Vec<Step<'a>>>> {
    let side = if expanded { network.expanded } else { network.source };
    let silent: Vec<Result<bool>> = sublayers
        .par_iter()
        .map(|sublayer| Ok(network.alone(map, sublayer, expanded, "")?.faults() == 0.0))
        .collect();
    let mut steps: Vec<Step> = Vec::new();
    for (step, silent) in one_each(sublayers).into_iter().zip(silent) {
        if !silent? {
            steps.push(step);
            continue;
        }
        let Some(before) = steps.last_mut() else { return Ok(None) };
        before.silent.push(step.index);
        let Some(next) = step.row else { continue };
        match before.row.take() {
            None => return Ok(None),
            Some(row) => match row.followed_by(side, next.norm)? {
                None => return Ok(None),
                row => before.row = row,
            },
        }
    }
    Ok(Some(steps))
}

impl Row {
    /// The row with one more norm behind it; `None` where that is no norm.
    fn followed_by(self, side: &Side, next: Norm) -> Result<Option<Row>> {
        let Row { norm, gain, norms } = self;
        let Some(gamma) = common(side, &norm)? else { return Ok(None) };
        if norm.kind != next.kind || gamma == 0.0 {
            return Ok(None);
        }
        let gain = gain * gamma;
        let square = gain * gain + next.eps;
        let eps = norm.eps * next.eps / square;
        let gain = gain / square.sqrt();
        Ok(Some(Row { norm: Norm { eps, ..next }, gain, norms: norms + 1 }))
    }
}

/// The γ that all channels of a norm have, if they have, and what β adds is nothing to the next
/// norm: the same for all channels, or zero in front of an RMSNorm.
fn common(side: &Side, norm: &Norm) -> Result<Option<f64>> {
    let channels = side.model.sizes.hidden;
    let gamma = side.gamma(norm, channels)?.value;
    let first = gamma[[0, 0]];
    let mut same = gamma.iter().all(|value| *value == first);
    if let Some(bias) = &norm.bias {
        let beta = side.read(bias)?.value;
        let nothing = if norm.kind == NormKind::Layer { beta[[0, 0]] } else { 0.0 };
        same &= beta.iter().all(|value| *value == nothing);
    }
    Ok(same.then_some(first))
}
