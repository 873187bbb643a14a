//! Attention: heads are copied, and each one's output block is split over its copies.
//!
//! Copied heads see equal logits and equal values, so they return what the head returned, and
//! blocks of the output matrix that sum to its block add up to the same (LEMON, section 4.2). More
//! channels per head: value channels are copied like neurons; for the logits, new query channels
//! are zero, so that new key channels may be anything; and the query makes up for a change of the
//! logit scale.
//!
//! A norm of each head's queries and keys (QK-norm) reads what it read, and all copies share its γ,
//! as all heads did; it undoes a scale in front of it, so that γ makes up for the logit scale. It
//! would see new channels, so that the head size stays.

use super::Free;
use super::linear::Duty;
use super::maps::{Entry, Map};
use super::norm;
use super::plan::{Job, Ports, linear_jobs};
use crate::error::{Error, Result};
use crate::model::{Attention, Norm, Rotary};
use std::sync::Arc;

/// Which source heads the expanded heads copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    /// For each query head.
    pub query: Vec<usize>,
    /// For each key/value head.
    pub key_value: Vec<usize>,
}

/// Copies heads so that every copied query head reads a copy of the key/value head that it read:
/// `query[h] / group_source == key_value[h / group_expanded]`. Key/value heads go round; the query
/// heads that read copies of one key/value head go round among its query heads. Counts are
/// `(query heads, key/value heads)`; `None` where some query head would have no copy.
pub(super) fn copy_heads(source: (usize, usize), expanded: (usize, usize)) -> Option<Heads> {
    let (from, to) = (source.0 / source.1, expanded.0 / expanded.1);
    if expanded.1 < source.1 * from.div_ceil(to) {
        return None;
    }
    let key_value: Vec<usize> = (0..expanded.1).map(|head| head % source.1).collect();
    let query = (0..expanded.0).map(|head| {
        let (reads, place) = (head / to, head % to);
        let turn = reads / source.1 * to + place;
        key_value[reads] * from + turn % from
    });
    Some(Heads { query: query.collect(), key_value })
}

/// Expands attention between `ports`; `duty` is that of its output.
///
/// # Errors
/// If heads or rotary channels cannot be copied, or fan-outs are to cancel and a head has no second
/// copy.
pub(super) fn jobs(
    source: &Attention,
    expanded: &Attention,
    ports: &Ports,
    duty: Duty,
    free: Free,
) -> Result<Vec<Job>> {
    let (from, to) = ((source.heads, source.kv_heads), (expanded.heads, expanded.kv_heads));
    let heads = copy_heads(from, to).ok_or_else(|| {
        Error::refused(format!("{from:?} query and key/value heads cannot be copied to {to:?}"))
    })?;
    let query_heads = Map::copies(source.heads, heads.query);
    let key_heads = Map::copies(source.kv_heads, heads.key_value);
    let values = Map::circular(source.head_dim, expanded.head_dim);
    let logits = logit_channels(source, expanded)?;
    let mixed = Arc::new(query_heads.within_heads(&values));
    if duty == Duty::Cancel && !mixed.replicates() {
        return Err(Error::refused(format!(
            "fan-outs of {} heads, copies of {}, cannot cancel: each needs a second copy",
            expanded.heads, source.heads
        ))
        .help(format!("ask for at least {} heads, or for new layers of zeros", 2 * source.heads)));
    }
    // A new key channel must not be zero beside a zero query channel: neither would ever learn. A
    // copy of an old one, or random numbers, will do.
    let (keys, key_duty) = match free {
        Free::Projection => (logits.clone(), Duty::SameOrAnything),
        Free::Equal | Free::Zero => (logits.filled_from(&values), Duty::Same),
    };
    let ratio = source.scale / expanded.scale;
    let mut norms = Vec::new();
    if let (Some(from), Some(to)) = (&source.head_norms, &expanded.head_norms) {
        norms = head_norm_jobs((&from.query, &to.query), &logits, ratio)?;
        norms.extend(head_norm_jobs((&from.key, &to.key), &logits, 1.0)?);
    }
    let in_query = if norms.is_empty() { ratio } else { 1.0 };
    let query = Arc::new(query_heads.within_heads(&logits).scaled(in_query));
    let key = Arc::new(key_heads.within_heads(&keys));
    let value = Arc::new(key_heads.within_heads(&values));
    let into = |write: Arc<Map>| Ports { read: ports.read.clone(), write };
    let out = Ports { read: mixed, write: ports.write.clone() };
    Ok([
        norms,
        linear_jobs(&source.query, &expanded.query, &into(query), Duty::Same),
        linear_jobs(&source.key, &expanded.key, &into(key), key_duty),
        linear_jobs(&source.value, &expanded.value, &into(value), Duty::Same),
        linear_jobs(&source.output, &expanded.output, &out, duty),
    ]
    .concat())
}

/// Expands a norm of heads, which must write what it wrote times `scale`.
fn head_norm_jobs((from, to): (&Norm, &Norm), heads: &Map, scale: f64) -> Result<Vec<Job>> {
    if *heads != Map::identity(heads.sources()) {
        return Err(Error::refused(
            "norms of queries and keys (QK-norm) see every channel of a head",
        )
        .field("head_dim")
        .help(format!("keep heads of {} channels, and ask for more heads", heads.sources())));
    }
    let (jobs, written) = norm::jobs(from, to, heads, scale)?;
    if written.scale() == scale {
        return Ok(jobs);
    }
    Err(Error::unsupported("a norm of queries without a weight cannot keep the logits' scale"))
}

/// Where the channels of a query or key head go: to the front, or, with rotary positions, each pair
/// to one that turns at the same frequency and the others behind them.
fn logit_channels(source: &Attention, expanded: &Attention) -> Result<Map> {
    let sizes = (source.head_dim, expanded.head_dim);
    match (&source.rotary, &expanded.rotary) {
        (None, None) => Ok(Map::padded(sizes.0, sizes.1)),
        (Some(from), Some(to)) => match_channels((from, to), sizes).ok_or_else(|| {
            Error::refused(format!(
                "rotary positions turn {} of {} channels per head at frequencies that {} channels \
                 lack",
                2 * from.frequencies.len(),
                sizes.0,
                sizes.1
            ))
            .field("head_dim")
            .help(format!("use a multiple of {}, or more heads instead", sizes.0))
        }),
        _ => Err(Error::unsupported("only one of the two models has rotary positions")),
    }
}

/// Where `sizes.0` channels go among `sizes.1`: pair (i, i + n) to a pair of the same frequency, and
/// channels that are not turned to such channels; `None` where one finds no place.
pub(super) fn match_channels(
    (source, expanded): (&Rotary, &Rotary),
    sizes: (usize, usize),
) -> Option<Map> {
    let turned = match_frequencies(source, expanded)?;
    let (from, to) = (turned.sources(), turned.len());
    let rest = (sizes.0.checked_sub(from)?, sizes.1.checked_sub(to)?);
    if rest.1 < rest.0 {
        return None;
    }
    let others = (0..rest.1).map(|i| if i < rest.0 { Entry::Copy(from + i) } else { Entry::Zero });
    Some(Map::new(sizes.0, turned.entries().iter().copied().chain(others)))
}

/// The channel map that sends pair (i, i + n) to a pair of the same frequency, if there is one for
/// each. Frequencies are compared by value: they are what the model computes with.
fn match_frequencies(source: &Rotary, expanded: &Rotary) -> Option<Map> {
    let (from, to) = (&source.frequencies, &expanded.frequencies);
    let mut entries = vec![Entry::Zero; 2 * to.len()];
    for (pair, wanted) in from.iter().enumerate() {
        let same = |got: &f64| (got - wanted).abs() <= 1e-13 * wanted;
        let (place, _) = to
            .iter()
            .enumerate()
            .find(|(place, got)| entries[*place] == Entry::Zero && same(got))?;
        entries[place] = Entry::Copy(pair);
        entries[place + to.len()] = Entry::Copy(pair + from.len());
    }
    Some(Map::new(2 * from.len(), entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(head_dim: usize) -> Rotary {
        let frequency = |pair: usize| 10_000f64.powf(-2.0 * pair as f64 / head_dim as f64);
        Rotary { frequencies: (0..head_dim / 2).map(frequency).collect() }
    }

    #[test]
    fn grouped_heads_are_copied_beside_what_they_read() {
        let heads = copy_heads((4, 2), (8, 2)).unwrap();
        assert_eq!(heads.query, [0, 1, 0, 1, 2, 3, 2, 3]);
        assert_eq!(heads.key_value, [0, 1]);
        let plain = copy_heads((3, 3), (5, 5)).unwrap();
        assert_eq!(plain.query, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn every_possible_head_map_reads_right_and_covers_every_head() {
        for groups in [(4, 2), (6, 2), (4, 4), (4, 1), (6, 3)] {
            let mut possible = 0;
            for kv_heads in groups.1..=12 {
                for heads in (groups.0..=24).filter(|h| h % kv_heads == 0) {
                    let Some(copies) = copy_heads(groups, (heads, kv_heads)) else { continue };
                    possible += 1;
                    let (from, to) = (groups.0 / groups.1, heads / kv_heads);
                    for (head, copy) in copies.query.iter().enumerate() {
                        assert_eq!(copy / from, copies.key_value[head / to]);
                    }
                    assert!((0..groups.0).all(|h| copies.query.contains(&h)));
                }
            }
            assert!(possible > 5, "{groups:?}");
        }
    }

    #[test]
    fn too_few_key_value_heads_have_no_map() {
        assert_eq!(copy_heads((4, 4), (8, 2)), None);
        assert_eq!(copy_heads((6, 2), (6, 3)), None);
    }

    #[test]
    fn rotary_pairs_go_to_their_frequency_not_to_their_index() {
        let map = match_frequencies(&rotary(4), &rotary(8)).unwrap();
        let (c, zero) = (Entry::Copy, Entry::Zero);
        assert_eq!(map.entries(), [c(0), zero, c(1), zero, c(2), zero, c(3), zero]);
        assert_eq!(match_frequencies(&rotary(4), &rotary(6)), None);
    }

    #[test]
    fn channels_that_are_not_turned_stay_so() {
        let (c, zero) = (Entry::Copy, Entry::Zero);
        let map = match_channels((&rotary(2), &rotary(2)), (3, 5)).unwrap();
        assert_eq!(map.entries(), [c(0), c(1), c(2), zero, zero]);
        assert_eq!(match_channels((&rotary(2), &rotary(4)), (3, 4)), None, "no place is left");
        let map = match_channels((&rotary(2), &rotary(4)), (3, 5)).unwrap();
        assert_eq!(map.entries(), [c(0), zero, c(1), zero, c(2)]);
    }
}
