//! Configurations as the libraries write them (transformers 5, timm 1).

use super::{Architecture, Head, ORIGIN, SourceCase};
use crate::checkpoint::Config;
use crate::model::{Sizes, family_of};
use serde_json::{Map, Value, json};

pub(super) fn config(case: &SourceCase) -> Config {
    let json = match case.architecture {
        Architecture::Gpt2 => gpt2(case),
        Architecture::Bert => bert(case),
        Architecture::Llama => llama(case),
        Architecture::Vit => vit(case),
        Architecture::VitTimm => vit_timm(case),
    };
    let Value::Object(json) = json else { unreachable!("each is an object") };
    let mut config = Config::new(ORIGIN, json);
    let family = family_of(&config).expect("a family that is implemented");
    let layers: Vec<usize> = (0..case.layers).collect();
    (family.configure)(&mut config, &sizes(case), &layers);
    if case.architecture == Architecture::Gpt2 && case.intermediate == 4 * case.hidden {
        config.set("n_inner", Value::Null);
    }
    config
}

fn sizes(case: &SourceCase) -> Sizes {
    let eps_is_stored = case.architecture != Architecture::VitTimm;
    Sizes {
        hidden: case.hidden,
        heads: case.heads,
        kv_heads: case.kv_heads,
        head_dim: case.head_dim,
        intermediate: case.intermediate,
        layers: case.layers,
        experts: None,
        norm_eps: eps_is_stored.then_some(case.eps),
    }
}

fn gpt2(case: &SourceCase) -> Value {
    let class = if case.head == Head::Base { "GPT2Model" } else { "GPT2LMHeadModel" };
    json!({
        "activation_function": case.activation,
        "add_cross_attention": false,
        "architectures": [class],
        "dtype": case.dtype.config_name(),
        "model_type": "gpt2",
        "n_embd": 0,
        "n_head": 0,
        "n_inner": null,
        "n_layer": 0,
        "n_positions": case.positions,
        "scale_attn_by_inverse_layer_idx": case.scale_by_layer,
        "scale_attn_weights": case.scale_by_head,
        "tie_word_embeddings": case.tied,
        "vocab_size": case.vocabulary,
    })
}

fn bert(case: &SourceCase) -> Value {
    let class = if case.head == Head::Words { "BertForMaskedLM" } else { "BertModel" };
    json!({
        "add_cross_attention": false,
        "architectures": [class],
        "dtype": case.dtype.config_name(),
        "hidden_act": case.activation,
        "is_decoder": false,
        "max_position_embeddings": case.positions,
        "model_type": "bert",
        "pad_token_id": 0,
        "tie_word_embeddings": case.tied,
        "type_vocab_size": case.types,
        "vocab_size": case.vocabulary,
    })
}

fn llama(case: &SourceCase) -> Value {
    let class = if case.head == Head::Base { "LlamaModel" } else { "LlamaForCausalLM" };
    json!({
        "architectures": [class],
        "attention_bias": case.biases.attention,
        "dtype": case.dtype.config_name(),
        "hidden_act": case.activation,
        "max_position_embeddings": case.positions,
        "mlp_bias": case.biases.mlp,
        "model_type": "llama",
        "rope_parameters": { "rope_theta": case.theta, "rope_type": "default" },
        "tie_word_embeddings": case.tied,
        "vocab_size": case.vocabulary,
    })
}

fn vit(case: &SourceCase) -> Value {
    let class = if case.head == Head::Classes { "ViTForImageClassification" } else { "ViTModel" };
    let (image, patch, channels) =
        case.image.map_or((0, 0, 0), |image| (image.height, image.patch, image.channels));
    let mut json = json!({
        "architectures": [class],
        "dtype": case.dtype.config_name(),
        "hidden_act": case.activation,
        "image_size": image,
        "model_type": "vit",
        "num_channels": channels,
        "patch_size": patch,
        "pooler_act": "tanh",
        "pooler_output_size": case.hidden,
        "qkv_bias": case.biases.qkv,
    });
    // Two classes are the library's default, which it does not write.
    if case.head == Head::Classes && case.vocabulary != 2 {
        let labels: Map<String, Value> =
            (0..case.vocabulary).map(|i| (i.to_string(), format!("LABEL_{i}").into())).collect();
        json["id2label"] = labels.into();
    }
    json
}

fn vit_timm(case: &SourceCase) -> Value {
    let image = case.image.map_or([0, 0], |image| [image.height, image.width]);
    let (patch, channels) = case.image.map_or((0, 0), |image| (image.patch, image.channels));
    json!({
        "architecture": "vit_tiny_patch16_224",
        "num_classes": case.vocabulary,
        "num_features": case.hidden,
        "global_pool": "token",
        "model_args": {
            "img_size": image,
            "patch_size": patch,
            "num_classes": case.vocabulary,
            "qkv_bias": case.biases.qkv,
            "in_chans": channels,
            "global_pool": "token",
        },
    })
}
