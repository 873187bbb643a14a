//! Phi-3: Llama with query, key and value in one layer (rows `[Q|K|V]`), gate and up in another
//! (rows `[gate|up]`), a sliding window, and rotary positions that may be partial.
//!
//! Names: `model.layers.0.self_attn.qkv_proj.weight`, `model.layers.0.mlp.gate_up_proj.weight`.

use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults, Layer};
use crate::model::parts::rotary::{RotaryDefaults, keep_turned_channels};
use crate::model::parts::windows::one_window;
use crate::model::*;

pub(super) static PHI3: Family =
    Family { name: "phi3", fields: decoder::FIELDS, describe, configure };

const SHARE: f64 = 1.0;

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults = Defaults {
        class: "Phi3",
        eps: 1e-5,
        rotary: RotaryDefaults { partial: Some(SHARE), ..Defaults::LLAMA.rotary },
        ..Defaults::LLAMA
    };
    let decoder = Decoder::read(config, catalog, &PHI3, defaults)?;
    let window = one_window(config, None)?;
    let [hidden, inner] = [&decoder.hidden, &decoder.inner].map(Dim::clone);
    let [queries, keys] = [&decoder.queries, &decoder.keys].map(Dim::clone);
    let activation = decoder.activation;
    decoder.model(|layer| {
        let projections = projections(layer, &hidden, &queries, &keys);
        let attention = Attention { window, ..layer.attention_of(projections) };
        let fused = layer.linear("mlp.gate_up_proj", &inner.times(2), &hidden, false);
        let mlp = Mlp {
            gate: Some(fused.rows(0, inner.size)),
            up: fused.rows(inner.size, inner.size),
            down: layer.linear("mlp.down_proj", &hidden, &inner, false),
            activation,
        };
        layer.pre_norm(attention, Op::Mlp(Box::new(mlp)))
    })
}

fn projections(layer: &Layer, hidden: &Dim, queries: &Dim, keys: &Dim) -> [Linear; 4] {
    let rows = queries.size.saturating_add(keys.size.saturating_mul(2));
    let rows = Dim::new(rows, format!("{} + 2·{}", queries.from, keys.from));
    let fused = layer.linear("self_attn.qkv_proj", &rows, hidden, false);
    [
        fused.rows(0, queries.size),
        fused.rows(queries.size, keys.size),
        fused.rows(queries.size + keys.size, keys.size),
        layer.linear("self_attn.o_proj", hidden, queries, false),
    ]
}

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    if let Ok(before) = decoder::head_dim(config, &PHI3, None) {
        keep_turned_channels(config, before, sizes.head_dim, SHARE);
    }
    decoder::configure(config, sizes, layers);
}
