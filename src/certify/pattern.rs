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
            channels.retain(|c| !c.key.row(0).is_zero() && !c.query.row(0).is_zero());
            Pattern { channels }
        })
        .collect()
}

impl Pattern {
    /// Whether the two patterns are equal.
    pub fn equals(&self, other: &Pattern) -> bool {
        if self.channels.len() != other.channels.len() {
            return false;
        }
        let mut free: Vec<&Channel> = other.channels.iter().collect();
        self.channels.iter().all(|mine| {
            let partner = free.iter().position(|theirs| mine.equals(theirs));
            partner.map(|at| free.remove(at)).is_some()
        })
    }
}

impl Channel {
    fn equals(&self, other: &Channel) -> bool {
        let close = (self.frequency - other.frequency).abs() <= 1e-12 * self.frequency.abs();
        if !close {
            return false;
        }
        let Some(factor) = self.key.row(0).ratio(&other.key.row(0)) else { return false };
        // Opposite factors cancel in the product.
        factor != 0.0 && self.query.row(0).equals(&other.query.row(0), 1.0 / factor)
    }
}
