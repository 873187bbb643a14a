//! From the stream to what the models return.

use super::agreement::Agreement;
use super::bounded::{Ratio, UNITS};
use super::cluster::{Items, Member, Sameness, Strategy, cluster};
use super::explain::{Blame, constant_ratio, norm_fault, row_fault};
use super::fields::OtherCode;
use super::map::{Entry, Map};
use super::reader::{Folded, Reader, readers};
use super::side::Side;
use super::squares::{Ledger, Residual};
use super::stream::{Factor, written_map};
use super::streamed;
use super::sublayer::{NO_NORM, Network, told};
use crate::error::Result;
use crate::model::{Linear, Norm, Output, Step, TableIndex};
use rayon::prelude::*;

/// Rows of a head that are held at a time.
const BLOCK: usize = 1024;

const HEAD: &str = "the head must give the source's numbers";
const OTHER_STEPS: &str = "the two models compute this output in different steps";
/// Fields that put a factor in front of a head or take it away.
const HEAD_FACTOR: &[&str] = &["scale_decoder_outputs", "tie_word_embeddings"];
const SOFTCAP: &[&str] = &["final_logit_softcapping", "logit_softcap"];
const OTHER_TIES: &str = "the head is the token table in one of the two alone";
const HIDDEN: &str = "the channels of a head's hidden layer must be copies of the source's";

/// Where the walk from the stream to an output stands.
struct Walk<'a> {
    map: Map,
    norms: (Option<&'a Norm>, Option<&'a Norm>),
    /// By what the expanded model multiplies what the norms write, as a multiple of what the source
    /// does: numbers in code.
    factor: f64,
    /// Whether the source's numbers themselves have been reached.
    same_numbers: bool,
}

impl Walk<'_> {
    /// Whether every channel here is a source channel, or zero: then any pointwise function that
    /// maps zero to zero commutes with the map.
    fn selects(&self) -> bool {
        let chosen = |entry: &Entry| match entry {
            Entry::Copy { sign, .. } => *sign > 0.0,
            Entry::Zero => true,
            Entry::Mean => false,
        };
        let plain = self.norms.0.is_none() && self.map.scale * self.factor == 1.0;
        self.same_numbers || (plain && self.map.entries.iter().all(chosen))
    }
}

impl Network<'_> {
    /// Holds one output against the other.
    pub fn output(&self, map: &Map, source: &Output, expanded: &Output) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        let place = expanded.name;
        if source.name != expanded.name || source.fixed != expanded.fixed {
            ledger.unknown(place, OTHER_STEPS);
            return Ok(ledger);
        }
        let (fixed, steps) = (source.fixed, (&source.steps[..], &expanded.steps[..]));
        if let Some(walk) = self.walk(map, steps, (fixed, place), &mut ledger)? {
            self.returned(walk, fixed, place, &mut ledger)?;
        }
        Ok(ledger)
    }

    /// Holds steps from the stream on; gives where they end, or nothing where they cannot be
    /// followed, which is then booked.
    fn walk<'n>(
        &self,
        map: &Map,
        (source, expanded): (&'n [Step], &'n [Step]),
        (fixed, place): (bool, &str),
        ledger: &mut Ledger,
    ) -> Result<Option<Walk<'n>>> {
        if source.len() != expanded.len() {
            let other = OtherCode { reason: OTHER_STEPS.into(), fields: HEAD_FACTOR };
            self.other_code(other, place, ledger);
            return Ok(None);
        }
        let norms = (None, None);
        let mut walk = Walk { map: map.clone(), norms, factor: 1.0, same_numbers: false };
        let linear = |step: &Step| matches!(step, Step::Linear(_));
        let head = source.iter().rposition(linear).filter(|at| {
            let channel_by_channel = |step: &Step| {
                matches!(step, Step::Activation(_) | Step::Softcap(_) | Step::MeanWith(_))
            };
            source[at + 1..].iter().all(channel_by_channel)
        });
        for (at, steps) in source.iter().zip(expanded).enumerate() {
            let going = match steps {
                (Step::Position(s), Step::Position(t)) if s == t => true,
                // A mean over positions commutes with every map of the channels.
                (Step::MeanFrom(s), Step::MeanFrom(t)) if s == t => true,
                (Step::Scale(s), Step::Scale(t)) if !walk.same_numbers => {
                    walk.factor *= t / s;
                    true
                }
                (Step::Norm(s), Step::Norm(t)) if walk.factor == 1.0 => {
                    self.norm(&mut walk, (s, t), place, ledger)?
                }
                (Step::Linear(s), Step::Linear(t)) if Some(at) == head && fixed => {
                    walk.same_numbers = true;
                    self.head(&walk, (s, t), place, ledger)?
                }
                (Step::Linear(s), Step::Linear(t)) if walk.factor == 1.0 => {
                    let next = (norm_behind(&source[at + 1..]), norm_behind(&expanded[at + 1..]));
                    self.hidden(&mut walk, (s, t), next, place, ledger)?
                }
                (Step::Activation(s), Step::Activation(t)) if s == t && walk.selects() => true,
                (Step::Softcap(s), Step::Softcap(t)) if s == t && walk.selects() => true,
                (Step::Softcap(s), Step::Softcap(t)) if s != t => {
                    let reason = format!("the outputs' soft cap is {s} in the source, here {t}");
                    self.other_code(OtherCode { reason, fields: SOFTCAP }, place, ledger);
                    false
                }
                // A mean of two results is the source's if each of them is.
                (Step::MeanWith(s), Step::MeanWith(t)) if walk.same_numbers => {
                    match self.walk(map, (s, t), (fixed, place), ledger)? {
                        None => false,
                        Some(other) if other.same_numbers => true,
                        Some(_) => {
                            ledger.unknown(place, "a part of this mean has no fixed channels");
                            false
                        }
                    }
                }
                _ => {
                    ledger.unknown(place, OTHER_STEPS);
                    false
                }
            };
            if !going {
                return Ok(None);
            }
        }
        Ok(Some(walk))
    }

    fn norm<'n>(
        &self,
        walk: &mut Walk<'n>,
        (s, t): (&'n Norm, &'n Norm),
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        if let (Some(s), Some(t)) = walk.norms {
            let sides = (self.source, self.expanded);
            let Some(map) = written_map(sides, &walk.map, (s, t), (place, Factor::Fitted), ledger)?
            else {
                ledger.unknown(place, NO_NORM);
                return Ok(false);
            };
            walk.map = map;
        }
        self.epsilon(&walk.map, (s, t), place, ledger);
        walk.norms = (Some(s), Some(t));
        Ok(true)
    }

    /// The end of an output: what the expanded model returns as an image of the source's output.
    fn returned(&self, walk: Walk, fixed: bool, place: &str, ledger: &mut Ledger) -> Result<()> {
        if walk.same_numbers {
            return Ok(());
        }
        if walk.factor != 1.0 {
            ledger.unknown(place, format!("code makes it {:.6} times the source's", walk.factor));
        }
        let map = match walk.norms {
            (Some(s), Some(t)) => {
                let sides = (self.source, self.expanded);
                // Without a weight, nothing can make up for what the width does to the norm.
                let weightless = s.weight.is_none() && t.weight.is_none();
                let factor = if weightless { Factor::Fitted } else { Factor::SAME };
                match written_map(sides, &walk.map, (s, t), (place, factor), ledger)? {
                    Some(map) => map,
                    None => {
                        ledger.unknown(place, NO_NORM);
                        return Ok(());
                    }
                }
            }
            _ => walk.map,
        };
        if fixed || !map.is_injective() {
            ledger.unknown(place, "the output's channels are not all found in the expanded output");
        }
        if map.scale != 1.0 {
            ledger.unknown(place, format!("it is {:.6} times the source's", map.scale));
        }
        ledger.map(place, map.words());
        Ok(())
    }

    /// A last layer whose outputs are fixed things: the same rows, block by block.
    fn head(
        &self,
        walk: &Walk,
        (s, t): (&Linear, &Linear),
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        let Some(mut readers) = readers((self.source, self.expanded), &walk.map, walk.norms)?
        else {
            ledger.unknown(place, NO_NORM);
            return Ok(false);
        };
        if let Some((_, factor)) = &mut readers.1.through {
            *factor *= walk.factor;
        }
        let rows = s.weight.rows();
        if rows != t.weight.rows() {
            ledger.unknown(place, "the two heads have different numbers of rows");
            return Ok(false);
        }
        if self.expanded.is_streamed()
            && let Some((weight, bias)) = streamed::head((&readers.0, &readers.1), (s, t))?
        {
            ledger.hold(&weight);
            ledger.hold(&bias);
            return Ok(true);
        }
        let shared = readers.1.shared;
        let empty =
            || Compared { weight: Residual::new(shared), bias: Residual::new(shared), rows: 0 };
        let starts: Vec<usize> = (0..rows).step_by(BLOCK).collect();
        let compared = starts
            .into_par_iter()
            .map(|first| {
                let count = BLOCK.min(rows - first);
                let a = readers.0.fold_rows(s, first, count)?;
                let b = readers.1.fold_rows(t, first, count)?;
                Ok(Compared::of(&a, &b, first, shared))
            })
            .try_reduce(empty, |a, b| Ok(a.merge(b)))?;
        for residual in [&compared.weight, &compared.bias] {
            if residual.holds() {
                ledger.hold(residual);
            }
        }
        if !compared.weight.holds() || !compared.bias.holds() {
            let both = (&readers.0, &readers.1);
            let other = OtherCode { reason: OTHER_TIES.into(), fields: &["tie_word_embeddings"] };
            let configs = (self.source.checkpoint.config(), self.expanded.checkpoint.config());
            let ties = is_tied(&readers.0, s) != is_tied(&readers.1, t);
            match other.failure(configs, place).filter(|_| ties && compared.rows * 2 > rows) {
                Some(failure) => ledger.fail(failure),
                None => {
                    let blame = head_fault(both, (s, t), &compared, rows)?;
                    ledger.fail(told((HEAD, blame), place));
                }
            }
        }
        Ok(true)
    }

    /// A hidden layer of a head: every expanded row is a source row, or zero. Rows that are equal
    /// are told apart by the weights of the norms behind.
    fn hidden(
        &self,
        walk: &mut Walk,
        (s, t): (&Linear, &Linear),
        next: (Option<&Norm>, Option<&Norm>),
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<bool> {
        let Some(readers) = readers((self.source, self.expanded), &walk.map, walk.norms)? else {
            ledger.unknown(place, NO_NORM);
            return Ok(false);
        };
        let rows = (readers.0.fold(s)?.joined(), readers.1.fold(t)?.joined());
        let [groups_s, groups_t] = cluster(
            &[Some(Items::of_rows(&rows.0)), Some(Items::of_rows(&rows.1))],
            Sameness::Equal,
            Strategy::FIRST,
            &mut Agreement::new(0.0),
        );
        let mut agreement = Agreement::new(readers.1.shared);
        let group = |g: &Member| g.map_or(usize::MAX, |(group, _)| group);
        let mut members = vec![Vec::new(); rows.0.rows() + rows.1.rows()];
        for (row, g) in groups_s.iter().enumerate() {
            members[group(g)].push(row);
        }
        let sizes = (rows.0.rows(), rows.1.rows());
        let weights =
            (weights(self.source, next.0, sizes.0)?, weights(self.expanded, next.1, sizes.1)?);
        // Both are relative to a weight that is rounded as well.
        let same_weight = 2.0 * next.1.map_or(0.0, |norm| self.expanded.unit_of_gamma(norm));
        let mut used = vec![0usize; rows.0.rows()];
        let mut entries = Vec::with_capacity(rows.1.rows());
        let mut strangers = Vec::new();
        for (row, g) in groups_t.iter().enumerate() {
            let candidates = &members[group(g)];
            let position = row % rows.0.rows();
            let other_weight = |of: usize| (weights.0[of] - weights.1[row]).abs() > same_weight;
            let of = candidates.iter().copied();
            let of = of.min_by_key(|of| (other_weight(*of), used[*of], *of != position));
            // A row that rounding has drowned may be near to any.
            let (large, small) = (rows.1.row(row), rows.0.row(position));
            let stays = large.is_drowned() && large.equals(&small, Ratio::ONE, UNITS);
            entries.push(match if stays { Some(position) } else { of } {
                Some(of) => {
                    used[of] += 1;
                    agreement.add(&large, &rows.0.row(of), Ratio::ONE, row, rows.1.cols());
                    Entry::Copy { of, sign: 1.0 }
                }
                None if rows.1.row(row).is_zero(UNITS) => Entry::Zero,
                None => {
                    strangers.push(row);
                    Entry::Copy { of: position, sign: 1.0 }
                }
            });
        }
        if let Some(row) = strangers.first() {
            let position = row % rows.0.rows();
            let pair = (rows.0.slice(position, 1), rows.1.slice(*row, 1));
            let both = (&readers.0, &readers.1);
            let many = strangers.len() * 2 >= rows.1.rows();
            let norm = if many { norm_fault(both, 1.0)? } else { None };
            match norm.or_else(|| row_fault(both, (s, t), (&pair.0, &pair.1), *row)) {
                Some(blame) => ledger.fail(told((HIDDEN, blame), place)),
                None => ledger.unknown(place, "a hidden channel matches no other"),
            }
        }
        let map = Map { source: rows.0.rows(), entries, scale: 1.0, scale_error: 0.0 };
        for residual in [&agreement.weight, &agreement.bias] {
            if residual.holds() {
                ledger.hold(residual);
                continue;
            }
            let fault = norm_fault((&readers.0, &readers.1), 1.0)?.unwrap_or(Blame {
                tensor: &t.weight,
                source_tensor: &s.weight,
                at: (residual.worst.0, 0),
                residual: residual.clone(),
                cause: constant_ratio(residual, &[]),
            });
            ledger.fail(told((HIDDEN, fault), place));
        }
        ledger.map(format!("{place}: hidden layer"), map.words());
        walk.map = map;
        walk.norms = (None, None);
        Ok(true)
    }
}

/// The comparison of two heads.
struct Compared {
    weight: Residual,
    bias: Residual,
    /// Rows with a wrong weight.
    rows: usize,
}

impl Compared {
    fn of(source: &Folded, expanded: &Folded, first: usize, shared: f64) -> Compared {
        let (mut weight, mut bias) = (Residual::new(shared), Residual::new(shared));
        weight.add(&expanded.weight, &source.weight, first);
        bias.add(&expanded.bias, &source.bias, first);
        let wrong = |row: &usize| {
            !expanded.weight.row(*row).equals(&source.weight.row(*row), Ratio::ONE, UNITS)
        };
        let rows = (0..expanded.weight.rows()).filter(wrong).count();
        Compared { weight, bias, rows }
    }

    fn merge(self, other: Compared) -> Compared {
        Compared {
            weight: self.weight.merge(other.weight),
            bias: self.bias.merge(other.bias),
            rows: self.rows + other.rows,
        }
    }
}

/// The norm behind a hidden layer, if only pointwise functions stand in between.
fn norm_behind(steps: &[Step]) -> Option<&Norm> {
    let mut steps = steps.iter().filter(|step| !matches!(step, Step::Activation(_)));
    match steps.next() {
        Some(Step::Norm(norm)) => Some(norm),
        _ => None,
    }
}

/// A norm's weights, relative to the largest; all one without a norm.
fn weights(side: &Side, norm: Option<&Norm>, channels: usize) -> Result<Vec<f64>> {
    let Some(norm) = norm else { return Ok(vec![1.0; channels]) };
    let gamma = side.gamma(norm, channels)?.value;
    let largest = gamma.iter().fold(f64::MIN_POSITIVE, |max, gamma| max.max(gamma.abs()));
    Ok(gamma.iter().map(|gamma| gamma / largest).collect())
}

/// Whether the norm in front or the head itself is wrong: a norm spoils all rows.
fn head_fault<'a>(
    readers: (&Reader<'a>, &Reader<'a>),
    (s, t): (&'a Linear, &'a Linear),
    compared: &Compared,
    rows: usize,
) -> Result<Blame<'a>> {
    let weight = &compared.weight;
    if !weight.holds() && (compared.rows * 2 > rows || compared.rows == 0) {
        let known = tied_factor(readers, s, t);
        let cause = known
            .and_then(|h| constant_ratio(weight, &[(h, "the factor of the tied head is missing")]));
        if let Some(blame) = norm_fault(readers, known.unwrap_or(1.0))? {
            return Ok(Blame { cause: cause.or(blame.cause), ..blame });
        }
    }
    if weight.holds() {
        // Only the constant is wrong: β, or the head's own bias.
        if let Some(blame) = norm_fault(readers, tied_factor(readers, s, t).unwrap_or(1.0))? {
            return Ok(blame);
        }
        let at = (compared.bias.worst.0, 0);
        let cause = constant_ratio(&compared.bias, &[]);
        let (tensor, source_tensor) = match (&t.bias, &s.bias) {
            (Some(t), Some(s)) => (t, s),
            _ => (&t.weight, &s.weight),
        };
        let residual = compared.bias.clone();
        return Ok(Blame { tensor, source_tensor, at, residual, cause });
    }
    let (row, column) = weight.worst;
    let channel = readers.1.through.map_or(column, |(map, _)| {
        let copy = |e: &Entry| matches!(e, Entry::Copy { of, .. } if *of == column);
        map.entries.iter().position(copy).unwrap_or(column)
    });
    Ok(Blame {
        tensor: &t.weight,
        source_tensor: &s.weight,
        at: (row, channel),
        residual: weight.clone(),
        cause: constant_ratio(weight, &[]),
    })
}

/// Whether a head is the token table.
fn is_tied(reader: &Reader, head: &Linear) -> bool {
    let mut tables = reader.side.model.embedding.tables.iter();
    tables.any(|table| table.index == TableIndex::Token && table.lens == head.weight)
}

/// The factor `h = s·k·c_S/c_T` by which a tied head's logits grow, if both heads are tied to their
/// token tables; c are the factors in code on the tables (Gemma).
fn tied_factor(readers: (&Reader, &Reader), s: &Linear, t: &Linear) -> Option<f64> {
    let tied = |reader: &Reader, head: &Linear| {
        let tables = &reader.side.model.embedding.tables;
        tables.iter().find(|table| table.lens == head.weight).map(|table| table.scale)
    };
    let (map, _) = readers.1.through?;
    let (from, to) = (tied(readers.0, s)?, tied(readers.1, t)?);
    Some(map.even_copies()? as f64 * map.scale * from / to)
}
