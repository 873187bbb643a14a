//! From heads that match no head of the source to the tensor that is wrong: value, query or key.

use super::blame::Accused;
use super::bounded::{Bounded, Ratio, UNITS};
use super::explain::{Blame, constant_ratio, norm_fault, row_fault};
use super::ops::value_rows;
use super::pattern::{patterns, relative_biases};
use super::reader::{Folded, Reader};
use super::squares::Residual;
use super::suspect::with_cause;
use crate::error::Result;
use crate::model::{Attention, Linear};

impl<'a> Accused<'a> {
    /// What is wrong with the first of the `strangers` (value channels of heads).
    pub(super) fn attention_fault(
        &self,
        attentions: (&'a Attention, &'a Attention),
        strangers: &[usize],
    ) -> Result<Option<Blame<'a>>> {
        let (s, t) = attentions;
        let Some(channel) = strangers.first() else { return Ok(None) };
        let head = channel / t.head_dim;
        let queries = (self.readers.0.fold(&s.query)?, self.readers.1.fold(&t.query)?);
        let others = (self.readers.0.keys(s), self.readers.1.keys(t));
        if t.reads_encoder
            && strangers.len() * 2 >= t.heads * t.head_dim
            && let Some(blame) = norm_fault((&others.0, &others.1), 1.0)?
        {
            return Ok(Some(blame));
        }
        let keys = (others.0.fold(&s.key)?, others.1.fold(&t.key)?);
        let mine = patterns(self.readers.1, t, &queries.1, &keys.1)?;
        let theirs = patterns(self.readers.0, s, &queries.0, &keys.0)?;
        if let Some(partner) =
            theirs.iter().position(|other| mine[head].equals(&other.into(), UNITS))
        {
            return self.value_fault(attentions, *channel, partner);
        }
        let like = theirs.iter().position(|other| mine[head].differs_in_distances(&other.into()));
        if let Some(partner) = like {
            return self.relative_fault(attentions, (partner, head));
        }
        match self.pattern_fault(attentions, (&queries, &keys), head) {
            Some(blame) => Ok(Some(blame)),
            None => self.head_norm_fault(attentions),
        }
    }

    /// The bias for relative positions of the expanded head `heads.1`, whose queries and keys are
    /// those of the source's `heads.0`.
    fn relative_fault(
        &self,
        (s, t): (&'a Attention, &'a Attention),
        heads: (usize, usize),
    ) -> Result<Option<Blame<'a>>> {
        let (Some(from), Some(to)) = (&s.relative, &t.relative) else { return Ok(None) };
        let small = relative_biases(self.readers.0.side, s)?;
        let large = relative_biases(self.readers.1.side, t)?;
        let residual = Residual::of(&large.slice(heads.1, 1), &small.slice(heads.0, 1), 0.0);
        let row = large.row(heads.1);
        let copied = (0..small.rows()).find(|h| row.equals(&small.row(*h), Ratio::ONE, UNITS));
        let cause = copied.map(|head| {
            format!(
                "its column {} is that of the source's head {head}, but queries and keys are those \
                 of head {}",
                heads.1, heads.0
            )
        });
        let bucket = to.reachable().get(residual.worst.1 + 1).copied().unwrap_or(0);
        let (tensor, source_tensor, at) = (&to.table, &from.table, (bucket, heads.1));
        Ok(Some(Blame { tensor, source_tensor, at, residual, cause }))
    }

    /// The rows in front are as they should be: a norm of queries or keys is not the source's.
    fn head_norm_fault(&self, (s, t): (&'a Attention, &'a Attention)) -> Result<Option<Blame<'a>>> {
        let (Some(s), Some(t)) = (&s.head_norms, &t.head_norms) else { return Ok(None) };
        let sides = (self.readers.0.side, self.readers.1.side);
        for (s, t) in [(&s.query, &t.query), (&s.key, &t.key)] {
            let pairs =
                [s.weight.as_ref().zip(t.weight.as_ref()), s.bias.as_ref().zip(t.bias.as_ref())];
            for (source_tensor, tensor) in pairs.into_iter().flatten() {
                if source_tensor.rows() != tensor.rows() {
                    continue;
                }
                let residual =
                    Residual::of(&sides.1.read(tensor)?, &sides.0.read(source_tensor)?, 0.0);
                if !residual.holds() {
                    let (at, cause) = (residual.worst, constant_ratio(&residual, &[]));
                    return Ok(Some(Blame { tensor, source_tensor, at, residual, cause }));
                }
            }
        }
        Ok(None)
    }

    /// The pattern is that of the source's head `partner`: the values differ.
    fn value_fault(
        &self,
        (s, t): (&'a Attention, &'a Attention),
        channel: usize,
        partner: usize,
    ) -> Result<Option<Blame<'a>>> {
        let others = (self.readers.0.keys(s), self.readers.1.keys(t));
        let values = (others.0.fold(&s.value)?, others.1.fold(&t.value)?);
        let (s_row, t_row) = (
            value_rows(s)[partner * s.head_dim + channel % t.head_dim % s.head_dim],
            value_rows(t)[channel],
        );
        let weight_alone =
            |folded: &Bounded, row: usize| folded.slice(row, 1).beside(&Bounded::zeros(1, 1));
        let rows = (weight_alone(&values.0.weight, s_row), weight_alone(&values.1.weight, t_row));
        Ok(row_fault(self.readers, (&s.value, &t.value), (&rows.0, &rows.1), t_row))
    }

    /// The pattern is no source head's: query or key differs.
    fn pattern_fault(
        &self,
        (s, t): (&'a Attention, &'a Attention),
        (queries, keys): (&(Folded, Folded), &(Folded, Folded)),
        head: usize,
    ) -> Option<Blame<'a>> {
        let group = (s.heads / s.kv_heads, t.heads / t.kv_heads);
        let (channels, in_place) = (channels(s, t), in_place(s, t));
        // Rows of a head with bias and logit scale, to be compared as they stand.
        type Channels<'c> = &'c [(usize, usize)];
        let theirs = |channels: Channels, folded: &Folded, at: usize, scale: f64| {
            let rows: Vec<usize> = channels.iter().map(|(c, _)| at * s.head_dim + c).collect();
            folded.joined().pick(&rows).times(scale)
        };
        let mine = |channels: Channels, folded: &Folded, at: usize, scale: f64| {
            let rows: Vec<usize> = channels.iter().map(|(_, c)| at * t.head_dim + c).collect();
            folded.joined().pick(&rows).times(scale)
        };
        let query = mine(&channels, &queries.1, head, t.scale);
        let key = mine(&channels, &keys.1, head / group.1, 1.0);
        let wrong = |a: &Bounded, b: &Bounded| Residual::of(a, b, self.readers.0.shared).wrong;
        let query_of = |h: usize| theirs(&channels, &queries.0, h, s.scale);
        let key_of = |h: usize| theirs(&channels, &keys.0, h, 1.0);
        let q_near = (0..s.heads).min_by_key(|h| wrong(&query, &query_of(*h))).unwrap_or(0);
        let k_near = (0..s.kv_heads).min_by_key(|h| wrong(&key, &key_of(*h))).unwrap_or(0);
        let (q_wrong, k_wrong) = (wrong(&query, &query_of(q_near)), wrong(&key, &key_of(k_near)));
        let stays = |h: usize| {
            let there = mine(&in_place, &queries.1, head, t.scale);
            wrong(&there, &theirs(&in_place, &queries.0, h, s.scale)) == 0
        };
        let unturned = s.rotary.is_some() && channels != in_place && (0..s.heads).any(stays);
        let swapped = (0..s.kv_heads).any(|h| wrong(&query, &key_of(h).times(s.scale)) == 0);
        let blame_rows = |linears, a: Bounded, b: Bounded, first: usize| {
            (0..a.rows()).find_map(|r| {
                let rows = (&b.slice(r, 1), &a.slice(r, 1));
                row_fault(self.readers, linears, rows, first + channels[r].1)
            })
        };
        let at_query = head * t.head_dim;
        let at_key = head / group.1 * t.head_dim;
        let kv_head = head / group.1;
        if q_wrong == 0 && k_wrong == 0 && kv_head % s.kv_heads != k_near {
            // The query is as it should be, and the key stands where another belongs.
            let wanted = q_near / group.0;
            let cause = format!(
                "key/value head {kv_head} is a copy of the source's {k_near}, but query head \
                 {head}, which reads it, belongs to {wanted}: key/value heads are in another order"
            );
            let found = blame_rows((&s.key, &t.key), key, key_of(wanted), at_key);
            return found.map(|blame| Blame { cause: Some(cause), ..blame });
        }
        if q_wrong == 0 && k_wrong == 0 && q_near / group.0 != k_near {
            let cause = format!(
                "query head {head} is the source's query head {q_near}, which reads key/value \
                 head {}, but here it reads a copy of {k_near}: heads are tiled across groups",
                q_near / group.0
            );
            let expected = (0..s.heads).find(|h| h / group.0 == k_near).unwrap_or(0);
            let found = blame_rows((&s.query, &t.query), query, query_of(expected), at_query);
            return found.map(|blame| Blame { cause: Some(cause), ..blame });
        }
        if k_wrong == 0 || (q_wrong > 0 && (swapped || unturned || q_wrong <= k_wrong)) {
            let expected = match k_wrong {
                0 => (k_near * group.0..(k_near + 1) * group.0)
                    .min_by_key(|h| wrong(&query, &query_of(*h)))
                    .unwrap_or(q_near),
                _ => q_near,
            };
            let found = blame_rows((&s.query, &t.query), query, query_of(expected), at_query)?;
            let order = || {
                let weights = queries.0.weight.clone().times(s.scale);
                let mine = queries.1.weight.clone().times(t.scale);
                let heads = (expected * s.head_dim, at_query);
                in_another_order((&weights, &mine), heads, &channels, (s.head_dim, t.head_dim))
            };
            let cause = match (swapped, unturned) {
                (true, _) => Some("query and key are swapped".to_string()),
                (_, true) => Some(UNTURNED.to_string()),
                _ => order(),
            };
            return Some(Blame { cause: cause.or(found.cause), ..found });
        }
        let wanted = q_near / group.0;
        let found = blame_rows((&s.key, &t.key), key, key_of(wanted), at_key)?;
        let heads = (wanted * s.head_dim, at_key);
        let weights = (&keys.0.weight, &keys.1.weight);
        let order = in_another_order(weights, heads, &channels, (s.head_dim, t.head_dim));
        Some(Blame { cause: order.or(found.cause), ..found })
    }
}

const UNTURNED: &str = "channels stay in place, where they turn at other frequencies";

/// Says so if the weights of a head's rows, the first of which is `firsts.1`, are all rows of the
/// source, but not those of the head that begins at `firsts.0`. `channels`: which channels of the
/// two heads, of `sizes`, correspond.
fn in_another_order(
    (source, expanded): (&Bounded, &Bounded),
    firsts: (usize, usize),
    channels: &[(usize, usize)],
    sizes: (usize, usize),
) -> Option<String> {
    let place = |(s, t): &(usize, usize)| -> Option<(usize, usize, usize)> {
        let (wanted, row) = (firsts.0 + s, firsts.1 + t);
        let mine = expanded.row(row);
        let same = |of: &usize| mine.equals(&source.row(*of), Ratio::ONE, UNITS);
        // In its place, or in the same place of another head, or anywhere.
        let heads = (s % sizes.0..source.rows()).step_by(sizes.0);
        let of = std::iter::once(wanted).chain(heads).chain(0..source.rows()).find(same)?;
        Some((row, wanted, of))
    };
    let rows: Vec<(usize, usize, usize)> = channels.iter().map(place).collect::<Option<_>>()?;
    let (row, wanted, of) = *rows.iter().find(|(_, wanted, of)| wanted != of)?;
    let head = |row: usize| row / sizes.0;
    let shift = |(_, wanted, of): &(usize, usize, usize)| *of as isize - *wanted as isize;
    Some(match rows.iter().all(|other| shift(other) == shift(&rows[0])) {
        true => format!(
            "the rows of head {} are those of the source's head {}, where those of {} belong: \
             heads are in another order",
            firsts.1 / sizes.1,
            head(of),
            head(wanted)
        ),
        false => format!(
            "row {row} is the source's row {of}, where its row {wanted} belongs: rows of the heads \
             are in another order"
        ),
    })
}

/// Which logit channels of a head correspond, source and expanded: those at one place; with rotary
/// positions, those that turn at one frequency.
pub(super) fn channels(source: &Attention, expanded: &Attention) -> Vec<(usize, usize)> {
    let (Some(from), Some(to)) = (&source.rotary, &expanded.rotary) else {
        return (0..source.head_dim.min(expanded.head_dim)).map(|c| (c, c)).collect();
    };
    let halves = (from.frequencies.len(), to.frequencies.len());
    let place = |wanted: &f64| {
        to.frequencies.iter().position(|f| (f - wanted).abs() <= 1e-12 * wanted.abs())
    };
    let pairs: Vec<(usize, usize)> =
        (0..halves.0).filter_map(|pair| Some((pair, place(&from.frequencies[pair])?))).collect();
    let second = pairs.iter().map(|(s, t)| (s + halves.0, t + halves.1));
    let unturned = (2 * halves.0..source.head_dim).zip(2 * halves.1..expanded.head_dim);
    pairs.iter().copied().chain(second).chain(unturned).collect()
}

/// Like [`channels`], had the pairs of a rotary head stayed at their places.
fn in_place(source: &Attention, expanded: &Attention) -> Vec<(usize, usize)> {
    let half = |a: &Attention| a.rotary.as_ref().map_or(0, |rotary| rotary.frequencies.len());
    let halves = (half(source), half(expanded));
    let pairs = || 0..halves.0.min(halves.1);
    let unturned = (2 * halves.0..source.head_dim).zip(2 * halves.1..expanded.head_dim);
    let second = pairs().map(|c| (c + halves.0, c + halves.1));
    pairs().map(|c| (c, c)).chain(second).chain(unturned).collect()
}

/// A value row that is a source row with another bias.
pub(super) fn value_bias_fault<'a>(
    readers: (&Reader<'a>, &Reader<'a>),
    linears: (&'a Linear, &'a Linear),
) -> Result<Option<Blame<'a>>> {
    let values = (readers.0.fold(linears.0)?, readers.1.fold(linears.1)?);
    let rows = (values.0.joined(), values.1.joined());
    for row in 0..rows.1.rows() {
        let mine = values.1.weight.row(row);
        let partner =
            (0..rows.0.rows()).find(|of| mine.equals(&values.0.weight.row(*of), Ratio::ONE, UNITS));
        let Some(of) = partner else { continue };
        let pair = (rows.0.slice(of, 1), rows.1.slice(row, 1));
        if let Some(blame) = row_fault(readers, linears, (&pair.0, &pair.1), row) {
            return with_cause(blame, readers.1, linears.1).map(Some);
        }
    }
    Ok(None)
}
