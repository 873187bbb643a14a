//! Which tensor a failing convolution is told by.

use super::alike::Alike;
use super::fold::{Folded, Norm, Part, Reader};
use crate::certify::bounded::{Bounded, Ratio, Row, UNITS};
use crate::certify::certificate::Failure;
use crate::certify::squares::{Place, Residual, failure};
use crate::error::Result;
use crate::model::Lens;
use crate::model::convolutional::Block;
use ndarray::Array1;

/// A failure told by the tensor of a norm, if all else in the worst row is as in the source, and
/// by the tensor that holds the worst entry if not.
pub(super) fn failed(
    place: &str,
    (residual, map): (&Residual, &Alike),
    (s, t): (&Folded, &Folded),
) -> Failure {
    let rule = "folded convolutions, summed over copied channels, must be copies of the source's";
    let (row, column) = residual.worst;
    let (tensor, index) = t.origin(row, column);
    let (source_tensor, _) = s.origin(0, column);
    let told = |tensors, index| {
        let place = Place { name: place, tensors };
        failure(rule, place, residual, index, None)
    };
    let member = map.expanded.of.get(row).copied().flatten();
    let first = map.expected(member).map(|(first, _)| first);
    match first.and_then(|first| wrong_vector((s, first), (t, row))) {
        None => told((tensor, source_tensor), index),
        Some(wrong) => Failure {
            expected: wrong.expected,
            got: wrong.got,
            ..told((wrong.tensor, wrong.source), wrong.tensor.stored_index(row, 0))
        },
    }
}

impl Reader<'_> {
    /// The first number that is not zero of the last norm of that block of a stage whose norm has
    /// fewest, if these are few: one that should write nothing, perhaps.
    pub fn speaks(&self, blocks: &[Block], stage: usize, reason: &str) -> Result<Option<Failure>> {
        let mut found = Vec::new();
        for (number, block) in blocks.iter().enumerate().filter(|(_, b)| b.shortcut.is_none()) {
            let norm = &block.convolutions[block.convolutions.len() - 1].norm;
            let mut spoken = Vec::new();
            for lens in [&norm.weight, &norm.bias] {
                let values = lens.read(self.checkpoint)?;
                let rows = values.column(0).to_owned().into_iter().enumerate();
                spoken
                    .extend(rows.filter(|(_, value)| *value != 0.0).map(|(row, v)| (lens, row, v)));
            }
            if let Some(first) = spoken.first()
                && spoken.len() < norm.weight.rows()
            {
                found.push((spoken.len(), number, *first));
            }
        }
        let least = found.into_iter().min_by_key(|(count, ..)| *count);
        Ok(least.map(|(wrong, number, (lens, row, value))| {
            let mut residual = Residual::new(0.0);
            residual.add_entry((row, 0), value, 0.0, f64::MIN_POSITIVE);
            let place = format!("stage {stage} block {number}");
            let place = Place { name: &place, tensors: (lens, lens) };
            let index = lens.stored_index(row, 0);
            let rule = "a new block must write nothing";
            Failure { wrong, ..failure(rule, place, &residual, index, Some(reason.into())) }
        }))
    }
}

/// A number of a norm that is not the source's.
struct Wrong<'a> {
    tensor: &'a Lens,
    source: &'a Lens,
    expected: f64,
    got: f64,
}

/// The only thing that differs between a row of the expanded network and a row of the source, if
/// it is a number of a norm.
fn wrong_vector<'a>(
    (s, source): (&'a Folded, usize),
    (t, row): (&'a Folded, usize),
) -> Option<Wrong<'a>> {
    let mut wrong = None;
    let mut column = 0;
    for (a, b) in s.parts.iter().zip(&t.parts) {
        if a.columns != b.columns || a.norm.is_some() != b.norm.is_some() {
            return None;
        }
        if !same_weights((&s.rows, a, source), (&t.rows, b, row), column) {
            return None;
        }
        column += a.columns;
        let (Some(a), Some(b)) = (&a.norm, &b.norm) else { continue };
        for ((source_lens, x), (lens, y)) in a.vectors.iter().zip(&b.vectors) {
            if y.row(row).equals(&x.row(source), Ratio::ONE, UNITS) {
                continue;
            }
            let (expected, got) = (x.value[[source, 0]], y.value[[row, 0]]);
            let found = Wrong { tensor: lens, source: source_lens, expected, got };
            if wrong.replace(found).is_some() {
                return None;
            }
        }
    }
    wrong
}

/// Whether the weights in front of two norms are equal, which stand in the columns from `first` on.
fn same_weights(
    (source, a, i): (&Bounded, &Part, usize),
    (expanded, b, j): (&Bounded, &Part, usize),
    first: usize,
) -> bool {
    let factor =
        |norm: &Option<Norm>, row| norm.as_ref().map_or(1.0, |norm| norm.factor.value[[row, 0]]);
    let (f, g) = (factor(&a.norm, i), factor(&b.norm, j));
    if f == 0.0 || g == 0.0 {
        return false;
    }
    let part = |rows: &Bounded, row| {
        let slice = ndarray::s![first..first + a.columns];
        let row: Row = rows.row(row);
        (row.value.slice(slice).to_owned(), row.variance.slice(slice).to_owned())
    };
    let (own, theirs) = (part(source, i), part(expanded, j));
    let of = |(value, variance): &(Array1<f64>, Array1<f64>), at: usize| (value[at], variance[at]);
    (0..a.columns).all(|column| same_quotient((of(&own, column), f), (of(&theirs, column), g)))
}

/// Whether two numbers, each with its variance and a factor on both, are one without the factors.
fn same_quotient(
    ((x, x_variance), f): ((f64, f64), f64),
    ((y, y_variance), g): ((f64, f64), f64),
) -> bool {
    let apart = y / g - x / f;
    apart * apart <= UNITS * UNITS * (y_variance / (g * g) + x_variance / (f * f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_without_the_factors_of_their_norms() {
        // 2/4 and 5/10, each known to 1/100 of itself.
        let (x, y) = (((2.0, 4e-4), 4.0), ((5.0, 25e-4), 10.0));
        assert!(same_quotient(x, y) && same_quotient(y, x));
        let off = |by: f64| ((5.0 * (1.0 + by), 25e-4), 10.0);
        assert!(same_quotient(x, off(0.11)) && same_quotient(off(0.11), x));
        assert!(!same_quotient(x, off(0.12)) && !same_quotient(off(0.12), x));
        assert!(same_quotient(((2.0, 0.0), 4.0), off(0.07)));
        assert!(!same_quotient(((2.0, 0.0), 4.0), off(0.09)));
    }
}
