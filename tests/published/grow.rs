//! Expansions put together matrix by matrix, without the rules of this crate.

use crate::axis::{Axis, Fill};
use lemon_check::checkpoint::{Checkpoint, Config, Tensor};
use lemon_check::model::{
    Attention, Catalog, Lens, Linear, Mlp, Model, Norm, Op, Sizes, Step, describe, family_of,
};
use lemon_check::testing::random::generator;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A checkpoint and what its tensors mean.
pub struct Described {
    pub checkpoint: Checkpoint,
    pub model: Model,
}

impl Described {
    pub fn new(checkpoint: Checkpoint) -> Described {
        let model = describe(&checkpoint).unwrap_or_else(|e| panic!("{e}"));
        Described { checkpoint, model }
    }
}

/// One layer of the expansion.
#[derive(Clone)]
pub struct Layer {
    /// The source's layer that it is or copies.
    pub of: usize,
    /// Whether its outputs are zero.
    pub silent: bool,
    pub neurons: Axis,
    pub heads: Axis,
    pub kv_heads: Axis,
}

/// An expansion to be.
#[derive(Clone)]
pub struct Growth {
    pub layers: Vec<Layer>,
    pub hidden: Axis,
    /// Channels of a head as queries and keys see them; new ones have keys of zero.
    pub logits: Axis,
    /// Channels of a head as values see them.
    pub values: Axis,
    /// Factor of every norm's γ and β in front of a layer.
    pub norm: f64,
    /// Factor of ε.
    pub eps: f64,
    /// Seed of what is random.
    pub seed: u64,
}

impl Growth {
    /// The source as it is.
    pub fn none(model: &Model, seed: u64) -> Growth {
        let sizes = &model.sizes;
        let layer = |of| Layer {
            of,
            silent: false,
            neurons: Axis::same(sizes.intermediate),
            heads: Axis::same(sizes.heads),
            kv_heads: Axis::same(sizes.kv_heads),
        };
        Growth {
            layers: (0..sizes.layers).map(layer).collect(),
            hidden: Axis::same(sizes.hidden),
            logits: Axis::same(sizes.head_dim),
            values: Axis::same(sizes.head_dim),
            norm: 1.0,
            eps: 1.0,
            seed,
        }
    }

    /// Every head twice.
    pub fn double_heads(&mut self, heads: usize) {
        for layer in &mut self.layers {
            layer.heads = Axis::tiled(heads, 2);
            layer.kv_heads = layer.heads.clone();
        }
    }

    /// The sizes that it comes to.
    fn sizes(&self, model: &Model) -> Sizes {
        let first = &self.layers[0];
        Sizes {
            hidden: self.hidden.len(),
            heads: first.heads.len(),
            kv_heads: first.kv_heads.len(),
            head_dim: self.values.len(),
            intermediate: first.neurons.len(),
            layers: self.layers.len(),
            norm_eps: model.sizes.norm_eps.map(|eps| eps * self.eps),
            ..model.sizes.clone()
        }
    }

    /// The expansion of `source`, in its number format.
    pub fn build(&self, source: &Described) -> Described {
        let config = source.checkpoint.config();
        let mut grown = Config::new("published expansion", config.json().clone());
        let family = family_of(config).unwrap();
        let origins: Vec<usize> = self.layers.iter().map(|layer| layer.of).collect();
        (family.configure)(&mut grown, &self.sizes(&source.model), &origins);
        let stored = source.checkpoint.tensors();
        let dtype = |name: &str| stored.get(name).and_then(|tensor| tensor.dtype);
        let catalog = Catalog::new(|name| stored.contains_key(name), dtype, stored.keys());
        let model = (family.describe)(&grown, &catalog).unwrap_or_else(|e| panic!("{e}"));
        let mut writer = Writer {
            growth: self,
            source: &source.checkpoint,
            rng: generator(self.seed),
            tensors: BTreeMap::new(),
        };
        writer.model(&source.model, &model);
        let dtype = stored.values().find_map(|tensor| tensor.dtype).unwrap();
        let mut tensors: BTreeMap<String, Tensor> = writer
            .tensors
            .into_iter()
            .map(|(name, (shape, values))| (name, Tensor::from_values(dtype, shape, values)))
            .collect();
        for alias in &model.aliases {
            tensors.insert(alias.name.clone(), tensors[&alias.of].clone());
        }
        Described::new(Checkpoint::in_memory("published expansion", grown, tensors))
    }
}

/// Writes the tensors of an expansion.
struct Writer<'a> {
    growth: &'a Growth,
    source: &'a Checkpoint,
    rng: ChaCha8Rng,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// A part of the source and the same part of the expansion.
type Both<'a, T> = (&'a T, &'a T);

impl Writer<'_> {
    fn model(&mut self, s: &Model, t: &Model) {
        let growth = self.growth;
        let hidden = &growth.hidden;
        for (s, t) in s.embedding.tables.iter().zip(&t.embedding.tables) {
            self.table((&s.lens, &t.lens));
        }
        for (s, t) in s.embedding.prefix.iter().zip(&t.embedding.prefix) {
            self.table((s, t));
        }
        let pixels = s.embedding.patch.as_ref().map_or(0, |patch| patch.weight.cols());
        if let (Some(s), Some(t)) = (&s.embedding.patch, &t.embedding.patch) {
            self.linear((s, t), (hidden, &Axis::same(pixels)), 1.0);
        }
        if let (Some(s), Some(t)) = (&s.embedding.norm, &t.embedding.norm) {
            self.norm((s, t), 1.0);
        }
        for (layer, t) in growth.layers.iter().zip(&t.layers) {
            for (s, t) in s.layers[layer.of].iter().zip(t) {
                for (s, t) in s.branches.iter().zip(&t.branches) {
                    if let (Some(s), Some(t)) = (&s.norm, &t.norm) {
                        self.norm((s, t), growth.norm);
                    }
                    match (&s.op, &t.op) {
                        (Op::Attention(s), Op::Attention(t)) => self.attention(layer, (s, t)),
                        (Op::Mlp(s), Op::Mlp(t)) => self.mlp(layer, (s, t)),
                        _ => panic!("no published method for this part"),
                    }
                }
                if let (Some(s), Some(t)) = (&s.post_norm, &t.post_norm) {
                    self.norm((s, t), 1.0);
                }
            }
        }
        for (s_output, t_output) in s.outputs.iter().zip(&t.outputs) {
            self.output((s, t), (&s_output.steps, &t_output.steps), s_output.fixed);
        }
    }

    /// The steps of an output. A tied head multiplies the logits by the number of copies, which
    /// the norm in front of it takes back.
    fn output(&mut self, models: Both<Model>, steps: Both<Vec<Step>>, fixed: bool) {
        let growth = self.growth;
        let copies = growth.hidden.counts(models.0.sizes.hidden)[0] as f64;
        let table = |model: &Model, linear: &Linear| {
            model.embedding.tables.iter().any(|table| table.lens == linear.weight)
        };
        // What a mean joins to it is an output of its own.
        let front = |step: &&Step| !matches!(step, Step::MeanWith(_));
        let last = steps.0.iter().take_while(front).count().saturating_sub(1);
        for (at, both) in steps.0.iter().zip(steps.1).enumerate() {
            match both {
                (Step::Norm(s), Step::Norm(t)) => {
                    let tied = matches!(steps.0.get(at + 1), Some(Step::Linear(head))
                        if table(models.0, head));
                    self.norm((s, t), growth.norm / if tied { copies } else { 1.0 });
                }
                (Step::Linear(s), Step::Linear(t)) if fixed && at == last => {
                    let rows = Axis::same(s.weight.rows());
                    if table(models.0, s) {
                        self.vector((s.bias.as_ref(), t.bias.as_ref()), &rows, 1.0);
                    } else {
                        self.linear((s, t), (&rows, &growth.hidden), 1.0);
                    }
                }
                (Step::Linear(s), Step::Linear(t)) => {
                    self.linear((s, t), (&growth.hidden, &growth.hidden), 1.0);
                }
                _ => {}
            }
        }
    }

    fn attention(&mut self, layer: &Layer, (s, t): Both<Attention>) {
        let (growth, size) = (self.growth, s.head_dim);
        let Layer { heads, kv_heads, .. } = layer;
        // New logit channels: random queries meet keys of zero.
        let zero = Axis { rows: Fill::Zero, ..growth.logits.clone() };
        let queries = heads.heads(&growth.logits, size);
        let mut keys = kv_heads.heads(&zero, size);
        keys.rows = if kv_heads.of.contains(&None) { kv_heads.rows } else { Fill::Zero };
        let hidden = &growth.hidden;
        self.linear((&s.query, &t.query), (&queries, hidden), s.scale / t.scale);
        self.linear((&s.key, &t.key), (&keys, hidden), 1.0);
        self.linear((&s.value, &t.value), (&kv_heads.heads(&growth.values, size), hidden), 1.0);
        let outputs = heads.heads(&growth.values, size);
        self.linear((&s.output, &t.output), (hidden, &outputs), layer.factor());
    }

    fn mlp(&mut self, layer: &Layer, (s, t): Both<Mlp>) {
        let (hidden, neurons) = (&self.growth.hidden, &layer.neurons);
        if let (Some(s), Some(t)) = (&s.gate, &t.gate) {
            self.linear((s, t), (neurons, hidden), 1.0);
        }
        self.linear((&s.up, &t.up), (neurons, hidden), 1.0);
        self.linear((&s.down, &t.down), (hidden, neurons), layer.factor());
    }

    fn linear(&mut self, (s, t): Both<Linear>, (rows, columns): (&Axis, &Axis), factor: f64) {
        let weight = s.weight.read(self.source).unwrap();
        let weight = columns.read(&weight, &mut self.rng);
        let weight = rows.write(&weight, &mut self.rng);
        self.put(&t.weight, &(weight * factor));
        self.vector((s.bias.as_ref(), t.bias.as_ref()), rows, factor);
    }

    fn norm(&mut self, (s, t): Both<Norm>, factor: f64) {
        let axis = Axis { rows: Fill::Random, ..self.growth.hidden.clone() };
        self.vector((s.weight.as_ref(), t.weight.as_ref()), &axis, factor);
        self.vector((s.bias.as_ref(), t.bias.as_ref()), &self.growth.hidden, factor);
    }

    fn vector(&mut self, both: (Option<&Lens>, Option<&Lens>), rows: &Axis, factor: f64) {
        if let (Some(s), Some(t)) = both {
            let vector = s.read(self.source).unwrap();
            let vector = rows.write(&vector, &mut self.rng);
            self.put(t, &(vector * factor));
        }
    }

    /// A matrix `[n, hidden]` whose columns are written, not read.
    fn table(&mut self, (s, t): Both<Lens>) {
        let turned = s.read(self.source).unwrap().reversed_axes();
        let grown = self.growth.hidden.write(&turned, &mut self.rng).reversed_axes();
        self.put(t, &grown.as_standard_layout().to_owned());
    }

    fn put(&mut self, lens: &Lens, matrix: &Array2<f64>) {
        let (_, values) = self.tensors.entry(lens.name().to_string()).or_insert_with(|| {
            let shape: Vec<usize> = lens.stored().iter().map(|dim| dim.size).collect();
            let count = shape.iter().product();
            (shape, vec![f64::NAN; count])
        });
        lens.write(values, matrix);
    }
}

impl Layer {
    /// What the writing layers are multiplied by.
    fn factor(&self) -> f64 {
        if self.silent { 0.0 } else { 1.0 }
    }
}
