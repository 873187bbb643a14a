//! Makes the small models in `tests/data`: `cargo run --example make_data [FOLDER]`.
//!
//! A random GPT-2, a lossless expansion of it, and one in which one norm's weights lack the factor
//! eta = sqrt(k·D_S/D_T), a mistake that is easily made.

use lemon_check::Result;
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::describe;
use lemon_check::testing::source::Biases;
use lemon_check::testing::{Architecture, Head, Mutant, Pair, SourceCase, WeightStyle};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).map_or("tests/data".into(), PathBuf::from);
    let source = small_gpt2().build()?;
    let model = describe(&source)?;
    let target = Target {
        hidden: Some(20),
        heads: Some(5),
        intermediate: Some(100),
        layers: Some(3),
        ..Target::default()
    };
    let expanded = expand(&source, &model, &Options { target, ..Options::default() })?;
    let expanded_model = describe(&expanded)?;
    let pair = Pair {
        source: &source,
        source_model: &model,
        expanded: &expanded,
        expanded_model: &expanded_model,
    };
    let broken = Mutant::EtaForgotten.apply(&pair, 0)?.expect("the widths do not divide");
    write(&folder.join("source.safetensors"), &source)?;
    write(&folder.join("expanded.safetensors"), &expanded)?;
    write(&folder.join("broken.safetensors"), &broken.checkpoint)
}

fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    save(path, checkpoint.config(), checkpoint.tensors(), SHARD_LIMIT)
}

fn small_gpt2() -> SourceCase {
    SourceCase {
        architecture: Architecture::Gpt2,
        hidden: 12,
        heads: 3,
        kv_heads: 3,
        head_dim: 4,
        intermediate: 48,
        layers: 2,
        vocabulary: 64,
        positions: 32,
        types: 0,
        image: None,
        activation: "gelu_new".into(),
        head: Head::Words,
        tied: true,
        stored_twice: false,
        prefixed: true,
        old_norm_names: false,
        buffers: false,
        biases: Biases { qkv: true, attention: true, mlp: true },
        scale_by_head: true,
        scale_by_layer: false,
        theta: 10_000.0,
        eps: 1e-5,
        dtype: Dtype::F32,
        weights: WeightStyle::Random,
        seed: 0,
    }
}
