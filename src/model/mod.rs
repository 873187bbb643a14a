//! What the tensors mean: a model described once.
//!
//! [`describe`] turns a checkpoint's configuration and tensor names into a [`Model`], a small typed
//! tree whose leaves are [`Lens`]es. The forward pass, the expansion rules, the certificate and the
//! generators are written against the tree; a model family is one file under `families/`.

pub mod convolutional;
mod families;
mod lens;
mod parts;
mod relative;
mod tree;

pub use families::{Catalog, Family, Fields, families, family_of};
pub use lens::{Dim, Lens};
use parts::*;
pub use relative::RelativeBias;
pub use tree::*;

use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// Describes the model in `checkpoint` and checks that every tensor it needs is there in the shape
/// that the configuration says.
///
/// # Errors
/// If the family or a field is not implemented, a field is missing, a tensor is missing or has
/// another shape, or tied tensors that are both stored differ.
pub fn describe(checkpoint: &Checkpoint) -> Result<Model> {
    described(checkpoint).map_err(|e| e.at(checkpoint.path()))
}

fn described(checkpoint: &Checkpoint) -> Result<Model> {
    describe_as(checkpoint, family_of(checkpoint.config())?)
}

/// Describes the model in `checkpoint` by a family of the caller's, whatever its configuration
/// names.
///
/// # Errors
/// As [`describe`].
pub fn describe_as(checkpoint: &Checkpoint, family: &'static Family) -> Result<Model> {
    let config = checkpoint.config();
    refuse_quantised(config)?;
    let catalog = Catalog::of(checkpoint);
    let model = (family.describe)(config, &catalog)?;
    for lens in model.lenses() {
        lens.check(checkpoint)?;
    }
    for alias in &model.aliases {
        let (copy, original) = (checkpoint.tensor(&alias.name)?, checkpoint.tensor(&alias.of)?);
        if copy.shape != original.shape
            || copy.dtype != original.dtype
            || copy.bytes() != original.bytes()
        {
            return Err(Error::bad_input(format!(
                "it differs from `{}`, to which the configuration ties it",
                alias.of
            ))
            .at(checkpoint.path())
            .tensor(&alias.name)
            .help("store it once, or set `tie_word_embeddings` to false"));
        }
    }
    Ok(model)
}

/// Refuses weights that are not stored as they are used.
fn refuse_quantised(config: &Config) -> Result<()> {
    if config.get("quantization_config").is_none() {
        return Ok(());
    }
    let problem = "quantised weights are not implemented";
    let error = config.unsupported("quantization_config", problem);
    Err(error.help("save the model in float32, float16 or bfloat16"))
}

impl Model {
    /// Every lens of the model, in the order of the computation; a tied table appears each time it
    /// is used.
    pub fn lenses(&self) -> Vec<&Lens> {
        let mut lenses = Vec::new();
        if let Some(encoder) = &self.encoder {
            lenses.extend(encoder.embedding.lenses());
            lenses.extend(encoder.layers.iter().flatten().flat_map(Sublayer::lenses));
            lenses.extend(encoder.norm.lenses());
        }
        lenses.extend(self.embedding.lenses());
        lenses.extend(self.layers.iter().flatten().flat_map(Sublayer::lenses));
        for step in self.outputs.iter().flat_map(Output::paths).flatten() {
            match step {
                Step::Norm(norm) => lenses.extend(norm.lenses()),
                Step::Linear(linear) => lenses.extend(linear.lenses()),
                Step::Position(_) | Step::MeanFrom(_) | Step::MeanWith(_) => {}
                Step::Activation(_) | Step::Softcap(_) | Step::Scale(_) => {}
            }
        }
        lenses
    }

    /// Stored tensors that the model does not read and that are not known buffers.
    pub fn strangers<'a>(&self, checkpoint: &'a Checkpoint) -> Vec<&'a str> {
        let mut known: BTreeSet<&str> = self.lenses().iter().map(|l| l.name()).collect();
        known.extend(self.aliases.iter().map(|a| a.name.as_str()));
        known.extend(self.buffers.iter().map(String::as_str));
        checkpoint.tensors().keys().map(String::as_str).filter(|n| !known.contains(n)).collect()
    }
}

impl Output {
    /// The steps, and those of every [`Step::MeanWith`] among them: ways from the stream.
    pub fn paths(&self) -> Vec<&[Step]> {
        let mut paths: Vec<&[Step]> = vec![&self.steps];
        let mut next = 0;
        while let Some(steps) = paths.get(next) {
            let others = steps.iter().filter_map(|step| match step {
                Step::MeanWith(other) => Some(other.as_slice()),
                _ => None,
            });
            let others: Vec<&[Step]> = others.collect();
            paths.extend(others);
            next += 1;
        }
        paths
    }
}

impl Branch {
    /// Norm, op, norms inside it, its relative positions, norm behind it, scale.
    pub fn lenses(&self) -> impl Iterator<Item = &Lens> {
        let first = self.norm.iter().flat_map(Norm::lenses);
        let linears = self.op.linears().into_iter().flat_map(Linear::lenses);
        let inner = self.op.norms().into_iter().flat_map(Norm::lenses);
        let relative = match &self.op {
            Op::Attention(attention) => attention.relative.as_ref().map(|r| &r.table),
            _ => None,
        };
        let last = self.post_norm.iter().flat_map(Norm::lenses);
        first.chain(linears).chain(inner).chain(relative).chain(last).chain(&self.scale)
    }
}

impl Embedding {
    /// Tables with their projections, prefix, patch convolution, norm.
    pub fn lenses(&self) -> Vec<&Lens> {
        let mut lenses = Vec::new();
        for table in &self.tables {
            lenses.push(&table.lens);
            lenses.extend(table.projection.iter().flat_map(Linear::lenses));
        }
        lenses.extend(&self.prefix);
        lenses.extend(self.patch.iter().flat_map(Linear::lenses));
        lenses.extend(self.norm.iter().flat_map(Norm::lenses));
        lenses
    }
}

impl Sublayer {
    /// Those of its branches (norm, op, norm, scale) and of the norm behind them.
    pub fn lenses(&self) -> Vec<&Lens> {
        let mut lenses = Vec::new();
        lenses.extend(self.branches.iter().flat_map(Branch::lenses));
        lenses.extend(self.post_norm.iter().flat_map(Norm::lenses));
        lenses
    }
}

impl Linear {
    /// Weight and, where there is one, bias.
    pub fn lenses(&self) -> impl Iterator<Item = &Lens> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}

impl Norm {
    /// Weight and bias, as far as they are stored.
    pub fn lenses(&self) -> impl Iterator<Item = &Lens> {
        self.weight.iter().chain(&self.bias)
    }
}

impl Op {
    /// The linear layers, in the order query, key, value, output, or gate, up, down, or router
    /// and then those of each expert.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Op::Attention(a) => vec![&a.query, &a.key, &a.value, &a.output],
            Op::Mlp(m) => m.linears().collect(),
            Op::Experts(e) => {
                std::iter::once(&e.router).chain(e.experts.iter().flat_map(Mlp::linears)).collect()
            }
        }
    }

    /// The linear layers that write what the op returns: one, but for experts.
    pub fn writers(&self) -> Vec<&Linear> {
        match self {
            Op::Attention(a) => vec![&a.output],
            Op::Mlp(m) => vec![&m.down],
            Op::Experts(e) => e.experts.iter().map(|expert| &expert.down).collect(),
        }
    }

    /// The norms inside: of queries, of keys.
    pub fn norms(&self) -> Vec<&Norm> {
        match self {
            Op::Attention(a) => a.head_norms.iter().flat_map(|n| [&n.query, &n.key]).collect(),
            Op::Mlp(_) | Op::Experts(_) => Vec::new(),
        }
    }
}

impl Mlp {
    /// Gate where there is one, up, down.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }
}
