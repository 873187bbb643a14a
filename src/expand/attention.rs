//! Attention: heads are copied, and each one's output block is split over its copies.
//!
//! Copied heads see equal logits and equal values, so they return what the head returned, and
//! blocks of the output matrix that sum to its block add up to the same (LEMON, section 4.2). More
//! channels per head: value channels are copied like neurons; for the logits, new query channels
//! are zero, so that new key channels may be anything; and the query makes up for a change of the
//! logit scale.
//!
//! A bias for relative positions (T5) has a column for each head: copies of a head copy it. Layers
//! share one table, and so one map of heads.
//!
//! A norm of each head's queries and keys (QK-norm) reads what it read, and all copies share its γ,
//! as all heads did; it undoes a scale in front of it, so that γ makes up for the logit scale. It
//! would see new channels, so that the head size stays.

use super::Free;
use super::linear::Duty;
use super::norm;
use super::plan::{Job, Ports, Rule, linear_jobs};
use super::rules::{Map, copy_heads, rotary_channels};
use crate::error::{Error, Result};
use crate::model::{Attention, Norm};
use std::sync::Arc;

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
    let mut biases = Vec::new();
    if let (Some(from), Some(to)) = (&source.relative, &expanded.relative) {
        let rule = Rule::Table { map: Arc::new(query_heads.clone()) };
        biases.push(Job::new(&from.table, &to.table, rule));
    }
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
        biases,
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
        (Some(from), Some(to)) => rotary_channels(&from.frequencies, &to.frequencies, sizes)
            .ok_or_else(|| {
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
