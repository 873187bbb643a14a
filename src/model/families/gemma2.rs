//! Gemma 2: Gemma with norms behind attention and MLP too, soft caps, a fixed scale of the logits
//! of attention, and a sliding window in every other layer.

use super::gemma::{DEFAULTS, embedding_scale};
use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults, Layer};
use crate::model::parts::windows::{layer_windows, set_layer_types, window_size};
use crate::model::*;

pub(super) static GEMMA2: Family =
    Family { name: "gemma2", fields: decoder::FIELDS, describe, configure };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults = Defaults {
        class: "Gemma2",
        kv_heads: Some(4),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        ..DEFAULTS
    };
    let decoder = Decoder::read(config, catalog, &GEMMA2, defaults)?;
    let scale = embedding_scale(decoder.hidden.size, catalog.dtype(&decoder.token_table()));
    let bias = config.flag_or("attention_bias", false)?;
    let logit_scale = 1.0 / config.positive_or("query_pre_attn_scalar", 256.0)?.sqrt();
    let softcap = softcap(config, "attn_logit_softcapping", 50.0)?;
    let windows =
        layer_windows(config, decoder.sizes.layers, window_size(config, Some(4096))?, slides)?;
    let mut model = decoder.model(|layer| {
        let attention = Attention {
            scale: logit_scale,
            softcap,
            window: windows[layer.index],
            ..layer.attention((bias, bias))
        };
        let mlp = Op::Mlp(Box::new(layer.mlp(false)));
        vec![
            sandwich(layer, ["input_layernorm", "post_attention_layernorm"], {
                Op::Attention(Box::new(attention))
            }),
            sandwich(layer, ["pre_feedforward_layernorm", "post_feedforward_layernorm"], mlp),
        ]
    })?;
    model.embedding.tables[0].scale = scale;
    let cap = self::softcap(config, "final_logit_softcapping", 30.0)?;
    if let (Some(cap), true) = (cap, model.outputs[0].fixed) {
        model.outputs[0].steps.push(Step::Softcap(cap));
    }
    Ok(model)
}

/// An op between two norms.
fn sandwich(layer: &Layer, [before, behind]: [&str; 2], op: Op) -> Sublayer {
    let mut sublayer = Sublayer::pre_norm(layer.norm(before), op);
    sublayer.branches[0].post_norm = Some(layer.norm(behind));
    sublayer
}

/// A cap: `default` where the field is absent, none where it is null.
fn softcap(config: &Config, field: &str, default: f64) -> Result<Option<f64>> {
    match config.is_null(field) {
        true => Ok(None),
        false => config.positive_or(field, default).map(Some),
    }
}

/// Without `layer_types`, the first layer has a window, the second has none, and so on.
fn slides(index: usize) -> bool {
    index.is_multiple_of(2)
}

/// Writes sizes, and the layers' types as a list: layers between others move the rest.
fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    decoder::grow_base(config, sizes, DEFAULTS.head_dim, DEFAULTS.rotary.theta);
    set_layer_types(config, layers, slides);
    decoder::set_sizes(config, &decoder::FIELDS, sizes);
}
