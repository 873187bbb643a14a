//! Parts that several families are put together from.

mod bert;
pub(super) mod decoder;
pub(super) mod free_form;
mod image;
pub(super) mod rotary;
pub(super) mod windows;
mod words;

use super::*;
use crate::checkpoint::Config;
pub(super) use bert::{BertParts, WordOutput};
pub(super) use image::{Image, ImageNames, class_count, pair_or, square};
pub(super) use words::word_matrix;

impl Dim {
    /// `count` times this dimension, where the field `from` says how many.
    pub fn product(&self, count: usize, from: &str) -> Dim {
        Dim::new(self.size.saturating_mul(count), format!("{from}·{}", self.from))
    }
}

impl Linear {
    /// `name.weight` `[output, input]` and, if `biased`, `name.bias`.
    pub fn named(name: &str, output: &Dim, input: &Dim, biased: bool) -> Linear {
        Linear {
            weight: Lens::matrix(format!("{name}.weight"), output.clone(), [input.clone()]),
            bias: biased.then(|| Lens::vector(format!("{name}.bias"), output.clone())),
        }
    }

    /// The `count` output rows from `first` on: one part of a fused layer.
    pub fn rows(&self, first: usize, count: usize) -> Linear {
        Linear {
            weight: self.weight.clone().slice(first, count),
            bias: self.bias.clone().map(|bias| bias.slice(first, count)),
        }
    }
}

impl Norm {
    /// A LayerNorm with `name.weight` and `name.bias`; `eps_field` is the configuration field of
    /// ε, `None` where the family fixes it in code.
    pub fn layer(name: &str, channels: &Dim, eps: f64, eps_field: Option<&'static str>) -> Norm {
        let bias = Some(Lens::vector(format!("{name}.bias"), channels.clone()));
        Norm { kind: NormKind::Layer, bias, ..Norm::rms(name, channels, eps, eps_field) }
    }

    /// An RMSNorm with `name.weight`; `eps_field` as for [`Norm::layer`].
    pub fn rms(name: &str, channels: &Dim, eps: f64, eps_field: Option<&'static str>) -> Norm {
        let weight = Some(Lens::vector(format!("{name}.weight"), channels.clone()));
        Norm { kind: NormKind::Rms, weight, offset: 0.0, bias: None, eps, eps_field }
    }
}

impl Attention {
    /// Multi-head attention with logits divided by `sqrt(head_dim)`, each head with keys and
    /// values of its own, everything visible.
    pub fn plain(
        [query, key, value, output]: [Linear; 4],
        heads: usize,
        head_dim: usize,
    ) -> Attention {
        Attention {
            query,
            key,
            value,
            output,
            heads,
            kv_heads: heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            reads_encoder: false,
            causal: false,
            window: None,
            softcap: None,
            head_norms: None,
            rotary: None,
            relative: None,
        }
    }
}

impl Positions {
    /// Every position counts, and position 0 has row 0.
    pub const EVERY: Positions = Positions { count: Count::All, offset: 0 };
}

impl Table {
    /// A table as wide as the stream.
    pub fn plain(index: TableIndex, lens: Lens) -> Table {
        Table { index, lens, scale: 1.0, projection: None }
    }

    /// A position table whose row `p` is that of position `p`.
    pub fn positions(lens: Lens) -> Table {
        Table::plain(TableIndex::Position(Positions::EVERY), lens)
    }
}

impl Embedding {
    /// Summed tables, and nothing else.
    pub fn of_tables(input: Input, tables: Vec<Table>) -> Embedding {
        Embedding { input, tables, prefix: Vec::new(), patch: None, norm: None }
    }
}

impl Branch {
    /// An op behind a norm.
    pub fn new(norm: Option<Norm>, op: Op) -> Branch {
        Branch { norm, op, post_norm: None, scale: None }
    }
}

impl Sublayer {
    /// `x ← x + op(norm(x))`.
    pub fn pre_norm(norm: Norm, op: Op) -> Sublayer {
        Sublayer { branches: vec![Branch::new(Some(norm), op)], post_norm: None }
    }

    /// `x ← norm(x + op(x))`.
    pub fn post_norm(op: Op, norm: Norm) -> Sublayer {
        Sublayer { branches: vec![Branch::new(None, op)], post_norm: Some(norm) }
    }
}

/// The head size where a family fixes it to hidden / heads.
///
/// # Errors
/// If the heads do not divide the hidden size.
pub(super) fn head_size(
    config: &Config,
    hidden: usize,
    heads: usize,
    field: &str,
) -> Result<usize> {
    if hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(Error::bad_input(format!("{heads} heads do not divide a hidden size of {hidden}"))
        .at(config.origin())
        .field(field))
}

/// The sizes of an encoder with BERT's field names; `default_eps` is `None` where ε is not stored.
pub(super) fn encoder_sizes(config: &Config, default_eps: Option<f64>) -> Result<Sizes> {
    let sizes = plain_sizes(config, &Fields::USUAL)?;
    let norm_eps = default_eps.map(|eps| config.positive_or("layer_norm_eps", eps)).transpose()?;
    Ok(Sizes { norm_eps, ..sizes })
}

/// The sizes in these fields, of a model whose heads have hidden / heads channels, keys and values
/// of their own; without ε.
pub(super) fn plain_sizes(config: &Config, fields: &Fields) -> Result<Sizes> {
    let (hidden, heads) = (config.size(fields.hidden)?, config.size(fields.heads)?);
    Ok(Sizes {
        hidden,
        heads,
        kv_heads: heads,
        head_dim: head_size(config, hidden, heads, fields.heads)?,
        intermediate: config.size(fields.intermediate)?,
        layers: config.layers(fields.layers)?,
        experts: None,
        norm_eps: None,
    })
}

/// Writes sizes with BERT's field names.
pub(super) fn configure_encoder(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    config.set("hidden_size", sizes.hidden);
    config.set("num_attention_heads", sizes.heads);
    config.set("intermediate_size", sizes.intermediate);
    config.set("num_hidden_layers", sizes.layers);
    if config.get("pooler_output_size").is_some() {
        config.set("pooler_output_size", sizes.hidden);
    }
    if let Some(eps) = sizes.norm_eps {
        config.set("layer_norm_eps", eps);
    }
}

/// Whether `architectures` names one class alone, such as the base model without a head.
pub(super) fn is_architecture(config: &Config, class: &str) -> Result<bool> {
    match config.get("architectures") {
        None => Ok(false),
        Some(value) => {
            let list = value
                .as_array()
                .ok_or_else(|| config.wrong("architectures", "a list of names", value))?;
            Ok(!list.is_empty() && list.iter().all(|name| name.as_str() == Some(class)))
        }
    }
}
