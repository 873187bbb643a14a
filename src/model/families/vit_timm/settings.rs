//! What timm's `VisionTransformer` is built with: the architecture's arguments and, over them,
//! `model_args`.

use super::arguments;
use super::pooling::{LastNorm, Pool};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;
use serde_json::Value;

/// The arguments of a model, read.
pub(super) struct Settings {
    pub sizes: Sizes,
    pub image: Image,
    /// Number of classes; `None` where the model has no head.
    pub classes: Option<usize>,
    pub eps: f64,
    pub activation: Activation,
    pub qkv_bias: bool,
    /// Of the attention's output and of both layers of the MLP.
    pub other_biases: bool,
    pub layer_scale: bool,
    pub head_norms: bool,
    /// Whether norms stand behind attention and MLP, not in front of them (`ResPostBlock`).
    pub norms_behind: bool,
    /// A norm in front of the first block (CLIP).
    pub first_norm: bool,
    pub class_token: bool,
    pub distilled: bool,
    pub registers: usize,
    pub positions: bool,
    /// Whether class token and registers have positions too.
    pub prefix_positions: bool,
    pub pool: Pool,
    pub last_norm: LastNorm,
}

impl Settings {
    /// Reads a configuration.
    ///
    /// # Errors
    /// If the architecture or an argument is not implemented, or has no usable value.
    pub fn read(config: &Config) -> Result<Settings> {
        let all = arguments::arguments(config)?;
        let settings = Settings {
            sizes: sizes(&all)?,
            image: image(&all)?,
            classes: match all.get("num_classes").and_then(Value::as_u64) {
                Some(0) => None,
                _ => Some(all.size("num_classes")?),
            },
            eps: all.positive_or("eps", 1e-6)?,
            activation: activation(&all)?,
            qkv_bias: all.flag_or("qkv_bias", true)?,
            other_biases: all.flag_or("proj_bias", true)?,
            layer_scale: scales(&all)?,
            head_norms: all.flag_or("qk_norm", false)?,
            norms_behind: all.word_or("block_fn", "")? == "ResPostBlock",
            first_norm: all.flag_or("pre_norm", false)?,
            class_token: all.flag_or("class_token", true)?,
            distilled: all.flag_or("distilled", false)?,
            registers: if zero(&all, "reg_tokens") { 0 } else { all.size_or("reg_tokens", 0)? },
            positions: has_positions(&all)?,
            prefix_positions: !all.flag_or("no_embed_class", false)?,
            pool: Pool::read(config, &all)?,
            last_norm: LastNorm::read(&all)?,
        };
        settings.check(&all)?;
        Ok(settings)
    }

    /// Combinations that timm cannot build, or that are not implemented.
    fn check(&self, all: &Config) -> Result<()> {
        if self.pool == Pool::Token && !self.class_token {
            let problem = "pooling the class token of a model that has none is impossible";
            return Err(Error::bad_input(problem).at(all.origin()).field("class_token"));
        }
        let plain = self.class_token
            && self.registers == 0
            && self.positions
            && self.prefix_positions
            && self.pool == Pool::Token
            && self.last_norm == LastNorm::Stream
            && self.classes.is_some();
        if self.distilled && !plain {
            let problem = "a distilled model with another pooling, other tokens, other positions \
                           or without a head is not implemented";
            return Err(all.unsupported("model_args", problem));
        }
        let (height, width) = self.image.pixels;
        if all.flag_or("dynamic_img_size", false)? && height != width {
            let problem = "positions that follow the size of images are not implemented where the \
                           model's own images are no squares";
            return Err(all.unsupported("dynamic_img_size", problem));
        }
        Ok(())
    }
}

fn zero(all: &Config, field: &str) -> bool {
    all.get(field).and_then(Value::as_f64) == Some(0.0)
}

fn sizes(all: &Config) -> Result<Sizes> {
    let (hidden, heads) = (all.size("embed_dim")?, all.size("num_heads")?);
    // timm computes int(embed_dim · mlp_ratio), which truncates.
    let intermediate = (hidden as f64 * all.positive_or("mlp_ratio", 4.0)?) as usize;
    if intermediate == 0 {
        let problem = "it leaves no neuron";
        return Err(Error::bad_input(problem).at(all.origin()).field("model_args.mlp_ratio"));
    }
    Ok(Sizes {
        hidden,
        heads,
        kv_heads: heads,
        head_dim: head_size(all, hidden, heads, "model_args.num_heads")?,
        intermediate,
        layers: all.layers("depth")?,
        experts: None,
        norm_eps: None,
    })
}

fn image(all: &Config) -> Result<Image> {
    Ok(Image {
        channels: all.size_or("in_chans", 3)?,
        pixels: pair_or(all, "img_size", (224, 224))?,
        patch: square(all, "patch_size", 16)?,
    })
}

/// The activation, by timm's names.
fn activation(all: &Config) -> Result<Activation> {
    let name = all.word_or("act_layer", "gelu")?;
    Ok(match name {
        "gelu" => Activation::GeluErf,
        "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        _ => {
            let problem = format!("the activation `{name}` is not implemented");
            return Err(all.unsupported("model_args.act_layer", problem));
        }
    })
}

/// Whether branches are scaled: they are where `init_values` is a number other than zero.
fn scales(all: &Config) -> Result<bool> {
    let scaled = all.get("init_values").is_some() && !zero(all, "init_values");
    if scaled {
        all.positive_or("init_values", 1.0)?;
    }
    Ok(scaled)
}

fn has_positions(all: &Config) -> Result<bool> {
    match all.word_or("pos_embed", "learn")? {
        "learn" => Ok(true),
        "" | "none" => Ok(false),
        other => {
            let problem = format!("positions of type `{other}` are not implemented");
            Err(all.unsupported("model_args.pos_embed", problem))
        }
    }
}
