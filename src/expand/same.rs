//! What no rule changes: the configuration of the expanded model must say it again.
//!
//! Layers are numbered anew where some are inserted, so that settings that follow the number of a
//! layer (Gemma 2's alternating windows) can silently belong to others. The expanded model is
//! described from its configuration and held against the source, layer for layer.

use super::depth::Slot;
use super::plan::Slots;
use crate::error::{Error, Result};
use crate::model::{Attention, Branch, Embedding, Mlp, Model, Op, Output, Step, Sublayer, Table};

/// Checks that each layer of `expanded` does what its source layer in `slots` does, and the rest
/// what the rest does, but for weights, sizes and scales.
///
/// # Errors
/// Names the layer and the field or part that differs.
pub(super) fn check(source: &Model, expanded: &Model, slots: &Slots) -> Result<()> {
    check_embedding(&source.embedding, &expanded.embedding)?;
    check_layers("layer", &source.layers, &expanded.layers, &slots.layers)?;
    agree("model", "encoders", source.encoder.is_some() == expanded.encoder.is_some())?;
    if let (Some(one), Some(two)) = (&source.encoder, &expanded.encoder) {
        check_embedding(&one.embedding, &two.embedding)?;
        check_layers("encoder layer", &one.layers, &two.layers, &slots.encoder)?;
    }
    agree("model", "outputs", source.outputs.len() == expanded.outputs.len())?;
    let mut outputs = source.outputs.iter().zip(&expanded.outputs);
    agree("model", "outputs", outputs.all(|(one, two)| same_output(one, two)))
}

fn check_embedding(one: &Embedding, two: &Embedding) -> Result<()> {
    agree("embedding", "inputs", one.input == two.input)?;
    agree("embedding", "prefix tokens", one.prefix.len() == two.prefix.len())?;
    agree("embedding", "patches", one.patch.is_some() == two.patch.is_some())?;
    agree("embedding", "norms", one.norm.is_some() == two.norm.is_some())?;
    agree("embedding", "tables", one.tables.len() == two.tables.len())?;
    let tables = one.tables.iter().zip(&two.tables);
    agree("embedding", "tables", tables.clone().all(|(one, two)| same_table(one, two)))
}

fn check_layers(
    name: &str,
    source: &[Vec<Sublayer>],
    expanded: &[Vec<Sublayer>],
    slots: &[Slot],
) -> Result<()> {
    agree("model", "layers", slots.len() == expanded.len())?;
    for (index, (slot, layer)) in slots.iter().zip(expanded).enumerate() {
        let of = &source[slot.source];
        let place = format!("{name} {index}, a copy of the source's layer {},", slot.source);
        agree(&place, "sublayers", of.len() == layer.len())?;
        of.iter().zip(layer).try_for_each(|(one, two)| check_sublayer(&place, one, two))?;
    }
    Ok(())
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
    agree(place, "sources of keys", one.reads_encoder == two.reads_encoder)?;
    let distances = |attention: &Attention| {
        let bias = attention.relative.as_ref()?;
        Some((bias.table.rows(), bias.max_distance, bias.two_sided))
    };
    agree(place, "relative positions", distances(one) == distances(two))?;
    agree(place, "soft caps", one.softcap == two.softcap)?;
    agree(place, "norms of heads", one.head_norms.is_some() == two.head_norms.is_some())?;
    agree(place, "rotary positions", one.rotary.is_some() == two.rotary.is_some())
}

fn check_mlp(place: &str, one: &Mlp, two: &Mlp) -> Result<()> {
    agree(place, "activations", one.activation == two.activation)?;
    agree(place, "gates", one.gate.is_some() == two.gate.is_some())
}

fn same_output(one: &Output, two: &Output) -> bool {
    one.name == two.name && one.fixed == two.fixed && same_steps(&one.steps, &two.steps)
}

fn same_steps(one: &[Step], two: &[Step]) -> bool {
    let same = |(one, two): (&Step, &Step)| match (one, two) {
        (Step::Position(one), Step::Position(two)) => one == two,
        (Step::MeanFrom(one), Step::MeanFrom(two)) => one == two,
        (Step::Activation(one), Step::Activation(two)) => one == two,
        (Step::Softcap(one), Step::Softcap(two)) => one == two,
        // It may follow the width.
        (Step::Scale(_), Step::Scale(_)) => true,
        (Step::Norm(one), Step::Norm(two)) => (one.kind, one.offset) == (two.kind, two.offset),
        (Step::Linear(one), Step::Linear(two)) => one.bias.is_some() == two.bias.is_some(),
        (Step::MeanWith(one), Step::MeanWith(two)) => same_steps(one, two),
        _ => false,
    };
    one.len() == two.len() && one.iter().zip(two).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Lens, Linear, TableIndex};

    #[test]
    fn what_the_configuration_says_again_must_be_what_the_source_does() {
        assert!(agree("model", "layers", true).is_ok());
        let said = agree("layer 3", "activations", false).unwrap_err().to_string();
        assert!(said.contains("layer 3 other activations"), "{said}");
    }

    #[test]
    fn a_table_is_the_same_but_for_its_width() {
        let lens = |rows, cols| Lens::matrix("w", Dim::new(rows, "rows"), [Dim::new(cols, "cols")]);
        let table = |index, (rows, cols), projected: bool| Table {
            index,
            lens: lens(rows, cols),
            scale: 1.0,
            projection: projected.then(|| Linear { weight: lens(8, cols), bias: None }),
        };
        let tokens = table(TableIndex::Token, (5, 4), false);
        let same = |index, size, projected| same_table(&tokens, &table(index, size, projected));
        assert!(same(TableIndex::Token, (5, 4), false) && same(TableIndex::Token, (5, 6), false));
        assert!(!same(TableIndex::TokenType, (5, 4), false));
        assert!(!same(TableIndex::Token, (6, 4), false));
        assert!(!same(TableIndex::Token, (5, 4), true));
        // A projection keeps the width of what it reads.
        let small = table(TableIndex::Token, (5, 4), true);
        assert!(same_table(&small, &table(TableIndex::Token, (5, 4), true)));
        assert!(!same_table(&small, &table(TableIndex::Token, (5, 6), true)));
    }
}
