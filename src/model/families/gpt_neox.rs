//! GPT-NeoX and Pythia: Pre-LN decoder with partial rotary positions, whose attention and MLP run
//! in parallel or one after the other; query, key and value are fused for each head by itself.
//!
//! Names: `gpt_neox.layers.0.attention.query_key_value.weight`, with or without `gpt_neox.`; the
//! head is `embed_out.weight` or, in the library's own naming, `lm_head.weight`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;

pub(super) static GPT_NEOX: Family =
    Family { name: "gpt_neox", fields: Fields::USUAL, describe, configure };

const ROTARY: PartialRotary = PartialRotary {
    base: &["rotary_emb_base", "rope_theta"],
    part: &["rotary_pct", "partial_rotary_factor"],
    default_part: 0.25,
};

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    if let Ok(old) = encoder_sizes(config, None) {
        ROTARY.keep_turned(config, old.head_dim, sizes.head_dim);
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
    check_causal(config)?;
    let sizes = encoder_sizes(config, Some(1e-5))?;
    let parts = Parts {
        hidden: Dim::new(sizes.hidden, "hidden_size"),
        inner: Dim::new(sizes.intermediate, "intermediate_size"),
        eps: config.positive_or("layer_norm_eps", 1e-5)?,
        activation: activation(config, "hidden_act", "gelu")?,
        rotary: ROTARY.read(config, sizes.head_dim)?,
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
        family: GPT_NEOX.name,
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
