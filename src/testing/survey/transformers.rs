//! One random Transformer, its expansion, and every change of it.

use super::{Judged, NOISES, Tally, VISIBLE, changed, coarsest};
use crate::certify::certify;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::forward::{Input, run_batch, storage_noise};
use crate::model::{Branch, Lens, Model, Norm, Step, describe};
use crate::testing::models::difference;
use crate::testing::random::generator;
use crate::testing::{Architecture, Models, Mutant, inputs};
use std::collections::BTreeSet;

/// Judges the pair of this seed, and each change that applies to it.
pub(super) fn judge(architecture: Architecture, seed: u64) -> Result<Tally> {
    let models = Models::random(architecture, seed, |_| ())?;
    let (source, right) =
        ((&models.source, &models.source_model), (&models.expanded, &models.expanded_model));
    let replay = || format!("seed {seed}, {}", models.replay());
    let found = certify(source, right, &|_, _| ())?;
    let mut tally = Tally::default();
    tally.right(models.source_case.dtype, found.proves_lossless());
    if !found.proves_lossless() {
        let first = (found.failures.first(), found.unknown.first());
        tally.notes.push(format!("a right expansion is not proven, {first:?}: {}", replay()));
    }
    if models.is_steep() {
        return Ok(tally);
    }
    let mut rng = generator(seed);
    let mut all = inputs::random(source.1, &mut rng);
    all.extend(inputs::covering(source.1, 20, &mut rng));
    let outputs = run_batch::<f64>(right.0, right.1, &all)?;
    let visible = visible(right, &all)?;
    for mutant in Mutant::ALL {
        let Some(mutated) = mutant.apply(&models.pair(), seed)? else { continue };
        let model = describe(&mutated.checkpoint)?;
        let found = certify(source, (&mutated.checkpoint, &model), &|_, _| ())?;
        let others = run_batch::<f64>(&mutated.checkpoint, &model, &all)?;
        let (apart, proven) = (difference(&outputs, &others), found.proves_lossless());
        // What the change made more sensitive to rounding differs by more of it.
        let noisier = proven && apart > visible;
        let own = if noisier { self::visible((&mutated.checkpoint, &model), &all)? } else { 0.0 };
        tally.count(Judged {
            name: mutant.name(),
            intent: mutant.intent(),
            apart,
            visible: visible.max(own),
            proven,
            blamed: found.failures.first().map(|failure| failure.tensor.as_str()),
            changed: &changed(right.0, &mutated.checkpoint, &mutated.subject),
            equations: &equations(&model),
            replay: &replay,
        });
    }
    Ok(tally)
}

/// What counts as a change of an output.
fn visible(right: (&Checkpoint, &Model), inputs: &[Input]) -> Result<f64> {
    if coarsest(right.0) == Dtype::F64 {
        return Ok(VISIBLE);
    }
    let noise = storage_noise(right.0, right.1, inputs, &[1, 2, 3])?;
    let relative = noise.iter().map(|noise| noise.largest / noise.scale.max(f64::MIN_POSITIVE));
    Ok(relative.fold(VISIBLE, |most, one| most.max(NOISES * one)))
}

/// The tensors of each sublayer, of the embedding, and of each output.
fn equations<'a>(model: &'a Model) -> Vec<BTreeSet<&'a str>> {
    let mut all: Vec<BTreeSet<&str>> = Vec::new();
    let stacks = model.encoder.iter().map(|encoder| (&encoder.embedding, &encoder.layers));
    for (embedding, layers) in stacks.chain([(&model.embedding, &model.layers)]) {
        all.push(embedding.lenses().into_iter().map(Lens::name).collect());
        for sublayer in layers.iter().flatten() {
            let behind = || sublayer.post_norm.iter().flat_map(Norm::lenses);
            let with =
                |branch: &'a Branch| branch.lenses().chain(behind()).map(Lens::name).collect();
            all.extend(sublayer.branches.iter().map(with));
        }
    }
    for steps in model.outputs.iter().flat_map(|output| output.paths()) {
        let lenses = steps.iter().flat_map(|step| match step {
            Step::Norm(norm) => norm.lenses().collect::<Vec<_>>(),
            Step::Linear(linear) => linear.lenses().collect(),
            _ => Vec::new(),
        });
        all.push(lenses.map(Lens::name).collect());
    }
    all
}
