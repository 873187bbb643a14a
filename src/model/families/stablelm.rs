//! StableLM: Pre-LayerNorm decoder with partial rotary positions and a gated MLP, which may run in
//! parallel to attention behind one norm.

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults, NormStyle};
use crate::model::parts::rotary::{RotaryDefaults, keep_turned_channels};
use crate::model::*;

pub(super) static STABLELM: Family = Family {
    name: "stablelm",
    fields: Fields { head_dim: None, norm_eps: Some("layer_norm_eps"), ..decoder::FIELDS },
    describe,
    configure,
};

/// A quarter of a head's channels is turned.
const SHARE: f64 = 0.25;

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    if config.flag_or("qk_layernorm", false)? {
        let problem = "norms of each head's queries and keys are not implemented for StableLM";
        return Err(config.unsupported("qk_layernorm", problem));
    }
    let defaults = Defaults {
        class: "StableLm",
        kv_heads: Some(32),
        eps: 1e-5,
        rotary: RotaryDefaults { partial: Some(SHARE), ..Defaults::LLAMA.rotary },
        norm: NormStyle::Layer,
        ..Defaults::LLAMA
    };
    let decoder = Decoder::read(config, catalog, &STABLELM, defaults)?;
    let bias = config.flag_or("use_qkv_bias", false)?;
    let parallel = config.flag_or("use_parallel_residual", false)?;
    decoder.model(|layer| {
        let attention = layer.attention((bias, false));
        let mlp = Op::Mlp(Box::new(layer.mlp(false)));
        if !parallel {
            return layer.pre_norm(attention, mlp);
        }
        let norm = || Some(layer.norm("input_layernorm"));
        let attention = Branch::new(norm(), Op::Attention(Box::new(attention)));
        vec![Sublayer { branches: vec![attention, Branch::new(norm(), mlp)], post_norm: None }]
    })
}

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    if let Ok(before) = decoder::head_dim(config, &STABLELM, None) {
        keep_turned_channels(config, before, sizes.head_dim, SHARE);
    }
    // Where it is written, it is hidden / heads.
    config.remove("head_dim");
    decoder::set_sizes(config, &STABLELM.fields, sizes);
}
