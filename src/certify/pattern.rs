//! Attention patterns: what a head's queries and keys compute.
//!
//! Without rotary embedding a head's pattern is the form `[A_q | b_q]ᵀ A_k` with its scale; the
//! key bias adds only what is constant over the keys, which the softmax ignores. With rotary
//! embedding it is one complex form per frequency, key bias included. A pattern is held here as its
//! factors, channel by channel: two patterns are equal if their channels can be paired so that the
//! keys agree up to a factor and the queries up to its inverse. A channel whose query or key is
//! zero contributes nothing.

use super::bounded::Bounded;
use super::reader::Folded;
use crate::model::Attention;

/// A head's pattern: its channels that contribute.
pub(super) struct Pattern {
    channels: Vec<Channel>,
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

/// Reads off the pattern of every query head.
pub(super) fn patterns(attention: &Attention, query: &Folded, key: &Folded) -> Vec<Pattern> {
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
            channels.retain(|c| !c.is_zero(0.0));
            Pattern { channels }
        })
        .collect()
}

impl Pattern {
    /// Whether the two patterns are equal within `units` of their bounds.
    pub fn equals(&self, other: &Pattern, units: f64) -> bool {
        let mut free: Vec<&Channel> = other.channels.iter().collect();
        for mine in &self.channels {
            match free.iter().position(|theirs| mine.equals(theirs, units)) {
                Some(partner) => {
                    free.remove(partner);
                }
                None if mine.is_zero(units) => {}
                None => return false,
            }
        }
        free.iter().all(|theirs| theirs.is_zero(units))
    }
}

impl Channel {
    /// Whether it contributes nothing: its key or its query is zero within `units` of its bounds.
    fn is_zero(&self, units: f64) -> bool {
        self.key.row(0).is_zero(units) || self.query.row(0).is_zero(units)
    }

    fn equals(&self, other: &Channel, units: f64) -> bool {
        let close = (self.frequency - other.frequency).abs() <= 1e-12 * self.frequency.abs();
        if !close {
            return false;
        }
        let Some(ratio) = self.key.row(0).ratio(&other.key.row(0), units) else { return false };
        // Opposite factors cancel in the product.
        ratio.factor != 0.0 && self.query.row(0).equals(&other.query.row(0), ratio.inverse(), units)
    }
}
