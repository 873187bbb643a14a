//! The parts of a model of free form, as its configuration names them one by one.

use super::decoder;
use super::windows::one_window;
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::families::{Family, activation};
use crate::model::*;

/// Where the norms of the stream stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Place {
    /// In front of branches.
    Pre,
    /// Behind the sum: they write the stream.
    Post,
    /// In front of branches and behind them.
    Sandwich,
    /// In front of attention and MLP, which read the same stream.
    Parallel,
}

/// A configuration of free form, read.
pub(in crate::model) struct FreeForm<'a> {
    config: &'a Config,
    family: &'static Family,
    /// The sizes.
    pub sizes: Sizes,
    /// Channels of the stream.
    pub hidden: Dim,
    inner: Dim,
    /// Where norms stand.
    pub place: Place,
    eps: f64,
}

impl<'a> FreeForm<'a> {
    /// Reads the sizes and where norms stand.
    ///
    /// # Errors
    /// If a field is missing, unusable or not implemented.
    pub fn read(config: &'a Config, family: &'static Family) -> Result<Self> {
        let place = match config.word_or("norm_place", "pre")? {
            "pre" => Place::Pre,
            "post" => Place::Post,
            "sandwich" => Place::Sandwich,
            "parallel" => Place::Parallel,
            other => {
                let problem =
                    format!("norms stand `pre`, `post`, `sandwich` or `parallel`, not {other}");
                return Err(config.unsupported("norm_place", problem));
            }
        };
        let heads = config.size("num_attention_heads")?;
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            heads,
            kv_heads: decoder::kv_heads(config, heads, None)?,
            head_dim: decoder::head_dim(config, family, None)?,
            intermediate: config.size("intermediate_size")?,
            layers: config.layers("num_hidden_layers")?,
            experts: None,
            norm_eps: Some(config.positive_or("norm_eps", 1e-5)?),
        };
        Ok(FreeForm {
            config,
            family,
            hidden: Dim::new(sizes.hidden, "hidden_size"),
            inner: Dim::new(sizes.intermediate, "intermediate_size"),
            place,
            eps: sizes.norm_eps.unwrap_or_default(),
            sizes,
        })
    }

    /// A norm over `channels`, of the kind that `field` names.
    fn norm_of(&self, name: &str, channels: &Dim, field: &str) -> Result<Norm> {
        let (config, eps_field) = (self.config, self.family.fields.norm_eps);
        let plain = Norm::rms(name, channels, self.eps, eps_field);
        let layer = match config.word_or(field, "layer")? {
            "layer" => true,
            "rms" => false,
            other => {
                let problem = format!("the norm `{other}` is not implemented");
                return Err(config.unsupported(field, problem).help("give `layer` or `rms`"));
            }
        };
        let full = if layer { Norm::layer(name, channels, self.eps, eps_field) } else { plain };
        let bias = config.flag_or("norm_bias", layer)?;
        let offset = if config.flag_or("norm_plus_one", false)? { 1.0 } else { 0.0 };
        Ok(match config.flag_or("norm_weight", true)? {
            true => Norm { offset, bias: full.bias.clone().filter(|_| bias), ..full },
            false => Norm { weight: None, bias: None, ..full },
        })
    }

    /// A norm of the stream.
    ///
    /// # Errors
    /// If its kind is not implemented.
    pub fn norm(&self, name: &str) -> Result<Norm> {
        self.norm_of(name, &self.hidden, "norm")
    }

    /// The sublayers of a layer.
    ///
    /// # Errors
    /// If a field is unusable or not implemented.
    pub fn layer(&self, index: usize) -> Result<Vec<Sublayer>> {
        let (attention, mlp) = (format!("layers.{index}.attention"), format!("layers.{index}.mlp"));
        let ops = [(&attention, self.attention(&attention)?), (&mlp, self.mlp(&mlp)?)];
        let mut branches = Vec::new();
        for (part, op) in ops {
            let post = self.place == Place::Post;
            let norm = if post { None } else { Some(self.norm(&format!("{part}.norm"))?) };
            let mut branch = Branch::new(norm, op);
            if self.place == Place::Sandwich {
                branch.post_norm = Some(self.norm(&format!("{part}.out_norm"))?);
            }
            if self.config.flag_or("layer_scale", false)? {
                branch.scale = Some(Lens::vector(format!("{part}.scale"), self.hidden.clone()));
            }
            let post_norm = if post { Some(self.norm(&format!("{part}.norm"))?) } else { None };
            branches.push(Sublayer { branches: vec![branch], post_norm });
        }
        if self.place != Place::Parallel {
            return Ok(branches);
        }
        let branches = branches.into_iter().flat_map(|sublayer| sublayer.branches).collect();
        Ok(vec![Sublayer { branches, post_norm: None }])
    }

    fn attention(&self, part: &str) -> Result<Op> {
        let (config, Sizes { heads, kv_heads, head_dim, .. }) = (self.config, self.sizes.clone());
        let per_head = Dim::new(head_dim, "head_dim");
        let (queries, keys) = (
            per_head.product(heads, "num_attention_heads"),
            per_head.product(kv_heads, "num_key_value_heads"),
        );
        let linear = |name: &str, to: &Dim, from: &Dim, biased| {
            Linear::named(&format!("{part}.{name}"), to, from, biased)
        };
        let (bias, out) =
            (config.flag_or("qkv_bias", false)?, config.flag_or("output_bias", false)?);
        let projections = [
            linear("query", &queries, &self.hidden, bias),
            linear("key", &keys, &self.hidden, bias),
            linear("value", &keys, &self.hidden, bias),
            linear("output", &self.hidden, &queries, out),
        ];
        let head_norms = match config.get("head_norm") {
            None => None,
            Some(_) => {
                let norm =
                    |name: &str| self.norm_of(&format!("{part}.{name}"), &per_head, "head_norm");
                Some(Box::new(HeadNorms { query: norm("query_norm")?, key: norm("key_norm")? }))
            }
        };
        Ok(Op::Attention(Box::new(Attention {
            kv_heads,
            causal: config.flag_or("causal", true)?,
            window: one_window(config, None)?,
            softcap: cap(config, "attention_softcap")?,
            head_norms,
            rotary: self.rotary()?,
            ..Attention::plain(projections, heads, head_dim)
        })))
    }

    fn rotary(&self) -> Result<Option<Rotary>> {
        const FIELD: &str = "rotary_dims";
        let (config, turned) = (self.config, self.config.size_opt("rotary_dims")?.unwrap_or(0));
        if turned % 2 == 1 || turned > self.sizes.head_dim {
            let problem = format!("{turned} channels of {} cannot be turned", self.sizes.head_dim);
            return Err(config.unsupported(FIELD, problem).help("give an even number of them"));
        }
        let theta = config.positive_or("rope_theta", 10_000.0)?;
        let frequency = |pair: usize| theta.powf(-2.0 * pair as f64 / turned as f64);
        let frequencies = (0..turned / 2).map(frequency).collect();
        Ok((turned > 0).then_some(Rotary { frequencies }))
    }

    fn mlp(&self, part: &str) -> Result<Op> {
        let bias = self.config.flag_or("mlp_bias", false)?;
        let inner =
            |name: &str| Linear::named(&format!("{part}.{name}"), &self.inner, &self.hidden, bias);
        Ok(Op::Mlp(Box::new(Mlp {
            gate: self.config.flag_or("gated", false)?.then(|| inner("gate")),
            up: inner("up"),
            down: Linear::named(&format!("{part}.down"), &self.hidden, &self.inner, bias),
            activation: activation(self.config, "hidden_act", "gelu")?,
        })))
    }
}

/// A cap, where the field holds one.
///
/// # Errors
/// If it is no positive number.
pub(in crate::model) fn cap(config: &Config, field: &str) -> Result<Option<f64>> {
    config.get(field).map(|_| config.positive_or(field, 1.0)).transpose()
}
