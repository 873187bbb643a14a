//! One random Transformer, its expansion, and every change of it.

use super::{Judged, Tally, UNITS, VISIBLE, changed, coarsest, shuffled};
use crate::certify::certify;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::forward::{Input, run_batch, storage_noise};
use crate::model::{Branch, Lens, Model, Norm, Op, Step, describe};
use crate::testing::models::difference;
use crate::testing::random::generator;
use crate::testing::{Architecture, Models, Mutant, inputs};
use std::collections::BTreeSet;

/// Judges the pair of this seed, and some of the changes that apply to it.
pub(super) fn judge(architecture: Architecture, changes: usize, seed: u64) -> Result<Tally> {
    survey_pair(&Models::random(architecture, seed, |_| ())?, changes, seed)
}

/// Judges one pair, and at most `changes` of those that apply to it; which, what numbers they
/// change and what both models read follows from `seed`.
///
/// # Errors
/// As [`survey`](super::survey).
pub fn survey_pair(models: &Models, changes: usize, seed: u64) -> Result<Tally> {
    let (source, right) =
        ((&models.source, &models.source_model), (&models.expanded, &models.expanded_model));
    let replay = || format!("seed {seed}, {}", models.replay());
    let found = certify(source, right, &|_, _| ())?;
    let mut tally = Tally::default();
    tally.right(models.source_case.dtype, (source.0, right.0), &found, &replay)?;
    if models.is_steep() {
        return Ok(tally);
    }
    let mut rng = generator(seed);
    let mut all = inputs::random(source.1, &mut rng);
    all.extend(inputs::covering(source.1, 20, &mut rng));
    let small = run_batch::<f64>(source.0, source.1, &all)?;
    let outputs = run_batch::<f64>(right.0, right.1, &all)?;
    let visible = visible(right, &all, 3)?;
    let apart = difference(&small, &outputs);
    if apart > visible {
        let blur = noise(source, &all, 32)?.max(noise(right, &all, 32)?);
        // Outputs that rounding moves by as much as they are tell nothing.
        if apart > blur && blur < 0.5 {
            tally.notes.push(format!("a right expansion is {apart:e} apart: {}", replay()));
        }
    }
    let mut left = changes;
    for mutant in shuffled(Mutant::ALL, seed) {
        if left == 0 {
            break;
        }
        let Some(mutated) = mutant.apply(&models.pair(), seed)? else { continue };
        left -= 1;
        let model = describe(&mutated.checkpoint)?;
        let found = certify(source, (&mutated.checkpoint, &model), &|_, _| ())?;
        let others = run_batch::<f64>(&mutated.checkpoint, &model, &all)?;
        let (apart, proven) = (difference(&outputs, &others), found.proves_lossless());
        // A sharper look at what may be a miss: at more roundings, in any format, and of the
        // changed model too, which may be more sensitive to them. Copies that a layer drives apart
        // enlarge even those of f64.
        let visible = match proven && apart > visible {
            true => {
                let own = noise((&mutated.checkpoint, &model), &all, 32)?;
                noise(right, &all, 32)?.max(own).max(visible)
            }
            false => visible,
        };
        tally.count(Judged {
            name: mutant.name(),
            intent: mutant.intent(),
            apart,
            visible,
            found: &found,
            pair: (source.0, &mutated.checkpoint),
            changed: &changed(right.0, &mutated.checkpoint, &mutated.subject),
            equations: &equations(&model),
            replay: &replay,
        })?;
    }
    Ok(tally)
}

/// What counts as a change of an output, from so many random roundings of all weights.
fn visible((file, model): (&Checkpoint, &Model), inputs: &[Input], seeds: u64) -> Result<f64> {
    match coarsest(file) {
        Dtype::F64 => Ok(VISIBLE),
        _ => Ok(noise((file, model), inputs, seeds)?.max(VISIBLE)),
    }
}

/// The largest change of an output where weights are moved by [`UNITS`] units of their rounding.
fn noise((file, model): (&Checkpoint, &Model), inputs: &[Input], seeds: u64) -> Result<f64> {
    let seeds: Vec<u64> = (1..=seeds).collect();
    let noise = storage_noise(file, model, inputs, UNITS, &seeds)?;
    let relative = noise.iter().map(|noise| noise.largest / noise.scale.max(f64::MIN_POSITIVE));
    Ok(relative.fold(0.0, f64::max))
}

/// Fields of configurations, beside the number of heads, that say what attention makes of its
/// tensors.
const ATTENTION_FIELDS: &[&str] = &[
    "partial_rotary_factor",
    "query_pre_attn_scalar",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
];

/// The tensors of each sublayer, of the embedding, and of each output.
fn equations<'a>(model: &'a Model) -> Vec<BTreeSet<&'a str>> {
    let mut all: Vec<BTreeSet<&str>> = Vec::new();
    let stacks = model.encoder.iter().map(|encoder| (&encoder.embedding, &encoder.layers));
    for (embedding, layers) in stacks.chain([(&model.embedding, &model.layers)]) {
        all.push(embedding.lenses().into_iter().map(Lens::name).collect());
        for sublayer in layers.iter().flatten() {
            let behind = || sublayer.post_norm.iter().flat_map(Norm::lenses);
            let heads = model.family.fields.heads;
            let with = |branch: &'a Branch| {
                let fields = match &branch.op {
                    Op::Attention(_) => ATTENTION_FIELDS,
                    Op::Mlp(_) | Op::Experts(_) => &[],
                };
                let tensors = branch.lenses().chain(behind()).map(Lens::name);
                let heads = fields.first().map(|_| heads);
                tensors.chain(fields.iter().copied()).chain(heads).collect()
            };
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
