//! Random cases, biased to the edges.

use super::{Architecture, Biases, Head, ImageCase, SourceCase, WeightStyle};
use crate::checkpoint::Dtype;
use crate::testing::random::Draw;

impl SourceCase {
    /// A random legal case of a family, biased to the edges: sizes of one, a single layer or head,
    /// one key/value head, tiny and large ε, small embeddings.
    pub fn random(architecture: Architecture, rng: &mut impl Draw) -> SourceCase {
        let shape = shape(architecture, rng);
        let head = head(architecture, rng);
        let words = matches!(architecture, Architecture::Gpt2 | Architecture::Llama)
            || (architecture == Architecture::Bert && head == Head::Words);
        let tied = words && rng.chance(0.5);
        let image = image(architecture, rng);
        let llama = architecture == Architecture::Llama;
        let timm = architecture == Architecture::VitTimm;
        let gpt2 = architecture == Architecture::Gpt2;
        SourceCase {
            architecture,
            hidden: shape.hidden,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            intermediate: intermediate(shape.hidden, rng),
            layers: edge(rng, 1, 3),
            vocabulary: edge(rng, 2, 20),
            positions: if image.is_some() { 0 } else { edge(rng, 2, 10) },
            types: if architecture == Architecture::Bert { edge(rng, 1, 3) } else { 0 },
            image,
            activation: activation(architecture, rng),
            head,
            tied: tied && head == Head::Words,
            stored_twice: tied && head == Head::Words && rng.chance(0.2),
            prefixed: !timm && rng.chance(0.7),
            old_norm_names: architecture == Architecture::Bert && rng.chance(0.2),
            buffers: rng.chance(0.2) && !timm && architecture != Architecture::Bert,
            biases: Biases {
                qkv: image.is_none() || rng.chance(0.7),
                attention: !llama || rng.chance(0.4),
                mlp: !llama || rng.chance(0.4),
            },
            scale_by_head: !gpt2 || rng.chance(0.8),
            scale_by_layer: gpt2 && rng.chance(0.3),
            theta: if llama { rng.pick(&[10_000.0, 500.0, 10.0]) } else { 10_000.0 },
            eps: if timm { 1e-6 } else { rng.pick(&[1e-12, 1e-6, 1e-5, 1e-5, 1e-3, 0.1]) },
            dtype: rng.pick(&[
                Dtype::F64,
                Dtype::F64,
                Dtype::F32,
                Dtype::F32,
                Dtype::Bf16,
                Dtype::F16,
            ]),
            weights: weights(rng),
            seed: rng.next_u64() >> 11,
        }
    }
}

/// The sizes that hang together.
struct Shape {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// From `low` to `high`; the ends come more often.
fn edge(rng: &mut impl Draw, low: usize, high: usize) -> usize {
    match rng.below(5) {
        0 => low,
        1 => high,
        _ => rng.between(low, high),
    }
}

fn shape(architecture: Architecture, rng: &mut impl Draw) -> Shape {
    if architecture == Architecture::Llama {
        let kv_heads = edge(rng, 1, 3);
        let heads = kv_heads * edge(rng, 1, 3);
        return Shape {
            hidden: edge(rng, 1, 13),
            heads,
            kv_heads,
            head_dim: rng.pick(&[2, 2, 4, 4, 6]),
        };
    }
    let heads = edge(rng, 1, 4);
    let head_dim = rng.pick(&[1, 2, 2, 3, 4, 4, 5]);
    Shape { hidden: heads * head_dim, heads, kv_heads: heads, head_dim }
}

fn intermediate(hidden: usize, rng: &mut impl Draw) -> usize {
    if rng.chance(0.3) { 4 * hidden } else { edge(rng, 1, 16) }
}

fn head(architecture: Architecture, rng: &mut impl Draw) -> Head {
    match architecture {
        Architecture::Gpt2 | Architecture::Llama => {
            rng.pick(&[Head::Words, Head::Words, Head::Words, Head::Base])
        }
        Architecture::Bert => rng.pick(&[Head::Words, Head::Words, Head::Base, Head::Pooled]),
        Architecture::Vit => rng.pick(&[Head::Classes, Head::Classes, Head::Base, Head::Pooled]),
        Architecture::VitTimm => Head::Classes,
    }
}

fn image(architecture: Architecture, rng: &mut impl Draw) -> Option<ImageCase> {
    let timm = architecture == Architecture::VitTimm;
    if !timm && architecture != Architecture::Vit {
        return None;
    }
    let patch = edge(rng, 1, 4);
    // Now and then the last pixels fill no patch.
    let mut side = || patch * rng.between(1, 3) + if rng.chance(0.2) { patch / 2 } else { 0 };
    let (height, other) = (side(), side());
    let width = if timm { other } else { height };
    Some(ImageCase { channels: edge(rng, 1, 3), height, width, patch })
}

fn activation(architecture: Architecture, rng: &mut impl Draw) -> String {
    let names: &[&str] = match architecture {
        Architecture::VitTimm => &["gelu"],
        Architecture::Llama => &["silu", "silu", "gelu_pytorch_tanh", "relu", "gelu", "tanh"],
        _ => &["gelu", "gelu_new", "relu", "relu", "silu", "tanh", "gelu_pytorch_tanh", "swish"],
    };
    rng.pick(names).to_string()
}

fn weights(rng: &mut impl Draw) -> WeightStyle {
    match rng.below(12) {
        0 | 1 => WeightStyle::SmallEmbeddings,
        2 => WeightStyle::DefaultInit,
        3 => WeightStyle::Large,
        4 => WeightStyle::Tiny,
        _ => WeightStyle::Random,
    }
}
