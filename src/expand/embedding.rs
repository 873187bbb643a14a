//! Embeddings: every writer in front of the first layer writes the expanded stream.
//!
//! Tables, class token and patch convolution are summed into the stream, and E is linear, so
//! mapping every row of every one of them maps the sum, for inputs that no test reaches as well
//! (LEMON, section 4.3).

use super::linear::Duty;
use super::maps::Map;
use super::norm;
use super::plan::{Job, Ports, Rule, Stream, linear_jobs};
use crate::error::Result;
use crate::model::Embedding;
use std::sync::Arc;

/// Expands the embedding.
///
/// # Errors
/// As [`norm::jobs`].
pub(super) fn jobs(source: &Embedding, expanded: &Embedding, stream: &Stream) -> Result<Vec<Job>> {
    let table = |from, to| Job::new(from, to, Rule::Table { map: stream.map.clone() });
    let mut jobs = Vec::new();
    for (from, to) in source.tables.iter().zip(&expanded.tables) {
        jobs.push(table(&from.lens, &to.lens));
    }
    jobs.extend(source.prefix.iter().zip(&expanded.prefix).map(|(from, to)| table(from, to)));
    if let (Some(from), Some(to)) = (&source.patch, &expanded.patch) {
        let taps = Arc::new(Map::identity(from.weight.cols()));
        let ports = Ports { read: taps, write: stream.map.clone() };
        jobs.extend(linear_jobs(from, to, &ports, Duty::Same));
    }
    if let (Some(from), Some(to)) = (&source.norm, &expanded.norm) {
        jobs.extend(norm::jobs(from, to, stream, 1.0)?);
    }
    Ok(jobs)
}
