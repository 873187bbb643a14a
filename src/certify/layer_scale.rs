//! Blaming a LayerScale.
//!
//! A scale is wrong by itself if the equations hold with the source's scale, copied, in its place:
//! then the writer is as it should be.

use super::blame::Verdict;
use super::channels::equations;
use super::explain::{Blame, constant_ratio};
use super::map::{Entry, Map};
use super::ops::{scaled, writes};
use super::reader::Reader;
use super::squares::Residual;
use super::writes::Writes;
use crate::error::Result;
use crate::model::Op;

const SCALE: &str = "LayerScale must be the source's on every copy of a channel";

/// The expanded scale, if it alone is wrong.
pub(super) fn scale_fault<'a>(
    readers: (&Reader<'a>, &Reader<'a>),
    (source, expanded): (&Writes, &Op),
    (map, modulo_one): (&Map, bool),
) -> Result<Option<Verdict<'a>>> {
    let (Some(s), Some(t)) = (readers.0.scale, readers.1.scale) else { return Ok(None) };
    let (small, large) = (readers.0.side.read(s)?, readers.1.side.read(t)?);
    let mut copied = large.clone();
    for (i, entry) in map.entries.iter().enumerate() {
        if let Entry::Copy { of, .. } = entry {
            copied.value[[i, 0]] = small.value[[*of, 0]];
            copied.variance[[i, 0]] = small.variance[[*of, 0]];
        }
    }
    let residual = Residual::of(&large, &copied, 0.0);
    if residual.holds() {
        return Ok(None);
    }
    let mut other = writes(&Reader { scale: None, ..*readers.1 }, expanded)?;
    let copied = Some(copied);
    other.bias = scaled(other.bias, &copied);
    other.scale = copied;
    let shared = readers.1.shared;
    if !equations(Some(source), Some(&other), map, modulo_one, shared).hold() {
        return Ok(None);
    }
    let (at, cause) = (residual.worst, constant_ratio(&residual, &[]));
    Ok(Some((SCALE, Blame { tensor: t, source_tensor: s, at, residual, cause })))
}
