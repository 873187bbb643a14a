//! Finding the map of the residual stream: read off the embeddings.
//!
//! Every expanded channel is proposed to be a copy of a source channel, the mean, or zero, by
//! comparing a few rows of each table; several independent samples vote, so that a damaged row or
//! table cannot hide the map by which it is found to be damaged. A proposal is only a candidate:
//! the equations that follow judge it on every row.

use super::map::{Entry, Map};
use super::side::Side;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{Count, Embedding, Lens, NormKind, Positions, Table, TableIndex};
use ndarray::{Array1, Array2, ArrayView1, Axis, concatenate};

/// A summand of the embedding, in both models.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// `token table` and the like.
    pub name: &'static str,
    pub source: &'a Lens,
    pub expanded: &'a Lens,
    /// Whether the lens is `[hidden, n]` rather than `[n, hidden]`.
    pub turned: bool,
    /// For tables: what selects the row.
    pub index: Option<TableIndex>,
    /// The factors in code on what is stored.
    pub scale: (f64, f64),
    /// Whether it stands in front of a projection, which maps to the stream in its place: then it
    /// must be the same in both models.
    pub kept: bool,
}

impl<'a> Part<'a> {
    fn new(name: &'static str, source: &'a Lens, expanded: &'a Lens) -> Self {
        let (turned, index, scale, kept) = (false, None, (1.0, 1.0), false);
        Part { name, source, expanded, turned, index, scale, kept }
    }

    /// Rows of the source's lens; columns where it is turned.
    pub fn rows(&self) -> usize {
        if self.turned { self.source.cols() } else { self.source.rows() }
    }

    /// The first row that an input can reach. Rows in front of an offset are never looked up, but
    /// for the last of them, which stands for padding.
    pub fn first(&self) -> usize {
        let first = match self.index {
            Some(TableIndex::Position(Positions { count: Count::All, offset })) => offset,
            Some(TableIndex::Position(positions)) => positions.offset.saturating_sub(1),
            _ => 0,
        };
        first.min(self.rows())
    }

    /// Whether both models have as many rows, and as wide ones where they must be the same.
    fn fits(&self) -> bool {
        let rows = match self.turned {
            true => self.expanded.cols(),
            false => self.expanded.rows(),
        };
        rows == self.rows() && (!self.kept || self.expanded.cols() == self.source.cols())
    }
}

/// The parts that both embeddings have; `None` if one has a part that the other lacks.
pub(super) fn parts<'a>(source: &'a Embedding, expanded: &'a Embedding) -> Option<Vec<Part<'a>>> {
    let mut parts = Vec::new();
    if source.tables.len() != expanded.tables.len() || source.prefix.len() != expanded.prefix.len()
    {
        return None;
    }
    for (s, t) in source.tables.iter().zip(&expanded.tables) {
        parts.extend(table_parts(s, t)?);
    }
    for (s, t) in source.prefix.iter().zip(&expanded.prefix) {
        parts.push(Part::new("class token", s, t));
    }
    let turned = |name, s, t| Part { turned: true, ..Part::new(name, s, t) };
    match (&source.patch, &expanded.patch) {
        (Some(s), Some(t)) => {
            parts.push(turned("patch convolution", &s.weight, &t.weight));
            match (&s.bias, &t.bias) {
                (Some(s), Some(t)) => parts.push(turned("patch bias", s, t)),
                (None, None) => {}
                _ => return None,
            }
        }
        (None, None) => {}
        _ => return None,
    }
    parts.iter().all(Part::fits).then_some(parts)
}

/// A table; or, with a projection behind it, the table as it is and the projection's columns, of
/// which every row of the stream is a sum: `P_T e = E P_S e` for all rows e.
fn table_parts<'a>(s: &'a Table, t: &'a Table) -> Option<Vec<Part<'a>>> {
    if s.index != t.index {
        return None;
    }
    let name = match s.index {
        TableIndex::Token => "token table",
        TableIndex::Position(_) => "position table",
        TableIndex::TokenType => "token type table",
    };
    let (index, scale) = (Some(s.index), (s.scale, t.scale));
    let table = Part { index, scale, ..Part::new(name, &s.lens, &t.lens) };
    match (&s.projection, &t.projection) {
        (None, None) => Some(vec![table]),
        (Some(s), Some(t)) if s.bias.is_none() && t.bias.is_none() => {
            let projection = Part::new("projection", &s.weight, &t.weight);
            Some(vec![Part { kept: true, ..table }, Part { turned: true, ..projection }])
        }
        _ => None,
    }
}

/// The map of the residual stream and how sure it is.
pub(super) struct Found {
    /// A map that a lossless expansion could have: where the tables say otherwise, it says what
    /// they would have to hold, so that their equations fail there.
    pub map: Map,
    /// Channels that no sample explains.
    pub unexplained: usize,
}

/// Rows of a sample.
const SAMPLE_ROWS: usize = 16;

/// Finds the map of the stream. `layer_norm`: whether all that reads the stream is a LayerNorm, so
/// that it only matters up to a constant over the channels. `kind`: of the norms that read it.
pub(super) fn stream_map(
    source: &Side,
    expanded: &Side,
    parts: &[Part],
    (layer_norm, kind): (bool, NormKind),
) -> Result<Found> {
    let unit = parts.iter().map(|p| expanded.unit(p.expanded)).fold(0.0, f64::max);
    let rows = sampled_rows(source.checkpoint, expanded.checkpoint, parts)?;
    let widths = (source.model.sizes.hidden, expanded.model.sizes.hidden);
    let mut votes = vote(&samples(&rows, false, false), widths, unit);
    let unexplained = |votes: &[Proposal]| votes.iter().filter(|vote| vote.is_none()).count();
    for (centre, moved) in [(true, false), (false, true), (true, true)] {
        if unexplained(&votes) > 0 && (layer_norm || !centre) {
            let others = vote(&samples(&rows, centre, moved), widths, unit);
            if unexplained(&others) < unexplained(&votes) {
                votes = others;
            }
        }
    }
    Ok(settle(votes, widths, (layer_norm, kind), unit))
}

fn centred(mut rows: Array2<f64>) -> Array2<f64> {
    for mut row in rows.rows_mut() {
        let mean = row.mean().unwrap_or(0.0);
        row -= mean;
    }
    rows
}

/// Rows of the source's and of the expanded model's tables.
pub(super) type Sample = (Array2<f64>, Array2<f64>);

/// Pairs of rows `[n, source]`, `[n, expanded]`, some of each part: one or two disjoint choices.
pub(super) fn sampled_rows(
    source: &Checkpoint,
    expanded: &Checkpoint,
    parts: &[Part],
) -> Result<Vec<Vec<Sample>>> {
    let of_part = |part: &Part| {
        let choices = picks(part.rows() - part.first()).into_iter();
        let choice = |mut picked: Vec<usize>| {
            picked.iter_mut().for_each(|row| *row += part.first());
            let rows = |checkpoint, lens| pick(checkpoint, lens, part.turned, &picked);
            let s = rows(source, part.source)? * part.scale.0;
            Ok((s, rows(expanded, part.expanded)? * part.scale.1))
        };
        choices.map(choice).collect()
    };
    parts.iter().filter(|part| !part.kept).map(of_part).collect()
}

/// What the map is read off: every choice of rows that are enough, and one choice of each part's
/// together. `centre`: up to a constant over the channels. `moved`: up to a row that is taken from
/// one part and added to another; then a part's rows are held against its first, whose sum over the
/// parts stays what it was.
fn samples(rows: &[Vec<Sample>], centre: bool, moved: bool) -> Vec<Sample> {
    let seen = |rows: &Array2<f64>| {
        let rows = if moved { differences(rows) } else { rows.clone() };
        if centre { centred(rows) } else { rows }
    };
    let both = |(s, t): &Sample| (seen(s), seen(t));
    let enough = rows.iter().flatten().filter(|(s, _)| s.nrows() >= ENOUGH);
    let mut samples: Vec<Sample> = enough.map(both).collect();
    if rows.len() > 1 || samples.is_empty() {
        let join = |side: fn(&Sample) -> &Array2<f64>| {
            let firsts: Vec<&Array2<f64>> = rows.iter().map(|choices| side(&choices[0])).collect();
            let mut joined: Vec<Array2<f64>> = firsts.iter().map(|rows| seen(rows)).collect();
            if moved {
                let first = |rows: &&Array2<f64>| rows.slice(ndarray::s![..1, ..]).to_owned();
                let sum = firsts.iter().map(first).reduce(|sum, row| sum + row);
                joined.extend(sum.map(|row| if centre { centred(row) } else { row }));
            }
            let views: Vec<_> = joined.iter().map(|rows| rows.view()).collect();
            concatenate(Axis(0), &views).expect("equal widths")
        };
        samples.push((join(|pair| &pair.0), join(|pair| &pair.1)));
    }
    samples
}

/// The rows but the first, less the first.
fn differences(rows: &Array2<f64>) -> Array2<f64> {
    let (first, rest) = rows.view().split_at(Axis(0), 1);
    &rest - &first
}

/// Rows that a sample needs to tell channels apart by itself.
const ENOUGH: usize = 4;

/// Which of `count` rows make samples: two disjoint ones, or all rows where there are few.
fn picks(count: usize) -> Vec<Vec<usize>> {
    if count < 2 * ENOUGH {
        return vec![(0..count).collect()];
    }
    let step = (count / SAMPLE_ROWS).max(2) & !1;
    let half = |first: usize| (first..count).step_by(step).take(SAMPLE_ROWS).collect();
    vec![half(0), half(1)]
}

fn pick(checkpoint: &Checkpoint, lens: &Lens, turned: bool, rows: &[usize]) -> Result<Array2<f64>> {
    if turned {
        return Ok(lens.read(checkpoint)?.select(Axis(1), rows).reversed_axes().to_owned());
    }
    let mut picked = Array2::zeros((rows.len(), lens.cols()));
    for (row, mut out) in rows.iter().zip(picked.outer_iter_mut()) {
        out.assign(&lens.read_rows(checkpoint, *row, 1)?.row(0));
    }
    Ok(picked)
}

type Proposal = Option<(Entry, f64)>;

/// What each sample proposes for each channel, and the proposal that most agree on. A sample in
/// which two source channels hold the same agrees with both, and one in which a channel is the mean
/// of all with the mean; where one holds nothing but zeros, so do its copies.
fn vote(samples: &[Sample], widths: (usize, usize), unit: f64) -> Vec<Proposal> {
    let proposals: Vec<Vec<Proposal>> = samples.iter().map(|(s, t)| propose(s, t, unit)).collect();
    let holds_zeros = |sample: &Sample, of: usize| sample.0.column(of).iter().all(|v| *v == 0.0);
    let alike = |sample: &Sample, a: usize, b: usize| sample.0.column(a) == sample.0.column(b);
    let is_mean = |sample: &Sample, of: usize| {
        let near = |row: ArrayView1<f64>| {
            let largest = row.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
            (row.sum() / row.len() as f64 - row[of]).abs() <= 1e-12 * largest
        };
        sample.0.outer_iter().all(near)
    };
    (0..widths.1)
        .map(|channel| {
            let cast: Vec<(Entry, f64)> = proposals.iter().filter_map(|p| p[channel]).collect();
            let rank = |entry: &Entry| match entry {
                Entry::Copy { .. } => 2,
                Entry::Mean => 1,
                Entry::Zero => 0,
            };
            let agrees = |entry: &Entry, (proposal, sample): (&Vec<Proposal>, &Sample)| match (
                entry,
                proposal[channel].map(|(proposed, _)| proposed),
            ) {
                (entry, Some(proposed)) if *entry == proposed => true,
                (Entry::Copy { of, .. }, Some(Entry::Zero)) => holds_zeros(sample, *of),
                (Entry::Copy { of, sign }, Some(Entry::Copy { of: other, sign: same })) => {
                    *sign == same && alike(sample, *of, other)
                }
                (Entry::Mean, Some(Entry::Copy { of, sign })) => sign > 0.0 && is_mean(sample, of),
                _ => false,
            };
            let votes = |entry: &Entry| {
                proposals.iter().zip(samples).filter(|seen| agrees(entry, *seen)).count()
            };
            let best = cast.iter().map(|(e, _)| *e).max_by_key(|e| (votes(e), rank(e)))?;
            let mut ratios: Vec<f64> =
                cast.iter().filter(|(e, _)| *e == best).map(|(_, r)| *r).collect();
            ratios.sort_by(f64::total_cmp);
            Some((best, ratios[ratios.len() / 2]))
        })
        .collect()
}

/// For every column of `t` the column of `s` that it is a multiple of, with the ratio.
fn propose(s: &Array2<f64>, t: &Array2<f64>, unit: f64) -> Vec<Proposal> {
    let norm = |m: &Array2<f64>| m.map_axis(Axis(0), |c| c.dot(&c).sqrt());
    let (s_norm, t_norm) = (norm(s), norm(t));
    let scaled = |m: &Array2<f64>, norms: &ndarray::Array1<f64>| {
        m / &norms.mapv(|n| if n > 0.0 { n } else { f64::INFINITY })
    };
    let directions = scaled(s, &s_norm);
    let mean = s.mean_axis(Axis(1)).expect("at least one column");
    let mean_norm = mean.dot(&mean).sqrt();
    // The angle by which rounding turns a column, with room for the bounds of both.
    let angle = 16.0 * unit + 1e-7;
    let least = 1.0 - angle * angle / 2.0;
    let typical = (t.iter().map(|v| v * v).sum::<f64>() / t.ncols().max(1) as f64).sqrt();
    let mut used = vec![0usize; s.ncols()];
    let turned = scaled(t, &t_norm).reversed_axes();
    let scale = likely_scale(&turned, &directions, (&s_norm, &t_norm), least);
    let mut proposals = Vec::with_capacity(t.ncols());
    for start in (0..t.ncols()).step_by(512) {
        let block = turned.slice(ndarray::s![start..t.ncols().min(start + 512), ..]);
        let cosines = block.dot(&directions);
        for (offset, row) in cosines.outer_iter().enumerate() {
            let channel = start + offset;
            let small = t_norm[channel] <= 16.0 * unit * typical;
            let ratio = t_norm[channel] / mean_norm;
            let of_that_size = (ratio / scale - 1.0).abs() <= angle;
            let is_mean = mean.dot(&block.row(offset)) / mean_norm >= least;
            // A column as small as rounding is zero, unless it holds what the map would write.
            let mean = match (is_mean, small) {
                (true, false) => Some((Entry::Mean, ratio)),
                (true, true) if of_that_size => Some((Entry::Mean, ratio)),
                (_, true) => Some((Entry::Zero, 1.0)),
                (false, false) => None,
            };
            let near = Near { cosines: row, size: t_norm[channel], norms: &s_norm, scale };
            let choice = near.choose(channel % s.ncols(), &used, (least, unit));
            let Some(of) = choice.filter(|of| !small || near.distance(*of) <= angle) else {
                proposals.push(mean);
                continue;
            };
            // Few rows leave directions alike; then the size tells the mean from a copy.
            if is_mean && near.distance(of) > angle && of_that_size {
                proposals.push(mean);
                continue;
            }
            used[of] += 1;
            let entry = Entry::Copy { of, sign: row[of].signum() };
            proposals.push(Some((entry, t_norm[channel] / s_norm[of])));
        }
    }
    proposals
}

/// The median size of a column of `t` relative to the column of `s` that has its direction: the one
/// at its place in a circular layout, or the nearest; 1 where no direction is the same.
fn likely_scale(
    turned: &Array2<f64>,
    directions: &Array2<f64>,
    (s_norm, t_norm): (&Array1<f64>, &Array1<f64>),
    least: f64,
) -> f64 {
    let mut ratios = Vec::new();
    for channel in (0..turned.nrows()).step_by((turned.nrows() / SCALES).max(1)) {
        let cosines = turned.row(channel).dot(directions);
        // One row leaves all directions the same: then the place says more than the angle.
        let place = (!cosines.is_empty()).then(|| channel % cosines.len());
        let nearest =
            (0..cosines.len()).max_by(|a, b| cosines[*a].abs().total_cmp(&cosines[*b].abs()));
        let near = |of: &usize| cosines[*of].abs() >= least;
        if let Some(of) = place.filter(near).or(nearest.filter(near)) {
            ratios.push(t_norm[channel] / s_norm[of]);
        }
    }
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(1.0)
}

/// Channels that tell the scale of the map.
const SCALES: usize = 256;

/// Distances below which two columns are the same numbers, relative to their size: what the
/// computation of a distance itself rounds.
const SAME: f64 = 1e-7;

/// A column of the expanded model among the source's.
struct Near<'a> {
    cosines: ArrayView1<'a, f64>,
    size: f64,
    norms: &'a Array1<f64>,
    scale: f64,
}

impl Near<'_> {
    /// Which source column this is a copy of. Few rows, or coarse ones, leave several that rounding
    /// does not tell apart: then one that holds the same numbers comes before all others, and among
    /// equals the one at its place in a circular layout, then the one least used.
    fn choose(&self, position: usize, used: &[usize], (least, unit): (f64, f64)) -> Option<usize> {
        let matching: Vec<usize> =
            (0..used.len()).filter(|j| self.cosines[*j].abs() >= least).collect();
        let nearest = matching.iter().map(|j| self.distance(*j)).fold(f64::INFINITY, f64::min);
        let limit = if nearest <= SAME { SAME } else { nearest.max(4.0 * unit) };
        let equal = || matching.iter().copied().filter(|j| self.distance(*j) <= limit);
        let at_place = equal().find(|j| *j == position);
        at_place.or_else(|| equal().min_by_key(|j| used[*j]))
    }

    /// Relative to the size of the column.
    fn distance(&self, of: usize) -> f64 {
        let ratio = self.scale * self.norms[of] / self.size;
        let cosine = self.cosines[of].abs();
        (1.0 + ratio * ratio - 2.0 * ratio * cosine).max(0.0).sqrt()
    }
}

/// Turns votes into a map that a lossless expansion could have.
fn settle(
    votes: Vec<Proposal>,
    (source, expanded): (usize, usize),
    (layer_norm, kind): (bool, NormKind),
    unit: f64,
) -> Found {
    let unexplained = votes.iter().filter(|v| v.is_none()).count();
    let (scale, scale_error) = common_scale(&votes, unit);
    let cast = |entry| votes.iter().flatten().filter(|(vote, _)| *vote == entry).count();
    let averaged = kind == NormKind::Layer && cast(Entry::Mean) > cast(Entry::Zero);
    let residue = if layer_norm || averaged { Entry::Mean } else { Entry::Zero };
    let whole = expanded / source * source;
    let layout = |channel: usize| match channel < whole {
        true => Entry::Copy { of: channel % source, sign: 1.0 },
        false => residue,
    };
    // A ratio that is not the common one is no copy of the same map.
    let fits = |ratio: f64| (ratio / scale - 1.0).abs() <= 64.0 * unit + 1e-6;
    let mut entries: Vec<Entry> = votes
        .iter()
        .enumerate()
        .map(|(channel, vote)| match vote {
            Some((Entry::Copy { of, sign }, ratio)) if fits(*ratio) => match layer_norm {
                true if *sign < 0.0 => layout(channel),
                _ => Entry::Copy { of: *of, sign: *sign },
            },
            Some((Entry::Copy { .. }, _)) | None => layout(channel),
            Some(_) => residue,
        })
        .collect();
    even_out(&mut entries, source, residue);
    Found { map: Map { source, entries, scale, scale_error }, unexplained }
}

/// Gives every source channel the number of copies that most have.
fn even_out(entries: &mut [Entry], source: usize, residue: Entry) {
    let mut copies = vec![Vec::new(); source];
    for (channel, entry) in entries.iter().enumerate() {
        if let Entry::Copy { of, .. } = entry {
            copies[*of].push(channel);
        }
    }
    let most = entries.len() / source;
    let has = |k: usize| copies.iter().filter(|c| c.len() == k).count();
    let usual = (1..=most).max_by_key(|k| (has(*k), *k)).unwrap_or(1);
    let mut free: Vec<usize> = Vec::new();
    for channels in &mut copies {
        free.extend(channels.drain(usual.min(channels.len())..));
    }
    free.iter().for_each(|channel| entries[*channel] = residue);
    for (of, channels) in copies.iter().enumerate() {
        for _ in channels.len()..usual {
            let spare = |c: &usize| entries[*c] == residue;
            let at_its_place =
                (of..entries.len()).step_by(source).find(|c| spare(c) && *c < usual * source);
            let Some(channel) = at_its_place.or_else(|| (0..entries.len()).find(spare)) else {
                return;
            };
            entries[channel] = Entry::Copy { of, sign: 1.0 };
        }
    }
}

/// The factor that copies have in common, and its relative error: exactly 1 where rounding cannot
/// tell it from 1.
fn common_scale(votes: &[Proposal], unit: f64) -> (f64, f64) {
    let mut ratios: Vec<f64> = votes
        .iter()
        .filter_map(|vote| match vote {
            Some((Entry::Copy { .. }, ratio)) => Some(*ratio),
            _ => None,
        })
        .collect();
    if ratios.is_empty() {
        return (1.0, 0.0);
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    if (median - 1.0).abs() <= unit {
        return (1.0, 0.0);
    }
    (median, 2.0 * unit / (ratios.len() as f64).sqrt())
}
