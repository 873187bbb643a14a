//! Decoders of Llama's shape: what their families share.
//!
//! A token table; layers of attention and gated MLP, each behind a norm; a last norm and a head,
//! which may be tied to the table. Attention has rotary positions and may share key/value heads.
//! A family says its [`Defaults`] and puts its layers together from the parts of a [`Layer`].
//!
//! Names: `model.layers.0.self_attn.q_proj.weight`, with or without `model.`.

use super::rotary::{RotaryDefaults, keep_frequencies, rotary};
use super::windows::set_layer_types;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::families::{Catalog, Family, Fields, activation};
use crate::model::*;

/// The configuration fields of these families.
pub(in crate::model) const FIELDS: Fields = Fields {
    hidden: "hidden_size",
    heads: "num_attention_heads",
    intermediate: "intermediate_size",
    layers: "num_hidden_layers",
    kv_heads: Some("num_key_value_heads"),
    head_dim: Some("head_dim"),
    norm_eps: Some("rms_norm_eps"),
};

/// What a family's configuration class says where a field is absent, and the kind of its norms.
pub(in crate::model) struct Defaults {
    /// What its classes' names begin with, such as `Llama`.
    pub class: &'static str,
    /// Key/value heads; `None` where they default to the query heads, as a null always does.
    pub kv_heads: Option<usize>,
    /// Channels per head; `None` where they default to hidden / heads.
    pub head_dim: Option<usize>,
    /// The field of the activation, and its default.
    pub activation: (&'static str, &'static str),
    /// ε; what holds always where the family has no field of it.
    pub eps: f64,
    /// Rotary positions.
    pub rotary: RotaryDefaults,
    /// Whether the head is tied to the token table.
    pub tied: bool,
    /// The norms of the stream.
    pub norm: NormStyle,
}

/// The norms of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum NormStyle {
    /// RMSNorm.
    Rms,
    /// RMSNorm with γ = 1 + weight (Gemma).
    RmsPlusOne,
    /// LayerNorm with weight and bias.
    Layer,
    /// LayerNorm that stores nothing: γ = 1, β = 0.
    Bare,
}

impl Defaults {
    /// Those of Llama.
    pub const LLAMA: Defaults = Defaults {
        class: "Llama",
        kv_heads: None,
        head_dim: None,
        activation: ("hidden_act", "silu"),
        eps: 1e-6,
        rotary: RotaryDefaults { theta: 10_000.0, partial: None },
        tied: false,
        norm: NormStyle::Rms,
    };
}

/// A decoder whose configuration is read, to be completed by its layers.
pub(in crate::model) struct Decoder<'a> {
    config: &'a Config,
    catalog: &'a Catalog<'a>,
    family: &'static Family,
    defaults: Defaults,
    prefix: &'static str,
    eps: f64,
    rotary: Rotary,
    /// The sizes; a family with experts adds their number.
    pub sizes: Sizes,
    /// Of the MLP; a family may change it.
    pub activation: Activation,
    /// Channels of the stream.
    pub hidden: Dim,
    /// Neurons of the MLP.
    pub inner: Dim,
    /// Channels of all query heads.
    pub queries: Dim,
    /// Channels of all key, or value, heads.
    pub keys: Dim,
}

impl<'a> Decoder<'a> {
    /// Reads what the families share.
    ///
    /// # Errors
    /// If a field is missing, unusable or not implemented, or no token table is stored.
    pub fn read(
        config: &'a Config,
        catalog: &'a Catalog<'a>,
        family: &'static Family,
        defaults: Defaults,
    ) -> Result<Self> {
        refuse_switches(config)?;
        let hidden = Dim::new(config.size("hidden_size")?, "hidden_size");
        let heads = config.size("num_attention_heads")?;
        let kv_heads = kv_heads(config, heads, defaults.kv_heads)?;
        let head_dim = head_dim(config, family, defaults.head_dim)?;
        let inner = Dim::new(config.size("intermediate_size")?, "intermediate_size");
        let eps = match family.fields.norm_eps {
            Some(field) => config.positive_or(field, defaults.eps)?,
            None => defaults.eps,
        };
        let sizes = Sizes {
            hidden: hidden.size,
            heads,
            kv_heads,
            head_dim,
            intermediate: inner.size,
            layers: config.layers("num_hidden_layers")?,
            experts: None,
            norm_eps: family.fields.norm_eps.map(|_| eps),
        };
        let per_head = Dim::new(head_dim, "head_dim");
        let (field, default) = defaults.activation;
        Ok(Decoder {
            activation: activation(config, field, default)?,
            rotary: rotary(config, head_dim, defaults.rotary)?,
            prefix: catalog.prefix(&["model.", ""], "embed_tokens.weight")?,
            queries: per_head.product(heads, "num_attention_heads"),
            keys: per_head.product(kv_heads, "num_key_value_heads"),
            config,
            catalog,
            family,
            defaults,
            eps,
            sizes,
            hidden,
            inner,
        })
    }

    fn norm(&self, name: &str) -> Norm {
        let (field, eps) = (self.family.fields.norm_eps, self.eps);
        match self.defaults.norm {
            NormStyle::Rms => Norm::rms(name, &self.hidden, eps, field),
            NormStyle::RmsPlusOne => {
                Norm { offset: 1.0, ..Norm::rms(name, &self.hidden, eps, field) }
            }
            NormStyle::Layer => Norm::layer(name, &self.hidden, eps, field),
            NormStyle::Bare => {
                Norm { weight: None, bias: None, ..Norm::layer(name, &self.hidden, eps, field) }
            }
        }
    }

    /// Layer `index`, for its parts.
    pub fn layer(&self, index: usize) -> Layer<'_> {
        Layer { decoder: self, name: format!("{}layers.{index}", self.prefix), index }
    }

    /// The name of the token table.
    pub fn token_table(&self) -> String {
        format!("{}embed_tokens.weight", self.prefix)
    }

    /// The whole model, each of its layers put together by `layer`.
    ///
    /// # Errors
    /// If the configuration names another head than that of a language model.
    pub fn model(self, layer: impl Fn(&Layer) -> Vec<Sublayer>) -> Result<Model> {
        let vocabulary = Dim::new(self.config.size("vocab_size")?, "vocab_size");
        let table = Lens::matrix(self.token_table(), vocabulary.clone(), [self.hidden.clone()]);
        let mut aliases = Vec::new();
        let output = self.output(&vocabulary, &table, &mut aliases)?;
        Ok(Model {
            family: self.family,
            embedding: Embedding::of_tables(
                Input::Tokens { vocabulary: vocabulary.size, positions: None, types: 0 },
                vec![Table::plain(TableIndex::Token, table)],
            ),
            layers: (0..self.sizes.layers).map(|index| layer(&self.layer(index))).collect(),
            encoder: None,
            outputs: vec![output],
            aliases,
            buffers: self.catalog.ending_in(&["rotary_emb.inv_freq"]),
            sizes: self.sizes,
        })
    }

    fn output(&self, vocabulary: &Dim, table: &Lens, aliases: &mut Vec<Alias>) -> Result<Output> {
        refuse_other_heads(self.config)?;
        let last = Step::Norm(self.norm(&format!("{}norm", self.prefix)));
        if is_architecture(self.config, &format!("{}Model", self.defaults.class))? {
            return Ok(Output { name: "last_hidden_state", steps: vec![last], fixed: false });
        }
        let name = "lm_head.weight";
        let weight = if self.config.flag_or("tie_word_embeddings", self.defaults.tied)? {
            if self.catalog.has(name) {
                aliases.push(Alias { name: name.into(), of: table.name().into() });
            }
            table.clone()
        } else {
            Lens::matrix(name, vocabulary.clone(), [self.hidden.clone()])
        };
        let head = Step::Linear(Linear { weight, bias: None });
        Ok(Output { name: "logits", steps: vec![last, head], fixed: true })
    }
}

/// One layer of a [`Decoder`].
pub(in crate::model) struct Layer<'a> {
    decoder: &'a Decoder<'a>,
    name: String,
    /// Which layer it is.
    pub index: usize,
}

impl Layer<'_> {
    /// The name of a part, such as `model.layers.0.mlp.up_proj`.
    pub fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// A norm of the stream.
    pub fn norm(&self, part: &str) -> Norm {
        self.decoder.norm(&self.name(part))
    }

    /// A norm of the channels of each head.
    pub fn head_norm(&self, part: &str) -> Norm {
        let channels = Dim::new(self.decoder.sizes.head_dim, "head_dim");
        let field = self.decoder.family.fields.norm_eps;
        Norm::rms(&self.name(part), &channels, self.decoder.eps, field)
    }

    /// A linear layer.
    pub fn linear(&self, part: &str, output: &Dim, input: &Dim, biased: bool) -> Linear {
        Linear::named(&self.name(part), output, input, biased)
    }

    /// Causal attention with `q_proj`, `k_proj`, `v_proj` and `o_proj`, where `biased` says whether
    /// the first three, and the last, have biases.
    pub fn attention(&self, biased: (bool, bool)) -> Attention {
        let d = self.decoder;
        self.attention_of([
            self.linear("self_attn.q_proj", &d.queries, &d.hidden, biased.0),
            self.linear("self_attn.k_proj", &d.keys, &d.hidden, biased.0),
            self.linear("self_attn.v_proj", &d.keys, &d.hidden, biased.0),
            self.linear("self_attn.o_proj", &d.hidden, &d.queries, biased.1),
        ])
    }

    /// Causal attention with these projections: query, key, value, output.
    pub fn attention_of(&self, projections: [Linear; 4]) -> Attention {
        let sizes = &self.decoder.sizes;
        Attention {
            kv_heads: sizes.kv_heads,
            causal: true,
            rotary: Some(self.decoder.rotary.clone()),
            ..Attention::plain(projections, sizes.heads, sizes.head_dim)
        }
    }

    /// A gated MLP with `gate_proj`, `up_proj` and `down_proj`.
    pub fn mlp(&self, biased: bool) -> Mlp {
        self.mlp_named(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"], biased)
    }

    /// A gated MLP with layers of these names: gate, up, down.
    pub fn mlp_named(&self, [gate, up, down]: [&str; 3], biased: bool) -> Mlp {
        let d = self.decoder;
        Mlp {
            gate: Some(self.linear(gate, &d.inner, &d.hidden, biased)),
            up: self.linear(up, &d.inner, &d.hidden, biased),
            down: self.linear(down, &d.hidden, &d.inner, biased),
            activation: d.activation,
        }
    }

    /// Attention and then another op, each behind its norm.
    pub fn pre_norm(&self, attention: Attention, second: Op) -> Vec<Sublayer> {
        let attention = Op::Attention(Box::new(attention));
        vec![
            Sublayer::pre_norm(self.norm("input_layernorm"), attention),
            Sublayer::pre_norm(self.norm("post_attention_layernorm"), second),
        ]
    }
}

/// As [`configure`], for heads that are hidden / heads channels large where no field says it and
/// whose rotary positions begin with Llama's base: it grows with the heads.
pub(in crate::model) fn configure_rotary(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    grow_base(config, sizes, None, Defaults::LLAMA.rotary.theta);
    configure(config, sizes, layers);
}

/// Writes the base of rotary positions that keeps all frequencies in the larger heads of `sizes`;
/// `head_dim` and `theta` are what holds where the configuration says nothing.
pub(in crate::model) fn grow_base(
    config: &mut Config,
    sizes: &Sizes,
    head_dim: Option<usize>,
    theta: f64,
) {
    let divided = |config: &Config| {
        let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        head_size(config, hidden, heads, "num_attention_heads")
    };
    let written = config.size_opt("head_dim").ok().flatten();
    let default = head_dim.filter(|_| !config.is_null("head_dim"));
    if let Some(before) = written.or(default).or_else(|| divided(config).ok()) {
        keep_frequencies(config, before, sizes.head_dim, theta);
    }
}

/// Writes sizes; the types of layers, where they are listed, follow their layers.
pub(in crate::model) fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    if config.get("layer_types").is_some() {
        set_layer_types(config, layers, |_| false);
    }
    set_sizes(config, &FIELDS, sizes);
}

/// Writes sizes into `fields`.
pub(in crate::model) fn set_sizes(config: &mut Config, fields: &Fields, sizes: &Sizes) {
    for (field, size) in [
        (Some(fields.hidden), sizes.hidden),
        (Some(fields.heads), sizes.heads),
        (fields.kv_heads, sizes.kv_heads),
        (fields.head_dim, sizes.head_dim),
        (Some(fields.intermediate), sizes.intermediate),
        (Some(fields.layers), sizes.layers),
    ] {
        if let Some(field) = field {
            config.set(field, size);
        }
    }
    if let (Some(field), Some(eps)) = (fields.norm_eps, sizes.norm_eps) {
        config.set(field, eps);
    }
}

/// Key/value heads; `default` where the field is absent, the query heads where it is null.
///
/// # Errors
/// If they do not divide the query heads.
pub(in crate::model) fn kv_heads(
    config: &Config,
    heads: usize,
    default: Option<usize>,
) -> Result<usize> {
    const FIELD: &str = "num_key_value_heads";
    let default = default.filter(|_| !config.is_null(FIELD)).unwrap_or(heads);
    let kv_heads = config.size_or(FIELD, default)?;
    if heads.is_multiple_of(kv_heads) {
        return Ok(kv_heads);
    }
    let problem = format!("{heads} query heads cannot share {kv_heads} key/value heads");
    Err(Error::bad_input(problem).at(config.origin()).field(FIELD))
}

/// Channels per head; `default` where the field is absent, hidden / heads where it is null or the
/// family has no such field.
///
/// # Errors
/// If the heads do not divide the hidden size, or the field is there and must not be.
pub(in crate::model) fn head_dim(
    config: &Config,
    family: &Family,
    default: Option<usize>,
) -> Result<usize> {
    const FIELD: &str = "head_dim";
    let written = config.size_opt(FIELD)?;
    let default = default.filter(|_| !config.is_null(FIELD));
    if let (Some(size), Some(_)) = (written.or(default), family.fields.head_dim) {
        return Ok(size);
    }
    let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    let size = head_size(config, hidden, heads, "num_attention_heads")?;
    match written {
        Some(other) if other != size => {
            let problem = format!("this family's heads have hidden / heads = {size} channels");
            Err(config.unsupported(FIELD, problem))
        }
        _ => Ok(size),
    }
}

/// Refuses settings of other families and of wrappers that would change what is computed.
pub(in crate::model) fn refuse_switches(config: &Config) -> Result<()> {
    const PER_LAYER: &str = "per_layer_config";
    if config.get(PER_LAYER).is_some() {
        return Err(config.unsupported(PER_LAYER, "layers that differ are not implemented"));
    }
    for (field, plain) in [
        ("is_causal", true),
        ("use_bidirectional_attention", false),
        ("add_cross_attention", false),
        ("alibi", false),
    ] {
        if config.flag_or(field, plain)? != plain {
            return Err(config.unsupported(field, format!("only {plain} is implemented")));
        }
    }
    for field in [
        "attention_multiplier",
        "embedding_multiplier",
        "residual_multiplier",
        "logits_scaling",
        "logit_scale",
    ] {
        if config.positive_or(field, 1.0)? != 1.0 {
            return Err(config.unsupported(field, "a factor other than 1 is not implemented"));
        }
    }
    Ok(())
}

/// Refuses classifiers and the like, whose heads are not implemented.
pub(in crate::model) fn refuse_other_heads(config: &Config) -> Result<()> {
    let Some(list) = config.get("architectures").and_then(|value| value.as_array()) else {
        return Ok(());
    };
    let other = |name: &&str| name.contains("For") && !name.ends_with("ForCausalLM");
    match list.iter().filter_map(|name| name.as_str()).find(other) {
        None => Ok(()),
        Some(name) => {
            let problem = format!("the head of `{name}` is not implemented");
            Err(config.unsupported("architectures", problem))
        }
    }
}
