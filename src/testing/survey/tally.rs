//! Counts.

use super::{not_proven, verdict};
use crate::certify::Certificate;
use crate::check::Verdict;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use std::collections::BTreeMap;

/// What became of many pairs.
#[derive(Debug, Default)]
pub struct Tally {
    /// Right expansions, by the name of their number format.
    pub rights: BTreeMap<&'static str, Right>,
    /// Changes, by whether they are meant to be equivalent and by name.
    pub cells: BTreeMap<(bool, &'static str), Cell>,
    /// What should not be, with what reproduces it.
    pub notes: Vec<String>,
    /// Equivalent changes that are not proven, which is no wrong verdict, with why and what
    /// reproduces it.
    pub unproven: Vec<String>,
}

/// What became of right expansions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Right {
    /// How many there were.
    pub pairs: usize,
    /// How many are proven lossless.
    pub proven: usize,
    /// How many are called different: false alarms.
    pub alarms: usize,
}

impl Right {
    /// How many are neither proven nor called different.
    pub fn undecided(&self) -> usize {
        self.pairs - self.proven - self.alarms
    }
}

/// What became of one change in many pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    /// Pairs in which an output changed.
    pub changed: usize,
    /// Of these, those that are called lossless.
    pub missed: usize,
    /// Of these, those in which a changed tensor or field is blamed first.
    pub tensor: usize,
    /// Of these, those in which another tensor of the same equations is blamed first.
    pub equation: usize,
    /// Of these, those in which nothing is blamed, but parts of the two models are said to be of
    /// different kinds, and which.
    pub undecided: usize,
    /// Pairs in which no output changed.
    pub equal: usize,
    /// Of these, those that are proven lossless.
    pub proven: usize,
    /// Of equivalent changes, those that are called different: false alarms.
    pub alarms: usize,
}

impl Tally {
    /// Counts a right expansion, stored in `format`.
    pub(super) fn right(
        &mut self,
        format: Dtype,
        pair: (&Checkpoint, &Checkpoint),
        found: &Certificate,
        replay: &dyn Fn() -> String,
    ) -> Result<()> {
        let right = self.rights.entry(format.config_name()).or_default();
        right.pairs += 1;
        right.proven += usize::from(found.proves_lossless());
        if !found.proves_lossless() {
            let verdict = verdict(pair)?;
            right.alarms += usize::from(verdict == Verdict::NotLossless);
            self.notes.push(not_proven("a right expansion", verdict, found, replay));
        }
        Ok(())
    }

    /// Both together.
    pub fn plus(mut self, other: Tally) -> Tally {
        for (format, right) in other.rights {
            let sum = self.rights.entry(format).or_default();
            sum.pairs += right.pairs;
            sum.proven += right.proven;
            sum.alarms += right.alarms;
        }
        for (key, cell) in other.cells {
            let sum = self.cells.entry(key).or_default();
            *sum = sum.plus(cell);
        }
        self.notes.extend(other.notes);
        self.unproven.extend(other.unproven);
        self
    }

    /// All right expansions.
    pub fn all_rights(&self) -> Right {
        self.rights.values().fold(Right::default(), |sum, right| Right {
            pairs: sum.pairs + right.pairs,
            proven: sum.proven + right.proven,
            alarms: sum.alarms + right.alarms,
        })
    }

    /// All changes that are meant to be equivalent, or all that are meant to be mistakes.
    pub fn all_cells(&self, equivalent: bool) -> Cell {
        let cells = self.cells.iter().filter(|((kind, _), _)| *kind == equivalent);
        cells.fold(Cell::default(), |sum, (_, cell)| sum.plus(*cell))
    }
}

/// Whether a certificate blames nothing, and yet is no proof.
pub(super) fn is_undecided(found: &Certificate) -> bool {
    found.failures.is_empty() && !found.unknown.is_empty()
}

impl Cell {
    /// Pairs to which the change was made.
    pub fn all(&self) -> usize {
        self.changed + self.equal
    }

    fn plus(self, other: Cell) -> Cell {
        Cell {
            changed: self.changed + other.changed,
            missed: self.missed + other.missed,
            tensor: self.tensor + other.tensor,
            equation: self.equation + other.equation,
            undecided: self.undecided + other.undecided,
            equal: self.equal + other.equal,
            proven: self.proven + other.proven,
            alarms: self.alarms + other.alarms,
        }
    }
}
