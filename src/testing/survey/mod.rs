//! How much a check can be trusted, counted: random right expansions that it must prove, and
//! deliberate changes of them, which it must find where they change an output.
//!
//! What a change does is found by running both models in f64, never by its name: a mistake that
//! changes no output is none, and an equivalent change that changes one is a bug of the catalogue.
//! What computes the same and is not proven to is given to the whole [`check`], which looks for an
//! input that shows a difference: a false alarm is a pair that it calls different.
//!
//! In f64 files an output that differs by more than [`VISIBLE`] is changed. In coarser ones less
//! cannot be told from the rounding of the weights: it must differ by more than is measured where
//! every weight is moved by up to [`UNITS`] units of its storage rounding. A definition by the
//! equations alone, a change of [`UNITS`] units of the carried bound in one of them, would miss
//! nothing by construction: an equation that is off by more than
//! [8 units](crate::certify::UNITS) is never called equal. What could be missed is hidden by wrong
//! maps, which outputs need not know of.

mod networks;
mod tally;
mod transformers;

use tally::is_undecided;
pub use tally::{Cell, Right, Tally};
pub use transformers::survey_pair;

use super::convolutional::CONV_MUTANTS;
use super::random::{Draw, generator};
use super::{Architecture, Intent, Mutant};
use crate::certify::Certificate;
use crate::check::{Verdict, check};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use rand::RngCore;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// A change of an output below this, relative to its spread, is not told from rounding in f64.
pub const VISIBLE: f64 = 1e-10;

/// In coarser formats a change must exceed what is measured where every weight is moved by up to
/// so many units of its storage rounding. They are moved that far, rather than by one unit whose
/// effect is multiplied: a norm over a single channel returns its sign, so that rounding does
/// nothing, or all.
pub const UNITS: f64 = 16.0;

/// What random models are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A Transformer of this family.
    Transformer(Architecture),
    /// A residual convolutional network.
    ResNet,
}

impl Subject {
    /// Every one.
    pub fn all() -> Vec<Subject> {
        let transformers = Architecture::ALL.into_iter().map(Subject::Transformer);
        transformers.chain([Subject::ResNet]).collect()
    }

    /// The names of the changes of this intent that may apply.
    pub fn changes(self, intent: Intent) -> Vec<&'static str> {
        match self {
            Subject::Transformer(_) => {
                let all = Mutant::ALL.iter().filter(|mutant| mutant.intent() == intent);
                all.map(|mutant| mutant.name()).collect()
            }
            Subject::ResNet => {
                let all = CONV_MUTANTS.iter().filter(|mutant| mutant.intent == intent);
                all.map(|mutant| mutant.name).collect()
            }
        }
    }

    /// The name that it is asked for by, such as `gpt2`.
    pub fn name(self) -> String {
        match self {
            Subject::ResNet => "resnet".into(),
            Subject::Transformer(architecture) => match serde_json::to_value(architecture) {
                Ok(serde_json::Value::String(name)) => name,
                _ => architecture.name().into(),
            },
        }
    }
}

/// Surveys `cases` random pairs of one kind, each with as many of the changes that apply to it as
/// `changes` says, drawn at random. All follows from `seed`.
///
/// # Errors
/// If an expansion that should be possible is refused, or a model cannot be read or run: a bug.
pub fn survey(subject: Subject, cases: u64, changes: usize, seed: u64) -> Result<Tally> {
    let one = |case: u64| {
        // Neighbouring seeds ask for other cases.
        let seed = generator(seed ^ case.rotate_left(32)).next_u64();
        match subject {
            Subject::Transformer(architecture) => transformers::judge(architecture, changes, seed),
            Subject::ResNet => networks::judge(changes, seed),
        }
    };
    (0..cases).into_par_iter().map(one).try_reduce(Tally::default, |a, b| Ok(a.plus(b)))
}

/// The changes of a catalogue in an order that follows from `seed`, for the first that apply to be
/// taken.
fn shuffled<T>(catalogue: &[T], seed: u64) -> impl Iterator<Item = &T> {
    let order = generator(!seed).permutation(catalogue.len());
    order.into_iter().map(|at| &catalogue[at])
}

/// A mutant, as it was judged.
struct Judged<'a> {
    name: &'static str,
    intent: Intent,
    /// The largest change of an output relative to its spread, and what counts as a change.
    apart: f64,
    visible: f64,
    found: &'a Certificate,
    /// The source, and the changed model.
    pair: (&'a Checkpoint, &'a Checkpoint),
    /// What was changed: tensors, or the field.
    changed: &'a BTreeSet<&'a str>,
    /// Tensors that enter an equation together.
    equations: &'a [BTreeSet<&'a str>],
    /// What reproduces it.
    replay: &'a dyn Fn() -> String,
}

impl Tally {
    fn count(&mut self, judged: Judged) -> Result<()> {
        let proven = judged.found.proves_lossless();
        let cell =
            self.cells.entry((judged.intent == Intent::Equivalent, judged.name)).or_default();
        if judged.apart <= judged.visible {
            cell.equal += 1;
            cell.proven += usize::from(proven);
            if !proven && judged.intent == Intent::Equivalent {
                let verdict = verdict(judged.pair)?;
                cell.alarms += usize::from(verdict == Verdict::NotLossless);
                let note = not_proven(judged.name, verdict, judged.found, judged.replay);
                self.unproven.push(note);
            }
            return Ok(());
        }
        cell.changed += 1;
        if proven || judged.intent == Intent::Equivalent {
            cell.missed += usize::from(proven);
            let (name, apart) = (judged.name, judged.apart);
            let what = if proven { "is missed" } else { "is no equivalent change" };
            self.notes.push(format!("{name} {what}, {apart:e} apart: {}", (judged.replay)()));
        }
        let found = judged.found;
        cell.undecided += usize::from(is_undecided(found));
        let Some(blamed) = found.failures.first().map(|failure| failure.tensor.as_str()) else {
            return Ok(());
        };
        if judged.changed.contains(blamed) {
            cell.tensor += 1;
        } else if judged.equations.iter().any(|tensors| {
            tensors.contains(blamed) && judged.changed.iter().any(|name| tensors.contains(name))
        }) {
            cell.equation += 1;
        }
        Ok(())
    }
}

/// What a user is told of a pair.
fn verdict((source, expanded): (&Checkpoint, &Checkpoint)) -> Result<Verdict> {
    Ok(check(source, expanded, &|_, _| ())?.verdict)
}

/// Says that `what`, which computes what the source does, is not proven, and why.
fn not_proven(
    what: &str,
    verdict: Verdict,
    found: &Certificate,
    replay: &dyn Fn() -> String,
) -> String {
    let first = (found.failures.first(), found.unknown.first());
    let verdict = match verdict {
        Verdict::NotLossless => "called different",
        Verdict::Lossless | Verdict::Undecided => "undecided",
    };
    format!("{what} is {verdict}, {first:?}: {}", replay())
}

/// The tensors whose bytes differ, and what the mutant says it changed if that is a field.
fn changed<'a>(before: &Checkpoint, after: &'a Checkpoint, subject: &'a str) -> BTreeSet<&'a str> {
    let differs = |name: &str| {
        let tensors = (before.tensors().get(name), after.tensors().get(name));
        !matches!(tensors, (Some(a), Some(b)) if a.bytes() == b.bytes())
    };
    let tensors = after.tensors().keys().map(String::as_str).filter(|name| differs(name));
    let field = (!after.has(subject)).then_some(subject);
    tensors.chain(field).collect()
}

/// The coarsest format of a checkpoint's numbers.
fn coarsest(checkpoint: &Checkpoint) -> Dtype {
    let formats = checkpoint.tensors().values().filter_map(|tensor| tensor.dtype);
    formats.max_by(|a, b| a.unit_roundoff().total_cmp(&b.unit_roundoff())).unwrap_or(Dtype::F64)
}
