//! Tables of the embedding, row by row: every row maps to the expanded stream as it stands.

use super::super::discover::Part;
use super::super::map::{Entry, Map};
use super::super::side::Side;
use super::super::squares::Residual;
use super::super::stored::StoredRows;
use super::fold::sum;
use crate::error::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Rows that one thread takes at a time.
const BLOCK: usize = 1024;

/// Rows that are read together.
const TOGETHER: usize = 16;

/// Holds a part whose lenses are `[rows, hidden]`.
///
/// # Errors
/// If a tensor cannot be read, or holds a number that is not finite.
pub(in crate::certify) fn residual(
    (source, expanded): (&Side, &Side),
    part: &Part,
    map: &Map,
) -> Result<Residual> {
    let rows = (StoredRows::new(source, part.source)?, StoredRows::new(expanded, part.expanded)?);
    let scale = if part.kept { 1.0 } else { map.scale };
    let table = Table {
        rows: &rows,
        factors: part.scale,
        runs: runs(map, part),
        scale,
        shared: map.scale_error,
    };
    let starts: Vec<usize> = (part.first()..part.rows()).step_by(BLOCK).collect();
    starts
        .into_par_iter()
        .map(|first| {
            let count = BLOCK.min(part.rows() - first);
            match table.hold(first..first + count) {
                Some(residual) => Ok(residual),
                // They name the number that is not finite.
                None => {
                    source.read_rows(part.source, first, count)?;
                    expanded.read_rows(part.expanded, first, count)?;
                    unreachable!("a number that is not finite is an error")
                }
            }
        })
        .try_reduce(|| Residual::new(map.scale_error), |a, b| Ok(a.merge(b)))
}

/// Columns in a row that hold the same: copies of columns in a row, the mean, or zero.
struct Run {
    columns: Range<usize>,
    entry: Entry,
}

/// The runs of a map; of a table that is kept as it is, one.
fn runs(map: &Map, part: &Part) -> Vec<Run> {
    if part.kept {
        let entry = Entry::Copy { of: 0, sign: 1.0 };
        return vec![Run { columns: 0..part.source.cols(), entry }];
    }
    joined(&map.entries)
}

fn joined(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (column, entry) in entries.iter().enumerate() {
        let continues = |run: &Run| match (run.entry, *entry) {
            (Entry::Copy { of, sign }, Entry::Copy { of: next, sign: other }) => {
                sign == other && of + run.columns.len() == next
            }
            (one, other) => one == other,
        };
        match runs.last_mut() {
            Some(run) if continues(run) => run.columns.end += 1,
            _ => runs.push(Run { columns: column..column + 1, entry: *entry }),
        }
    }
    runs
}

struct Table<'a> {
    rows: &'a (StoredRows<'a>, StoredRows<'a>),
    factors: (f64, f64),
    runs: Vec<Run>,
    /// Of the map.
    scale: f64,
    /// As in [`Residual::new`].
    shared: f64,
}

/// Numbers with their variances, a few rows of them.
#[derive(Default)]
struct Lines {
    values: Vec<f64>,
    variances: Vec<f64>,
}

impl Lines {
    fn read(&mut self, rows: &StoredRows, numbers: &[usize], factor: f64) -> Option<()> {
        let cols = rows.cols();
        let every = 0..cols;
        let whole = std::slice::from_ref(&every);
        rows.read(numbers, (whole, &[]), &mut self.values)?;
        self.variances.resize(self.values.len(), 0.0);
        let lines = self.values.chunks_exact_mut(cols).zip(self.variances.chunks_exact_mut(cols));
        for (number, (values, variances)) in numbers.iter().zip(lines) {
            rows.variances(*number, 0..cols, values, variances);
            if factor != 1.0 {
                values.iter_mut().for_each(|value| *value *= factor);
                variances.iter_mut().for_each(|variance| *variance *= factor * factor);
            }
        }
        Some(())
    }

    fn row(&self, place: usize, cols: usize) -> (&[f64], &[f64]) {
        let at = place * cols..(place + 1) * cols;
        (&self.values[at.clone()], &self.variances[at])
    }
}

impl Table<'_> {
    /// Holds some rows; `None` if a number is not finite.
    fn hold(&self, rows: Range<usize>) -> Option<Residual> {
        let mut residual = Residual::new(self.shared);
        let (mut own, mut theirs) = (Lines::default(), Lines::default());
        let (mut expected, mut variance) = (Vec::new(), Vec::new());
        let cols = (self.rows.0.cols(), self.rows.1.cols());
        let numbers: Vec<usize> = rows.collect();
        for numbers in numbers.chunks(TOGETHER) {
            own.read(&self.rows.0, numbers, self.factors.0)?;
            theirs.read(&self.rows.1, numbers, self.factors.1)?;
            for (place, number) in numbers.iter().enumerate() {
                self.image(own.row(place, cols.0), &mut expected, &mut variance);
                let (got, bounds) = theirs.row(place, cols.1);
                variance.iter_mut().zip(bounds).for_each(|(sum, bound)| *sum += bound);
                residual.add_row((*number, 0), got, &expected, &variance);
            }
        }
        Some(residual)
    }

    /// The image of a row of the source.
    fn image(
        &self,
        (row, bounds): (&[f64], &[f64]),
        value: &mut Vec<f64>,
        variance: &mut Vec<f64>,
    ) {
        let (scale, count) = (self.scale, row.len() as f64);
        value.clear();
        variance.clear();
        for Run { columns, entry } in &self.runs {
            let len = columns.len();
            match entry {
                Entry::Copy { of, sign } => {
                    let from = *of..of + len;
                    value.extend(row[from.clone()].iter().map(|value| scale * (sign * value)));
                    variance.extend(bounds[from].iter().map(|bound| scale * scale * bound));
                }
                Entry::Mean => {
                    let mean = scale * (sum(row) / count);
                    let bound = scale * scale * (sum(bounds) / (count * count));
                    value.resize(value.len() + len, mean);
                    variance.resize(variance.len() + len, bound);
                }
                Entry::Zero => {
                    value.resize(value.len() + len, 0.0);
                    variance.resize(variance.len() + len, 0.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_of_columns_that_come_from_columns_in_a_row() {
        let copy = |of, sign| Entry::Copy { of, sign };
        let entries = vec![
            copy(1, 1.0),
            copy(2, 1.0),
            copy(3, -1.0),
            copy(4, -1.0),
            copy(4, -1.0),
            Entry::Mean,
            Entry::Mean,
            Entry::Zero,
        ];
        let starts: Vec<(usize, usize)> =
            joined(&entries).iter().map(|run| (run.columns.start, run.columns.len())).collect();
        assert_eq!(starts, [(0, 2), (2, 2), (4, 1), (5, 2), (7, 1)]);
    }
}
