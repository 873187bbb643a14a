//! Gemma: Llama with norms that multiply by 1 + weight, a tied head, and a token table that is
//! multiplied by the square root of the hidden size.

use super::{Catalog, Family, activation};
use crate::checkpoint::{Config, Dtype};
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults, NormStyle};
use crate::model::*;

pub(super) static GEMMA: Family =
    Family { name: "gemma", fields: decoder::FIELDS, describe, configure };

/// What all versions share.
pub(super) const DEFAULTS: Defaults = Defaults {
    class: "Gemma",
    kv_heads: Some(16),
    head_dim: Some(256),
    activation: ("hidden_act", "gelu_pytorch_tanh"),
    tied: true,
    norm: NormStyle::RmsPlusOne,
    ..Defaults::LLAMA
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let mut decoder = Decoder::read(config, catalog, &GEMMA, DEFAULTS)?;
    decoder.activation = legacy_activation(config, decoder.activation)?;
    let scale = embedding_scale(decoder.hidden.size, catalog.dtype(&decoder.token_table()));
    let bias = config.flag_or("attention_bias", false)?;
    let mut model = decoder.model(|layer| {
        let attention = layer.attention((bias, bias));
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(false))))
    })?;
    model.embedding.tables[0].scale = scale;
    Ok(model)
}

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    decoder::grow_base(config, sizes, DEFAULTS.head_dim, DEFAULTS.rotary.theta);
    decoder::configure(config, sizes, layers);
}

/// The first configurations say `gelu` where they mean its approximation by tanh; some say so in
/// `hidden_activation`, which must then agree.
fn legacy_activation(config: &Config, written: Activation) -> Result<Activation> {
    let meant = match written {
        Activation::GeluErf => Activation::GeluTanh,
        other => other,
    };
    const OTHER: &str = "hidden_activation";
    if config.get(OTHER).is_some() && activation(config, OTHER, "")? != meant {
        return Err(config.unsupported(OTHER, "it differs from `hidden_act`, which is read"));
    }
    Ok(meant)
}

/// The square root of the hidden size, rounded to the number format of the token table, as the
/// code does before it multiplies.
pub(super) fn embedding_scale(hidden: usize, dtype: Dtype) -> f64 {
    let mut bytes = Vec::new();
    dtype.put(&mut bytes, (hidden as f64).sqrt());
    dtype.get(&bytes, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_rounded_to_the_format_of_the_weights() {
        assert_eq!(embedding_scale(3072, Dtype::Bf16), 55.5);
        assert_eq!(embedding_scale(3072, Dtype::F16), 55.4375);
        assert_eq!(embedding_scale(3072, Dtype::F32), 3072f32.sqrt() as f64);
        assert_eq!(embedding_scale(3072, Dtype::F64), 3072f64.sqrt());
    }
}
