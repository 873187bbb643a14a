//! Pairs of models for tests, and how far their outputs differ.

#![allow(dead_code, reason = "each test file uses a part of it")]

use lemon_check::checkpoint::Checkpoint;
use lemon_check::expand::expand;
use lemon_check::forward::{Input, Outputs, run_batch};
use lemon_check::model::{Model, Norm, NormKind, Step, describe};
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Pair, SourceCase, TargetCase};

/// A source, its expansion, and what reproduces them.
pub struct Models {
    pub source_case: SourceCase,
    pub target_case: TargetCase,
    pub source: Checkpoint,
    pub source_model: Model,
    pub expanded: Checkpoint,
    pub expanded_model: Model,
}

impl Models {
    /// Expands `source` to `target`.
    pub fn build(source: SourceCase, target: TargetCase) -> lemon_check::Result<Models> {
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
    pub fn random(
        architecture: Architecture,
        seed: u64,
        adjust: impl Fn(&mut SourceCase),
    ) -> lemon_check::Result<Models> {
        let mut rng = generator(seed);
        let mut source = SourceCase::random(architecture, &mut rng);
        adjust(&mut source);
        let target = TargetCase::random(&source, &mut rng);
        let shown = format!("seed {seed}: {}", replay(&source, &target));
        Models::build(source, target).inspect_err(|e| eprintln!("{e}\n{shown}"))
    }

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

    /// Both cases as JSON.
    pub fn replay(&self) -> String {
        replay(&self.source_case, &self.target_case)
    }
}

/// The norms over the channels of the stream.
pub fn norms(model: &Model) -> Vec<&Norm> {
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
pub fn run(checkpoint: &Checkpoint, model: &Model, inputs: &[Input]) -> Vec<Outputs<f64>> {
    run_batch(checkpoint, model, inputs).unwrap_or_else(|e| panic!("{e}"))
}

/// The largest difference of two runs in rows that mean anything, over the spread (largest minus
/// smallest) of the first run's numbers of that output. Where the second has more channels, its
/// first ones are compared.
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

/// How far the second run's outputs are from a linear image of the first's: the largest residual
/// of a least-squares fit `y_other = E y_one` over all rows that mean anything, over the largest
/// number. For outputs of hidden channels, which a lossless expansion may return so. `None` where
/// there are not clearly more rows than channels, so that anything would fit.
pub fn linear_misfit(one: &[Outputs<f64>], other: &[Outputs<f64>], output: usize) -> Option<f64> {
    let gather = |all: &[Outputs<f64>]| {
        let mut columns: Vec<Vec<f64>> = vec![Vec::new(); all[0].outputs[output].values.ncols()];
        for result in all.iter().map(|outputs| &outputs.outputs[output]) {
            for (row, _) in result.meaningful.iter().enumerate().filter(|(_, m)| **m) {
                let values = result.values.row(row);
                columns.iter_mut().zip(values).for_each(|(column, value)| column.push(*value));
            }
        }
        columns
    };
    let (from, to) = (gather(one), gather(other));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    let remove = |column: &mut Vec<f64>, basis: &[Vec<f64>]| {
        // Twice, because once leaves rounding errors along the basis.
        for unit in basis.iter().chain(basis) {
            let along = dot(column, unit);
            column.iter_mut().zip(unit).for_each(|(x, u)| *x -= along * u);
        }
    };
    if from[0].len() < 2 * from.len() {
        return None;
    }
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for mut column in from {
        let before = dot(&column, &column).sqrt();
        remove(&mut column, &basis);
        let length = dot(&column, &column).sqrt();
        if length > 1e-9 * before {
            basis.push(column.into_iter().map(|x| x / length).collect());
        }
    }
    let largest = to.iter().flatten().fold(f64::MIN_POSITIVE, |m, x| m.max(x.abs()));
    let mut worst = 0.0f64;
    for mut column in to {
        remove(&mut column, &basis);
        worst = column.iter().fold(worst, |m, x| m.max(x.abs()));
    }
    Some(worst / largest)
}
