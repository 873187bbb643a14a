//! Makes the small models in `tests/data`: `cargo run --example make_data [FOLDER]`.
//!
//! A random GPT-2, a lossless expansion of it, and one in which one norm's weights lack the factor
//! eta = sqrt(k·D_S/D_T), a mistake that is easily made.

use lemon_check::Result;
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::describe;
use lemon_check::testing::{Architecture, Mutant, Pair, SourceCase, WeightStyle};
use serde_json::json;
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
    let config = json!({
        "activation_function": "gelu_new",
        "add_cross_attention": false,
        "architectures": ["GPT2LMHeadModel"],
        "dtype": "float32",
        "model_type": "gpt2",
        "n_embd": 12,
        "n_head": 3,
        "n_inner": null,
        "n_layer": 2,
        "n_positions": 32,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
        "tie_word_embeddings": true,
        "vocab_size": 64,
        "layer_norm_epsilon": 1e-5,
    });
    SourceCase {
        architecture: Architecture::Gpt2,
        config: config.as_object().cloned().unwrap_or_default(),
        stored: ["transformer.wte.weight".to_string()].into(),
        buffers: Default::default(),
        dtype: Dtype::F32,
        weights: WeightStyle::Random,
        seed: 0,
    }
}
