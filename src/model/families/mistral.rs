//! Mistral: Llama with a sliding window, without biases.

use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults};
use crate::model::parts::windows::one_window;
use crate::model::*;

pub(super) static MISTRAL: Family = Family {
    name: "mistral",
    fields: decoder::FIELDS,
    describe,
    configure: decoder::configure_rotary,
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults = Defaults { class: "Mistral", kv_heads: Some(8), ..Defaults::LLAMA };
    let decoder = Decoder::read(config, catalog, &MISTRAL, defaults)?;
    let window = one_window(config, Some(4096))?;
    decoder.model(|layer| {
        let attention = Attention { window, ..layer.attention((false, false)) };
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(false))))
    })
}
