//! Decoders that predict words.

use super::super::draw::{
    ANY_HEAD, Drawn, EVEN_HEAD, Rng, Shape, WordHead, activation, edge, eps, gate_activation,
    prefix, theta,
};
use crate::testing::random::Draw;
use serde_json::{Value, json};

pub(super) fn gpt2(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let head = WordHead::new(rng);
    let prefix = prefix("transformer.", rng);
    let inner = shape.intermediate(rng);
    let layers = edge(1, 3, rng);
    let positions = edge(2, 10, rng);
    let config = json!({
        "activation_function": activation(rng),
        "add_cross_attention": false,
        "architectures": [if head.base { "GPT2Model" } else { "GPT2LMHeadModel" }],
        "dtype": "float32",
        "layer_norm_epsilon": eps(rng),
        "model_type": "gpt2",
        "n_embd": shape.hidden,
        "n_head": shape.heads,
        "n_inner": if inner == 4 * shape.hidden { Value::Null } else { inner.into() },
        "n_layer": layers,
        "n_positions": positions,
        "scale_attn_by_inverse_layer_idx": rng.chance(0.3),
        "scale_attn_weights": rng.chance(0.8),
        "tie_word_embeddings": head.tied,
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, format!("{prefix}wte.weight"));
    drawn.store(head.twice, "lm_head.weight");
    if rng.chance(0.2) {
        for layer in 0..layers {
            drawn.buffer(format!("{prefix}h.{layer}.attn.bias"), &[1, 1, positions, positions]);
        }
    }
    drawn
}

pub(super) fn llama(rng: Rng) -> Drawn {
    let shape = Shape::grouped(EVEN_HEAD, rng);
    let head = WordHead::new(rng);
    let prefix = prefix("model.", rng);
    let layers = edge(1, 3, rng);
    let config = json!({
        "architectures": [if head.base { "LlamaModel" } else { "LlamaForCausalLM" }],
        "attention_bias": rng.chance(0.4),
        "dtype": "float32",
        "head_dim": shape.head_dim,
        "hidden_act": gate_activation(rng),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "max_position_embeddings": edge(2, 10, rng),
        "mlp_bias": rng.chance(0.4),
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": shape.kv_heads,
        "rms_norm_eps": eps(rng),
        "rope_parameters": { "rope_theta": theta(rng), "rope_type": "default" },
        "tie_word_embeddings": head.tied,
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embed_tokens.weight"));
    drawn.store(head.twice, "lm_head.weight");
    if rng.chance(0.2) {
        for layer in 0..layers {
            let name = format!("{prefix}layers.{layer}.self_attn.rotary_emb.inv_freq");
            drawn.buffer(name, &[shape.head_dim / 2]);
        }
    }
    drawn
}
