//! Mistakes in layers as a whole: which of them see only a window, what is behind their branches,
//! which experts a token goes to.

use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::model::{Branch, ExpertCount, Model, Op, Sizes, family_of};
use crate::testing::random::Draw;
use ndarray::Axis;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Whether each layer sees only a window, and the field that says so.
fn windows(model: &Model) -> Option<(Vec<bool>, &'static str)> {
    let mut field = None;
    let layers = model.layers.iter().map(|layer| {
        let mut windows = layer.iter().flat_map(|s| &s.branches).filter_map(|b| match &b.op {
            Op::Attention(attention) => attention.window,
            Op::Mlp(_) | Op::Experts(_) => None,
        });
        let window = windows.next();
        field = field.or(window.map(|window| window.field));
        window.is_some()
    });
    let layers = layers.collect();
    field.map(|field| (layers, field))
}

/// The types of layers stay where they were, as if no layer had come between them.
pub(super) fn windows_in_place(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let (Some((before, _)), Some((after, field))) =
        (windows(pair.source_model), windows(pair.expanded_model))
    else {
        return Ok(None);
    };
    let Some(Value::Array(types)) = pair.expanded.config().get(field) else { return Ok(None) };
    let word = |slides: bool| after.iter().position(|layer| *layer == slides).map(|i| &types[i]);
    let in_place = (0..after.len()).map(|layer| word(before[layer % before.len()]).cloned());
    let Some(in_place) = in_place.collect::<Option<Vec<Value>>>() else { return Ok(None) };
    let mut editor = pair.editor();
    editor.config().set(field, in_place);
    Ok(editor.blame(field))
}

/// The norm behind the branch of a new layer has the γ that norms begin with, instead of zero.
pub(super) fn inserted_norm(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let norms = pair.branches().filter_map(|branch| branch.post_norm.as_ref());
    let silent: Vec<_> = norms.filter(|norm| pair.is_silent(norm)).collect();
    let order = rng.permutation(silent.len());
    first_that_changes(silent, &order, |norm| {
        let Some(weight) = &norm.weight else { return Ok(None) };
        let mut editor = pair.editor();
        editor.edit(weight, |stored| stored.fill(1.0 - norm.offset))?;
        Ok(editor.blame(weight.name()))
    })
}

/// On the residue, the mean of a branch's rows is taken without their factors.
pub(super) fn factors_averaged(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some(first) = pair.residue() else { return Ok(None) };
    let channels: Vec<usize> = (0..pair.source_model.sizes.hidden).collect();
    let branches = pair.live_branches();
    let order = rng.permutation(branches.len());
    first_that_changes(branches, &order, |branch: &&Branch| {
        let (Some(scale), None) = (&branch.scale, &branch.post_norm) else { return Ok(None) };
        let mut editor = pair.editor();
        let written = branch.op.writers().into_iter().flat_map(|writer| writer.lenses());
        for lens in written.chain([scale]) {
            editor.edit(lens, |matrix| {
                let copied = matrix.select(Axis(0), &channels);
                let Some(mean) = copied.mean_axis(Axis(0)) else { return };
                (first..matrix.nrows()).for_each(|row| matrix.row_mut(row).assign(&mean));
            })?;
        }
        Ok(editor.blame(scale.name()))
    })
}

/// A token goes to as many experts as before, although there are more.
pub(super) fn active_experts_kept(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let (source, expanded) = (&pair.source_model.sizes, &pair.expanded_model.sizes);
    let (Some(before), Some(after)) = (source.experts, expanded.experts) else { return Ok(None) };
    let family = family_of(pair.expanded.config())?;
    let kept = Some(ExpertCount { all: after.all, active: before.active });
    let layers: Vec<usize> = (0..expanded.layers).collect();
    let mut editor = pair.editor();
    (family.configure)(editor.config(), &Sizes { experts: kept, ..expanded.clone() }, &layers);
    Ok(editor.blame("num_experts_per_tok"))
}

/// The router prefers one expert by a half.
pub(super) fn router_row_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let branches = pair.live_branches();
    let order = rng.permutation(branches.len());
    first_that_changes(branches, &order, |branch| {
        let Op::Experts(experts) = &branch.op else { return Ok(None) };
        let row = rng.below(experts.experts.len());
        let mut editor = pair.editor();
        let router = &experts.router.weight;
        editor.edit(router, |rows| rows.row_mut(row).iter_mut().for_each(|w| *w *= 1.5))?;
        Ok(editor.blame(router.name()))
    })
}
