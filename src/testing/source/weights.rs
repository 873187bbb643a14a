//! Random weights for every tensor of a model.

use super::{SourceCase, WeightStyle};
use crate::checkpoint::Tensor;
use crate::model::{Embedding, HeadNorms, Lens, Linear, Model, Norm, NormKind, Op, Step, Sublayer};
use crate::testing::random::{Draw, generator};
use std::collections::{BTreeMap, BTreeSet};

/// What a stored matrix is for, which decides how large its numbers are.
#[derive(Clone, Copy)]
enum Role {
    /// A table of embedding rows, or the class token.
    Embedding,
    /// What is stored of γ: all but this offset.
    NormWeight(f64),
    /// A factor for each channel of what a branch writes.
    Scale,
    /// β of a norm, or the bias of a linear layer.
    Bias,
    /// A matrix of a linear layer.
    Matrix,
    /// A matrix of which no rows may be equal: the router, by which experts are chosen, or what a
    /// LayerNorm of each head reads, which would be left with the rounding of its differences.
    Distinct,
}

/// Draws one number for `role`; a matrix sums `fan_in` products.
fn draw(style: WeightStyle, role: Role, fan_in: usize, rng: &mut impl Draw) -> f64 {
    let scale = match style {
        WeightStyle::Large => 4.0,
        WeightStyle::Tiny => 0.05,
        _ => 1.0,
    };
    let initial = style == WeightStyle::DefaultInit;
    let normal = rng.normal();
    match role {
        Role::NormWeight(offset) if initial => 1.0 - offset,
        Role::Scale if initial => 1e-5,
        Role::Bias if initial => 0.0,
        Role::Embedding | Role::Matrix | Role::Distinct if initial => 0.02 * normal,
        Role::NormWeight(offset) => 1.0 - offset + 0.3 * normal,
        Role::Scale => 0.7 + 0.3 * normal,
        Role::Bias => 0.3 * normal,
        Role::Embedding if style == WeightStyle::SmallEmbeddings => 0.02 * normal,
        Role::Embedding => 0.5 * scale * normal,
        Role::Matrix | Role::Distinct => scale * normal / (fan_in as f64).sqrt(),
    }
}

/// What a style makes of rows as a whole. It follows from the case's seed and the number of the
/// row, so that the rows of one neuron in several matrices share it.
struct Rows {
    style: WeightStyle,
    seed: u64,
    factor: f64,
    /// Rows of a matrix of a linear layer, or of its bias.
    linear: bool,
}

/// How a row comes from the numbers that are drawn for it.
enum RowRule {
    Times(f64),
    AsBefore,
}

/// Of the rows of a style that has any, so many are zero, faint, or repeat the row in front.
const SPECIAL: f64 = 0.25;

/// The least factor of a row that is fainter than others.
const FAINTEST: f64 = 1e-10;

impl Rows {
    fn of(case: &SourceCase, role: Role, lens: &Lens) -> Rows {
        let scaled = matches!(role, Role::Matrix | Role::Embedding);
        let factor = match case.weights {
            WeightStyle::Scales if scaled => {
                let name = lens
                    .name()
                    .bytes()
                    .fold(case.seed, |hash, byte| hash.rotate_left(5) ^ u64::from(byte));
                2f64.powi(generator(name).between(0, 12) as i32 - 6)
            }
            _ => 1.0,
        };
        let linear = matches!(role, Role::Matrix | Role::Bias);
        Rows { style: case.weights, seed: case.seed, factor, linear }
    }

    fn of_row(&self, row: usize) -> RowRule {
        let special = || generator(self.seed ^ (row as u64) << 40).chance(SPECIAL);
        match self.style {
            WeightStyle::Zeros if self.linear && special() => RowRule::Times(0.0),
            WeightStyle::Faint if self.linear && special() => {
                RowRule::Times(FAINTEST.powf(generator(self.seed ^ (row as u64) << 20).uniform()))
            }
            WeightStyle::Repeated if self.linear && row > 0 && special() => RowRule::AsBefore,
            _ => RowRule::Times(self.factor),
        }
    }
}

/// A tensor of which parts have been drawn.
struct Open {
    shape: Vec<usize>,
    values: Vec<f64>,
    missing: usize,
}

impl Open {
    fn new(lens: &Lens) -> Self {
        let shape: Vec<usize> = lens.stored().iter().map(|d| d.size).collect();
        let missing = shape.iter().product();
        Open { shape, values: vec![0.0; missing], missing }
    }
}

/// All tensors of `model`, drawn in the order of the computation, then repetitions and buffers.
pub(super) fn tensors(case: &SourceCase, model: &Model) -> BTreeMap<String, Tensor> {
    let mut rng = generator(case.seed);
    let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut open: BTreeMap<&str, Open> = BTreeMap::new();
    let mut drawn: BTreeSet<(&str, usize)> = BTreeSet::new();
    for (lens, role) in roles(model) {
        // A tied table is drawn once, as the table.
        let (rows, cols) = (lens.rows(), lens.cols());
        if rows * cols == 0 || !drawn.insert((lens.name(), lens.position(0, 0))) {
            continue;
        }
        let part = open.entry(lens.name()).or_insert_with(|| Open::new(lens));
        let rules = Rows::of(case, role, lens);
        for row in 0..rows {
            for col in 0..cols {
                let drawn = draw(case.weights, role, cols, &mut rng);
                part.values[lens.position(row, col)] = match rules.of_row(row) {
                    // Never −0: an expansion may return it as 0.
                    RowRule::Times(factor) => factor * drawn + 0.0,
                    RowRule::AsBefore => part.values[lens.position(row - 1, col)],
                };
            }
        }
        part.missing -= rows * cols;
        // A tensor that is complete is rounded at once: a large model is held once, not twice.
        if part.missing == 0
            && let Some(Open { shape, mut values, .. }) = open.remove(lens.name())
        {
            // Nor what the format rounds to −0.
            let least = case.dtype.subnormal_roundoff();
            values.iter_mut().filter(|value| value.abs() <= least).for_each(|value| *value = 0.0);
            let tensor = Tensor::from_values(case.dtype, shape, values);
            tensors.insert(lens.name().to_string(), tensor);
        }
    }
    for alias in &model.aliases {
        if let Some(tensor) = tensors.get(&alias.of).cloned() {
            tensors.insert(alias.name.clone(), tensor);
        }
    }
    for (name, shape) in &case.buffers {
        let count = shape.iter().product::<usize>();
        let values: Vec<f64> = (0..count).map(|_| rng.uniform()).collect();
        tensors.insert(name.clone(), Tensor::from_values(case.dtype, shape.clone(), values));
    }
    tensors
}

/// Every lens with its role, in the order of the computation.
fn roles(model: &Model) -> Vec<(&Lens, Role)> {
    let mut found = Vec::new();
    if let Some(encoder) = &model.encoder {
        embedding(&encoder.embedding, &mut found);
        sublayers(encoder.layers.iter().flatten(), &mut found);
        norm(&encoder.norm, &mut found);
    }
    embedding(&model.embedding, &mut found);
    sublayers(model.layers.iter().flatten(), &mut found);
    for step in model.outputs.iter().flat_map(|o| &o.steps) {
        match step {
            Step::Norm(n) => norm(n, &mut found),
            Step::Linear(l) => linear(l, &mut found),
            _ => {}
        }
    }
    found
}

fn embedding<'a>(embedding: &'a Embedding, found: &mut Vec<(&'a Lens, Role)>) {
    for table in &embedding.tables {
        found.push((&table.lens, Role::Embedding));
        table.projection.iter().for_each(|l| linear(l, found));
    }
    found.extend(embedding.prefix.iter().map(|l| (l, Role::Embedding)));
    embedding.patch.iter().for_each(|l| linear(l, found));
    embedding.norm.iter().for_each(|n| norm(n, found));
}

fn sublayers<'a>(sublayers: impl Iterator<Item = &'a Sublayer>, found: &mut Vec<(&'a Lens, Role)>) {
    for sublayer in sublayers {
        for branch in &sublayer.branches {
            branch.norm.iter().for_each(|n| norm(n, found));
            let distinct = match &branch.op {
                Op::Experts(experts) => vec![&experts.router.weight],
                Op::Attention(attention) => {
                    let layer = |norms: &&HeadNorms| norms.query.kind == NormKind::Layer;
                    let read = attention
                        .head_norms
                        .as_deref()
                        .filter(layer)
                        .map(|_| [&attention.query.weight, &attention.key.weight]);
                    read.into_iter().flatten().collect()
                }
                Op::Mlp(_) => Vec::new(),
            };
            for part in branch.op.linears() {
                let first = found.len();
                linear(part, found);
                if distinct.contains(&&part.weight) {
                    found[first].1 = Role::Distinct;
                }
            }
            branch.op.norms().into_iter().for_each(|n| norm(n, found));
            if let Op::Attention(attention) = &branch.op {
                found.extend(attention.relative.iter().map(|r| (&r.table, Role::Embedding)));
            }
            branch.post_norm.iter().for_each(|n| norm(n, found));
            found.extend(branch.scale.iter().map(|scale| (scale, Role::Scale)));
        }
        sublayer.post_norm.iter().for_each(|n| norm(n, found));
    }
}

fn linear<'a>(linear: &'a Linear, found: &mut Vec<(&'a Lens, Role)>) {
    found.push((&linear.weight, Role::Matrix));
    found.extend(linear.bias.iter().map(|bias| (bias, Role::Bias)));
}

fn norm<'a>(norm: &'a Norm, found: &mut Vec<(&'a Lens, Role)>) {
    let weight = norm.weight.iter().map(|weight| (weight, Role::NormWeight(norm.offset)));
    found.extend(weight);
    found.extend(norm.bias.iter().map(|bias| (bias, Role::Bias)));
}
