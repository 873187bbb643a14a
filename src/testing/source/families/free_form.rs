//! Models whose parts are drawn one by one: combinations that no library has.

use super::super::draw::{
    ANY_HEAD, Drawn, Rng, Shape, activation, edge, eps, gate_activation, theta, window,
};
use crate::testing::random::Draw;
use serde_json::json;

pub(super) fn free_form(rng: Rng) -> Drawn {
    let place = rng.pick(&["pre", "pre", "post", "sandwich", "parallel"]);
    let (in_front, behind) = (place == "pre" || place == "parallel", place == "sandwich");
    let stored = !in_front || rng.chance(0.85);
    let gated = rng.chance(0.5);
    let shape = Shape::grouped(ANY_HEAD, rng);
    let base = rng.chance(0.25);
    let config = json!({
        "architectures": [if base { "FreeFormModel" } else { "FreeFormForCausalLM" }],
        "causal": rng.chance(0.7),
        "dtype": "float32",
        "gated": gated,
        "head_dim": shape.head_dim,
        "hidden_act": if gated { gate_activation(rng) } else { activation(rng) },
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "layer_scale": !behind && rng.chance(0.2),
        "mlp_bias": rng.chance(0.5),
        "model_type": "free_form",
        "norm": rng.pick(&["layer", "rms"]),
        "norm_eps": eps(rng),
        "norm_place": place,
        "norm_plus_one": stored && rng.chance(0.2),
        "norm_weight": stored,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": edge(1, 3, rng),
        "num_key_value_heads": shape.kv_heads,
        "output_bias": rng.chance(0.5),
        "qkv_bias": rng.chance(0.5),
        "tie_word_embeddings": !base && stored && place != "post" && rng.chance(0.4),
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, "tokens");
    if rng.chance(0.3) {
        drawn.set("norm_bias", rng.chance(0.5));
    }
    if rng.chance(0.3) {
        drawn.set("head_norm", rng.pick(&["layer", "rms"]));
    }
    if shape.head_dim > 1 && rng.chance(0.5) {
        drawn.set("rotary_dims", 2 * edge(1, shape.head_dim / 2, rng));
        drawn.set("rope_theta", theta(rng));
    }
    if rng.chance(0.5) {
        drawn.set("position_table", edge(1, 10, rng));
    }
    if rng.chance(0.3) {
        drawn.set("sliding_window", window(rng));
    }
    for cap in ["attention_softcap", "logit_softcap"] {
        if rng.chance(0.2) {
            drawn.set(cap, rng.pick(&[2.0, 30.0]));
        }
    }
    drawn
}
