//! Embeddings: every writer in front of the first layer writes the expanded stream.
//!
//! Tables, prefix tokens and patch convolution are summed into the stream, and E is linear, so
//! mapping every row of every one of them maps the sum, for inputs that no test reaches as well
//! (LEMON, section 4.3).
//!
//! Where the model multiplies a table by a factor in code (Gemma: c = sqrt(hidden)), the rows make
//! up for its change: E·c_S/c_T. Where a projection stands behind a table (OPT), the table stays and
//! the projection writes the stream.

use super::linear::Duty;
use super::norm;
use super::plan::{Job, Ports, Rule, linear_jobs};
use super::rules::Map;
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::model::{Embedding, Table};
use std::sync::Arc;

/// Expands the embedding.
///
/// # Errors
/// As [`norm::jobs`], and if a norm of the sum cannot write the stream.
pub(super) fn jobs(source: &Embedding, expanded: &Embedding, stream: &Stream) -> Result<Vec<Job>> {
    let sum = match &source.norm {
        Some(norm) => stream.in_front_of(norm.kind),
        None => stream.map.clone(),
    };
    let mut jobs = Vec::new();
    for (from, to) in source.tables.iter().zip(&expanded.tables) {
        let map = scaled_map((from, to), &sum);
        jobs.push(Job::new(&from.lens, &to.lens, Rule::Table { map: Arc::new(map) }));
        if let (Some(from), Some(to)) = (&from.projection, &to.projection) {
            let columns = Arc::new(Map::identity(from.weight.cols()));
            let ports = Ports { read: columns, write: sum.clone() };
            jobs.extend(linear_jobs(from, to, &ports, Duty::Same));
        }
    }
    let prefix = source.prefix.iter().zip(&expanded.prefix);
    jobs.extend(prefix.map(|(from, to)| Job::new(from, to, Rule::Table { map: sum.clone() })));
    if let (Some(from), Some(to)) = (&source.patch, &expanded.patch) {
        let taps = Arc::new(Map::identity(from.weight.cols()));
        let ports = Ports { read: taps, write: sum.clone() };
        jobs.extend(linear_jobs(from, to, &ports, Duty::Same));
    }
    if let (Some(from), Some(to)) = (&source.norm, &expanded.norm) {
        let (made, written) = norm::jobs(from, to, &sum, stream.map.scale())?;
        if written != stream.map {
            return Err(Error::unsupported("the norm of the embedding cannot write the stream"));
        }
        jobs.extend(made);
    }
    Ok(jobs)
}

/// The map of a table's rows, in a model whose stream has the map of `stream`.
pub(super) fn table_map(tables: (&Table, &Table), stream: &Stream) -> Map {
    scaled_map(tables, &stream.map)
}

fn scaled_map((from, to): (&Table, &Table), sum: &Map) -> Map {
    let map = match from.projection {
        Some(_) => Map::identity(from.lens.cols()),
        None => sum.clone(),
    };
    if from.scale == to.scale { map } else { map.scaled(from.scale / to.scale) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Lens, Linear, NormKind, TableIndex};

    fn table(hidden: usize, scale: f64) -> Table {
        let lens = Lens::matrix("table", Dim::new(3, "rows"), [Dim::new(hidden, "hidden")]);
        Table { scale, ..Table::plain(TableIndex::Token, lens) }
    }

    #[test]
    fn rows_make_up_for_a_factor_in_code() {
        let stream = Stream::before(NormKind::Rms, true, 4, 9);
        let map = table_map((&table(4, 2.0), &table(9, 3.0)), &stream);
        assert_eq!(map, Map::zero(4, 9).scaled(2.0 / 3.0));
    }

    #[test]
    fn a_table_in_front_of_a_projection_stays() {
        let stream = Stream::before(NormKind::Layer, true, 4, 9);
        let projected = |hidden| {
            let (rows, columns) = (Dim::new(hidden, "hidden"), Dim::new(2, "projection"));
            let projection = Linear::named("project_in", &rows, &columns, false);
            Table { projection: Some(projection), ..table(2, 1.0) }
        };
        let map = table_map((&projected(4), &projected(9)), &stream);
        assert_eq!(map, Map::identity(2));
    }
}
