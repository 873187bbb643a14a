//! What no rule changes: the configuration of the expanded model must say it again.
//!
//! Layers are numbered anew where some are inserted, so that settings that follow the number of a
//! layer (Gemma 2's alternating windows) can silently belong to others. The expanded model is
//! described from its configuration and held against the source, layer for layer.

use super::depth::Slot;
use crate::error::{Error, Result};
use crate::model::{Attention, Branch, Mlp, Model, Op, Output, Step, Sublayer, Table};

/// Checks that each layer of `expanded` does what its source layer in `slots` does, and the rest
/// what the rest does, but for weights, sizes and scales.
///
/// # Errors
/// Names the layer and the field or part that differs.
pub(super) fn check(source: &Model, expanded: &Model, slots: &[Slot]) -> Result<()> {
    let (one, two) = (&source.embedding, &expanded.embedding);
    agree("embedding", "inputs", one.input == two.input)?;
    agree("embedding", "prefix tokens", one.prefix.len() == two.prefix.len())?;
    agree("embedding", "patches", one.patch.is_some() == two.patch.is_some())?;
    agree("embedding", "norms", one.norm.is_some() == two.norm.is_some())?;
    agree("embedding", "tables", one.tables.len() == two.tables.len())?;
    let tables = one.tables.iter().zip(&two.tables);
    agree("embedding", "tables", tables.clone().all(|(one, two)| same_table(one, two)))?;
    agree("model", "layers", slots.len() == expanded.layers.len())?;
    for (index, (slot, layer)) in slots.iter().zip(&expanded.layers).enumerate() {
        let of = &source.layers[slot.source];
        let place = format!("layer {index}, a copy of the source's layer {},", slot.source);
        agree(&place, "sublayers", of.len() == layer.len())?;
        of.iter().zip(layer).try_for_each(|(one, two)| check_sublayer(&place, one, two))?;
    }
    agree("model", "outputs", source.outputs.len() == expanded.outputs.len())?;
    let mut outputs = source.outputs.iter().zip(&expanded.outputs);
    agree("model", "outputs", outputs.all(|(one, two)| same_output(one, two)))
}

fn agree(place: &str, part: &str, same: bool) -> Result<()> {
    if same {
        return Ok(());
    }
    let problem = format!("the expanded configuration gives the {place} other {part}");
    Err(Error::unsupported(problem))
}

fn same_table(one: &Table, two: &Table) -> bool {
    one.index == two.index
        && one.lens.rows() == two.lens.rows()
        && one.projection.is_some() == two.projection.is_some()
        && (one.projection.is_none() || one.lens.cols() == two.lens.cols())
}

fn check_sublayer(place: &str, one: &Sublayer, two: &Sublayer) -> Result<()> {
    agree(place, "norms", one.post_norm.is_some() == two.post_norm.is_some())?;
    agree(place, "branches", one.branches.len() == two.branches.len())?;
    one.branches.iter().zip(&two.branches).try_for_each(|(one, two)| check_branch(place, one, two))
}

fn check_branch(place: &str, one: &Branch, two: &Branch) -> Result<()> {
    let norms = |branch: &Branch| {
        [&branch.norm, &branch.post_norm].map(|n| n.as_ref().map(|n| (n.kind, n.offset)))
    };
    agree(place, "norms", norms(one) == norms(two))?;
    agree(place, "LayerScale", one.scale.is_some() == two.scale.is_some())?;
    match (&one.op, &two.op) {
        (Op::Attention(one), Op::Attention(two)) => check_attention(place, one, two),
        (Op::Mlp(one), Op::Mlp(two)) => check_mlp(place, one, two),
        (Op::Experts(one), Op::Experts(two)) => {
            let pairs = two.experts.iter().zip(one.experts.iter().cycle());
            pairs.into_iter().try_for_each(|(two, one)| check_mlp(place, one, two))
        }
        _ => agree(place, "operations", false),
    }
}

fn check_attention(place: &str, one: &Attention, two: &Attention) -> Result<()> {
    if one.window != two.window {
        let field = one.window.or(two.window).map_or("sliding_window", |window| window.field);
        let size = |attention: &Attention| match attention.window {
            Some(window) => format!("a window of {}", window.size),
            None => "no window".to_string(),
        };
        let problem = format!("it gives {place} {}, and the source's has {}", size(two), size(one));
        return Err(Error::unsupported(problem).field(field));
    }
    agree(place, "causal masks", one.causal == two.causal)?;
    agree(place, "soft caps", one.softcap == two.softcap)?;
    agree(place, "norms of heads", one.head_norms.is_some() == two.head_norms.is_some())?;
    agree(place, "rotary positions", one.rotary.is_some() == two.rotary.is_some())
}

fn check_mlp(place: &str, one: &Mlp, two: &Mlp) -> Result<()> {
    agree(place, "activations", one.activation == two.activation)?;
    agree(place, "gates", one.gate.is_some() == two.gate.is_some())
}

fn same_output(one: &Output, two: &Output) -> bool {
    let same = |(one, two): (&Step, &Step)| match (one, two) {
        (Step::Position(one), Step::Position(two)) => one == two,
        (Step::MeanFrom(one), Step::MeanFrom(two)) => one == two,
        (Step::Activation(one), Step::Activation(two)) => one == two,
        (Step::Softcap(one), Step::Softcap(two)) => one == two,
        (Step::Norm(one), Step::Norm(two)) => (one.kind, one.offset) == (two.kind, two.offset),
        (Step::Linear(one), Step::Linear(two)) => one.bias.is_some() == two.bias.is_some(),
        _ => false,
    };
    one.name == two.name
        && one.fixed == two.fixed
        && one.steps.len() == two.steps.len()
        && one.steps.iter().zip(&two.steps).all(same)
}
