//! BERT: Post-LN encoder with learnt positions and token types; alone (with or without pooler) or
//! with the masked-word head, whose decoder is tied to the token table, and for pre-training the
//! next-sentence head.
//!
//! Names: `bert.encoder.layer.0.attention.self.query.weight`, with or without `bert.`; norms end in
//! `weight` and `bias`, or in older files in `gamma` and `beta`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;

pub(super) static BERT: Family = Family {
    name: "bert",
    fields: Fields {
        hidden: "hidden_size",
        heads: "num_attention_heads",
        intermediate: "intermediate_size",
        layers: "num_hidden_layers",
        kv_heads: None,
        head_dim: None,
        norm_eps: Some("layer_norm_eps"),
    },
    describe,
    configure: configure_encoder,
};

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    for field in ["is_decoder", "add_cross_attention"] {
        if config.flag_or(field, false)? {
            return Err(config.unsupported(field, "BERT as a decoder is not implemented"));
        }
    }
    let kind = config.word_or("position_embedding_type", "absolute")?;
    if kind != "absolute" {
        let problem = format!("positions of type `{kind}` are not implemented");
        return Err(config.unsupported("position_embedding_type", problem));
    }
    let sizes = encoder_sizes(config, Some(1e-12))?;
    let eps = config.positive_or("layer_norm_eps", 1e-12)?;
    let hidden = Dim::new(sizes.hidden, "hidden_size");
    let vocabulary = Dim::new(config.size("vocab_size")?, "vocab_size");
    let positions = Dim::new(config.size("max_position_embeddings")?, "max_position_embeddings");
    let types = Dim::new(config.size_or("type_vocab_size", 2)?, "type_vocab_size");
    let activation = activation(config, "hidden_act", "gelu")?;
    let table = "embeddings.word_embeddings.weight";
    let prefix = catalog.prefix(&["bert.", ""], table)?;
    let names = Names { catalog, hidden: &hidden, sizes: &sizes, eps, prefix };

    let tables = [
        (TableIndex::Token, "word_embeddings", &vocabulary),
        (TableIndex::Position(Positions::EVERY), "position_embeddings", &positions),
        (TableIndex::TokenType, "token_type_embeddings", &types),
    ]
    .map(|(index, name, rows)| {
        let name = format!("{prefix}embeddings.{name}.weight");
        Table::plain(index, Lens::matrix(name, rows.clone(), [hidden.clone()]))
    });
    let token_table = tables[0].lens.clone();
    let mut aliases = Vec::new();
    let mut buffers = catalog.ending_in(&["embeddings.position_ids", "embeddings.token_type_ids"]);
    let outputs = names.outputs(config, &vocabulary, &token_table, &mut aliases, &mut buffers)?;
    Ok(Model {
        family: BERT.name,
        embedding: Embedding {
            input: Input::Tokens {
                vocabulary: vocabulary.size,
                positions: Some(positions.size),
                types: types.size,
            },
            tables: tables.into(),
            prefix: Vec::new(),
            patch: None,
            norm: Some(names.norm(&format!("{prefix}embeddings.LayerNorm"))),
        },
        layers: (0..sizes.layers).map(|index| names.layer(index, activation)).collect(),
        encoder: None,
        outputs,
        aliases,
        buffers,
        sizes,
    })
}

/// What all parts of the description need.
struct Names<'a> {
    catalog: &'a Catalog<'a>,
    hidden: &'a Dim,
    sizes: &'a Sizes,
    eps: f64,
    prefix: &'static str,
}

impl Names<'_> {
    fn norm(&self, name: &str) -> Norm {
        let old = self.catalog.has(&format!("{}embeddings.LayerNorm.gamma", self.prefix));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        Norm {
            weight: Some(Lens::vector(format!("{name}.{weight}"), self.hidden.clone())),
            bias: Some(Lens::vector(format!("{name}.{bias}"), self.hidden.clone())),
            ..Norm::layer(name, self.hidden, self.eps, BERT.fields.norm_eps)
        }
    }

    fn layer(&self, index: usize, activation: Activation) -> Vec<Sublayer> {
        let name = format!("{}encoder.layer.{index}", self.prefix);
        let hidden = self.hidden;
        let inner = Dim::new(self.sizes.intermediate, "intermediate_size");
        let part = |which: &str, output: &Dim, input: &Dim| {
            Linear::named(&format!("{name}.{which}"), output, input, true)
        };
        let projections = [
            part("attention.self.query", hidden, hidden),
            part("attention.self.key", hidden, hidden),
            part("attention.self.value", hidden, hidden),
            part("attention.output.dense", hidden, hidden),
        ];
        let attention = Attention::plain(projections, self.sizes.heads, self.sizes.head_dim);
        let mlp = Mlp {
            up: part("intermediate.dense", &inner, hidden),
            gate: None,
            down: part("output.dense", hidden, &inner),
            activation,
        };
        let norm = |which: &str| self.norm(&format!("{name}.{which}.LayerNorm"));
        vec![
            Sublayer::post_norm(Op::Attention(Box::new(attention)), norm("attention.output")),
            Sublayer::post_norm(Op::Mlp(Box::new(mlp)), norm("output")),
        ]
    }

    fn outputs(
        &self,
        config: &Config,
        vocabulary: &Dim,
        token_table: &Lens,
        aliases: &mut Vec<Alias>,
        buffers: &mut Vec<String>,
    ) -> Result<Vec<Output>> {
        let (hidden, catalog) = (self.hidden, self.catalog);
        let pooler = format!("{}pooler.dense", self.prefix);
        let head = "cls.predictions";
        if !catalog.has(&format!("{head}.transform.dense.weight")) {
            let mut outputs =
                vec![Output { name: "last_hidden_state", steps: Vec::new(), fixed: false }];
            if catalog.has(&format!("{pooler}.weight")) {
                let dense = Step::Linear(Linear::named(&pooler, hidden, hidden, true));
                let steps = vec![Step::Position(0), dense, Step::Activation(Activation::Tanh)];
                outputs.push(Output { name: "pooler_output", steps, fixed: false });
            }
            return Ok(outputs);
        }
        // `BertForMaskedLM` computes neither pooler nor next-sentence head, which files written
        // for pre-training also carry.
        let next_sentence = is_architecture(config, "BertForPreTraining")?;
        if !next_sentence {
            buffers.extend(catalog.ending_in(&[
                "pooler.dense.weight",
                "pooler.dense.bias",
                "cls.seq_relationship.weight",
                "cls.seq_relationship.bias",
            ]));
        }
        let decoder = format!("{head}.decoder.weight");
        let tied = config.flag_or("tie_word_embeddings", true)?;
        if tied && catalog.has(&decoder) {
            aliases.push(Alias { name: decoder.clone(), of: token_table.name().into() });
        }
        let weight = if tied {
            token_table.clone()
        } else {
            Lens::matrix(decoder, vocabulary.clone(), [hidden.clone()])
        };
        let (bias, decoder_bias) = (format!("{head}.bias"), format!("{head}.decoder.bias"));
        let bias = match (catalog.has(&decoder_bias), tied) {
            (false, _) => bias,
            (true, true) => {
                aliases.push(Alias { name: decoder_bias, of: bias.clone() });
                bias
            }
            // Untied, the decoder has a bias of its own and the other one is not read.
            (true, false) => {
                buffers.extend(catalog.ending_in(&[bias.as_str()]));
                decoder_bias
            }
        };
        let name = format!("{head}.transform");
        let steps = vec![
            Step::Linear(Linear::named(&format!("{name}.dense"), hidden, hidden, true)),
            Step::Activation(activation(config, "hidden_act", "gelu")?),
            Step::Norm(self.norm(&format!("{name}.LayerNorm"))),
            Step::Linear(Linear { weight, bias: Some(Lens::vector(bias, vocabulary.clone())) }),
        ];
        let mut outputs = vec![Output { name: "logits", steps, fixed: true }];
        if next_sentence {
            let two = Dim::new(2, "2");
            let steps = vec![
                Step::Position(0),
                Step::Linear(Linear::named(&pooler, hidden, hidden, true)),
                Step::Activation(Activation::Tanh),
                Step::Linear(Linear::named("cls.seq_relationship", &two, hidden, true)),
            ];
            outputs.push(Output { name: "seq_relationship_logits", steps, fixed: true });
        }
        Ok(outputs)
    }
}
