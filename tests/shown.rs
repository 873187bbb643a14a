//! Does a witness show what inputs can show, and does it say where the models part?
//!
//! The check looks for a witness on inputs of its own making. Here models are run on other inputs,
//! which know nothing of what was changed: wherever these show that a changed expansion computes
//! something else, the check must have found an input that shows it too, unless the rounding of the
//! changed weights moves the outputs further: of experts that are copies it may choose one or the
//! other, where too few are active.

use lemon_check::check::{Check, Divergence, Verdict, Witness, check};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::compare::NOISE_FACTOR;
use lemon_check::forward::{Input, Outputs, storage_noise};
use lemon_check::model::{Embedding, Model, Sublayer, describe};
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{cases, generator};
use lemon_check::testing::{Architecture, Models, Mutant, SourceCase, WeightStyle, inputs};
use std::collections::{BTreeMap, BTreeSet};

/// What the outputs must differ by, relative to their spread, for a witness to be asked for.
const DIFFERS: f64 = 1e-6;

/// Pairs per family; `LEMON_CASES` makes it more.
const PAIRS: u32 = 2;
/// Every pair has one in so many of the changes of the catalogue.
const SHARE: usize = 8;

/// A random pair in which changes show: in f64, without absurd weights.
fn pair(architecture: Architecture, seed: u64) -> Models {
    let adjust = |source: &mut SourceCase| {
        source.dtype = Dtype::F64;
        source.weights = WeightStyle::Random;
        source.resize(|sizes| sizes.norm_eps = sizes.norm_eps.map(|eps| eps.max(1e-6))).unwrap();
    };
    Models::random(architecture, seed, adjust).unwrap()
}

/// How far two runs are apart in what means the same in both models: words, classes.
fn apart(model: &Model, one: &[Outputs<f64>], other: &[Outputs<f64>]) -> f64 {
    let fixed = |all: &[Outputs<f64>]| -> Vec<Outputs<f64>> {
        let mut all = all.to_vec();
        for outputs in &mut all {
            let mut is_fixed = model.outputs.iter().map(|output| output.fixed);
            outputs.outputs.retain(|_| is_fixed.next() == Some(true));
        }
        all
    };
    difference(&fixed(one), &fixed(other))
}

/// What rounding may move the outputs by, relative to their size.
fn blur(checkpoint: &Checkpoint, model: &Model, inputs: &[Input]) -> f64 {
    let noise = storage_noise(checkpoint, model, inputs, 1.0, &[0, 1]).unwrap();
    NOISE_FACTOR * noise.iter().fold(0.0, |most: f64, noise| most.max(noise.largest / noise.scale))
}

/// Whether the check has an input on which an output differs.
fn is_shown(found: &Check) -> bool {
    match &found.witness {
        Some(Witness::Outputs { difference, .. }) => difference.largest > 0.0,
        Some(Witness::NoLinearMap { residual, .. }) => *residual > 0.0,
        None => false,
    }
}

/// The changed tensors' first place: 0 is the embedding (and an encoder), then come the layers and
/// what is behind them. `None` for a field, which may be read anywhere.
fn first_change(right: &Checkpoint, changed: &Checkpoint, model: &Model) -> Option<usize> {
    let same = |name: &str| {
        let tensors = (right.tensors().get(name), changed.tensors().get(name));
        matches!(tensors, (Some(a), Some(b)) if a.bytes() == b.bytes())
    };
    let all = || model.lenses().into_iter().map(|lens| lens.name());
    let differ: BTreeSet<&str> = all().filter(|name| !same(name)).collect();
    if differ.is_empty() || right.config().json() != changed.config().json() {
        return None;
    }
    let reads = |layer: &[Sublayer]| {
        layer.iter().flat_map(Sublayer::lenses).any(|lens| differ.contains(lens.name()))
    };
    let in_front =
        |embedding: &Embedding| embedding.lenses().iter().any(|lens| differ.contains(lens.name()));
    let encoded = model.encoder.iter().any(|encoder| {
        let norm = encoder.norm.lenses().any(|lens| differ.contains(lens.name()));
        norm || in_front(&encoder.embedding) || encoder.layers.iter().any(|layer| reads(layer))
    });
    if encoded || in_front(&model.embedding) {
        return Some(0);
    }
    let layer = model.layers.iter().position(|layer| reads(layer));
    Some(1 + layer.unwrap_or(model.layers.len()))
}

/// Where a witness says that the models part, counted like [`first_change`].
fn parts_at(found: &Check, model: &Model) -> Option<usize> {
    let Some(Witness::Outputs { diverges, .. }) = &found.witness else { return None };
    diverges.map(|diverges| match diverges {
        Divergence::Embedding { .. } => 0,
        Divergence::Layer { layer, .. } => 1 + layer,
        Divergence::Outputs => 1 + model.layers.len(),
    })
}

/// Pairs that inputs show to differ, and what is said of them.
#[derive(Default)]
struct Count {
    differ: usize,
    /// Have a witness.
    shown: usize,
    /// Have none, but rounding moves the outputs further.
    blurred: usize,
    /// Say where the models part, although only tensors were changed.
    placed: usize,
    /// Say that it is where the first changed tensor is.
    at_change: usize,
    /// Tokens of all witnesses.
    tokens: usize,
}

#[derive(Default)]
struct Survey {
    counts: BTreeMap<&'static str, Count>,
    /// What should not be.
    notes: Vec<String>,
}

impl Survey {
    fn judge(&mut self, models: &Models, seed: u64, mutants: impl Iterator<Item = Mutant>) {
        let mut rng = generator(seed ^ 0x5eed);
        let mut all = inputs::random(&models.source_model, &mut rng);
        all.extend(inputs::covering(&models.source_model, 20, &mut rng));
        let small = run(&models.source, &models.source_model, &all);
        for mutant in mutants {
            let Some(mutated) = mutant.apply(&models.pair(), seed).unwrap() else { continue };
            let model = describe(&mutated.checkpoint).unwrap();
            let apart = apart(&model, &small, &run(&mutated.checkpoint, &model, &all));
            if apart <= DIFFERS {
                continue;
            }
            let found = check(&models.source, &mutated.checkpoint, &|_, _| ()).unwrap();
            let change = first_change(&models.expanded, &mutated.checkpoint, &model);
            let count = self.counts.entry(mutant.name()).or_default();
            count.differ += 1;
            count.shown += usize::from(is_shown(&found));
            count.tokens += tokens(&found);
            let place = change.and_then(|change| Some((change, parts_at(&found, &model)?)));
            count.placed += usize::from(place.is_some());
            count.at_change += usize::from(place.is_some_and(|(change, parts)| change == parts));
            let too_early = place.is_some_and(|(change, parts)| parts < change);
            let missed = !is_shown(&found) && apart > blur(&mutated.checkpoint, &model, &all);
            count.blurred += usize::from(!is_shown(&found) && !missed);
            if found.verdict == Verdict::Lossless || missed || too_early {
                let (name, verdict) = (mutant.name(), found.verdict);
                self.notes.push(format!(
                    "{name} of {} differs by {apart:.1e}: {verdict:?}, witness {:?}, place \
                     {place:?}; seed {seed}: {}",
                    mutated.subject,
                    found.witness,
                    models.replay()
                ));
            }
        }
    }
}

/// How many tokens a witness has.
fn tokens(found: &Check) -> usize {
    let Some(Witness::Outputs { probe, .. }) = &found.witness else { return 0 };
    match &probe.input {
        Input::Tokens { ids, .. } => ids.len(),
        Input::Pair { ids, decoder_ids, .. } => ids.len() + decoder_ids.len(),
        Input::Image { .. } => 0,
    }
}

#[test]
fn what_other_inputs_show_has_a_witness() {
    let mut survey = Survey::default();
    for architecture in Architecture::ALL {
        for seed in 0..u64::from(cases(PAIRS)) {
            let models = pair(architecture, seed);
            let fixed = models.source_model.outputs.iter().any(|output| output.fixed);
            if fixed && !models.is_steep() {
                let first = (architecture as usize + 3 * seed as usize) % SHARE;
                let mutants = Mutant::ALL.iter().skip(first).step_by(SHARE).copied();
                survey.judge(&models, seed, mutants);
            }
        }
    }
    let Survey { counts, notes } = survey;
    for (name, Count { differ, shown, placed, at_change, tokens, .. }) in &counts {
        println!(
            "{name:40} {shown} of {differ} shown by {tokens} tokens, {at_change} of {placed} placed"
        );
    }
    let sum = |part: fn(&Count) -> usize| counts.values().map(part).sum::<usize>();
    let (shown, differ) = (sum(|c| c.shown), sum(|c| c.differ));
    println!(
        "{shown} of {differ} pairs that differ have a witness, of {} tokens",
        sum(|c| c.tokens)
    );
    let (placed, at_change) = (sum(|c| c.placed), sum(|c| c.at_change));
    println!("rounding moves {} of the others further", sum(|c| c.blurred));
    println!("{placed} say where the models part, {at_change} of them where the change is");
    assert!(notes.is_empty(), "\n{}", notes.join("\n"));
    assert!(differ > 80, "{differ}");
    assert!(2 * placed > differ, "{placed} of {differ}");
    assert!(10 * at_change > 8 * placed, "{at_change} of {placed}");
}
