//! GPT-2: Pre-LN decoder with learnt positions, `Conv1D` weights (stored `[in, out]`), fused
//! `[Q|K|V]` and a tied head.
//!
//! Names: `transformer.h.0.attn.c_attn.weight`, with or without `transformer.`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;

pub(super) static GPT2: Family = Family {
    name: "gpt2",
    fields: Fields {
        hidden: "n_embd",
        heads: "n_head",
        intermediate: "n_inner",
        layers: "n_layer",
        kv_heads: None,
        head_dim: None,
        norm_eps: Some("layer_norm_epsilon"),
    },
    describe,
    configure,
};

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    config.set("n_embd", sizes.hidden);
    config.set("n_head", sizes.heads);
    config.set("n_inner", sizes.intermediate);
    config.set("n_layer", sizes.layers);
    if let Some(eps) = sizes.norm_eps {
        config.set("layer_norm_epsilon", eps);
    }
    for (_, other) in OTHER_NAMES {
        config.remove(other);
    }
}

/// Other names by which Hugging Face's GPT-2 reads the same settings.
const OTHER_NAMES: [(&str, &str); 4] = [
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_hidden_layers"),
    ("n_positions", "max_position_embeddings"),
];

/// A setting under two names must have one value.
fn no_contradiction(config: &Config) -> Result<()> {
    for (name, other) in OTHER_NAMES {
        if let (Some(one), Some(two)) = (config.get(name), config.get(other))
            && one != two
        {
            let problem = format!("it is {two}, but `{name}`, another name of it, is {one}");
            let error = Error::bad_input(problem).at(config.origin()).field(other);
            return Err(error.help(format!("remove `{other}`")));
        }
    }
    Ok(())
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    no_contradiction(config)?;
    if config.flag_or("add_cross_attention", false)? {
        let problem = "cross-attention is not implemented";
        return Err(config.unsupported("add_cross_attention", problem));
    }
    let hidden = Dim::new(config.size("n_embd")?, "n_embd");
    let heads = config.size("n_head")?;
    let head_dim = head_size(config, hidden.size, heads, "n_head")?;
    let inner = match config.size_opt("n_inner")? {
        Some(size) => Dim::new(size, "n_inner"),
        None => hidden.times(4),
    };
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let positions = Dim::new(config.size("n_positions")?, "n_positions");
    let eps = config.positive_or("layer_norm_epsilon", 1e-5)?;
    let sizes = Sizes {
        hidden: hidden.size,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: inner.size,
        layers: config.layers("n_layer")?,
        experts: None,
        norm_eps: Some(eps),
    };
    let activation = activation(config, "activation_function", "gelu_new")?;
    let scale_by_head = config.flag_or("scale_attn_weights", true)?;
    let scale_by_layer = config.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let prefix = catalog.prefix(&["transformer.", ""], "wte.weight")?;
    let token_table =
        Lens::matrix(format!("{prefix}wte.weight"), vocabulary.clone(), [hidden.clone()]);

    let norm = |name: String| Norm::layer(&name, &hidden, eps, GPT2.fields.norm_eps);
    let linear = |name: String, output: Dim, input: Dim| Linear {
        weight: Lens::transposed(format!("{name}.weight"), output.clone(), input),
        bias: Some(Lens::vector(format!("{name}.bias"), output)),
    };
    let layer = |index: usize| {
        let name = format!("{prefix}h.{index}");
        let fused = linear(format!("{name}.attn.c_attn"), hidden.times(3), hidden.clone());
        let part = |which: usize| fused.rows(which * hidden.size, hidden.size);
        let by_head = if scale_by_head { 1.0 / (head_dim as f64).sqrt() } else { 1.0 };
        let by_layer = if scale_by_layer { 1.0 / (index + 1) as f64 } else { 1.0 };
        let output = linear(format!("{name}.attn.c_proj"), hidden.clone(), hidden.clone());
        let attention = Attention {
            scale: by_head * by_layer,
            causal: true,
            ..Attention::plain([part(0), part(1), part(2), output], heads, head_dim)
        };
        let mlp = Mlp {
            up: linear(format!("{name}.mlp.c_fc"), inner.clone(), hidden.clone()),
            gate: None,
            down: linear(format!("{name}.mlp.c_proj"), hidden.clone(), inner.clone()),
            activation,
        };
        vec![
            Sublayer::pre_norm(norm(format!("{name}.ln_1")), Op::Attention(Box::new(attention))),
            Sublayer::pre_norm(norm(format!("{name}.ln_2")), Op::Mlp(Box::new(mlp))),
        ]
    };

    let last = Step::Norm(norm(format!("{prefix}ln_f")));
    let tied = config.flag_or("tie_word_embeddings", true)?;
    let base_alone = is_architecture(config, "GPT2Model")?;
    let mut aliases = Vec::new();
    let output = if base_alone {
        Output { name: "last_hidden_state", steps: vec![last], fixed: false }
    } else {
        let head = "lm_head.weight";
        let table = if tied {
            if catalog.has(head) {
                aliases.push(Alias { name: head.into(), of: token_table.name().into() });
            }
            token_table.clone()
        } else {
            Lens::matrix(head, vocabulary.clone(), [hidden.clone()])
        };
        let head = Step::Linear(Linear { weight: table, bias: None });
        Output { name: "logits", steps: vec![last, head], fixed: true }
    };
    let position_table =
        Lens::matrix(format!("{prefix}wpe.weight"), positions.clone(), [hidden.clone()]);
    Ok(Model {
        family: &GPT2,
        embedding: Embedding::of_tables(
            Input::Tokens {
                vocabulary: vocabulary.size,
                positions: Some(positions.size),
                types: 0,
            },
            vec![Table::plain(TableIndex::Token, token_table), Table::positions(position_table)],
        ),
        layers: (0..sizes.layers).map(layer).collect(),
        encoder: None,
        outputs: vec![output],
        aliases,
        buffers: catalog.ending_in(&[".attn.bias", ".attn.masked_bias"]),
        sizes,
    })
}
