//! Qwen3: Llama with norms of each head's queries and keys, and a sliding window in some layers.

use super::qwen2::{configure, windows};
use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults};
use crate::model::*;

pub(super) static QWEN3: Family =
    Family { name: "qwen3", fields: decoder::FIELDS, describe, configure };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults =
        Defaults { class: "Qwen3", kv_heads: Some(32), head_dim: Some(128), ..Defaults::LLAMA };
    let decoder = Decoder::read(config, catalog, &QWEN3, defaults)?;
    let windows = windows(config, decoder.sizes.layers)?;
    let bias = config.flag_or("attention_bias", false)?;
    decoder.model(|layer| {
        let norms = HeadNorms {
            query: layer.head_norm("self_attn.q_norm"),
            key: layer.head_norm("self_attn.k_norm"),
        };
        let attention = Attention {
            window: windows[layer.index],
            head_norms: Some(Box::new(norms)),
            ..layer.attention((bias, bias))
        };
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(false))))
    })
}
