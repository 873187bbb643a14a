//! T5, with its encoder beside it, alone, or without a head.

use super::super::draw::{ANY_HEAD, Drawn, Rng, Shape, activation, edge, eps};
use crate::testing::random::Draw;
use serde_json::json;

/// What a T5 is made to return.
#[derive(Clone, Copy, PartialEq)]
enum Head {
    /// The encoder's hidden states; there is no decoder.
    Encoder,
    /// The decoder's hidden states.
    Hidden,
    /// Logits.
    Words,
}

pub(super) fn t5(rng: Rng) -> Drawn {
    use Head::*;
    let heads = edge(1, 4, rng);
    let head_dim = rng.pick(ANY_HEAD);
    let shape = Shape { hidden: edge(1, 13, rng), heads, kv_heads: heads, head_dim };
    let head = rng.pick(&[Words, Words, Words, Words, Hidden, Encoder]);
    let buckets = rng.pick(&[4, 5, 6, 8, 8, 9, 32]);
    let farthest = buckets / 2 + edge(1, 16, rng);
    let config = json!({
        "architectures": [match head {
            Encoder => "T5EncoderModel",
            Hidden => "T5Model",
            Words => rng.pick(&["T5ForConditionalGeneration", "T5WithLMHeadModel"]),
        }],
        "d_ff": shape.intermediate(rng),
        "d_kv": head_dim,
        "d_model": shape.hidden,
        "dtype": "float32",
        "is_encoder_decoder": head != Encoder || rng.chance(0.3),
        "layer_norm_epsilon": eps(rng),
        "model_type": "t5",
        "num_heads": heads,
        "num_layers": edge(1, 3, rng),
        "relative_attention_max_distance": if rng.chance(0.2) { 128 } else { farthest },
        "relative_attention_num_buckets": buckets,
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, "shared.weight");
    if rng.chance(0.8) {
        drawn.set("num_decoder_layers", edge(1, 3, rng));
    }
    neurons(&mut drawn, rng);
    logits(&mut drawn, head == Words, rng);
    let old = rng.chance(0.3);
    drawn.store(old, "encoder.embed_tokens.weight");
    drawn.store(old && head != Encoder, "decoder.embed_tokens.weight");
    if old && head != Encoder {
        let name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
        drawn.buffer(name, &[buckets, heads]);
    }
    drawn
}

/// Gate and activation: as one field, or spelled out beside it.
fn neurons(drawn: &mut Drawn, rng: Rng) {
    let (gated, name) = (rng.chance(0.5), activation(rng));
    drawn.set("feed_forward_proj", format!("{}{name}", if gated { "gated-" } else { "" }));
    if rng.chance(0.6) {
        drawn.set("is_gated_act", gated);
        drawn.set("dense_act_fn", if gated && name == "gelu" { "gelu_new" } else { name });
    }
}

/// The head's fields as version 5 of the library writes them, or as version 4 did, where one field
/// says both whether the head is tied and whether it is scaled.
fn logits(drawn: &mut Drawn, words: bool, rng: Rng) {
    let tied = rng.chance(0.6);
    let version_5 = rng.chance(0.6);
    drawn.set("tie_word_embeddings", version_5 || tied);
    if version_5 {
        drawn.set("scale_decoder_outputs", rng.chance(0.6));
    }
    let twice = tied && !version_5 && rng.chance(0.3);
    drawn.store(words && (twice || !tied), "lm_head.weight");
}
