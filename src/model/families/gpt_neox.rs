//! GPT-NeoX and Pythia: Pre-LN decoder with partial rotary positions, whose attention and MLP run
//! in parallel or one after the other; query, key and value are fused for each head by itself.
//!
//! Names: `gpt_neox.layers.0.attention.query_key_value.weight`, with or without `gpt_neox.`; the
//! head is `embed_out.weight` or, in the library's own naming, `lm_head.weight`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::parts::decoder::{refuse_other_heads, refuse_switches};
use crate::model::parts::rotary::{RotaryDefaults, keep_turned_channels, rotary};
use crate::model::*;

pub(super) static GPT_NEOX: Family =
    Family { name: "gpt_neox", fields: Fields::USUAL, describe, configure };

/// The part of a head's channels that is turned where no field says it.
const PART: f64 = 0.25;
/// Version 4's own names of the rotary settings, other families' names of them, and their defaults.
const OWN_NAMES: [(&str, &str, f64); 2] =
    [("rotary_emb_base", "rope_theta", 10_000.0), ("rotary_pct", "partial_rotary_factor", PART)];

/// The configuration with rotary settings under the names of other families.
fn usual_names(config: &Config) -> Result<Config> {
    let mut usual = config.clone();
    for (own, other, default) in OWN_NAMES {
        let value = config.positive_or(own, default)?;
        if config.positive_or(other, value)? != value {
            let problem = format!("it differs from `{own}`, another name of it, which is {value}");
            let error = Error::bad_input(problem).at(config.origin()).field(other);
            return Err(error.help(format!("write `{own}`, and remove `{other}`")));
        }
        usual.set(other, value);
    }
    Ok(usual)
}

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    if let (Ok(old), Ok(before)) = (encoder_sizes(config, None), usual_names(config)) {
        let mut usual = before.clone();
        keep_turned_channels(&mut usual, old.head_dim, sizes.head_dim, PART);
        let changed = usual.json().iter().filter(|(field, new)| before.get(field) != Some(new));
        for (field, new) in changed {
            let own = OWN_NAMES.iter().find(|(_, other, _)| other == field).map(|names| names.0);
            if own.is_none() || config.get(field).is_some() {
                config.set(field, new.clone());
            }
            if let Some(own) = own {
                config.set(own, new.clone());
            }
        }
    }
    configure_encoder(config, sizes, layers);
}

/// What all layers need.
struct Parts {
    sizes: Sizes,
    hidden: Dim,
    inner: Dim,
    eps: f64,
    activation: Activation,
    rotary: Rotary,
    biased: bool,
    prefix: &'static str,
}

impl Parts {
    fn norm(&self, name: &str) -> Norm {
        Norm::layer(name, &self.hidden, self.eps, GPT_NEOX.fields.norm_eps)
    }

    /// Of the rows of `query_key_value`, those of one of the three: `head_dim` rows of each head's
    /// `3·head_dim`.
    fn third(&self, fused: &Linear, which: usize) -> Linear {
        let (size, count) = (self.sizes.head_dim, self.hidden.size);
        let take = |lens: &Lens| lens.clone().interleaved(which * size, size, 3 * size, count);
        Linear { weight: take(&fused.weight), bias: fused.bias.as_ref().map(take) }
    }

    fn attention(&self, name: &str) -> Op {
        let linear = |part: &str, rows: &Dim| {
            Linear::named(&format!("{name}.{part}"), rows, &self.hidden, self.biased)
        };
        let fused = linear("query_key_value", &self.hidden.times(3));
        let projections = [
            self.third(&fused, 0),
            self.third(&fused, 1),
            self.third(&fused, 2),
            linear("dense", &self.hidden),
        ];
        Op::Attention(Box::new(Attention {
            causal: true,
            rotary: Some(self.rotary.clone()),
            ..Attention::plain(projections, self.sizes.heads, self.sizes.head_dim)
        }))
    }

    fn mlp(&self, name: &str) -> Op {
        let (hidden, inner) = (&self.hidden, &self.inner);
        Op::Mlp(Box::new(Mlp {
            up: Linear::named(&format!("{name}.dense_h_to_4h"), inner, hidden, true),
            gate: None,
            down: Linear::named(&format!("{name}.dense_4h_to_h"), hidden, inner, true),
            activation: self.activation,
        }))
    }

    fn layer(&self, index: usize, parallel: bool) -> Vec<Sublayer> {
        let name = format!("{}layers.{index}", self.prefix);
        let first = self.norm(&format!("{name}.input_layernorm"));
        let second = self.norm(&format!("{name}.post_attention_layernorm"));
        let attention = self.attention(&format!("{name}.attention"));
        let mlp = self.mlp(&format!("{name}.mlp"));
        if parallel {
            let branches =
                vec![Branch::new(Some(first), attention), Branch::new(Some(second), mlp)];
            return vec![Sublayer { branches, post_norm: None }];
        }
        vec![Sublayer::pre_norm(first, attention), Sublayer::pre_norm(second, mlp)]
    }
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    refuse_switches(config)?;
    refuse_other_heads(config)?;
    let sizes = encoder_sizes(config, Some(1e-5))?;
    let defaults = RotaryDefaults { theta: 10_000.0, partial: Some(PART) };
    let parts = Parts {
        hidden: Dim::new(sizes.hidden, "hidden_size"),
        inner: Dim::new(sizes.intermediate, "intermediate_size"),
        eps: config.positive_or("layer_norm_eps", 1e-5)?,
        activation: activation(config, "hidden_act", "gelu")?,
        rotary: rotary(&usual_names(config)?, sizes.head_dim, defaults)?,
        biased: config.flag_or("attention_bias", true)?,
        prefix: catalog.prefix(&["gpt_neox.", ""], "embed_in.weight")?,
        sizes,
    };
    let prefix = parts.prefix;
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let parallel = config.flag_or("use_parallel_residual", true)?;
    let token_table = Lens::matrix(
        format!("{prefix}embed_in.weight"),
        vocabulary.clone(),
        [parts.hidden.clone()],
    );
    let last = Step::Norm(parts.norm(&format!("{prefix}final_layer_norm")));
    let (output, aliases) = if is_architecture(config, "GPTNeoXModel")? {
        (Output { name: "last_hidden_state", steps: vec![last], fixed: false }, Vec::new())
    } else {
        let names = ["embed_out.weight", "lm_head.weight"];
        let name = names.into_iter().find(|name| catalog.has(name)).unwrap_or(names[0]);
        let (weight, aliases) = word_matrix(config, catalog, name, &token_table, false)?;
        let head = Step::Linear(Linear { weight, bias: None });
        (Output { name: "logits", steps: vec![last, head], fixed: true }, aliases)
    };
    Ok(Model {
        family: &GPT_NEOX,
        embedding: Embedding::of_tables(
            Input::Tokens { vocabulary: vocabulary.size, positions: None, types: 0 },
            vec![Table::plain(TableIndex::Token, token_table)],
        ),
        layers: (0..parts.sizes.layers).map(|index| parts.layer(index, parallel)).collect(),
        encoder: None,
        outputs: vec![output],
        aliases,
        buffers: catalog.ending_in(&[
            ".attention.bias",
            ".attention.masked_bias",
            "rotary_emb.inv_freq",
        ]),
        sizes: parts.sizes,
    })
}
