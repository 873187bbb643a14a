//! Attention: heads that are copies.

use super::super::agreement::Agreement;
use super::super::bounded::{Bounded, Ratio};
use super::super::cluster::Member;
use super::super::map::Map;
use super::super::ops::value_rows;
use super::super::reader::Reader;
use super::fan_out::FanOut;
use super::meet::{Bundle, Operand, each};
use super::mlp::{factor_error, groups};
use super::{Inside, copies, operands, propose};
use crate::error::Result;
use crate::model::Attention;

/// For each head of the expanded model the source's that it copies.
struct Heads {
    queries: Vec<Option<usize>>,
    /// Of key/value heads.
    keys: Vec<Option<usize>>,
}

/// Holds an attention; `None` where that takes whole matrices.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn hold(
    (map, modulo_one): (&Map, bool),
    readers: (&Reader, &Reader),
    (s, t): (&Attention, &Attention),
) -> Result<Option<Inside>> {
    if !plain(s) || !plain(t) || s.head_dim != t.head_dim || s.rotary != t.rotary {
        return Ok(None);
    }
    let Some(mut queries) = operands(readers, (&s.query, &t.query))? else { return Ok(None) };
    let Some(keys) = operands(readers, (&s.key, &t.key))? else { return Ok(None) };
    let Some(values) = operands(readers, (&s.value, &t.value))? else { return Ok(None) };
    queries.0.times(s.scale);
    queries.1.times(t.scale);
    let unit = readers.1.side.unit(&t.query.weight).max(readers.1.side.unit(&t.key.weight));
    let heads = Heads::propose((&queries, &keys), (s, t), unit);
    let Some(heads) = heads else { return Ok(None) };
    // A pattern is a product: the norm's weight is in both of its factors.
    let shared = readers.1.shared;
    let mut agreement = Agreement::new(2.0 * shared);
    let Some((ratios, constants)) =
        held_heads(&heads, s, [&queries, &keys, &values], &mut agreement)
    else {
        return Ok(None);
    };
    let (of, size) = (value_rows(t), t.head_dim);
    let member = |channel: usize| -> Member {
        let head = heads.queries[channel / size]?;
        Some((head * size + channel % size, ratios[of[channel]]))
    };
    let members: Vec<Member> = (0..of.len()).map(member).collect();
    let fan_out = FanOut {
        sides: (readers.0.side, readers.1.side),
        writers: (&s.output, &t.output),
        constants: Some((constants.0.pick(&value_rows(s)), constants.1.pick(&of))),
        members: &members,
        units: (size, copies(s.heads, &heads.queries)),
        map,
        modulo_one,
        shared: shared + map.scale_error + factor_error(&members),
    };
    let Some(written) = fan_out.hold()? else { return Ok(None) };
    let groups = groups(s.heads * size, members);
    Ok(Some(Inside { agreement, groups, written }))
}

/// Whether logits are products of queries and keys, and nothing else.
fn plain(attention: &Attention) -> bool {
    let turns = |rotary: &crate::model::Rotary| rotary.frequencies.iter().all(|f| *f != 0.0);
    !attention.reads_encoder
        && attention.softcap.is_none()
        && attention.head_norms.is_none()
        && attention.relative.is_none()
        && attention.rotary.as_ref().is_none_or(turns)
}

impl Heads {
    /// By the first channel of each; `None` if heads that share a key do not copy heads that do.
    fn propose(
        (queries, keys): (&(Operand, Operand), &(Operand, Operand)),
        (s, t): (&Attention, &Attention),
        unit: f64,
    ) -> Option<Heads> {
        let firsts = |operand: &Operand, heads: usize| {
            propose::samples(operand, (0..heads).map(|head| head * s.head_dim))
        };
        let seen = (firsts(&keys.0, s.kv_heads), firsts(&keys.1, t.kv_heads));
        let all: Vec<usize> = (0..s.kv_heads).collect();
        let key =
            |(head, sample)| propose::multiple(sample, &seen.0, (&all, head % s.kv_heads), unit);
        let keys: Vec<Option<usize>> = seen.1.iter().enumerate().map(key).collect();
        let seen = (firsts(&queries.0, s.heads), firsts(&queries.1, t.heads));
        let group = (s.heads / s.kv_heads, t.heads / t.kv_heads);
        let query = |(head, sample): (usize, _)| {
            let key = keys[head / group.1]?;
            let candidates: Vec<usize> = (key * group.0..(key + 1) * group.0).collect();
            propose::multiple(sample, &seen.0, (&candidates, head % s.heads), unit)
        };
        let queries: Vec<Option<usize>> = seen.1.iter().enumerate().map(query).collect();
        Some(Heads { queries, keys })
    }
}

/// Holds queries, keys and values; gives the factor of each value row, and the constants of both
/// models' values, `[kv_heads·head_dim, 1]`.
fn held_heads(
    heads: &Heads,
    s: &Attention,
    [queries, keys, values]: [&(Operand, Operand); 3],
    agreement: &mut Agreement,
) -> Option<(Vec<Ratio>, (Bounded, Bounded))> {
    let size = s.head_dim;
    let mut room = Default::default();
    let turned = s.rotary.as_ref().map_or(0, |rotary| rotary.frequencies.len());
    // Channels that are turned as a pair are one; their biases count for the keys too.
    let parts: [Vec<Vec<usize>>; 2] = [
        (0..turned).map(|c| vec![c, c + turned]).collect(),
        (2 * turned..size).map(|c| vec![c]).collect(),
    ];
    let mut ratios = vec![Ratio::ONE; heads.keys.len() * size];
    for (part, channels) in parts.iter().enumerate() {
        let with_bias = part == 0;
        let bundles = bundles(s.kv_heads, &heads.keys, (size, channels));
        each(&keys.0, &keys.1, &bundles, |met| {
            let ratio = met.ratio(with_bias).filter(|ratio| ratio.is_known())?;
            ratios[bundles[met.bundle].copies[met.copy][0]] = ratio;
            met.agree(ratio, with_bias, agreement, &mut room)
        })?;
    }
    for channels in &parts {
        let bundles = bundles(s.heads, &heads.queries, (size, channels));
        let group = (heads.queries.len() / heads.keys.len()).max(1);
        each(&queries.0, &queries.1, &bundles, |met| {
            let row = bundles[met.bundle].copies[met.copy][0];
            let key = row / size / group * size + row % size;
            met.agree(ratios[key].inverse(), true, agreement, &mut room)
        })?;
    }
    let all: Vec<Vec<usize>> = (0..size).map(|c| vec![c]).collect();
    let bundles = bundles(s.kv_heads, &heads.keys, (size, &all));
    let count = |heads: usize| Bounded::zeros(heads * size, 1);
    let mut constants = (count(s.kv_heads), count(heads.keys.len()));
    each(&values.0, &values.1, &bundles, |met| {
        let (from, to) = (bundles[met.bundle].source[0], bundles[met.bundle].copies[met.copy][0]);
        let ratio = met.ratio(false).filter(|ratio| ratio.is_known())?;
        ratios[to] = ratio;
        let set = |column: &mut Bounded, row: usize, bias: (f64, f64)| {
            (column.value[[row, 0]], column.variance[[row, 0]]) = bias;
        };
        let (source, expanded) = met.first();
        set(&mut constants.0, from, source.bias);
        set(&mut constants.1, to, expanded.bias);
        met.agree(ratio, false, agreement, &mut room)
    })?;
    for (operand, of) in
        [(&queries.1, &heads.queries), (&keys.1, &heads.keys), (&values.1, &heads.keys)]
    {
        let strangers = (0..of.len()).filter(|head| of[*head].is_none());
        let rows: Vec<usize> = strangers.flat_map(|head| head * size..(head + 1) * size).collect();
        operand.rows.finite(&rows)?;
    }
    Some((ratios, constants))
}

/// One bundle for each of the source's heads and each of `channels` (numbers within a head).
fn bundles(
    heads: usize,
    of: &[Option<usize>],
    (size, channels): (usize, &[Vec<usize>]),
) -> Vec<Bundle> {
    let copies = |head: usize| (0..of.len()).filter(move |copy| of[*copy] == Some(head));
    let rows =
        |head: usize, channel: &Vec<usize>| channel.iter().map(|c| head * size + c).collect();
    let bundle = |head: usize, channel: &Vec<usize>| Bundle {
        source: rows(head, channel),
        copies: copies(head).map(|copy| rows(copy, channel)).collect(),
    };
    (0..heads).flat_map(|head| channels.iter().map(move |c| bundle(head, c))).collect()
}
