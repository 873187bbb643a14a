//! Llama: Pre-RMSNorm decoder with rotary positions, gated MLP, grouped key/value heads, optional
//! biases, tied or untied head.
//!
//! Names: `model.layers.0.self_attn.q_proj.weight`, with or without `model.`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;

pub(super) static LLAMA: Family = Family {
    name: "llama",
    fields: Fields {
        hidden: "hidden_size",
        heads: "num_attention_heads",
        intermediate: "intermediate_size",
        layers: "num_hidden_layers",
        kv_heads: Some("num_key_value_heads"),
        head_dim: Some("head_dim"),
        norm_eps: Some("rms_norm_eps"),
    },
    describe,
    configure,
};

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    config.set("hidden_size", sizes.hidden);
    config.set("num_attention_heads", sizes.heads);
    config.set("num_key_value_heads", sizes.kv_heads);
    config.set("head_dim", sizes.head_dim);
    config.set("intermediate_size", sizes.intermediate);
    config.set("num_hidden_layers", sizes.layers);
    if let Some(eps) = sizes.norm_eps {
        config.set("rms_norm_eps", eps);
    }
}

/// Reads the rotary settings as Hugging Face writes them: `rope_parameters` (version 5) or
/// `rope_theta` and `rope_scaling` (version 4).
fn rotary(config: &Config, head_dim: usize) -> Result<Rotary> {
    let mut theta = config.positive_or("rope_theta", 10_000.0)?;
    for field in ["rope_parameters", "rope_scaling"] {
        let Some(section) = config.section(field)? else { continue };
        theta = section.positive_or("rope_theta", theta)?;
        let kind = section.word_or("rope_type", section.word_or("type", "default")?)?;
        if kind != "default" {
            let problem = format!("rotary scaling of type `{kind}` is not implemented");
            return Err(config.unsupported(field, problem));
        }
        if section.positive_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(config.unsupported(field, "partial rotary is not implemented for Llama"));
        }
    }
    if !head_dim.is_multiple_of(2) {
        let problem = format!("rotary positions need an even head size, got {head_dim}");
        return Err(Error::bad_input(problem).at(config.origin()).field("head_dim"));
    }
    let pairs = head_dim / 2;
    let frequency = |pair: usize| theta.powf(-2.0 * pair as f64 / head_dim as f64);
    Ok(Rotary { frequencies: (0..pairs).map(frequency).collect() })
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let hidden = Dim::new(config.size("hidden_size")?, "hidden_size");
    let heads = config.size("num_attention_heads")?;
    let kv_heads = config.size_or("num_key_value_heads", heads)?;
    if heads % kv_heads != 0 {
        let problem = format!("{heads} query heads cannot share {kv_heads} key/value heads");
        return Err(Error::bad_input(problem).at(config.origin()).field("num_key_value_heads"));
    }
    let head_dim = match config.size_opt("head_dim")? {
        Some(size) => size,
        None => head_size(config, hidden.size, heads, "num_attention_heads")?,
    };
    let inner = Dim::new(config.size("intermediate_size")?, "intermediate_size");
    let queries = Dim::new(head_dim, "head_dim").product(heads, "num_attention_heads");
    let keys = Dim::new(head_dim, "head_dim").product(kv_heads, "num_key_value_heads");
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let eps = config.positive_or("rms_norm_eps", 1e-6)?;
    let sizes = Sizes {
        hidden: hidden.size,
        heads,
        kv_heads,
        head_dim,
        intermediate: inner.size,
        layers: config.layers("num_hidden_layers")?,
        experts: None,
        norm_eps: Some(eps),
    };
    let activation = activation(config, "hidden_act", "silu")?;
    let rotary = rotary(config, head_dim)?;
    let attention_bias = config.flag_or("attention_bias", false)?;
    let mlp_bias = config.flag_or("mlp_bias", false)?;
    let prefix = catalog.prefix(&["model.", ""], "embed_tokens.weight")?;
    let norm = |name: String| Norm::rms(&name, &hidden, eps, LLAMA.fields.norm_eps);
    let layer = |index: usize| {
        let name = format!("{prefix}layers.{index}");
        let attend = |which: &str, output: &Dim, input: &Dim| {
            Linear::named(&format!("{name}.self_attn.{which}_proj"), output, input, attention_bias)
        };
        let feed = |which: &str, output: &Dim, input: &Dim| {
            Linear::named(&format!("{name}.mlp.{which}_proj"), output, input, mlp_bias)
        };
        let projections = [
            attend("q", &queries, &hidden),
            attend("k", &keys, &hidden),
            attend("v", &keys, &hidden),
            attend("o", &hidden, &queries),
        ];
        let attention = Attention {
            kv_heads,
            causal: true,
            rotary: Some(rotary.clone()),
            ..Attention::plain(projections, heads, head_dim)
        };
        let mlp = Mlp {
            up: feed("up", &inner, &hidden),
            gate: Some(feed("gate", &inner, &hidden)),
            down: feed("down", &hidden, &inner),
            activation,
        };
        let first = norm(format!("{name}.input_layernorm"));
        let second = norm(format!("{name}.post_attention_layernorm"));
        vec![
            Sublayer::pre_norm(first, Op::Attention(Box::new(attention))),
            Sublayer::pre_norm(second, Op::Mlp(Box::new(mlp))),
        ]
    };

    let token_table =
        Lens::matrix(format!("{prefix}embed_tokens.weight"), vocabulary.clone(), [hidden.clone()]);
    let last = Step::Norm(norm(format!("{prefix}norm")));
    let mut aliases = Vec::new();
    let output = if is_architecture(config, "LlamaModel")? {
        Output { name: "last_hidden_state", steps: vec![last], fixed: false }
    } else {
        let name = "lm_head.weight";
        let weight = if config.flag_or("tie_word_embeddings", false)? {
            if catalog.has(name) {
                aliases.push(Alias { name: name.into(), of: token_table.name().into() });
            }
            token_table.clone()
        } else {
            Lens::matrix(name, vocabulary.clone(), [hidden.clone()])
        };
        let head = Step::Linear(Linear { weight, bias: None });
        Output { name: "logits", steps: vec![last, head], fixed: true }
    };
    Ok(Model {
        family: LLAMA.name,
        embedding: Embedding::of_tables(
            Input::Tokens { vocabulary: vocabulary.size, positions: None, types: 0 },
            vec![Table::plain(TableIndex::Token, token_table)],
        ),
        layers: (0..sizes.layers).map(layer).collect(),
        encoder: None,
        outputs: vec![output],
        aliases,
        buffers: catalog.ending_in(&["rotary_emb.inv_freq"]),
        sizes,
    })
}
