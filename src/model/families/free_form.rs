//! Free form: a Transformer over token ids whose parts the configuration names one by one, for
//! models of one's own that no library writes, and for tests of every combination.
//!
//! | field | what it says | default |
//! | --- | --- | --- |
//! | `norm` | `layer` or `rms` | `layer` |
//! | `norm_weight`, `norm_bias` | whether norms store γ, β | `true`; `norm` is `layer` |
//! | `norm_plus_one` | γ is 1 + what is stored | `false` |
//! | `norm_place` | `pre`, `post`, `sandwich` (both), `parallel` (at once) | `pre` |
//! | `head_norm` | norms of each head's queries and keys: `layer`, `rms` or null | null |
//! | `rotary_dims`, `rope_theta` | channels of a head that are turned, the base | none, 10000 |
//! | `position_table` | rows of a table of positions | none |
//! | `causal`, `sliding_window` | what attention sees | `true`, null |
//! | `attention_softcap`, `logit_softcap` | caps on logits | null |
//! | `hidden_act`, `gated` | the MLP | `gelu`, `false` |
//! | `qkv_bias`, `output_bias`, `mlp_bias`, `layer_scale` | which vectors are stored | `false` |
//! | `tie_word_embeddings` | whether the head is the token table | `false` |
//!
//! Sizes have Llama's names, ε is `norm_eps`. Tensors: `tokens`, `positions`, `norm`, `head`, and
//! in `layers.0.attention`, `layers.0.mlp`: `norm`, `out_norm`, `query`, `key`, `value`, `output`,
//! `query_norm`, `key_norm`, `gate`, `up`, `down`, `scale`.

use super::{Catalog, Family, Fields, activation};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, set_sizes};
use crate::model::parts::windows::one_window;
use crate::model::*;

pub(super) static FREE_FORM: Family = Family {
    name: "free_form",
    fields: Fields { norm_eps: Some("norm_eps"), ..decoder::FIELDS },
    describe,
    configure: |config, sizes, _| set_sizes(config, &FREE_FORM.fields, sizes),
};

/// Where the norms of the stream stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Pre,
    Post,
    Sandwich,
    Parallel,
}

/// A configuration, read.
struct Free<'a> {
    config: &'a Config,
    sizes: Sizes,
    hidden: Dim,
    inner: Dim,
    place: Place,
    eps: f64,
}

fn describe(config: &Config, _: &Catalog) -> Result<Model> {
    let free = Free::read(config)?;
    let (vocabulary, positions) = (
        Dim::new(config.size("vocab_size")?, "vocab_size"),
        config.size_opt("position_table")?.unwrap_or(0),
    );
    let tokens = Lens::matrix("tokens", vocabulary.clone(), [free.hidden.clone()]);
    let mut tables = vec![Table::plain(TableIndex::Token, tokens.clone())];
    if positions > 0 {
        let rows = Dim::new(positions, "position_table");
        tables.push(Table::positions(Lens::matrix("positions", rows, [free.hidden.clone()])));
    }
    let positions = (positions > 0).then_some(positions);
    let input = Input::Tokens { vocabulary: vocabulary.size, positions, types: 0 };
    let post = free.place == Place::Post;
    let layers: Result<Vec<_>> = (0..free.sizes.layers).map(|layer| free.layer(layer)).collect();
    let mut steps = if post { Vec::new() } else { vec![Step::Norm(free.norm("norm")?)] };
    let base = is_architecture(config, "FreeFormModel")?;
    if !base {
        let weight = match config.flag_or("tie_word_embeddings", false)? {
            true => tokens,
            false => Lens::matrix("head", vocabulary, [free.hidden.clone()]),
        };
        steps.push(Step::Linear(Linear { weight, bias: None }));
        steps.extend(cap(config, "logit_softcap")?.map(Step::Softcap));
    }
    let name = if base { "last_hidden_state" } else { "logits" };
    let norm = if post { Some(free.norm("norm")?) } else { None };
    Ok(Model {
        family: &FREE_FORM,
        embedding: Embedding { norm, ..Embedding::of_tables(input, tables) },
        layers: layers?,
        encoder: None,
        outputs: vec![Output { name, steps, fixed: !base }],
        aliases: Vec::new(),
        buffers: Vec::new(),
        sizes: free.sizes,
    })
}

impl<'a> Free<'a> {
    fn read(config: &'a Config) -> Result<Self> {
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
            head_dim: decoder::head_dim(config, &FREE_FORM, None)?,
            intermediate: config.size("intermediate_size")?,
            layers: config.layers("num_hidden_layers")?,
            experts: None,
            norm_eps: Some(config.positive_or("norm_eps", 1e-5)?),
        };
        Ok(Free {
            config,
            hidden: Dim::new(sizes.hidden, "hidden_size"),
            inner: Dim::new(sizes.intermediate, "intermediate_size"),
            place,
            eps: sizes.norm_eps.unwrap_or_default(),
            sizes,
        })
    }

    /// A norm over `channels`, of the kind that `field` names.
    fn norm_of(&self, name: &str, channels: &Dim, field: &str) -> Result<Norm> {
        let (config, eps_field) = (self.config, FREE_FORM.fields.norm_eps);
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
    fn norm(&self, name: &str) -> Result<Norm> {
        self.norm_of(name, &self.hidden, "norm")
    }

    fn layer(&self, index: usize) -> Result<Vec<Sublayer>> {
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
fn cap(config: &Config, field: &str) -> Result<Option<f64>> {
    config.get(field).map(|_| config.positive_or(field, 1.0)).transpose()
}
