//! ViT as Hugging Face has it: Pre-LN image encoder with class token, learnt positions and separate
//! query, key and value. (DeiT is the same with one more token: see [`super::deit`].)
//!
//! Names: `vit.encoder.layer.0.attention.attention.query.weight`, with or without `vit.`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;

pub(super) static VIT: Family =
    Family { name: "vit", fields: Fields::USUAL, describe, configure: configure_encoder };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let encoder = Encoder::read(config, catalog, &["vit.", ""])?;
    let outputs = match catalog.has("classifier.weight") {
        true => vec![encoder.classifier("logits", "classifier", 0)?],
        false => encoder.base()?,
    };
    encoder.model(&VIT, &["cls_token"], outputs)
}

/// An image encoder with Hugging Face's names.
pub(super) struct Encoder<'a> {
    config: &'a Config,
    catalog: &'a Catalog<'a>,
    prefix: &'static str,
    sizes: Sizes,
    hidden: Dim,
    eps: f64,
}

impl<'a> Encoder<'a> {
    /// Reads the sizes; the names begin with one of `prefixes`.
    ///
    /// # Errors
    /// If a field has no usable value, or no class token is stored.
    pub fn read(
        config: &'a Config,
        catalog: &'a Catalog<'a>,
        prefixes: &[&'static str],
    ) -> Result<Self> {
        let sizes = encoder_sizes(config, Some(1e-12))?;
        if config.size_or("head_dim", sizes.head_dim)? != sizes.head_dim {
            let problem =
                "another head size than hidden_size/num_attention_heads is not implemented";
            return Err(config.unsupported("head_dim", problem));
        }
        let hidden = Dim::new(sizes.hidden, Fields::USUAL.hidden);
        let eps = config.positive_or("layer_norm_eps", 1e-12)?;
        let prefix = catalog.prefix(prefixes, "embeddings.cls_token")?;
        Ok(Encoder { config, catalog, prefix, sizes, hidden, eps })
    }

    /// The model with these rows in front of the patches (`embeddings.<name>`) and these outputs.
    ///
    /// # Errors
    /// If a field has no usable value.
    pub fn model(
        self,
        family: &'static Family,
        tokens: &[&str],
        outputs: Vec<Output>,
    ) -> Result<Model> {
        let prefix = self.prefix;
        let activation = activation(self.config, "hidden_act", "gelu")?;
        let biased = self.config.flag_or("qkv_bias", true)?;
        let token = |name: &&str| (format!("{prefix}embeddings.{name}"), Dim::one());
        let embedding = ImageNames {
            prefix: tokens.iter().map(token).collect(),
            positions: Some(format!("{prefix}embeddings.position_embeddings")),
            prefix_positions: true,
            patch: format!("{prefix}embeddings.patch_embeddings.projection"),
            patch_bias: true,
        }
        .embedding(self.config, &self.hidden, &Image::read(self.config)?)?;
        Ok(Model {
            family,
            embedding,
            layers: (0..self.sizes.layers).map(|i| self.layer(i, activation, biased)).collect(),
            encoder: None,
            outputs,
            aliases: Vec::new(),
            buffers: self.catalog.ending_in(&["embeddings.mask_token"]),
            sizes: self.sizes,
        })
    }

    fn norm(&self, name: &str) -> Norm {
        Norm::layer(
            &format!("{}{name}", self.prefix),
            &self.hidden,
            self.eps,
            Fields::USUAL.norm_eps,
        )
    }

    fn layer(&self, index: usize, activation: Activation, biased: bool) -> Vec<Sublayer> {
        let name = format!("encoder.layer.{index}");
        let hidden = &self.hidden;
        let inner = Dim::new(self.sizes.intermediate, Fields::USUAL.intermediate);
        let part = |which: &str, output: &Dim, input: &Dim, bias: bool| {
            Linear::named(&format!("{}{name}.{which}", self.prefix), output, input, bias)
        };
        let projections = [
            part("attention.attention.query", hidden, hidden, biased),
            part("attention.attention.key", hidden, hidden, biased),
            part("attention.attention.value", hidden, hidden, biased),
            part("attention.output.dense", hidden, hidden, true),
        ];
        let attention = Attention::plain(projections, self.sizes.heads, self.sizes.head_dim);
        let mlp = Mlp {
            up: part("intermediate.dense", &inner, hidden, true),
            gate: None,
            down: part("output.dense", hidden, &inner, true),
            activation,
        };
        let norm = |which: &str| self.norm(&format!("{name}.layernorm_{which}"));
        vec![
            Sublayer::pre_norm(norm("before"), Op::Attention(Box::new(attention))),
            Sublayer::pre_norm(norm("after"), Op::Mlp(Box::new(mlp))),
        ]
    }

    /// The logits of the linear layer `head` on the normalised token at `position`.
    ///
    /// # Errors
    /// If the configuration does not say how many classes there are.
    pub fn classifier(&self, name: &'static str, head: &str, position: usize) -> Result<Output> {
        let classes = Dim::new(class_count(self.config)?, "num_labels");
        let head = Step::Linear(Linear::named(head, &classes, &self.hidden, true));
        let steps = vec![Step::Norm(self.norm("layernorm")), Step::Position(position), head];
        Ok(Output { name, steps, fixed: true })
    }

    /// What the model without a head returns: the stream and, if it is stored, the pooler's output.
    ///
    /// # Errors
    /// If the pooler has another size than the stream.
    pub fn base(&self) -> Result<Vec<Output>> {
        let last = Step::Norm(self.norm("layernorm"));
        let mut outputs =
            vec![Output { name: "last_hidden_state", steps: vec![last.clone()], fixed: false }];
        let pooler = format!("{}pooler.dense", self.prefix);
        if self.catalog.has(&format!("{pooler}.weight")) {
            let hidden = &self.hidden;
            if self.config.size_or("pooler_output_size", hidden.size)? != hidden.size {
                let problem = "a pooler of another size than hidden_size is not implemented";
                return Err(self.config.unsupported("pooler_output_size", problem));
            }
            let dense = Step::Linear(Linear::named(&pooler, hidden, hidden, true));
            let activation = Step::Activation(activation(self.config, "pooler_act", "tanh")?);
            let steps = vec![last, Step::Position(0), dense, activation];
            outputs.push(Output { name: "pooler_output", steps, fixed: false });
        }
        Ok(outputs)
    }
}
