//! Random source models, small enough to run by the hundred.

mod choose;
mod config;
mod names;
mod weights;

use crate::checkpoint::{Checkpoint, Config, Dtype};
use crate::error::{Error, Result};
use crate::model::{Catalog, Model, family_of};
use serde::{Deserialize, Serialize};

/// The name that in-memory configurations and checkpoints go by in messages.
const ORIGIN: &str = "generated model";
/// A larger size than any generated model needs.
const SIZE_LIMIT: usize = 1 << 18;
/// More numbers than any generated model needs: a case that asks for more is refused.
const NUMBERS_LIMIT: usize = 1 << 28;

/// The families that cases are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Pre-LN decoder, `Conv1D`, fused query, key and value.
    Gpt2,
    /// Post-LN encoder.
    Bert,
    /// Pre-RMSNorm decoder, rotary, gated, grouped queries.
    Llama,
    /// Hugging Face's image encoder.
    Vit,
    /// timm's image encoder.
    VitTimm,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 5] = [
        Architecture::Gpt2,
        Architecture::Bert,
        Architecture::Llama,
        Architecture::Vit,
        Architecture::VitTimm,
    ];

    /// The family's name in [`crate::model`].
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Gpt2 => "gpt2",
            Architecture::Bert => "bert",
            Architecture::Llama => "llama",
            Architecture::Vit => "vit",
            Architecture::VitTimm => "vit_timm",
        }
    }
}

/// What the model returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The hidden states alone.
    Base,
    /// Hidden states and the pooled first one (BERT, ViT).
    Pooled,
    /// Logits of words: causal (GPT-2, Llama) or masked (BERT).
    Words,
    /// Logits of classes (ViT, timm).
    Classes,
}

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightStyle {
    /// Everything random: γ about 1, β and biases of std 0.3, matrices that keep the scale,
    /// embeddings of std 0.5. Hides least.
    Random,
    /// As `Random` with embeddings of std 0.02, where ε shows most.
    SmallEmbeddings,
    /// As libraries initialise: std 0.02, γ = 1, β = b = 0. Hides most mistakes.
    DefaultInit,
    /// As `Random` with matrices and embeddings four times as large.
    Large,
    /// As `Random` with matrices and embeddings a twentieth as large.
    Tiny,
}

/// Which linear layers have biases, where the family lets the configuration say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// Query, key and value alone (ViT, timm).
    pub qkv: bool,
    /// All four linear layers of attention (Llama).
    pub attention: bool,
    /// The linear layers of the MLP (Llama).
    pub mlp: bool,
}

/// The image that a model reads, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageCase {
    /// Colour channels.
    pub channels: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels; equal to `height` but for timm.
    pub width: usize,
    /// Pixels per side of a patch.
    pub patch: usize,
}

/// Everything that reproduces one source model.
///
/// Settings that a family does not have keep the value that leaves it as it is; so every
/// case of [`SourceCase::random`] is legal, and equal cases are equal models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCase {
    /// The family.
    pub architecture: Architecture,
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; equal to `heads` but for Llama.
    pub kv_heads: usize,
    /// Channels per head; `hidden / heads` but for Llama.
    pub head_dim: usize,
    /// Neurons of the feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Words, or classes of an image model.
    pub vocabulary: usize,
    /// Rows of the position table (Llama: a limit that no tensor shows); image models: 0.
    pub positions: usize,
    /// Rows of the token type table (BERT), else 0.
    pub types: usize,
    /// What an image model reads.
    pub image: Option<ImageCase>,
    /// The activation, by Hugging Face's name.
    pub activation: String,
    /// What the model returns.
    pub head: Head,
    /// Whether the word head is the token table.
    pub tied: bool,
    /// Whether a tied head is stored a second time.
    pub stored_twice: bool,
    /// Whether tensor names carry the family's prefix (`transformer.`, `bert.`, `model.`, `vit.`).
    pub prefixed: bool,
    /// BERT: whether norms end in `gamma` and `beta`.
    pub old_norm_names: bool,
    /// Whether old buffers (masks, rotary frequencies, mask token) are stored.
    pub buffers: bool,
    /// Which biases there are.
    pub biases: Biases,
    /// GPT-2: logits divided by the square root of the head size.
    pub scale_by_head: bool,
    /// GPT-2: logits divided by one plus the layer's index.
    pub scale_by_layer: bool,
    /// Base of the rotary frequencies (Llama).
    pub theta: f64,
    /// The norms' ε (timm: always 1e-6).
    pub eps: f64,
    /// Number format of the weights: `float64`, `float32`, `float16`, `bfloat16`.
    #[serde(with = "dtype_name")]
    pub dtype: Dtype,
    /// How weights are drawn.
    pub weights: WeightStyle,
    /// Seed of the weights.
    pub seed: u64,
}

impl SourceCase {
    /// The configuration that the family's library writes for this model.
    pub fn config(&self) -> Config {
        config::config(self)
    }

    /// The model that the configuration describes, with the tensors that this case stores.
    ///
    /// # Errors
    /// If the case is not legal for its family.
    pub fn model(&self) -> Result<Model> {
        let config = self.config();
        let extra: Vec<String> = names::buffers(self).into_iter().map(|(name, _)| name).collect();
        let optional = names::optional(self);
        let catalog = Catalog::new(|name| optional.contains(name), |_| Some(self.dtype), &extra);
        (family_of(&config)?.describe)(&config, &catalog)
    }

    /// Every number that makes the model larger, with its field.
    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let image = self.image.unwrap_or(ImageCase { channels: 0, height: 0, width: 0, patch: 0 });
        vec![
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate", self.intermediate),
            ("layers", self.layers),
            ("vocabulary", self.vocabulary),
            ("positions", self.positions),
            ("types", self.types),
            ("image", image.channels.max(image.height).max(image.width)),
        ]
    }

    /// The model with its weights, in memory.
    ///
    /// # Errors
    /// If the case is not legal for its family, says a size above 2¹⁸, or asks for more than 2²⁸
    /// numbers.
    pub fn build(&self) -> Result<Checkpoint> {
        let advice = "generated models are for tests: make it smaller";
        if let Some((field, size)) = self.sizes().into_iter().find(|(_, n)| *n > SIZE_LIMIT) {
            let problem = format!("{size} is more than the {SIZE_LIMIT} that a case may say");
            return Err(Error::bad_input(problem).field(field).help(advice));
        }
        let model = self.model()?;
        let read = model.lenses().into_iter().map(|l| l.rows().saturating_mul(l.cols()));
        let unread = names::buffers(self)
            .into_iter()
            .map(|(_, shape)| shape.into_iter().fold(1, usize::saturating_mul));
        if read.chain(unread).fold(0usize, usize::saturating_add) > NUMBERS_LIMIT {
            return Err(Error::bad_input("the case asks for more than 2²⁸ weights").help(advice));
        }
        Ok(Checkpoint::in_memory(ORIGIN, self.config(), weights::tensors(self, &model)))
    }
}

/// [`Dtype`] by its configuration name.
mod dtype_name {
    use super::Dtype;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(dtype: &Dtype, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.config_name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dtype, D::Error> {
        let name = String::deserialize(from)?;
        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16]
            .into_iter()
            .find(|dtype| dtype.config_name() == name)
            .ok_or_else(|| D::Error::custom(format!("unknown number format `{name}`")))
    }
}
