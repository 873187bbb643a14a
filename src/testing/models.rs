//! Pairs of models for tests, and how far their outputs differ.

use super::random::generator;
use super::{Architecture, Pair, SourceCase, TargetCase};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::expand::expand;
use crate::forward::{Input, Outputs, run_batch};
use crate::model::{Model, Norm, NormKind, Step, describe};

/// A source, its expansion, and what reproduces them.
pub struct Models {
    /// What the source is made from.
    pub source_case: SourceCase,
    /// What it is expanded to.
    pub target_case: TargetCase,
    /// The source.
    pub source: Checkpoint,
    /// What its tensors mean.
    pub source_model: Model,
    /// The expansion.
    pub expanded: Checkpoint,
    /// What its tensors mean.
    pub expanded_model: Model,
}

impl Models {
    /// Expands `source` to `target`.
    ///
    /// # Errors
    /// If the source is no legal case, or the expansion is refused.
    pub fn build(source: SourceCase, target: TargetCase) -> Result<Models> {
        let checkpoint = source.build()?;
        let model = describe(&checkpoint)?;
        let expanded = expand(&checkpoint, &model, &target.options())?;
        Ok(Models {
            expanded_model: describe(&expanded)?,
            source_case: source,
            target_case: target,
            source: checkpoint,
            source_model: model,
            expanded,
        })
    }

    /// A random pair; `adjust` may change the source before the target is drawn.
    ///
    /// # Errors
    /// If the expansion is refused, or `adjust` made the source no legal case; the message holds
    /// both cases as JSON.
    pub fn random(
        architecture: Architecture,
        seed: u64,
        adjust: impl Fn(&mut SourceCase),
    ) -> Result<Models> {
        let mut rng = generator(seed);
        let mut source = SourceCase::random(architecture, &mut rng);
        adjust(&mut source);
        let target = TargetCase::random(&source, &mut rng);
        let shown = format!("seed {seed}: {}", replay(&source, &target));
        Models::build(source, target).map_err(|e| Error::new(e.class(), format!("{e}\n{shown}")))
    }

    /// Both models, for a mutant to change.
    pub fn pair(&self) -> Pair<'_> {
        Pair {
            source: &self.source,
            source_model: &self.source_model,
            expanded: &self.expanded,
            expanded_model: &self.expanded_model,
        }
    }

    /// Whether rounding errors grow without bound: a LayerNorm over channels that are all equal (as
    /// a single one is) divides them by the square root of ε, and free parts read the result.
    pub fn is_steep(&self) -> bool {
        let hidden = self.source_model.sizes.hidden;
        let norms = norms(&self.source_model);
        let mut layer_norms = norms.iter().filter(|norm| norm.kind == NormKind::Layer);
        layer_norms.any(|norm| hidden == 1 || (hidden == 2 && norm.eps < 1e-9))
    }

    /// Whether an expansion of this source says little about who made it: the norm of one channel
    /// is its sign, or nothing, and of a steep model rounding leaves nothing.
    pub fn shows_nothing(&self) -> bool {
        self.source_model.sizes.hidden == 1 || self.is_steep()
    }

    /// Both cases as JSON.
    pub fn replay(&self) -> String {
        replay(&self.source_case, &self.target_case)
    }
}

/// The norms over the channels of the stream.
fn norms(model: &Model) -> Vec<&Norm> {
    let sublayers = || model.layers.iter().flatten();
    let branches = sublayers().flat_map(|s| &s.branches);
    let steps = model.outputs.iter().flat_map(|o| &o.steps).filter_map(|step| match step {
        Step::Norm(norm) => Some(norm),
        _ => None,
    });
    branches
        .flat_map(|b| b.norm.iter().chain(&b.post_norm))
        .chain(sublayers().flat_map(|s| &s.post_norm))
        .chain(&model.embedding.norm)
        .chain(steps)
        .collect()
}

fn replay(source: &SourceCase, target: &TargetCase) -> String {
    let show = |value: serde_json::Result<String>| value.unwrap_or_else(|e| e.to_string());
    format!("{}\n{}", show(serde_json::to_string(source)), show(serde_json::to_string(target)))
}

/// Runs a model in f64.
///
/// # Panics
/// If it cannot be run: see [`run_batch`].
pub fn run(checkpoint: &Checkpoint, model: &Model, inputs: &[Input]) -> Vec<Outputs<f64>> {
    run_batch(checkpoint, model, inputs).unwrap_or_else(|e| panic!("{e}"))
}

/// The largest difference of two runs in rows that mean anything, over the spread (largest minus
/// smallest) of the first run's numbers of that output. Where the second has more channels, its
/// first ones are compared.
///
/// # Panics
/// If the two are no runs on the same inputs, or return other outputs.
pub fn difference(one: &[Outputs<f64>], other: &[Outputs<f64>]) -> f64 {
    assert_eq!(one.len(), other.len());
    let mut worst = 0.0f64;
    for index in 0..one[0].outputs.len() {
        let (mut largest, mut smallest, mut apart) = (f64::MIN, f64::MAX, 0.0f64);
        for (one, other) in one.iter().zip(other) {
            let (one, other) = (&one.outputs[index], &other.outputs[index]);
            assert_eq!(one.name, other.name);
            for (row, meaningful) in one.meaningful.iter().enumerate().filter(|(_, m)| **m) {
                assert!(meaningful & other.meaningful[row]);
                for (a, b) in one.values.row(row).iter().zip(other.values.row(row)) {
                    (largest, smallest) = (largest.max(*a), smallest.min(*a));
                    apart = apart.max((a - b).abs());
                }
            }
        }
        let spread = (largest - smallest).max(largest.abs()).max(f64::MIN_POSITIVE);
        worst = worst.max(apart / spread);
    }
    worst
}
