//! Decoders of Llama's shape: each is what they share and a few fields more.

use super::super::draw::{
    Drawn, EVEN_HEAD, Rng, Shape, TURNED_HEAD, WordHead, activation, edge, eps, gate_activation,
    prefix, theta, turned_share, window,
};
use crate::testing::random::Draw;
use serde_json::{Value, json};

/// A decoder under way.
struct Decoder {
    drawn: Drawn,
    prefix: &'static str,
    shape: Shape,
    layers: usize,
}

impl Decoder {
    /// What the families share, with the names that a family's classes and configurations have.
    fn new((class, model_type): (&str, &str), shape: Shape, rng: Rng) -> Decoder {
        let head = WordHead::new(rng);
        let prefix = prefix("model.", rng);
        let layers = edge(1, 3, rng);
        let config = json!({
            "architectures": [class.to_string() + if head.base { "Model" } else { "ForCausalLM" }],
            "dtype": "float32",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate(rng),
            "max_position_embeddings": edge(2, 10, rng),
            "model_type": model_type,
            "num_attention_heads": shape.heads,
            "num_hidden_layers": layers,
            "num_key_value_heads": shape.kv_heads,
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
        Decoder { drawn, prefix, shape, layers }
    }

    /// One with heads of any even size, an activation, RMSNorms and rotary positions.
    fn usual(names: (&str, &str), rng: Rng) -> Decoder {
        let mut decoder = Decoder::new(names, Shape::grouped(EVEN_HEAD, rng), rng);
        decoder.set("head_dim", decoder.shape.head_dim);
        decoder.set("hidden_act", gate_activation(rng));
        decoder.set("rms_norm_eps", eps(rng));
        decoder.rotary(rng);
        decoder
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.drawn.set(field, value);
    }

    /// A switch that is on with this probability.
    fn switch(&mut self, field: &str, probability: f64, rng: Rng) {
        self.set(field, rng.chance(probability));
    }

    /// Rotary settings, as version 5 of the library writes them or as version 4 wrote them.
    fn rotary(&mut self, rng: Rng) {
        let theta = theta(rng);
        let scaling = match rng.below(6) {
            0 => json!({ "rope_type": "linear", "factor": rng.pick(&[2.0, 8.0]) }),
            1 => json!({
                "rope_type": "llama3",
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": rng.pick(&[8, 64]),
            }),
            _ => json!({ "rope_type": "default" }),
        };
        if rng.chance(0.6) {
            let mut section = scaling;
            section["rope_theta"] = theta.into();
            self.set("rope_parameters", section);
        } else {
            self.set("rope_theta", theta);
            let plain = scaling["rope_type"] == "default";
            self.set("rope_scaling", if plain { Value::Null } else { scaling });
        }
    }

    /// Rotary settings with a turned part.
    fn partial_rotary(&mut self, rng: Rng) {
        let share = turned_share(self.shape.head_dim, rng);
        let section = json!({
            "partial_rotary_factor": share, "rope_theta": theta(rng), "rope_type": "default",
        });
        self.set("rope_parameters", section);
    }

    /// A window for each layer or none.
    fn layer_types(&mut self, rng: Rng) {
        let kinds = ["sliding_attention", "full_attention"];
        let types: Vec<Value> = (0..self.layers).map(|_| rng.pick(&kinds).into()).collect();
        self.set("layer_types", types);
    }

    /// A window for all layers, or none.
    fn one_window(&mut self, rng: Rng) {
        let size = if rng.chance(0.6) { window(rng).into() } else { Value::Null };
        self.set("sliding_window", size);
    }

    /// Windows as Qwen says them: a switch, a size, and the first layer that has one or a list.
    fn qwen_windows(&mut self, rng: Rng) {
        let slides = rng.chance(0.7);
        self.set("use_sliding_window", slides);
        self.set("sliding_window", window(rng));
        let first = rng.between(0, self.layers);
        self.set("max_window_layers", first);
        if slides && rng.chance(0.5) {
            self.layer_types(rng);
        }
    }
}

pub(super) fn llama(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Llama", "llama"), rng);
    decoder.switch("attention_bias", 0.4, rng);
    decoder.switch("mlp_bias", 0.4, rng);
    decoder.drawn
}

pub(super) fn mistral(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Mistral", "mistral"), rng);
    decoder.one_window(rng);
    decoder.drawn
}

pub(super) fn qwen2(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Qwen2", "qwen2"), rng);
    decoder.qwen_windows(rng);
    decoder.drawn
}

pub(super) fn qwen3(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Qwen3", "qwen3"), rng);
    decoder.qwen_windows(rng);
    decoder.switch("attention_bias", 0.4, rng);
    decoder.drawn
}

pub(super) fn gemma(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Gemma", "gemma"), rng);
    decoder.switch("attention_bias", 0.4, rng);
    decoder.drawn
}

pub(super) fn gemma2(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Gemma2", "gemma2"), rng);
    decoder.drawn.config.shift_remove("hidden_act");
    decoder.set("hidden_activation", gate_activation(rng));
    decoder.switch("attention_bias", 0.4, rng);
    decoder.set("query_pre_attn_scalar", rng.pick(&[1, 4, 9]));
    decoder.set("sliding_window", window(rng));
    for (field, cap) in [("attn_logit_softcapping", 2.0), ("final_logit_softcapping", 3.0)] {
        let capped = rng.chance(0.6);
        decoder.set(field, if capped { Value::from(cap) } else { Value::Null });
    }
    // Without a list, windows alternate.
    if rng.chance(0.6) {
        decoder.layer_types(rng);
    }
    decoder.drawn
}

pub(super) fn mixtral(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Mixtral", "mixtral"), rng);
    decoder.one_window(rng);
    let experts = edge(1, 4, rng);
    decoder.set("num_local_experts", experts);
    decoder.set("num_experts_per_tok", edge(1, experts, rng));
    let fused = format!("{}layers.0.mlp.experts.gate_up_proj", decoder.prefix);
    decoder.drawn.store(rng.chance(0.4), fused);
    decoder.drawn
}

pub(super) fn phi3(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Phi3", "phi3"), rng);
    decoder.one_window(rng);
    if decoder.drawn.config.contains_key("rope_parameters") {
        decoder.partial_rotary(rng);
    }
    decoder.drawn
}

pub(super) fn stablelm(rng: Rng) -> Drawn {
    let shape = Shape::grouped_square(TURNED_HEAD, rng);
    let mut decoder = Decoder::new(("StableLm", "stablelm"), shape, rng);
    decoder.set("hidden_act", activation(rng));
    decoder.set("layer_norm_eps", eps(rng));
    decoder.partial_rotary(rng);
    decoder.set("qk_layernorm", false);
    decoder.switch("use_qkv_bias", 0.5, rng);
    decoder.switch("use_parallel_residual", 0.5, rng);
    decoder.drawn
}

pub(super) fn olmo(rng: Rng) -> Drawn {
    let mut decoder = Decoder::usual(("Olmo", "olmo"), rng);
    decoder.drawn.config.shift_remove("rms_norm_eps");
    decoder.set("clip_qkv", Value::Null);
    decoder.switch("attention_bias", 0.4, rng);
    decoder.drawn
}
