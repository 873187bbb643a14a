//! Lossless expansion: a larger model that computes what the small one computes.
//!
//! The rules are LEMON's (*Lossless Model Expansion*, Wang et al., ICLR 2024, arXiv 2310.07999), a
//! file each: the elementary ones in [`rules`], on matrices; those of a model's parts beside it,
//! written against the tree of [`crate::model`] and never against a family. `plan` decides which
//! rule serves which tensor, and refuses what cannot be lossless; nothing is silently adapted.
//!
//! Every activation space of the expanded model is the image of the source's under a map E. Where
//! the output is fixed (logits), E is the identity there. Where it is hidden channels, the first
//! `d_source` channels of the expanded output are the source's channels, unscaled. Where nothing
//! can make them that, as behind a norm without a weight (OLMo's), or where the stream itself is
//! returned and ε cannot change, the width can only be a multiple.

mod advice;
mod attention;
mod branch;
mod convolutional;
mod depth;
mod embedding;
mod experts;
mod linear;
mod memory;
mod mlp;
mod norm;
mod outputs;
mod plan;
mod post_norm;
mod random;
pub mod rules;
mod same;
mod sizes;
mod stream;
mod vectors;
mod write;

pub use convolutional::{ConvTarget, expand_convnet};

use crate::checkpoint::{Checkpoint, Config, Dtype};
use crate::error::Result;
use crate::model::{Catalog, Model};

/// The sizes asked for, all counts; `None` keeps the source's.
///
/// Two sizes follow others where they are `None`: `kv_heads` follows `heads` in a model without
/// grouped queries, and `head_dim` is hidden / heads where the family fixes it so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Channels of the residual stream (hidden size).
    pub hidden: Option<usize>,
    /// Query heads per layer.
    pub heads: Option<usize>,
    /// Key/value heads per layer.
    pub kv_heads: Option<usize>,
    /// Channels per head.
    pub head_dim: Option<usize>,
    /// Neurons of the feed-forward network.
    pub intermediate: Option<usize>,
    /// Number of layers; of an encoder–decoder, of the decoder, and the encoder grows by as many.
    pub layers: Option<usize>,
    /// Experts per layer; as many times more of them are active.
    pub experts: Option<usize>,
}

/// What the numbers become that losslessness leaves free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Free {
    /// A random matrix, projected onto the lossless ones: copies of neurons and heads get different
    /// fan-outs, so that training tells them apart (LEMON, section 4).
    #[default]
    Projection,
    /// Equal shares for all copies (Net2Net): copies stay copies in training.
    Equal,
    /// All to the first copy, zero to the others.
    Zero,
}

/// How a new layer computes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewLayers {
    /// Its output matrices are zero (LEMON's type 1): always possible, and adds no rounding error.
    #[default]
    Zero,
    /// The fan-outs of its copied neurons and heads cancel (LEMON's type 2): needs two copies of
    /// each neuron and head. In many layers it amplifies rounding.
    Cancel,
}

/// What to make, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The sizes.
    pub target: Target,
    /// What the free numbers become.
    pub free: Free,
    /// Seed of the free numbers.
    pub seed: u64,
    /// How new layers compute nothing.
    pub new_layers: NewLayers,
    /// For each new layer, how many of the source's layers come before it; `None` spreads them
    /// evenly. A new layer is a copy of the layer before it (or of the first), but for its outputs.
    /// An encoder's, beside a decoder, stand at the same places, or behind its last layer.
    pub insert_after: Option<Vec<usize>>,
    /// Number format of all weights; `None` keeps each tensor's.
    pub dtype: Option<Dtype>,
    /// Insert layers into a Post-LN model too. That is **not lossless** but eps-limited: the norms
    /// of a new layer normalise once more, so that the norm in front of it in effect loses its ε.
    pub allow_eps_limited: bool,
}

/// Expands `source`, which `model` describes, in memory; losslessly, unless layers of a Post-LN
/// model are asked for and [`Options::allow_eps_limited`] is set.
///
/// The result holds no buffers (masks, position ids), which every loader makes anew.
///
/// # Errors
/// - refused: a size is below the source's, or no lossless expansion to these sizes is known; the
///   help says which are the nearest that work; or the expansion does not fit into memory
/// - unsupported: the checkpoint holds a tensor that no rule expands
/// - bad input: a tensor is damaged, or holds NaN or infinity
pub fn expand(source: &Checkpoint, model: &Model, options: &Options) -> Result<Checkpoint> {
    expand_described(source, model, options).map_err(|e| e.at(source.path()))
}

fn expand_described(source: &Checkpoint, model: &Model, options: &Options) -> Result<Checkpoint> {
    plan::check_every_tensor_is_known(source, model)?;
    let Planned { config, model, jobs } = planned(source, model, options)?;
    let tensors = write::tensors(source, &model, &jobs, options)?;
    Ok(Checkpoint::in_memory(name(source), config, tensors))
}

fn name(source: &Checkpoint) -> String {
    format!("expansion of {}", source.path().display())
}

/// The widest stream for which an expansion is planned only to see whether it can be.
const WIDEST_TRIED: usize = 1 << 20;

/// An expansion but for its numbers.
struct Planned {
    config: Config,
    model: Model,
    jobs: Vec<plan::Job>,
}

/// Plans an expansion: works out its sizes and what makes each of its tensors.
fn planned(source: &Checkpoint, model: &Model, options: &Options) -> Result<Planned> {
    let family = model.family;
    let stored = |name: &str| source.tensors().get(name).and_then(|tensor| tensor.dtype);
    let dtype = |name: &str| options.dtype.or_else(|| stored(name));
    let catalog = Catalog::new(|name| source.has(name), dtype, source.tensors().keys());
    let context = sizes::Context { family, config: source.config(), catalog: &catalog };
    let refusal = |target: &Target| {
        if target.hidden.is_some_and(|hidden| hidden > WIDEST_TRIED) {
            return Some("nothing so wide is tried out for advice".to_string());
        }
        let options = Options { target: target.clone(), ..options.clone() };
        planned(source, model, &options).err().map(|error| error.advice())
    };
    let wanted = sizes::resolve(&context, model, options, &refusal)?;
    let stream = stream::Stream::of(model, wanted.hidden);
    let places = options.insert_after.as_deref();
    let slots = plan::Slots {
        layers: depth::layout(model.layers.len(), wanted.layers, places)?,
        encoder: match &model.encoder {
            Some(encoder) => {
                let source = encoder.layers.len();
                let count = source + wanted.layers - model.layers.len();
                let places: Option<Vec<usize>> =
                    places.map(|all| all.iter().map(|place| *place.min(&source)).collect());
                depth::layout(source, count, places.as_deref())?
            }
            None => Vec::new(),
        },
    };
    let origins: Vec<usize> = slots.layers.iter().map(|slot| slot.source).collect();

    let mut config = Config::new(name(source), source.config().json().clone());
    let sizes = crate::model::Sizes {
        norm_eps: model.sizes.norm_eps.map(|eps| eps * stream.eps_factor),
        ..wanted
    };
    (family.configure)(&mut config, &sizes, &origins);
    if let Some(dtype) = options.dtype {
        for field in ["dtype", "torch_dtype"] {
            if config.get(field).is_some() {
                config.set(field, dtype.config_name());
            }
        }
    }

    let expanded = (family.describe)(&config, &catalog)?;
    sizes::check_count(&expanded)?;
    same::check(model, &expanded, &slots)?;
    let jobs = plan::jobs((model, &expanded), source, &stream, &slots, options)?;
    Ok(Planned { config, model: expanded, jobs })
}
