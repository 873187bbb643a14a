//! Model families: each a short file that turns a configuration and tensor names into a
//! [`Model`], and nothing else.

mod bert;
mod bert_pre_norm;
mod deit;
mod distilbert;
mod free_form;
mod gemma;
mod gemma2;
mod gpt2;
mod gpt_neox;
mod llama;
mod mistral;
mod mixtral;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod roberta;
mod stablelm;
mod t5;
mod vit;
mod vit_timm;

use super::{Activation, Model, Sizes};
use crate::checkpoint::{Checkpoint, Config, Dtype};
use crate::error::{Error, Result};
use std::fmt;

/// A model family.
pub struct Family {
    /// What `model_type` (timm: `architecture`) must be, or begin with.
    pub name: &'static str,
    /// The configuration fields that say the sizes.
    pub fields: Fields,
    /// Describes the model of a configuration, given which tensors are stored. Optional parts
    /// (prefixes, biases, heads) are looked up in layer 0 alone: [`super::describe`] then checks
    /// that every tensor of the description is there.
    pub describe: fn(&Config, &Catalog) -> Result<Model>,
    /// Writes `Sizes` into a configuration of this family: every field that must change when a
    /// model is expanded, ε included. The last argument says for each layer which of the source's
    /// it is or copies: per-layer lists follow it.
    pub configure: fn(&mut Config, &Sizes, &[usize]),
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The names of the configuration fields that hold a family's [`Sizes`], for messages.
pub struct Fields {
    /// Hidden size.
    pub hidden: &'static str,
    /// Query heads.
    pub heads: &'static str,
    /// Feed-forward neurons.
    pub intermediate: &'static str,
    /// Layers.
    pub layers: &'static str,
    /// Key/value heads; `None` where the family has no grouped queries.
    pub kv_heads: Option<&'static str>,
    /// Head size; `None` where the family fixes it to hidden / heads.
    pub head_dim: Option<&'static str>,
    /// ε; `None` where it is not stored.
    pub norm_eps: Option<&'static str>,
}

impl Fields {
    /// The names that most families have.
    pub(super) const USUAL: Fields = Fields {
        hidden: "hidden_size",
        heads: "num_attention_heads",
        intermediate: "intermediate_size",
        layers: "num_hidden_layers",
        kv_heads: None,
        head_dim: None,
        norm_eps: Some("layer_norm_eps"),
    };
}

type Lookup<'a, T> = Box<dyn Fn(&str) -> T + 'a>;

/// Which tensor names are stored, and in which number format.
pub struct Catalog<'a> {
    has: Lookup<'a, bool>,
    dtype: Lookup<'a, Option<Dtype>>,
    names: Vec<&'a str>,
}

/// What wrappers in training put before names: DistributedDataParallel and torch.compile.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

impl<'a> Catalog<'a> {
    /// A catalogue that answers by `has` and `dtype`, and lists `names` for buffers to be found
    /// in.
    pub fn new(
        has: impl Fn(&str) -> bool + 'a,
        dtype: impl Fn(&str) -> Option<Dtype> + 'a,
        names: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let names = names.into_iter().map(String::as_str).collect();
        Catalog { has: Box::new(has), dtype: Box::new(dtype), names }
    }

    /// The catalogue of what is stored in `checkpoint`.
    pub fn of(checkpoint: &'a Checkpoint) -> Self {
        let dtype = |name: &str| checkpoint.tensors().get(name).and_then(|tensor| tensor.dtype);
        Catalog::new(|name| checkpoint.has(name), dtype, checkpoint.tensors().keys())
    }

    /// The number format of a tensor, where a factor in code is rounded to it (Gemma); F32 where
    /// it is not stored.
    pub fn dtype(&self, name: &str) -> Dtype {
        (self.dtype)(name).unwrap_or(Dtype::F32)
    }

    /// Whether a tensor of this name is stored.
    pub fn has(&self, name: &str) -> bool {
        (self.has)(name)
    }

    /// The first of `prefixes` with which `name` is stored.
    ///
    /// # Errors
    /// If it is stored with none of them.
    pub fn prefix(&self, prefixes: &[&'static str], name: &str) -> Result<&'static str> {
        prefixes.iter().copied().find(|p| self.has(&format!("{p}{name}"))).ok_or_else(|| {
            let tried: Vec<String> = prefixes.iter().map(|p| format!("`{p}{name}`")).collect();
            let wrapper = WRAPPERS.iter().find(|w| self.names.iter().any(|n| n.starts_with(*w)));
            let advice = match wrapper {
                Some(wrapper) => format!(
                    "the stored names begin with `{wrapper}`, which a wrapper of training added: \
                     save the model without it"
                ),
                None => "is this file of the family that its configuration names?".into(),
            };
            Error::bad_input(format!("found no tensor {}", tried.join(" nor "))).help(advice)
        })
    }

    /// Stored names that end in one of `endings`: buffers that are no parameters.
    pub fn ending_in(&self, endings: &[&str]) -> Vec<String> {
        let found = self.names.iter().filter(|n| endings.iter().any(|e| n.ends_with(e)));
        found.map(|n| n.to_string()).collect()
    }
}

/// The families, in the order in which they are tried.
static FAMILIES: &[&Family] = &[
    &gpt2::GPT2,
    &bert::BERT,
    &llama::LLAMA,
    &vit::VIT,
    &vit_timm::VIT_TIMM,
    &deit::DEIT,
    &gpt_neox::GPT_NEOX,
    &opt::OPT,
    &phi::PHI,
    &roberta::ROBERTA,
    &distilbert::DISTILBERT,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &mixtral::MIXTRAL,
    &phi3::PHI3,
    &stablelm::STABLELM,
    &olmo::OLMO,
    &t5::T5,
    &free_form::FREE_FORM,
];

/// Names under which configurations have the models of another family.
const OTHER_NAMES: [(&str, &str); 2] = [("xlm-roberta", "roberta"), ("camembert", "roberta")];

/// The families that are implemented.
pub fn families() -> &'static [&'static Family] {
    FAMILIES
}

/// The family that a configuration names: by `model_type`, or by timm's `architecture`.
///
/// # Errors
/// If neither is there, or the family is not implemented.
pub fn family_of(config: &Config) -> Result<&'static Family> {
    let (field, name) = match config.get("model_type") {
        Some(_) => ("model_type", config.word_or("model_type", "")?),
        None if config.get("architecture").is_some() => {
            ("architecture", config.word_or("architecture", "")?)
        }
        None => return Err(config.missing("model_type")),
    };
    let family = match field {
        "architecture" => "vit_timm",
        _ => OTHER_NAMES.iter().find(|(other, _)| *other == name).map_or(name, |(_, own)| own),
    };
    FAMILIES.iter().copied().find(|known| known.name == family).ok_or_else(|| {
        let more = ["resnet", "bert with the architecture modBertForMaskedLM"];
        let others = OTHER_NAMES.iter().map(|(other, _)| *other).chain(more);
        let names: Vec<&str> = FAMILIES.iter().map(|f| f.name).chain(others).collect();
        config
            .unsupported(field, format!("the family `{name}` is not implemented"))
            .help(format!("implemented are: {}", names.join(", ")))
    })
}

/// The activation that a configuration field names, by Hugging Face's names.
///
/// # Errors
/// If the name is not implemented.
pub(super) fn activation(config: &Config, field: &str, default: &str) -> Result<Activation> {
    let name = config.word_or(field, default)?;
    Ok(match name {
        "gelu" | "gelu_python" => Activation::GeluErf,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_accurate" => {
            Activation::GeluTanh
        }
        "gelu_fast" => Activation::GeluFast,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        _ => {
            let problem = format!("the activation `{name}` is not implemented");
            let help = "implemented are: gelu and its approximations, relu, silu, tanh";
            return Err(config.unsupported(field, problem).help(help));
        }
    })
}
