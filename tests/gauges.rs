//! Changes that leave the function as it was, all that apply to a pair one after another: the proof
//! must not depend on how a model is written down; and one wrong number must still be found.
//!
//! `LEMON_CASES=20000 cargo test --release --test gauges -- --nocapture` says how many.

use lemon_check::certify::certify;
use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::model::describe;
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{cases, generator};
use lemon_check::testing::{Architecture, Intent, Models, Mutant, Pair, WeightStyle, inputs};
use rayon::prelude::*;

/// Above this, relative to the spread of the outputs, an f64 run shows a change.
const SHOWN: f64 = 1e-6;

/// What became of the pairs.
#[derive(Clone, Debug, Default)]
struct Count {
    pairs: usize,
    /// Changes that were made in them.
    changes: usize,
    proven: usize,
    undecided: usize,
    /// Wrong numbers that change an output.
    wrong: usize,
    notes: Vec<String>,
}

impl Count {
    fn plus(mut self, other: Count) -> Count {
        self.pairs += other.pairs;
        self.changes += other.changes;
        self.proven += other.proven;
        self.undecided += other.undecided;
        self.wrong += other.wrong;
        self.notes.extend(other.notes);
        self
    }
}

/// The expansion after every equivalent change that applies, and how many those were. The stream's
/// channels are permuted last: other changes look for its residue where the expansion left it.
fn changed(models: &Models, seed: u64) -> (Checkpoint, usize) {
    let equivalent = |mutant: &&Mutant| mutant.intent() == Intent::Equivalent;
    let all = Mutant::ALL.iter().filter(equivalent);
    let last = Mutant::ChannelsPermuted;
    // The factor on what stands in front of a norm is read off channels that are equal, of which
    // another basis leaves none: beside it a doubled stream is undecided there.
    let layers = models.expanded_model.layers.iter().flatten();
    let normed = layers.flat_map(|sublayer| &sublayer.branches).any(|b| b.post_norm.is_some());
    let all =
        all.filter(|mutant| **mutant != last && !(normed && **mutant == Mutant::StreamDoubled));
    let all = all.chain([&last]);
    let (mut expanded, mut changes) = (None::<Checkpoint>, 0);
    for mutant in all {
        let now = expanded.as_ref().unwrap_or(&models.expanded);
        let model = describe(now).unwrap();
        let pair = Pair { expanded: now, expanded_model: &model, ..models.pair() };
        if let Some(mutated) = mutant.apply(&pair, seed).unwrap() {
            expanded = Some(mutated.checkpoint);
            changes += 1;
        }
    }
    let whole = || {
        let (config, tensors) = (models.expanded.config().clone(), models.expanded.tensors());
        Checkpoint::in_memory("unchanged", config, tensors.clone())
    };
    (expanded.unwrap_or_else(whole), changes)
}

fn judge(seed: u64) -> Count {
    let architecture = Architecture::ALL[seed as usize % Architecture::ALL.len()];
    // Formats in which each change rounds by far less than a mistake is off, and weights of which
    // rounding takes nothing.
    let models = Models::random(architecture, seed, |source| {
        source.dtype = if seed.is_multiple_of(2) { Dtype::F64 } else { Dtype::F32 };
        source.weights =
            if seed.is_multiple_of(3) { WeightStyle::DefaultInit } else { WeightStyle::Random };
    })
    .unwrap();
    // A norm that subtracts the mean of one channel leaves nothing, whatever its ε.
    if models.is_steep() {
        return Count::default();
    }
    let source = (&models.source, &models.source_model);
    let (expanded, changes) = changed(&models, seed);
    let model = describe(&expanded).unwrap();
    let found = certify(source, (&expanded, &model), &|_, _| ()).unwrap();
    let mut count = Count { pairs: 1, changes, ..Count::default() };
    if !found.proves_lossless() {
        let checked = check(source.0, &expanded, &|_, _| ()).unwrap();
        let first = (found.failures.first(), found.unknown.first());
        match checked.verdict {
            Verdict::NotLossless => {
                count.notes.push(format!("called different: {first:?} {}", models.replay()));
            }
            _ => {
                count.undecided += 1;
                println!("undecided: {first:?} {}", models.replay());
            }
        }
        return count;
    }
    count.proven += 1;
    if models.source_case.dtype != Dtype::F64 {
        return count;
    }
    let pair = Pair { expanded: &expanded, expanded_model: &model, ..models.pair() };
    let Some(wrong) = Mutant::EntryNegated.apply(&pair, seed).unwrap() else { return count };
    let wrong_model = describe(&wrong.checkpoint).unwrap();
    let mut rng = generator(seed);
    let mut all = inputs::random(source.1, &mut rng);
    all.extend(inputs::covering(source.1, 8, &mut rng));
    let outputs = run(&expanded, &model, &all);
    let others = run(&wrong.checkpoint, &wrong_model, &all);
    if difference(&outputs, &others) > SHOWN {
        count.wrong += 1;
        let found = certify(source, (&wrong.checkpoint, &wrong_model), &|_, _| ()).unwrap();
        if found.proves_lossless() {
            count.notes.push(format!("missed: `{}` {}", wrong.subject, models.replay()));
        }
    }
    count
}

#[test]
fn what_leaves_the_function_is_proven_and_a_wrong_number_is_not() {
    let pairs = u64::from(cases(800));
    let count = (0..pairs).into_par_iter().map(judge).reduce(Count::default, Count::plus);
    println!("{count:?}");
    assert!(count.notes.is_empty(), "\n{}", count.notes.join("\n"));
    assert!(count.changes > 4 * count.pairs && 4 * count.wrong > count.pairs, "{count:?}");
    assert!(100 * count.proven >= 99 * count.pairs, "{count:?}");
}
