//! A source and its expansion, and what changes to the expansion need to know.

use super::edit::{Editor, visible};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{
    Attention, Branch, Lens, Linear, Mlp, Model, Norm, NormKind, Op, Output, Step, Sublayer,
};

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

    /// See [`visible`].
    pub(super) fn visible(&self, wanted: f64) -> f64 {
        visible(self.expanded, wanted)
    }

    /// The expansion's sublayers, in order, those of an encoder first.
    pub(super) fn sublayers(&self) -> impl Iterator<Item = &'a Sublayer> + use<'a> {
        let model = self.expanded_model;
        let encoder = model.encoder.iter().flat_map(|encoder| encoder.layers.iter().flatten());
        encoder.chain(model.layers.iter().flatten())
    }

    /// The expansion's branches, in order, those of an encoder first.
    pub(super) fn branches(&self) -> impl Iterator<Item = &'a Branch> + use<'a> {
        self.sublayers().flat_map(|sublayer| &sublayer.branches)
    }

    /// The norm behind an encoder's last layer.
    fn encoder_norm(&self) -> Option<&'a Norm> {
        self.expanded_model.encoder.as_ref().map(|encoder| &encoder.norm)
    }

    /// The branches that write something: neither their last matrix nor a norm behind it is zero.
    pub(super) fn live_branches(&self) -> Vec<&'a Branch> {
        let live = |branch: &&Branch| {
            branch.op.writers().into_iter().any(|writer| self.writes(writer))
                && !branch.post_norm.as_ref().is_some_and(|norm| self.is_silent(norm))
        };
        self.branches().filter(live).collect()
    }

    /// The expansion's attention layers.
    pub(super) fn expanded_attentions(&self) -> impl Iterator<Item = &'a Attention> + use<'a> {
        self.branches().filter_map(|branch| match &branch.op {
            Op::Attention(attention) => Some(&**attention),
            Op::Mlp(_) | Op::Experts(_) => None,
        })
    }

    /// The expansion's attention layers that write something.
    pub(super) fn attentions(&self) -> Vec<&'a Attention> {
        let all = self.live_branches().into_iter().filter_map(|branch| match &branch.op {
            Op::Attention(attention) => Some(&**attention),
            Op::Mlp(_) | Op::Experts(_) => None,
        });
        all.collect()
    }

    /// The expansion's MLPs that write something, those of experts included.
    pub(super) fn mlps(&self) -> Vec<&'a Mlp> {
        let all = self.live_branches().into_iter().flat_map(|branch| match &branch.op {
            Op::Mlp(mlp) => vec![&**mlp],
            Op::Experts(experts) => experts.experts.iter().collect(),
            Op::Attention(_) => Vec::new(),
        });
        all.filter(|mlp| self.writes(&mlp.down)).collect()
    }

    fn writes(&self, linear: &Linear) -> bool {
        linear.weight.read(self.expanded).is_ok_and(|weight| weight.iter().any(|w| *w != 0.0))
    }

    /// Whether a norm writes zeros alone.
    pub(super) fn is_silent(&self, norm: &Norm) -> bool {
        let all = |lens: &Lens, silent: f64| {
            lens.read(self.expanded).is_ok_and(|values| values.iter().all(|v| *v == silent))
        };
        norm.weight.as_ref().is_some_and(|weight| all(weight, -norm.offset))
            && norm.bias.as_ref().is_none_or(|bias| all(bias, 0.0))
    }

    /// Layers that write the stream, or what a norm or factors behind them add to it.
    pub(super) fn writers(&self) -> Vec<&'a Linear> {
        let attentions = self.attentions().into_iter().map(|a| &a.output);
        attentions.chain(self.mlps().into_iter().map(|m| &m.down)).collect()
    }

    /// Norms of the stream, and norms behind branches, without those of branches that write
    /// nothing.
    pub(super) fn live_norms(&self) -> Vec<&'a Norm> {
        let branches = self.live_branches().into_iter();
        let norms = branches.flat_map(|branch| branch.norm.iter().chain(&branch.post_norm));
        norms.chain(self.encoder_norm()).chain(self.last_norms()).collect()
    }

    /// Norms of the stream in front of the outputs.
    pub(super) fn last_norms(&self) -> impl Iterator<Item = &'a Norm> + use<'a> {
        self.expanded_model.outputs.iter().filter_map(last_norm)
    }

    /// Norms that read the stream: in front of the branches and of the outputs, and an encoder's
    /// last.
    pub(super) fn reading_norms(&self) -> Vec<&'a Norm> {
        let branches = self.branches().filter_map(|branch| branch.norm.as_ref());
        branches.chain(self.encoder_norm()).chain(self.last_norms()).collect()
    }

    /// Whether every reader of the stream is a LayerNorm, and linear layers write it, so that a
    /// constant over all channels of what they write is never seen.
    pub(super) fn stream_is_centred(&self) -> bool {
        let model = self.expanded_model;
        let plain = |branch: &Branch| {
            branch.norm.is_some() && branch.post_norm.is_none() && branch.scale.is_none()
        };
        self.sublayers().all(|sublayer| sublayer.post_norm.is_none())
            && self.branches().all(plain)
            && model.outputs.iter().all(|output| last_norm(output).is_some())
            && self.reading_norms().iter().all(|norm| norm.kind == NormKind::Layer)
    }

    /// The norm in front of the tied head; `None` where the head is not tied, or to a table that is
    /// narrower than the stream.
    pub(super) fn norm_before_tied_head(&self) -> Option<&'a Norm> {
        let model = self.expanded_model;
        let wide = model.embedding.tables.iter().filter(|table| table.projection.is_none());
        let tables: Vec<&Lens> = wide.map(|t| &t.lens).collect();
        model.outputs.iter().find_map(|output| match &output.steps[..] {
            [.., Step::Norm(norm), Step::Linear(head)]
            | [.., Step::Norm(norm), Step::Scale(_), Step::Linear(head)]
            | [.., Step::Norm(norm), Step::Linear(head), Step::Softcap(_)]
                if tables.contains(&&head.weight) =>
            {
                Some(norm)
            }
            _ => None,
        })
    }
}

/// The norm of the stream in front of an output.
fn last_norm(output: &Output) -> Option<&Norm> {
    let pooling = |step: &&Step| matches!(step, Step::Position(_) | Step::MeanFrom(_));
    match output.steps.iter().find(|step| !pooling(step)) {
        Some(Step::Norm(norm)) => Some(norm),
        _ => None,
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
