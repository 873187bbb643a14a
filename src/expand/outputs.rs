//! Outputs: from the stream to what the model returns.
//!
//! An untied head's columns are split over what it reads, as those of every linear layer are. A
//! tied head *is* the token table, and would return h times the logits
//! ([`super::rules::tied_growth`]): the norm in front of it divides γ and β by h.
//! A number in code between the two (T5's `hidden^−½`) changes with the width, and is part of h.

use super::embedding::table_map;
use super::linear::Duty;
use super::norm;
use super::plan::{Job, Ports, linear_jobs};
use super::rules::{Map, tied_growth};
use super::stream::Stream;
use crate::error::{Error, Result};
use crate::model::{Embedding, Linear, Model, Output, Step, Table};
use std::sync::Arc;

/// Expands the steps of an output.
///
/// # Errors
/// If a step cannot be expanded losslessly, or a tied head cannot be made up for.
pub(super) fn jobs(
    (source, expanded): (&Model, &Model),
    (from, to): (&Output, &Output),
    stream: &Stream,
) -> Result<Vec<Job>> {
    let embeddings = (&source.embedding, &expanded.embedding);
    let (jobs, read) = path_jobs(embeddings, from.name, (&from.steps, &to.steps), stream)?;
    if from.fixed && *read != Map::identity(read.sources()) {
        let problem = format!("the output `{}` would change its size", from.name);
        return Err(Error::unsupported(problem));
    }
    Ok(jobs)
}

/// Expands steps from the stream on; also gives the map of what they end with.
fn path_jobs(
    embeddings: (&Embedding, &Embedding),
    name: &str,
    (from, to): (&[Step], &[Step]),
    stream: &Stream,
) -> Result<(Vec<Job>, Arc<Map>)> {
    let mut jobs = Vec::new();
    let mut read = stream.map.clone();
    for (index, steps) in from.iter().zip(to).enumerate() {
        match steps {
            (Step::Position(_), Step::Position(_)) | (Step::MeanFrom(_), Step::MeanFrom(_)) => {}
            (Step::Activation(_), Step::Activation(_)) | (Step::Softcap(_), Step::Softcap(_))
                if read.commutes_with_activations() => {}
            (Step::Scale(from), Step::Scale(to)) => {
                read = Arc::new(Map::clone(&read).scaled(to / from));
            }
            (Step::Norm(from_norm), Step::Norm(to_norm)) => {
                let behind = (&from[index + 1..], &to[index + 1..]);
                let head = tied_behind(embeddings, behind.0);
                let divisor = head.map_or(1.0, |tables| {
                    let written = Map::zero(read.sources(), read.len()).scaled(factor(behind));
                    tied_growth(&table_map(tables, stream), &written)
                });
                let (made, written) = norm::jobs(from_norm, to_norm, &read, 1.0 / divisor)?;
                jobs.extend(made);
                read = written;
            }
            (Step::Linear(from_linear), Step::Linear(to_linear)) => {
                let rows = (from_linear.weight.rows(), to_linear.weight.rows());
                let write = Arc::new(Map::circular(rows.0, rows.1));
                let ports = Ports { read: read.clone(), write: write.clone() };
                let mut layer = linear_jobs(from_linear, to_linear, &ports, Duty::Same);
                if let Some(tables) = tied(embeddings, from_linear) {
                    check_growth(&table_map(tables, stream), &read, from_linear)?;
                    layer.remove(0);
                }
                jobs.extend(layer);
                read = write;
            }
            (Step::MeanWith(one), Step::MeanWith(two)) => {
                let (made, other) = path_jobs(embeddings, name, (one, two), stream)?;
                if other != read {
                    let problem = format!("the output `{name}` is a mean of two maps");
                    return Err(Error::unsupported(problem));
                }
                jobs.extend(made);
            }
            _ => {
                let problem = format!("no rule expands step {index} of the output `{name}`");
                return Err(Error::unsupported(problem));
            }
        }
    }
    Ok((jobs, read))
}

/// The table that a head is, in both models.
fn tied<'a>(
    (source, expanded): (&'a Embedding, &'a Embedding),
    head: &Linear,
) -> Option<(&'a Table, &'a Table)> {
    let mut tables = source.tables.iter().zip(&expanded.tables);
    tables.find(|(table, _)| table.lens.name() == head.weight.name())
}

/// The table that the next step of weight is, if it is a tied head.
fn tied_behind<'a>(
    embeddings: (&'a Embedding, &'a Embedding),
    steps: &[Step],
) -> Option<(&'a Table, &'a Table)> {
    let passes = |s: &&Step| matches!(s, Step::Position(_) | Step::MeanFrom(_) | Step::Scale(_));
    let next = steps.iter().find(|s| !passes(s));
    if let Some(Step::Linear(head)) = next { tied(embeddings, head) } else { None }
}

/// How much more the expanded model's numbers in front of the next layer with weights multiply.
fn factor((from, to): (&[Step], &[Step])) -> f64 {
    let in_front = from.iter().zip(to).take_while(|(step, _)| !matches!(step, Step::Linear(_)));
    let ratio = |steps: (&Step, &Step)| match steps {
        (Step::Scale(from), Step::Scale(to)) => to / from,
        _ => 1.0,
    };
    in_front.map(ratio).product()
}

fn check_growth(table: &Map, read: &Map, head: &Linear) -> Result<()> {
    let growth = tied_growth(table, read);
    if (growth - 1.0).abs() <= 1e-14 {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the head is the token table, which would multiply the logits by {growth}, and no weight \
         of a norm in front of it can make up for that"
    ))
    .tensor(head.weight.name())
    .help(format!(
        "keep the hidden size of {} and grow heads, neurons or layers, or untie the head first: \
         store a copy of the table as its weight and set `tie_word_embeddings` to false",
        table.sources()
    )))
}
