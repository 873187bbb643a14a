//! Llama: Pre-RMSNorm decoder with rotary positions, gated MLP, grouped key/value heads, optional
//! biases, tied or untied head.

use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults};
use crate::model::*;

pub(super) static LLAMA: Family = Family {
    name: "llama",
    fields: decoder::FIELDS,
    describe,
    configure: decoder::configure_rotary,
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let decoder = Decoder::read(config, catalog, &LLAMA, Defaults::LLAMA)?;
    let attention_bias = config.flag_or("attention_bias", false)?;
    let mlp_bias = config.flag_or("mlp_bias", false)?;
    decoder.model(|layer| {
        let attention = layer.attention((attention_bias, attention_bias));
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(mlp_bias))))
    })
}
