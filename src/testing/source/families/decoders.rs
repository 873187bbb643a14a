//! Decoders that predict words, each of a shape of its own.

use super::super::draw::{
    ANY_HEAD, Drawn, Rng, Shape, TURNED_HEAD, WordHead, activation, edge, eps, prefix, theta,
    turned_share,
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

/// Rotary settings with a turned part, as version 5 of the library writes them, or as version 4
/// wrote this family's.
fn partial_rotary(drawn: &mut Drawn, [base, part]: [&str; 2], head_dim: usize, rng: Rng) {
    let (theta, share) = (theta(rng), turned_share(head_dim, rng));
    if rng.chance(0.6) {
        let section = json!({
            "partial_rotary_factor": share, "rope_theta": theta, "rope_type": "default",
        });
        drawn.set("rope_parameters", section);
    } else {
        drawn.set(base, theta);
        drawn.set(part, share);
    }
}

pub(super) fn gpt_neox(rng: Rng) -> Drawn {
    let shape = Shape::square(TURNED_HEAD, rng);
    let head = WordHead::new(rng);
    let prefix = prefix("gpt_neox.", rng);
    let layers = edge(1, 3, rng);
    let config = json!({
        "architectures": [if head.base { "GPTNeoXModel" } else { "GPTNeoXForCausalLM" }],
        "attention_bias": rng.chance(0.7),
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "layer_norm_eps": eps(rng),
        "max_position_embeddings": edge(2, 10, rng),
        "model_type": "gpt_neox",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": layers,
        "tie_word_embeddings": head.tied,
        "use_parallel_residual": rng.chance(0.6),
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embed_in.weight"));
    let fields = ["rotary_emb_base", "rotary_pct"];
    partial_rotary(&mut drawn, fields, shape.head_dim, rng);
    let name = rng.pick(&["embed_out.weight", "lm_head.weight"]);
    drawn.store(head.twice || (!head.base && !head.tied), name);
    if rng.chance(0.2) {
        for layer in 0..layers {
            drawn.buffer(format!("{prefix}layers.{layer}.attention.masked_bias"), &[1]);
        }
    }
    drawn
}

pub(super) fn phi(rng: Rng) -> Drawn {
    let shape = Shape::grouped_square(TURNED_HEAD, rng);
    let head = WordHead::new(rng);
    let prefix = prefix("model.", rng);
    let config = json!({
        "architectures": [if head.base { "PhiModel" } else { "PhiForCausalLM" }],
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "layer_norm_eps": eps(rng),
        "max_position_embeddings": edge(2, 10, rng),
        "model_type": "phi",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": edge(1, 3, rng),
        "num_key_value_heads": shape.kv_heads,
        "qk_layernorm": rng.chance(0.3),
        "tie_word_embeddings": head.tied,
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embed_tokens.weight"));
    let fields = ["rope_theta", "partial_rotary_factor"];
    partial_rotary(&mut drawn, fields, shape.head_dim, rng);
    drawn.store(head.twice, "lm_head.weight");
    drawn
}

pub(super) fn opt(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let head = WordHead::new(rng);
    let prefix = if rng.chance(0.7) { "model.decoder." } else { "decoder." };
    let narrow = rng.chance(0.3);
    let norm_first = rng.chance(0.7);
    let config = json!({
        "_remove_final_layer_norm": norm_first && rng.chance(0.15),
        "activation_function": activation(rng),
        "architectures": [if head.base { "OPTModel" } else { "OPTForCausalLM" }],
        "do_layer_norm_before": norm_first,
        "dtype": "float32",
        "enable_bias": rng.chance(0.8),
        "ffn_dim": shape.intermediate(rng),
        "hidden_size": shape.hidden,
        "layer_norm_elementwise_affine": rng.chance(0.8),
        "max_position_embeddings": edge(2, 10, rng),
        "model_type": "opt",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": edge(1, 3, rng),
        "pad_token_id": 1,
        "tie_word_embeddings": head.tied,
        "vocab_size": edge(2, 20, rng),
        "word_embed_proj_dim": if narrow { edge(1, 9, rng) } else { shape.hidden },
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embed_tokens.weight"));
    drawn.store(head.twice, "lm_head.weight");
    drawn
}
