//! What BERT, its Pre-LN form and RoBERTa have in common: tables, attention, MLP, pooler and the
//! decoder of masked words.
//!
//! Names: `embeddings.word_embeddings.weight`, `encoder.layer.0.attention.self.query.weight`; norms
//! end in `weight` and `bias`, or in older files in `gamma` and `beta`.

use super::{encoder_sizes, word_matrix};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::families::activation;
use crate::model::*;

/// A configuration of this shape, and where its tensors lie.
pub(in crate::model) struct BertParts<'a> {
    pub config: &'a Config,
    pub catalog: &'a Catalog<'a>,
    pub sizes: Sizes,
    pub hidden: Dim,
    pub vocabulary: Dim,
    /// In front of all names but the head's.
    pub prefix: &'static str,
    activation: Activation,
    eps: f64,
}

/// What an output is made from, and the names that go with it.
#[derive(Default)]
pub(in crate::model) struct WordOutput {
    pub steps: Vec<Step>,
    pub aliases: Vec<Alias>,
    pub buffers: Vec<String>,
}

impl<'a> BertParts<'a> {
    /// Reads what the families share.
    ///
    /// # Errors
    /// If a field is missing, unusable or not implemented, or no token table is stored.
    pub fn read(
        config: &'a Config,
        catalog: &'a Catalog<'a>,
        prefixes: &[&'static str],
    ) -> Result<Self> {
        for field in ["is_decoder", "add_cross_attention"] {
            if config.flag_or(field, false)? {
                return Err(config.unsupported(field, "an encoder as a decoder is not implemented"));
            }
        }
        let kind = config.word_or("position_embedding_type", "absolute")?;
        if kind != "absolute" {
            let problem = format!("positions of type `{kind}` are not implemented");
            return Err(config.unsupported("position_embedding_type", problem));
        }
        let sizes = encoder_sizes(config, Some(1e-12))?;
        Ok(BertParts {
            hidden: Dim::new(sizes.hidden, "hidden_size"),
            vocabulary: Dim::new(config.size("vocab_size")?, "vocab_size"),
            prefix: catalog.prefix(prefixes, "embeddings.word_embeddings.weight")?,
            activation: activation(config, "hidden_act", "gelu")?,
            eps: config.positive_or("layer_norm_eps", 1e-12)?,
            config,
            catalog,
            sizes,
        })
    }

    /// The MLP's function.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The norm of this whole name.
    pub fn norm(&self, name: &str) -> Norm {
        let old = self.catalog.has(&format!("{}embeddings.LayerNorm.gamma", self.prefix));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        Norm {
            weight: Some(Lens::vector(format!("{name}.{weight}"), self.hidden.clone())),
            bias: Some(Lens::vector(format!("{name}.{bias}"), self.hidden.clone())),
            ..Norm::layer(name, &self.hidden, self.eps, Some("layer_norm_eps"))
        }
    }

    /// A linear layer with a bias.
    pub fn linear(&self, name: &str, output: &Dim, input: &Dim) -> Linear {
        Linear::named(name, output, input, true)
    }

    /// The sum of words, positions and token types; of sequences as long as the position table
    /// allows.
    ///
    /// # Errors
    /// If a field is missing or unusable.
    pub fn embedding(&self, numbered: Positions, norm: Option<Norm>) -> Result<Embedding> {
        const ROWS: &str = "max_position_embeddings";
        let rows = Dim::new(self.config.size(ROWS)?, ROWS);
        let types = Dim::new(self.config.size_or("type_vocab_size", 2)?, "type_vocab_size");
        let input = Input::Tokens {
            vocabulary: self.vocabulary.size,
            positions: Some(rows.size.saturating_sub(numbered.offset)),
            types: types.size,
        };
        let tables = [
            (TableIndex::Token, "word", &self.vocabulary),
            (TableIndex::Position(numbered), "position", &rows),
            (TableIndex::TokenType, "token_type", &types),
        ]
        .map(|(index, name, rows)| Table::plain(index, self.table(name, rows)));
        Ok(Embedding { norm, ..Embedding::of_tables(input, tables.into()) })
    }

    fn table(&self, name: &str, rows: &Dim) -> Lens {
        let name = format!("{}embeddings.{name}_embeddings.weight", self.prefix);
        Lens::matrix(name, rows.clone(), [self.hidden.clone()])
    }

    /// The name of a part of a layer.
    pub fn in_layer(&self, index: usize, part: &str) -> String {
        format!("{}encoder.layer.{index}.{part}", self.prefix)
    }

    /// Attention and MLP of a layer.
    pub fn ops(&self, index: usize) -> [Op; 2] {
        let hidden = &self.hidden;
        let inner = Dim::new(self.sizes.intermediate, "intermediate_size");
        let linear = |part: &str, output: &Dim, input: &Dim| {
            self.linear(&self.in_layer(index, part), output, input)
        };
        let projections = ["self.query", "self.key", "self.value", "output.dense"]
            .map(|part| linear(&format!("attention.{part}"), hidden, hidden));
        let attention = Attention::plain(projections, self.sizes.heads, self.sizes.head_dim);
        let mlp = Mlp {
            up: linear("intermediate.dense", &inner, hidden),
            gate: None,
            down: linear("output.dense", hidden, &inner),
            activation: self.activation,
        };
        [Op::Attention(Box::new(attention)), Op::Mlp(Box::new(mlp))]
    }

    /// A layer whose norms are behind its sublayers.
    pub fn post_norm_layer(&self, index: usize) -> Vec<Sublayer> {
        let norm = |part: &str| self.norm(&self.in_layer(index, part));
        let [attention, mlp] = self.ops(index);
        vec![
            Sublayer::post_norm(attention, norm("attention.output.LayerNorm")),
            Sublayer::post_norm(mlp, norm("output.LayerNorm")),
        ]
    }

    /// The steps to the pooled vector of the first token.
    pub fn pooler(&self) -> Vec<Step> {
        let name = format!("{}pooler.dense", self.prefix);
        let dense = Step::Linear(self.linear(&name, &self.hidden, &self.hidden));
        vec![Step::Position(0), dense, Step::Activation(Activation::Tanh)]
    }

    /// The outputs without a head, computed from what `steps` make of the stream.
    pub fn hidden_outputs(&self, steps: Vec<Step>) -> Vec<Output> {
        let pooled = Output {
            name: "pooler_output",
            steps: [steps.clone(), self.pooler()].concat(),
            fixed: false,
        };
        let has_pooler = self.catalog.has(&format!("{}pooler.dense.weight", self.prefix));
        let hidden = Output { name: "last_hidden_state", steps, fixed: false };
        [Some(hidden), has_pooler.then_some(pooled)].into_iter().flatten().collect()
    }

    /// The last steps to the logits of masked words: `head.decoder`, tied to the token table, with
    /// its bias stored as `head.bias`.
    ///
    /// # Errors
    /// If `tie_word_embeddings` is neither true nor false.
    pub fn word_output(&self, head: &str, mut steps: Vec<Step>) -> Result<WordOutput> {
        let table = self.table("word", &self.vocabulary);
        let name = format!("{head}.decoder.weight");
        let (weight, mut aliases) = word_matrix(self.config, self.catalog, &name, &table, true)?;
        let tied = self.config.flag_or("tie_word_embeddings", true)?;
        let (bias, second) = (format!("{head}.bias"), format!("{head}.decoder.bias"));
        let mut buffers = Vec::new();
        let bias = match (self.catalog.has(&second), tied) {
            (false, _) => bias,
            (true, true) => {
                aliases.push(Alias { name: second, of: bias.clone() });
                bias
            }
            // Untied, the decoder has a bias of its own and the other one is not read.
            (true, false) => {
                buffers.extend(self.catalog.ending_in(&[bias.as_str()]));
                second
            }
        };
        let bias = Some(Lens::vector(bias, self.vocabulary.clone()));
        steps.push(Step::Linear(Linear { weight, bias }));
        Ok(WordOutput { steps, aliases, buffers })
    }

    /// The model of these parts.
    pub fn model(
        self,
        family: &'static Family,
        embedding: Embedding,
        layers: Vec<Vec<Sublayer>>,
        outputs: Vec<Output>,
        (aliases, mut buffers): (Vec<Alias>, Vec<String>),
    ) -> Model {
        let ids = ["embeddings.position_ids", "embeddings.token_type_ids"];
        buffers.extend(self.catalog.ending_in(&ids));
        Model {
            family,
            embedding,
            layers,
            encoder: None,
            outputs,
            aliases,
            buffers,
            sizes: self.sizes,
        }
    }
}
