//! Phi (1, 1.5, 2): Pre-LN decoder whose attention and MLP run in parallel behind one norm, with
//! partial rotary positions, grouped key/value heads, biases everywhere and on the head.
//!
//! Names: `model.layers.0.self_attn.q_proj.weight`, with or without `model.`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::parts::decoder::{refuse_other_heads, refuse_switches};
use crate::model::parts::rotary::{RotaryDefaults, keep_turned_channels, rotary};
use crate::model::*;

pub(super) static PHI: Family = Family {
    name: "phi",
    fields: Fields { kv_heads: Some("num_key_value_heads"), ..Fields::USUAL },
    describe,
    configure,
};

/// Half of a head's channels is turned where no field says otherwise.
const ROTARY: RotaryDefaults = RotaryDefaults { theta: 10_000.0, partial: Some(PART) };
const PART: f64 = 0.5;

fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    if let Ok(old) = encoder_sizes(config, None) {
        keep_turned_channels(config, old.head_dim, sizes.head_dim, PART);
    }
    configure_encoder(config, sizes, layers);
    config.set("num_key_value_heads", sizes.kv_heads);
    // Heads have hidden / heads channels.
    config.remove("head_dim");
}

fn sizes(config: &Config) -> Result<Sizes> {
    let sizes = encoder_sizes(config, Some(1e-5))?;
    let kv_heads = config.size_or("num_key_value_heads", sizes.heads)?;
    if !sizes.heads.is_multiple_of(kv_heads) {
        let problem = format!("{} query heads cannot share {kv_heads} of them", sizes.heads);
        return Err(Error::bad_input(problem).at(config.origin()).field("num_key_value_heads"));
    }
    if config.size_or("head_dim", sizes.head_dim)? != sizes.head_dim {
        let problem = format!("other heads than of hidden/heads = {} channels", sizes.head_dim);
        return Err(config.unsupported("head_dim", format!("{problem} are not implemented")));
    }
    Ok(Sizes { kv_heads, ..sizes })
}

/// What all layers need.
struct Parts {
    sizes: Sizes,
    hidden: Dim,
    eps: f64,
    activation: Activation,
    rotary: Rotary,
    /// Whether each head's queries and keys are normalised.
    head_norms: bool,
    prefix: &'static str,
}

impl Parts {
    fn norm(&self, name: &str, channels: &Dim) -> Norm {
        Norm::layer(name, channels, self.eps, PHI.fields.norm_eps)
    }

    fn attention(&self, name: &str) -> Op {
        let Sizes { heads, kv_heads, head_dim, .. } = self.sizes;
        let per_head = Dim::new(head_dim, "head_dim");
        let queries = per_head.product(heads, "num_attention_heads");
        let keys = per_head.product(kv_heads, "num_key_value_heads");
        let linear = |part: &str, output: &Dim, input: &Dim| {
            Linear::named(&format!("{name}.{part}"), output, input, true)
        };
        let projections = [
            linear("q_proj", &queries, &self.hidden),
            linear("k_proj", &keys, &self.hidden),
            linear("v_proj", &keys, &self.hidden),
            linear("dense", &self.hidden, &queries),
        ];
        let head_norms = HeadNorms {
            query: self.norm(&format!("{name}.q_layernorm"), &per_head),
            key: self.norm(&format!("{name}.k_layernorm"), &per_head),
        };
        Op::Attention(Box::new(Attention {
            kv_heads,
            causal: true,
            head_norms: self.head_norms.then(|| Box::new(head_norms)),
            rotary: Some(self.rotary.clone()),
            ..Attention::plain(projections, heads, head_dim)
        }))
    }

    fn layer(&self, index: usize) -> Vec<Sublayer> {
        let name = format!("{}layers.{index}", self.prefix);
        let inner = Dim::new(self.sizes.intermediate, "intermediate_size");
        let mlp = Op::Mlp(Box::new(Mlp {
            up: Linear::named(&format!("{name}.mlp.fc1"), &inner, &self.hidden, true),
            gate: None,
            down: Linear::named(&format!("{name}.mlp.fc2"), &self.hidden, &inner, true),
            activation: self.activation,
        }));
        let attention = self.attention(&format!("{name}.self_attn"));
        let norm = self.norm(&format!("{name}.input_layernorm"), &self.hidden);
        let branches = [attention, mlp].map(|op| Branch::new(Some(norm.clone()), op));
        vec![Sublayer { branches: branches.into(), post_norm: None }]
    }
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    refuse_switches(config)?;
    refuse_other_heads(config)?;
    let sizes = sizes(config)?;
    let parts = Parts {
        hidden: Dim::new(sizes.hidden, "hidden_size"),
        eps: config.positive_or("layer_norm_eps", 1e-5)?,
        activation: activation(config, "hidden_act", "gelu_new")?,
        rotary: rotary(config, sizes.head_dim, ROTARY)?,
        head_norms: config.flag_or("qk_layernorm", false)?,
        prefix: catalog.prefix(&["model.", ""], "embed_tokens.weight")?,
        sizes,
    };
    let (prefix, hidden) = (parts.prefix, &parts.hidden);
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let token_table =
        Lens::matrix(format!("{prefix}embed_tokens.weight"), vocabulary.clone(), [hidden.clone()]);
    let last = Step::Norm(parts.norm(&format!("{prefix}final_layernorm"), hidden));
    let mut aliases = Vec::new();
    let output = if is_architecture(config, "PhiModel")? {
        Output { name: "last_hidden_state", steps: vec![last], fixed: false }
    } else {
        let (weight, found) = word_matrix(config, catalog, "lm_head.weight", &token_table, false)?;
        aliases = found;
        let bias = Some(Lens::vector("lm_head.bias", vocabulary.clone()));
        let head = Step::Linear(Linear { weight, bias });
        Output { name: "logits", steps: vec![last, head], fixed: true }
    };
    Ok(Model {
        encoder: None,
        family: &PHI,
        embedding: Embedding::of_tables(
            Input::Tokens { vocabulary: vocabulary.size, positions: None, types: 0 },
            vec![Table::plain(TableIndex::Token, token_table)],
        ),
        layers: (0..parts.sizes.layers).map(|index| parts.layer(index)).collect(),
        outputs: vec![output],
        aliases,
        buffers: catalog.ending_in(&["rotary_emb.inv_freq"]),
        sizes: parts.sizes,
    })
}
