//! OPT: decoder with learnt positions, which count the tokens that the mask shows and begin at row
//! 2, and ReLU; Pre-LN, or Post-LN in OPT-350m, whose token table is also narrower than the stream.
//!
//! Names: `model.decoder.layers.0.self_attn.q_proj.weight`, or `decoder.` in front alone. ε is not
//! stored: the code says 1e-5.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{refuse_other_heads, refuse_switches};
use crate::model::*;

pub(super) static OPT: Family = Family {
    name: "opt",
    fields: Fields { intermediate: "ffn_dim", norm_eps: None, ..Fields::USUAL },
    describe,
    configure,
};

/// ε of PyTorch's LayerNorm where none is given.
const NORM_EPS: f64 = 1e-5;
/// Rows of the position table in front of position 0.
const OFFSET: usize = 2;

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    // A table as wide as the stream grows with it; a narrower one stays, as do its projections'
    // other sides.
    if config.get("word_embed_proj_dim") == config.get("hidden_size") {
        config.set("word_embed_proj_dim", sizes.hidden);
    }
    config.set("hidden_size", sizes.hidden);
    config.set("num_attention_heads", sizes.heads);
    config.set("ffn_dim", sizes.intermediate);
    config.set("num_hidden_layers", sizes.layers);
}

/// What all layers need.
struct Parts {
    sizes: Sizes,
    hidden: Dim,
    inner: Dim,
    activation: Activation,
    biased: bool,
    /// Whether norms have γ and β.
    affine: bool,
    norm_first: bool,
    prefix: &'static str,
}

impl Parts {
    fn norm(&self, name: &str) -> Norm {
        let norm = Norm::layer(name, &self.hidden, NORM_EPS, None);
        if self.affine { norm } else { Norm { weight: None, bias: None, ..norm } }
    }

    fn layer(&self, index: usize) -> Vec<Sublayer> {
        let name = format!("{}layers.{index}", self.prefix);
        let (hidden, inner) = (&self.hidden, &self.inner);
        let linear = |part: &str, output: &Dim, input: &Dim| {
            Linear::named(&format!("{name}.{part}"), output, input, self.biased)
        };
        let projections = ["q_proj", "k_proj", "v_proj", "out_proj"]
            .map(|part| linear(&format!("self_attn.{part}"), hidden, hidden));
        let attention = Attention {
            causal: true,
            ..Attention::plain(projections, self.sizes.heads, self.sizes.head_dim)
        };
        let mlp = Mlp {
            up: linear("fc1", inner, hidden),
            gate: None,
            down: linear("fc2", hidden, inner),
            activation: self.activation,
        };
        let ops = [
            ("self_attn_layer_norm", Op::Attention(Box::new(attention))),
            ("final_layer_norm", Op::Mlp(Box::new(mlp))),
        ];
        let sublayer = |(part, op): (&str, Op)| {
            let norm = self.norm(&format!("{name}.{part}"));
            match self.norm_first {
                true => Sublayer::pre_norm(norm, op),
                false => Sublayer::post_norm(op, norm),
            }
        };
        ops.map(sublayer).into()
    }
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    refuse_switches(config)?;
    refuse_other_heads(config)?;
    let hidden = Dim::new(config.size("hidden_size")?, "hidden_size");
    let heads = config.size("num_attention_heads")?;
    let parts = Parts {
        sizes: Sizes {
            hidden: hidden.size,
            heads,
            kv_heads: heads,
            head_dim: head_size(config, hidden.size, heads, "num_attention_heads")?,
            intermediate: config.size("ffn_dim")?,
            layers: config.layers("num_hidden_layers")?,
            experts: None,
            norm_eps: None,
        },
        inner: Dim::new(config.size("ffn_dim")?, "ffn_dim"),
        activation: activation(config, "activation_function", "relu")?,
        biased: config.flag_or("enable_bias", true)?,
        affine: config.flag_or("layer_norm_elementwise_affine", true)?,
        norm_first: config.flag_or("do_layer_norm_before", true)?,
        prefix: catalog.prefix(&["model.decoder.", "decoder."], "embed_tokens.weight")?,
        hidden,
    };
    let (prefix, hidden) = (parts.prefix, &parts.hidden);
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let positions = Dim::new(config.size("max_position_embeddings")?, "max_position_embeddings");
    let width = config.size_or("word_embed_proj_dim", hidden.size)?;
    let width = Dim::new(width, "word_embed_proj_dim");
    let projected = width.size != hidden.size;
    let project = |part: &str, output: &Dim, input: &Dim| {
        projected.then(|| Linear::named(&format!("{prefix}{part}"), output, input, false))
    };

    let token_table =
        Lens::matrix(format!("{prefix}embed_tokens.weight"), vocabulary.clone(), [width.clone()]);
    let rows = Dim::new(positions.size + OFFSET, "max_position_embeddings + 2");
    let position_table =
        Lens::matrix(format!("{prefix}embed_positions.weight"), rows, [hidden.clone()]);
    let counted = Positions { count: Count::Visible, offset: OFFSET };
    let tables = vec![
        Table {
            projection: project("project_in", hidden, &width),
            ..Table::plain(TableIndex::Token, token_table.clone())
        },
        Table::plain(TableIndex::Position(counted), position_table),
    ];

    let mut steps = Vec::new();
    if parts.norm_first && !config.flag_or("_remove_final_layer_norm", false)? {
        steps.push(Step::Norm(parts.norm(&format!("{prefix}final_layer_norm"))));
    }
    steps.extend(project("project_out", &width, hidden).map(Step::Linear));
    let mut aliases = Vec::new();
    let output = if is_architecture(config, "OPTModel")? {
        Output { name: "last_hidden_state", steps, fixed: false }
    } else {
        let (weight, found) = word_matrix(config, catalog, "lm_head.weight", &token_table, true)?;
        aliases = found;
        steps.push(Step::Linear(Linear { weight, bias: None }));
        Output { name: "logits", steps, fixed: true }
    };
    let input =
        Input::Tokens { vocabulary: vocabulary.size, positions: Some(positions.size), types: 0 };
    Ok(Model {
        encoder: None,
        family: &OPT,
        embedding: Embedding::of_tables(input, tables),
        layers: (0..parts.sizes.layers).map(|index| parts.layer(index)).collect(),
        outputs: vec![output],
        aliases,
        buffers: Vec::new(),
        sizes: parts.sizes,
    })
}
