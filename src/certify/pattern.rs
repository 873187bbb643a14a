//! Attention patterns: what a head's queries and keys compute.
//!
//! Without rotary embedding a head's pattern is the form `[A_q | b_q]ᵀ A_k` with its scale; the
//! key bias adds only what is constant over the keys, which the softmax ignores. With rotary
//! embedding it is one complex form per frequency, key bias included; channels that are not turned
//! (partial rotary embedding, a frequency of zero) follow the first rule. A pattern is held here as
//! its factors, channel by channel: two patterns are equal if their channels can be paired so that
//! the keys agree up to a factor and the queries up to its inverse. A channel whose query or key is
//! zero contributes nothing.
//!
//! A bias for relative positions is part of the pattern: one number for each bucket of distances
//! that some pair of positions has, up to one that they have in common, which the softmax ignores.
//!
//! Behind a soft cap what is constant over the keys is so no more, and behind a norm of the keys
//! their bias is not: then it counts. Norms of queries and keys are folded in by `head_norm`; the
//! mask, the window and the cap itself are compared before patterns are.

mod mixed;

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use super::head_norm::{Denominator, behind_norm};
use super::reader::{Folded, Reader};
use super::side::Side;
use crate::error::Result;
use crate::model::{Attention, Linear, Norm};

/// A head's pattern: its channels that contribute.
pub(super) struct Pattern {
    channels: Vec<Channel>,
    /// Those whose query or key is zero: nothing, or what rounding took from a small one.
    zeros: Vec<Channel>,
    /// The bias of each bucket but the first less that of the first, `[1, n]`; no number without
    /// relative positions.
    distances: Bounded,
    /// What the norms of the head's queries and keys divide by.
    normed: Option<[usize; 2]>,
    /// Of all heads.
    denominators: std::sync::Arc<[Vec<Denominator>; 2]>,
}

/// The largest keys and queries that patterns multiply by zero.
#[derive(Clone, Copy, Default)]
struct Silent {
    key: f64,
    query: f64,
}

impl Silent {
    fn of(pattern: &Pattern) -> Self {
        pattern.zeros.iter().fold(Silent::default(), |Silent { key, query }, zero| {
            match zero.key.row(0).is_zero(0.0) {
                true => Silent { key, query: query.max(size(&zero.query)) },
                false => Silent { key: key.max(size(&zero.key)), query },
            }
        })
    }
}

/// Heads that have one pattern.
pub(super) struct Alike<'a> {
    /// The first of them, which stands for all.
    first: &'a Pattern,
    /// Of all: heads are alike that multiply other keys and queries by zero.
    silent: Silent,
}

impl<'a> From<&'a Pattern> for Alike<'a> {
    fn from(first: &'a Pattern) -> Self {
        Alike { first, silent: Silent::of(first) }
    }
}

impl Alike<'_> {
    /// Adds one that is equal to the first.
    pub fn add(&mut self, pattern: &Pattern) {
        let Silent { key, query } = Silent::of(pattern);
        self.silent.key = self.silent.key.max(key);
        self.silent.query = self.silent.query.max(query);
    }
}

/// The length of a row.
fn size(row: &Bounded) -> f64 {
    row.value.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// One factor pair of a pattern (a frequency's two rows are laid end to end).
struct Channel {
    /// Radians per position; 0 without rotary embedding.
    frequency: f64,
    /// `[1, n]`.
    key: Bounded,
    /// `[1, n]`, with the logit scale.
    query: Bounded,
    /// Entries from one bias of the key to the next; 0 where it is left out.
    key_period: usize,
    /// Entries from one bias of the query to the next.
    query_period: usize,
}

/// Queries or keys, all heads.
struct Factors {
    /// `[heads·head_dim, n]`: weights, then the bias, then a norm's β if it has one.
    rows: Bounded,
    /// How many of the last columns add the same to every position.
    constant: usize,
    denominators: Vec<Denominator>,
}

fn factors(
    reader: &Reader,
    (linear, folded): (&Linear, &Folded),
    norm: Option<&Norm>,
    head_dim: usize,
) -> Result<Factors> {
    let joined = folded.joined();
    let Some(norm) = norm else {
        return Ok(Factors { rows: joined, constant: 1, denominators: Vec::new() });
    };
    let side = reader.side;
    let gamma = reader.norm.map_or(0.0, |norm| side.unit_of_gamma(norm));
    let unit = side.unit(&linear.weight).max(gamma);
    // By one limit in both models, or a head of one of them alone may be below it.
    let outweighed_below = reader.norm.map(|norm| {
        let gamma = norm.weight.as_ref().map_or(0.0, |weight| side.coarsest_unit(weight));
        side.coarsest_unit(&linear.weight).max(gamma)
    });
    let columns = joined.cols();
    let (rows, denominators) =
        behind_norm(side, norm, &joined, head_dim, (unit, outweighed_below))?;
    let constant = rows.cols() - columns;
    Ok(Factors { rows, constant, denominators })
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

/// Reads off the pattern of every query head.
///
/// # Errors
/// If a norm of queries or keys cannot be read.
pub(super) fn patterns(
    reader: &Reader,
    attention: &Attention,
    query: &Folded,
    key: &Folded,
) -> Result<Vec<Pattern>> {
    let (size, group) = (attention.head_dim, attention.heads / attention.kv_heads);
    let norms = attention.head_norms.as_ref();
    let query_norm = norms.map(|norms| &norms.query);
    let key_norm = norms.map(|norms| &norms.key);
    let queries = factors(reader, (&attention.query, query), query_norm, size)?;
    let others = reader.keys(attention);
    let keys = factors(&others, (&attention.key, key), key_norm, size)?;
    let distances = relative_biases(reader.side, attention)?;
    let rows = (queries.rows.times(attention.scale), keys.rows);
    // What is constant over the keys is invisible, unless a soft cap bends it.
    let left_out = if attention.softcap.is_some() { 0 } else { keys.constant };
    let periods = (rows.0.cols(), rows.1.cols());
    let denominators = std::sync::Arc::new([queries.denominators, keys.denominators]);
    let frequencies: &[f64] = attention.rotary.as_ref().map_or(&[], |r| &r.frequencies);
    let turned = frequencies.len();
    let pattern = |head: usize| {
        let (q, k) = (head * size, head / group * size);
        let plain = |c: usize| Channel {
            frequency: 0.0,
            key: rows.1.slice(k + c, 1).columns(0, periods.1 - left_out),
            query: rows.0.slice(q + c, 1),
            key_period: if left_out == 0 { periods.1 } else { 0 },
            query_period: periods.0,
        };
        let pair = |m: &Bounded, at: usize| m.slice(at, 1).beside(&m.slice(at + turned, 1));
        let mut channels = Vec::new();
        for (c, frequency) in frequencies.iter().enumerate() {
            if *frequency == 0.0 {
                channels.extend([plain(c), plain(c + turned)]);
                continue;
            }
            channels.push(Channel {
                frequency: *frequency,
                key: pair(&rows.1, k + c),
                query: pair(&rows.0, q + c),
                key_period: periods.1,
                query_period: periods.0,
            });
        }
        channels.extend((2 * turned..size).map(plain));
        let is_zero = |c: &Channel| c.key.row(0).is_zero(0.0) || c.query.row(0).is_zero(0.0);
        let (zeros, channels) = channels.into_iter().partition(is_zero);
        let normed = norms.map(|_| [head, head / group]);
        let distances = distances.slice(head, 1);
        Pattern { channels, zeros, distances, normed, denominators: denominators.clone() }
    };
    Ok((0..attention.heads).map(pattern).collect())
}

impl Pattern {
    /// Whether this is the pattern of those heads within `units` of the bounds, but for the ε of
    /// norms of queries and keys.
    pub fn equals(&self, others: &Alike, units: f64) -> bool {
        let first = others.first;
        self.distances.row(0).equals(&first.distances.row(0), Ratio::ONE, units)
            && self.partners(others, units).is_some()
            && self.divided(first).iter().all(|(mine, theirs)| mine.equals(theirs))
    }

    /// Whether a norm of the head's queries or keys reads rows of which rounding leaves nothing.
    pub fn is_blurred(&self) -> bool {
        let heads = self.normed.iter().flat_map(|heads| heads.iter().zip(&*self.denominators));
        heads.into_iter().any(|(head, all)| all[*head].blurred)
    }

    /// Whether the biases for relative positions are all that differs.
    pub fn differs_in_distances(&self, others: &Alike) -> bool {
        !self.equals(others, UNITS) && self.partners(others, UNITS).is_some()
    }

    /// Whether the ε of these norms agree too.
    pub fn epsilons_agree(&self, others: &Alike) -> bool {
        let mut divided = self.divided(others.first).into_iter();
        divided.all(|(mine, theirs)| mine.epsilon(theirs, 0).is_none())
    }

    /// What the norms of queries and of keys divide by, in both patterns; nothing without norms.
    fn divided<'a>(&'a self, other: &'a Pattern) -> Vec<(&'a Denominator, &'a Denominator)> {
        let of = |p: &'a Pattern, which: usize| {
            p.normed.map(|heads| &p.denominators[which][heads[which]])
        };
        (0..2).filter_map(|which| of(self, which).zip(of(other, which))).collect()
    }

    /// If the pattern is that of those heads: which channels are one with the first's, and the
    /// ratio of their keys.
    fn partners(&self, others: &Alike, units: f64) -> Option<Vec<(usize, usize, Ratio)>> {
        let (other, own) = (others.first, Silent::of(self));
        let mut free: Vec<usize> = (0..other.channels.len()).collect();
        let mut partners = Vec::with_capacity(self.channels.len());
        let mut zeros = [&self.zeros, &other.zeros].map(|zeros| zeros.iter().collect::<Vec<_>>());
        // A channel may stand for one that rounding took from the other pattern, as it stands.
        let mut taken = |side: usize, channel: &Channel| {
            let place = zeros[side].iter().position(|zero| zero.equals(channel, units));
            place.map(|place| zeros[side].swap_remove(place)).is_some()
        };
        for (number, mine) in self.channels.iter().enumerate() {
            let found = free.iter().enumerate().find_map(|(place, theirs)| {
                Some((place, mine.ratio(&other.channels[*theirs], units)?))
            });
            match found {
                Some((place, ratio)) => partners.push((number, free.remove(place), ratio)),
                None if self.is_negligible(mine, others.silent, units) || taken(1, mine) => {}
                None => return None,
            }
        }
        let mut rest = free.iter().map(|theirs| &other.channels[*theirs]);
        let rest = rest.all(|theirs| other.is_negligible(theirs, own, units) || taken(0, theirs));
        rest.then_some(partners)
    }

    /// Whether a channel contributes nothing: one of its factors is zero within `units` of its
    /// bounds, and the other is of the size that this factor's partners have, here or where they
    /// are multiplied by zero (`silent`) in heads that this one is held against, so that the
    /// product is as small as rounding.
    fn is_negligible(&self, channel: &Channel, silent: Silent, units: f64) -> bool {
        let Silent { mut key, mut query } = silent;
        for other in &self.channels {
            if !other.key.row(0).is_zero(units) && !other.query.row(0).is_zero(units) {
                key = key.max(size(&other.key));
                query = query.max(size(&other.query));
            }
        }
        (channel.key.row(0).is_zero(units) && size(&channel.query) <= 4.0 * query)
            || (channel.query.row(0).is_zero(units) && size(&channel.key) <= 4.0 * key)
    }

    /// Adds the equations of this pattern and that of those heads; `head` is this one's number.
    pub fn agree(&self, others: &Alike, head: usize, agreement: &mut Agreement) {
        let other = others.first;
        let distances = (self.distances.row(0), other.distances.row(0));
        agreement.add(&distances.0, &distances.1, Ratio::ONE, head, 0);
        for (mine, theirs, ratio) in self.partners(others, UNITS).unwrap_or_default() {
            let (mine, theirs) = (&self.channels[mine], &other.channels[theirs]);
            let inverse = ratio.inverse();
            let (keys, queries) = (mine.key_period, mine.query_period);
            agreement.add(&mine.key.row(0), &theirs.key.row(0), ratio, head, keys);
            agreement.add(&mine.query.row(0), &theirs.query.row(0), inverse, head, queries);
        }
        for (which, (mine, theirs)) in self.divided(other).into_iter().enumerate() {
            agreement.head_epsilons.extend(mine.epsilon(theirs, which));
        }
    }
}

impl Channel {
    /// Whether keys and queries are equal as they stand.
    fn equals(&self, other: &Channel, units: f64) -> bool {
        let equal = |a: &Bounded, b: &Bounded| a.row(0).equals(&b.row(0), Ratio::ONE, units);
        self.has_frequency(other.frequency)
            && equal(&self.key, &other.key)
            && equal(&self.query, &other.query)
    }

    fn has_frequency(&self, frequency: f64) -> bool {
        (self.frequency - frequency).abs() <= 1e-12 * self.frequency.abs()
    }

    /// The ratio of the keys, if the two are equal: opposite ratios cancel in the product. Keys
    /// that cannot be told from zero have no ratio; then both factors must be equal as they stand.
    fn ratio(&self, other: &Channel, units: f64) -> Option<Ratio> {
        if !self.has_frequency(other.frequency) {
            return None;
        }
        let ratio = self.key.row(0).ratio(&other.key.row(0), units);
        let Some(ratio) = ratio.filter(|ratio| ratio.is_known()) else {
            return self.equals(other, units).then_some(Ratio::ONE);
        };
        let queries = (self.query.row(0), other.query.row(0));
        queries.0.equals(&queries.1, ratio.inverse(), units).then_some(ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn channel(key: [f64; 2], query: [f64; 2]) -> Channel {
        let row = |[a, b]: [f64; 2]| Bounded::stored(array![[a, b]], 1e-9, 0.0);
        let (key, query) = (row(key), row(query));
        Channel { frequency: 0.0, key, query, key_period: 0, query_period: 0 }
    }

    fn empty() -> Pattern {
        let distances = Bounded::zeros(1, 0);
        let (normed, denominators) = (None, Default::default());
        Pattern { channels: Vec::new(), zeros: Vec::new(), distances, normed, denominators }
    }

    fn pattern(channel: Channel) -> Pattern {
        Pattern { channels: vec![channel], ..empty() }
    }

    /// Whether the two are equal, whichever is held against the other.
    fn same(one: &Pattern, other: &Pattern) -> bool {
        let equal = [one.equals(&other.into(), UNITS), other.equals(&one.into(), UNITS)];
        assert_eq!(equal[0], equal[1]);
        equal[0]
    }

    #[test]
    fn heads_may_be_alike_that_multiply_others_by_zero() {
        let nothing = [0.0, 0.0];
        let zero = |key, query| Pattern { zeros: vec![channel(key, query)], ..empty() };
        let (queries, keys) = (zero(nothing, [0.3, -0.4]), zero([6.0, -8.0], nothing));
        let mut alike = Alike::from(&queries);
        let mut noise = pattern(channel([6.0, -8.0], [1e-9, 0.0]));
        noise.channels[0].query.variance.fill(1e-18);
        assert!(!noise.equals(&alike, UNITS));
        alike.add(&keys);
        assert!(noise.equals(&alike, UNITS));
        // The queries that are multiplied by zero are no measure of keys.
        noise.channels[0].key.value *= 5.0;
        assert!(!noise.equals(&alike, UNITS));
    }

    #[test]
    fn a_channel_may_stand_for_one_that_rounding_took() {
        let small = pattern(channel([1e-4, 0.0], [6.0, -8.0]));
        let mut taken = channel([0.0, 0.0], [6.0, -8.0]);
        taken.key.variance.fill(1e-8);
        let taken = Pattern { zeros: vec![taken], ..empty() };
        assert!(same(&small, &taken));
        let large = pattern(channel([1e-2, 0.0], [6.0, -8.0]));
        assert!(!same(&large, &taken));
    }

    #[test]
    fn a_channel_is_negligible_where_one_factor_is_zero_and_the_other_is_no_giant() {
        let nothing = [0.0, 0.0];
        let (some, none) = (pattern(channel([3.0, -4.0], [6.0, -8.0])), Silent::default());
        let negligible = |key, query| some.is_negligible(&channel(key, query), none, UNITS);
        // Four times what stands there in the other channel.
        assert!(negligible(nothing, [-24.0, 32.0]) && negligible([12.0, -16.0], nothing));
        assert!(!negligible(nothing, [-24.0, 33.0]) && !negligible([12.0, -17.0], nothing));
        assert!(negligible(nothing, nothing) && !negligible([1e-3, 0.0], [1e-3, 0.0]));
    }

    #[test]
    fn a_channel_turns_at_one_frequency() {
        let at = |frequency| Channel { frequency, ..channel([3.0, -4.0], [6.0, -8.0]) };
        let ratio = |frequency: f64| at(frequency).ratio(&at(1e-4), UNITS).map(|r| r.factor);
        assert_eq!([1e-4, 1e-4 * (1.0 + 1e-14)].map(ratio), [Some(1.0); 2]);
        assert_eq!([1.0001e-4, 1e-4 * (1.0 + 1e-9)].map(ratio), [None; 2]);
    }

    #[test]
    fn several_channels_may_stand_for_one_that_is_multiplied_by_zero() {
        let zero = Pattern { zeros: vec![channel([0.0, 0.0], [6.0, -8.0])], ..empty() };
        let noise = |query| channel([1e-9, 0.0], query);
        let mut copies = pattern(noise([4.0, -5.0]));
        copies.channels[0].key.variance.fill(1e-18);
        copies
            .channels
            .push(Channel { query: copies.channels[0].query.clone(), ..noise([0.0; 2]) });
        copies.channels[1].key.variance.fill(1e-18);
        assert!(same(&copies, &zero));
        // A giant makes something of what rounding left, and nothing is what a zero key alone may
        // be taken for.
        copies.channels[1].query.value *= 10.0;
        assert!(!same(&copies, &zero));
        assert!(!same(&pattern(noise([4.0, -5.0])), &empty()));
    }
}
