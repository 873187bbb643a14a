//! OLMo: Llama with LayerNorms that store nothing and have a fixed ε.

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults, NormStyle};
use crate::model::*;

pub(super) static OLMO: Family = Family {
    name: "olmo",
    fields: Fields { norm_eps: None, ..decoder::FIELDS },
    describe,
    configure: decoder::configure_rotary,
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    const CLIP: &str = "clip_qkv";
    if config.get(CLIP).is_some() {
        let problem = "clipped queries, keys and values are not implemented";
        return Err(config.unsupported(CLIP, problem));
    }
    let defaults = Defaults { class: "Olmo", eps: 1e-5, norm: NormStyle::Bare, ..Defaults::LLAMA };
    let decoder = Decoder::read(config, catalog, &OLMO, defaults)?;
    let bias = config.flag_or("attention_bias", false)?;
    decoder.model(|layer| {
        let attention = layer.attention((bias, bias));
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(false))))
    })
}
