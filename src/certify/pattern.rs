//! Attention patterns: what a head's queries and keys compute.
//!
//! Without rotary embedding a head's pattern is the form `[A_q | b_q]ᵀ A_k` with its scale; the
//! key bias adds only what is constant over the keys, which the softmax ignores. With rotary
//! embedding it is one complex form per frequency, key bias included. A pattern is held here as its
//! factors, channel by channel: two patterns are equal if their channels can be paired so that the
//! keys agree up to a factor and the queries up to its inverse. A channel whose query or key is
//! zero contributes nothing.
//!
//! A bias for relative positions is part of the pattern: one number for each bucket of distances
//! that some pair of positions has, up to one that they have in common, which the softmax ignores.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use super::reader::Folded;
use super::side::Side;
use crate::error::Result;
use crate::model::Attention;

/// A head's pattern: its channels that contribute.
pub(super) struct Pattern {
    channels: Vec<Channel>,
    /// The bias of each bucket but the first less that of the first, `[1, n]`; no number without
    /// relative positions.
    distances: Bounded,
}

/// One factor pair of a pattern (a frequency's two rows are laid end to end).
struct Channel {
    /// Radians per position; 0 without rotary embedding.
    frequency: f64,
    /// `[1, n]`.
    key: Bounded,
    /// `[1, n]`, with the logit scale.
    query: Bounded,
}

/// The biases for relative positions, `[heads, n]`: those of the `n` buckets that can be reached
/// behind the first, less that of the first.
///
/// # Errors
/// If the table cannot be read.
pub(super) fn relative_biases(side: &Side, attention: &Attention) -> Result<Bounded> {
    let Some(bias) = &attention.relative else { return Ok(Bounded::zeros(attention.heads, 0)) };
    let reachable = bias.reachable();
    let table = side.read(&bias.table)?.pick(&reachable);
    let (mut rest, first) = (table.slice(1, reachable.len() - 1), table.slice(0, 1));
    rest.value -= &first.value;
    rest.variance += &first.variance;
    Ok(rest.transposed())
}

/// Reads off the pattern of every query head; `distances` are its [`relative_biases`].
pub(super) fn patterns(
    attention: &Attention,
    query: &Folded,
    key: &Folded,
    distances: Bounded,
) -> Vec<Pattern> {
    let (size, group) = (attention.head_dim, attention.heads / attention.kv_heads);
    let queries = query.joined().times(attention.scale);
    let keys = match attention.rotary {
        Some(_) => key.joined(),
        None => key.weight.clone(),
    };
    (0..attention.heads)
        .map(|head| {
            let (q, k) = (head * size, head / group * size);
            let mut channels = Vec::new();
            match &attention.rotary {
                None => channels.extend((0..size).map(|c| Channel {
                    frequency: 0.0,
                    key: keys.slice(k + c, 1),
                    query: queries.slice(q + c, 1),
                })),
                Some(rotary) => {
                    let half = size / 2;
                    let pair =
                        |m: &Bounded, at: usize| m.slice(at, 1).beside(&m.slice(at + half, 1));
                    channels.extend(rotary.frequencies.iter().enumerate().map(|(c, f)| Channel {
                        frequency: *f,
                        key: pair(&keys, k + c),
                        query: pair(&queries, q + c),
                    }));
                }
            }
            channels.retain(|c| !c.key.row(0).is_zero(0.0) && !c.query.row(0).is_zero(0.0));
            Pattern { channels, distances: distances.slice(head, 1) }
        })
        .collect()
}

impl Pattern {
    /// Whether the two patterns are equal within `units` of their bounds.
    pub fn equals(&self, other: &Pattern, units: f64) -> bool {
        self.partners(other, units).is_some()
    }

    /// If the two patterns are equal: which channels are one, and the ratio of their keys.
    fn partners(&self, other: &Pattern, units: f64) -> Option<Vec<(usize, usize, Ratio)>> {
        if !self.distances.row(0).equals(&other.distances.row(0), Ratio::ONE, units) {
            return None;
        }
        let mut free: Vec<usize> = (0..other.channels.len()).collect();
        let mut partners = Vec::with_capacity(self.channels.len());
        for (number, mine) in self.channels.iter().enumerate() {
            let found = free.iter().enumerate().find_map(|(place, theirs)| {
                Some((place, mine.ratio(&other.channels[*theirs], units)?))
            });
            match found {
                Some((place, ratio)) => partners.push((number, free.remove(place), ratio)),
                None if self.is_negligible(mine, units) => {}
                None => return None,
            }
        }
        let rest = free.iter().all(|theirs| other.is_negligible(&other.channels[*theirs], units));
        rest.then_some(partners)
    }

    /// Whether a channel contributes nothing: one of its factors is zero within `units` of its
    /// bounds, and the other is of the size that this factor's partners have, so that the product
    /// is as small as rounding.
    fn is_negligible(&self, channel: &Channel, units: f64) -> bool {
        let size = |row: &Bounded| row.value.iter().map(|v| v * v).sum::<f64>().sqrt();
        let (mut key, mut query) = (0.0f64, 0.0f64);
        for other in &self.channels {
            if !other.key.row(0).is_zero(units) && !other.query.row(0).is_zero(units) {
                key = key.max(size(&other.key));
                query = query.max(size(&other.query));
            }
        }
        (channel.key.row(0).is_zero(units) && size(&channel.query) <= 4.0 * query)
            || (channel.query.row(0).is_zero(units) && size(&channel.key) <= 4.0 * key)
    }

    /// Adds the equations of two equal patterns; `head` is this one's number.
    pub fn agree(&self, other: &Pattern, head: usize, agreement: &mut Agreement) {
        let distances = (self.distances.row(0), other.distances.row(0));
        agreement.add(&distances.0, &distances.1, Ratio::ONE, head, 0);
        for (mine, theirs, ratio) in self.partners(other, UNITS).unwrap_or_default() {
            let (mine, theirs) = (&self.channels[mine], &other.channels[theirs]);
            let rotary = mine.frequency != 0.0;
            let columns = mine.query.cols();
            let (with_bias, of_key) =
                if rotary { (columns / 2, columns / 2) } else { (columns, 0) };
            agreement.add(&mine.key.row(0), &theirs.key.row(0), ratio, head, of_key);
            let inverse = ratio.inverse();
            agreement.add(&mine.query.row(0), &theirs.query.row(0), inverse, head, with_bias);
        }
    }
}

impl Channel {
    /// The ratio of the keys, if the two are equal: opposite ratios cancel in the product.
    fn ratio(&self, other: &Channel, units: f64) -> Option<Ratio> {
        if (self.frequency - other.frequency).abs() > 1e-12 * self.frequency.abs() {
            return None;
        }
        let ratio = self.key.row(0).ratio(&other.key.row(0), units)?;
        let queries = (self.query.row(0), other.query.row(0));
        let equal = ratio.factor != 0.0 && queries.0.equals(&queries.1, ratio.inverse(), units);
        equal.then_some(ratio)
    }
}
