//! DistilBERT: Post-LN encoder like BERT, without token types and pooler; alone, with the
//! masked-word head, or with a classifier of sequences.
//!
//! Names: `distilbert.transformer.layer.0.attention.q_lin.weight`, with or without `distilbert.`,
//! and `vocab_transform.weight`. ε is not stored: the code says 1e-12.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;

pub(super) static DISTILBERT: Family = Family {
    name: "distilbert",
    fields: Fields {
        hidden: "dim",
        heads: "n_heads",
        intermediate: "hidden_dim",
        layers: "n_layers",
        kv_heads: None,
        head_dim: None,
        norm_eps: None,
    },
    describe,
    configure,
};

/// ε in the code.
const NORM_EPS: f64 = 1e-12;

/// Other names by which the library reads the same settings.
const OTHER_NAMES: [(&str, &str); 3] =
    [("dim", "hidden_size"), ("n_heads", "num_attention_heads"), ("n_layers", "num_hidden_layers")];

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    config.set("dim", sizes.hidden);
    config.set("n_heads", sizes.heads);
    config.set("hidden_dim", sizes.intermediate);
    config.set("n_layers", sizes.layers);
    for (_, other) in OTHER_NAMES {
        config.remove(other);
    }
}

fn sizes(config: &Config) -> Result<Sizes> {
    for (name, other) in OTHER_NAMES {
        if config.get(other).is_some_and(|value| config.get(name) != Some(value)) {
            let problem = format!("it is another name of `{name}`, and differs from it");
            let error = Error::bad_input(problem).at(config.origin()).field(other);
            return Err(error.help(format!("write `{name}`, and remove `{other}`")));
        }
    }
    plain_sizes(config, &DISTILBERT.fields)
}

fn layer(name: &str, sizes: &Sizes, activation: Activation) -> Vec<Sublayer> {
    let hidden = Dim::new(sizes.hidden, "dim");
    let inner = Dim::new(sizes.intermediate, "hidden_dim");
    let linear = |part: &str, output: &Dim, input: &Dim| {
        Linear::named(&format!("{name}.{part}"), output, input, true)
    };
    let projections = ["q_lin", "k_lin", "v_lin", "out_lin"]
        .map(|part| linear(&format!("attention.{part}"), &hidden, &hidden));
    let attention = Attention::plain(projections, sizes.heads, sizes.head_dim);
    let mlp = Mlp {
        up: linear("ffn.lin1", &inner, &hidden),
        gate: None,
        down: linear("ffn.lin2", &hidden, &inner),
        activation,
    };
    let norm = |part: &str| Norm::layer(&format!("{name}.{part}"), &hidden, NORM_EPS, None);
    vec![
        Sublayer::post_norm(Op::Attention(Box::new(attention)), norm("sa_layer_norm")),
        Sublayer::post_norm(Op::Mlp(Box::new(mlp)), norm("output_layer_norm")),
    ]
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let sizes = sizes(config)?;
    let hidden = Dim::new(sizes.hidden, "dim");
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let positions = Dim::new(config.size("max_position_embeddings")?, "max_position_embeddings");
    // `sinusoidal_pos_embds` fills the position table before training; it is stored either way.
    let prefix = catalog.prefix(&["distilbert.", ""], "embeddings.word_embeddings.weight")?;
    let table = |name: &str, rows: &Dim| {
        let name = format!("{prefix}embeddings.{name}_embeddings.weight");
        Lens::matrix(name, rows.clone(), [hidden.clone()])
    };
    let activation = activation(config, "activation", "gelu")?;
    let norm = |name: &str| Norm::layer(name, &hidden, NORM_EPS, None);
    let words = table("word", &vocabulary);
    let mut aliases = Vec::new();
    let output = if catalog.has("vocab_transform.weight") {
        let name = "vocab_projector";
        let matrix = format!("{name}.weight");
        let (weight, found) = word_matrix(config, catalog, &matrix, &words, true)?;
        aliases = found;
        let bias = Some(Lens::vector(format!("{name}.bias"), vocabulary.clone()));
        let steps = vec![
            Step::Linear(Linear::named("vocab_transform", &hidden, &hidden, true)),
            Step::Activation(activation),
            Step::Norm(norm("vocab_layer_norm")),
            Step::Linear(Linear { weight, bias }),
        ];
        Output { name: "logits", steps, fixed: true }
    } else if catalog.has("pre_classifier.weight") {
        let classes = Dim::new(class_count(config)?, "num_labels");
        let steps = vec![
            Step::Position(0),
            Step::Linear(Linear::named("pre_classifier", &hidden, &hidden, true)),
            Step::Activation(Activation::Relu),
            Step::Linear(Linear::named("classifier", &classes, &hidden, true)),
        ];
        Output { name: "logits", steps, fixed: true }
    } else {
        Output { name: "last_hidden_state", steps: Vec::new(), fixed: false }
    };
    let input =
        Input::Tokens { vocabulary: vocabulary.size, positions: Some(positions.size), types: 0 };
    let tables = vec![
        Table::plain(TableIndex::Token, words),
        Table::positions(table("position", &positions)),
    ];
    let layer = |index| layer(&format!("{prefix}transformer.layer.{index}"), &sizes, activation);
    Ok(Model {
        encoder: None,
        family: &DISTILBERT,
        embedding: Embedding {
            norm: Some(norm(&format!("{prefix}embeddings.LayerNorm"))),
            ..Embedding::of_tables(input, tables)
        },
        layers: (0..sizes.layers).map(layer).collect(),
        outputs: vec![output],
        aliases,
        buffers: catalog.ending_in(&["embeddings.position_ids"]),
        sizes,
    })
}
