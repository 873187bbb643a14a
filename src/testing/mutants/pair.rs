//! A source and its expansion, and what changes to the expansion need to know.

use super::edit::Editor;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::model::{Attention, Branch, Lens, Linear, Mlp, Model, Norm, NormKind, Op, Output, Step};

/// A source model and an expansion of it that is right.
///
/// Changes assume the usual layout of an expansion: k copies of the channels, then the residue;
/// copies of neurons in circular order. Applied to another layout they are still changes, but
/// perhaps not those that their names say.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The source's weights.
    pub source: &'a Checkpoint,
    /// Describes `source`.
    pub source_model: &'a Model,
    /// The expansion's weights.
    pub expanded: &'a Checkpoint,
    /// Describes `expanded`.
    pub expanded_model: &'a Model,
}

impl<'a> Pair<'a> {
    /// Begins a change of the expansion.
    pub(super) fn editor(&self) -> Editor<'a> {
        Editor::new(self.expanded, self.expanded_model)
    }

    /// k: how often the source's channels fit into the expansion's.
    pub(super) fn copies(&self) -> usize {
        self.expanded_model.sizes.hidden / self.source_model.sizes.hidden
    }

    /// The first residue channel; `None` where the width is a multiple.
    pub(super) fn residue(&self) -> Option<usize> {
        let first = self.copies() * self.source_model.sizes.hidden;
        (first < self.expanded_model.sizes.hidden).then_some(first)
    }

    /// eta = sqrt(k·D_S/D_T) (dimensionless); 1 where the width is a multiple.
    pub(super) fn eta(&self) -> f64 {
        let kept = self.copies() * self.source_model.sizes.hidden;
        (kept as f64 / self.expanded_model.sizes.hidden as f64).sqrt()
    }

    /// A relative change that is well above what rounding to the stored format explains: at least
    /// `wanted`, at least 16 units of rounding.
    pub(super) fn visible(&self, wanted: f64) -> f64 {
        let dtypes = self.expanded.tensors().values().filter_map(|t| t.dtype);
        let unit = dtypes.map(Dtype::unit_roundoff).fold(0.0, f64::max);
        wanted.max(16.0 * unit)
    }

    /// The expansion's operations, in order.
    pub(super) fn ops(&self) -> Vec<&'a Op> {
        let sublayers = self.expanded_model.layers.iter().flatten();
        sublayers.flat_map(|sublayer| &sublayer.branches).map(|branch| &branch.op).collect()
    }

    /// The expansion's attention layers that write something.
    pub(super) fn attentions(&self) -> Vec<&'a Attention> {
        let all = self.ops().into_iter().filter_map(|op| match op {
            Op::Attention(attention) => Some(&**attention),
            Op::Mlp(_) | Op::Experts(_) => None,
        });
        all.filter(|attention| self.writes(&attention.output)).collect()
    }

    /// The expansion's MLPs that write something.
    pub(super) fn mlps(&self) -> Vec<&'a Mlp> {
        let all = self.ops().into_iter().filter_map(|op| match op {
            Op::Mlp(mlp) => Some(&**mlp),
            Op::Attention(_) | Op::Experts(_) => None,
        });
        all.filter(|mlp| self.writes(&mlp.down)).collect()
    }

    fn writes(&self, linear: &Linear) -> bool {
        let weight = linear.weight.read(self.expanded);
        weight.is_ok_and(|weight| weight.iter().any(|w| *w != 0.0))
    }

    /// Layers that write the stream.
    pub(super) fn writers(&self) -> Vec<&'a Linear> {
        let attentions = self.attentions().into_iter().map(|a| &a.output);
        attentions.chain(self.mlps().into_iter().map(|m| &m.down)).collect()
    }

    /// Norms that read the stream, without those of branches that write nothing.
    pub(super) fn live_norms(&self) -> Vec<&'a Norm> {
        let writes =
            |branch: &&Branch| branch.op.writers().into_iter().any(|writer| self.writes(writer));
        let sublayers = self.expanded_model.layers.iter().flatten();
        let branches = sublayers.flat_map(|sublayer| &sublayer.branches);
        branches.filter(writes).filter_map(|b| b.norm.as_ref()).chain(self.last_norms()).collect()
    }

    /// Norms in front of the outputs.
    fn last_norms(&self) -> impl Iterator<Item = &'a Norm> + use<'a> {
        self.expanded_model.outputs.iter().filter_map(|output| match output.steps.first() {
            Some(Step::Norm(norm)) => Some(norm),
            _ => None,
        })
    }

    /// Norms that read the stream: in front of the branches and of the outputs.
    pub(super) fn reading_norms(&self) -> Vec<&'a Norm> {
        let model = self.expanded_model;
        let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
        branches.filter_map(|branch| branch.norm.as_ref()).chain(self.last_norms()).collect()
    }

    /// Whether every reader of the stream is a LayerNorm, so that a constant over all channels of
    /// the stream is never seen.
    pub(super) fn stream_is_centred(&self) -> bool {
        let model = self.expanded_model;
        let pre_norm = model.layers.iter().flatten().all(|sublayer| {
            sublayer.post_norm.is_none() && sublayer.branches.iter().all(|b| b.norm.is_some())
        });
        let read = |output: &Output| matches!(output.steps.first(), Some(Step::Norm(_)));
        pre_norm
            && model.outputs.iter().all(read)
            && self.reading_norms().iter().all(|norm| norm.kind == NormKind::Layer)
    }

    /// The norm in front of the tied head; `None` where the head is not tied.
    pub(super) fn norm_before_tied_head(&self) -> Option<&'a Norm> {
        let model = self.expanded_model;
        let tables: Vec<&Lens> = model.embedding.tables.iter().map(|t| &t.lens).collect();
        model.outputs.iter().find_map(|output| match &output.steps[..] {
            [.., Step::Norm(norm), Step::Linear(head)] if tables.contains(&&head.weight) => {
                Some(norm)
            }
            _ => None,
        })
    }
}

/// One of several, at random, on which `change` changes something.
pub(super) fn first_that_changes<T, M>(
    candidates: Vec<T>,
    order: &[usize],
    mut change: impl FnMut(&T) -> Result<Option<M>>,
) -> Result<Option<M>> {
    for &index in order {
        if let Some(mutated) = change(&candidates[index])? {
            return Ok(Some(mutated));
        }
    }
    Ok(None)
}
