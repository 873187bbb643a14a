//! What the generators of several families are put together from.

use crate::testing::random::Draw;
use rand::RngCore;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Random numbers for a family's generator.
pub(super) type Rng<'a> = &'a mut dyn RngCore;

/// What a family's generator draws; see [`super::SourceCase`] for the fields.
pub(super) struct Drawn {
    pub config: Map<String, Value>,
    pub stored: BTreeSet<String>,
    pub buffers: BTreeMap<String, Vec<usize>>,
}

impl Drawn {
    /// A model of this configuration, an object, that is recognised by `stored`.
    pub fn new(config: Value, stored: impl Into<String>) -> Self {
        let Value::Object(config) = config else { unreachable!("configurations are objects") };
        Drawn { config, stored: [stored.into()].into(), buffers: BTreeMap::new() }
    }

    /// Adds a field to the configuration.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.config.insert(field.into(), value.into());
    }

    /// Stores this tensor too, if it is `wanted`.
    pub fn store(&mut self, wanted: bool, name: impl Into<String>) {
        if wanted {
            self.stored.insert(name.into());
        }
    }

    /// Stores a tensor that the model does not read.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.buffers.insert(name.into(), shape.to_vec());
    }
}

/// The sizes that hang together.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    /// Heads that make up the width, of one of these sizes.
    pub fn square(head_dims: &[usize], rng: Rng) -> Shape {
        let heads = edge(1, 4, rng);
        let head_dim = rng.pick(head_dims);
        Shape { hidden: heads * head_dim, heads, kv_heads: heads, head_dim }
    }

    /// Heads of one of these sizes that share keys and values and make up the width.
    pub fn grouped_square(head_dims: &[usize], rng: Rng) -> Shape {
        let shape = Shape::grouped(head_dims, rng);
        Shape { hidden: shape.heads * shape.head_dim, ..shape }
    }

    /// Heads of one of these sizes that share keys and values, whatever the width.
    pub fn grouped(head_dims: &[usize], rng: Rng) -> Shape {
        let kv_heads = edge(1, 3, rng);
        let heads = kv_heads * edge(1, 3, rng);
        Shape { hidden: edge(1, 13, rng), heads, kv_heads, head_dim: rng.pick(head_dims) }
    }

    /// Neurons: four times the width, or any number.
    pub fn intermediate(&self, rng: Rng) -> usize {
        if rng.chance(0.3) { 4 * self.hidden } else { edge(1, 16, rng) }
    }
}

/// Head sizes without rotary positions.
pub(super) const ANY_HEAD: &[usize] = &[1, 2, 2, 3, 4, 4, 5];
/// Head sizes of which every two channels can be turned.
pub(super) const EVEN_HEAD: &[usize] = &[2, 2, 4, 4, 6];
/// Head sizes of which a part is turned.
pub(super) const TURNED_HEAD: &[usize] = &[2, 3, 4, 4, 5, 7];

/// The share of the channels that is turned, such that the library, which truncates the product,
/// turns pairs: any even number of channels.
pub(super) fn turned_share(head_dim: usize, rng: Rng) -> f64 {
    let turned = 2 * edge(1, head_dim / 2, rng);
    let exact = turned as f64 / head_dim as f64;
    let kept = (head_dim as f64 * exact) as usize == turned;
    if kept { exact } else { (turned as f64 + 0.5) / head_dim as f64 }
}

/// From `low` to `high`; the ends come more often.
pub(super) fn edge(low: usize, high: usize, rng: Rng) -> usize {
    match rng.below(5) {
        0 => low,
        1 => high,
        _ => rng.between(low, high),
    }
}

/// A norm's ε, from tiny to large.
pub(super) fn eps(rng: Rng) -> f64 {
    rng.pick(&[1e-12, 1e-6, 1e-5, 1e-5, 1e-3, 0.1])
}

/// Base of rotary frequencies.
pub(super) fn theta(rng: Rng) -> f64 {
    rng.pick(&[10_000.0, 500.0, 10.0])
}

/// A window of attention, as a rule shorter than the inputs, from seeing oneself alone.
pub(super) fn window(rng: Rng) -> usize {
    edge(1, 14, rng)
}

/// An activation, by Hugging Face's name.
pub(super) fn activation(rng: Rng) -> &'static str {
    rng.pick(&["gelu", "gelu_new", "relu", "relu", "silu", "tanh", "gelu_pytorch_tanh", "swish"])
}

/// The activation of a gate.
pub(super) fn gate_activation(rng: Rng) -> &'static str {
    rng.pick(&["silu", "silu", "gelu_pytorch_tanh", "relu", "gelu", "tanh"])
}

/// The head of a model that predicts words.
#[derive(Clone, Copy)]
pub(super) struct WordHead {
    /// There is none: hidden states are returned.
    pub base: bool,
    /// The token table is the head.
    pub tied: bool,
    /// A tied head is stored a second time.
    pub twice: bool,
}

impl WordHead {
    pub fn new(rng: Rng) -> WordHead {
        let base = rng.chance(0.25);
        let tied = rng.chance(0.5);
        WordHead { base, tied: tied && !base, twice: tied && !base && rng.chance(0.2) }
    }
}

/// The prefix of tensor names, or none.
pub(super) fn prefix(prefix: &'static str, rng: Rng) -> &'static str {
    if rng.chance(0.7) { prefix } else { "" }
}
