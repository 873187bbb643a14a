//! Mistakes in norms: ε, eta, the tied factor.

use super::pair::first_that_changes;
use super::{Change, Editor, Pair};
use crate::error::Result;
use crate::model::{Model, Norm, Step, family_of};
use crate::testing::random::Draw;
use rand_chacha::ChaCha8Rng;

/// Replaces ε, given the source's and the expansion's.
fn eps(pair: &Pair, change: impl Fn(f64, f64) -> f64) -> Change {
    let (before, after) = (&pair.source_model.sizes, &pair.expanded_model.sizes);
    let (Some(source), Some(expanded)) = (before.norm_eps, after.norm_eps) else { return Ok(None) };
    if source == expanded {
        return Ok(None);
    }
    let family = family_of(pair.expanded.config())?;
    let Some(field) = family.fields.norm_eps else { return Ok(None) };
    let mut editor = pair.editor();
    editor.config().set(field, change(source, expanded));
    Ok(editor.blame(field))
}

pub(super) fn eps_kept(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    eps(pair, |source, _| source)
}

pub(super) fn eps_inverted(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    eps(pair, |source, expanded| source * source / expanded)
}

pub(super) fn eps_by_eta(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    eps(pair, |source, expanded| (source * expanded).sqrt())
}

/// Multiplies γ, of which all but an offset is stored.
pub(super) fn scale_gamma(editor: &mut Editor, norm: &Norm, factor: f64) -> Result<()> {
    let scaled = |weight: f64| (norm.offset + weight) * factor - norm.offset;
    norm.weight.iter().try_for_each(|weight| editor.edit(weight, |w| w.mapv_inplace(scaled)))
}

/// Multiplies γ of one norm that reads the stream.
fn gamma(pair: &Pair, factor: f64, rng: &mut ChaCha8Rng) -> Change {
    let norms = pair.live_norms();
    if factor == 1.0 || norms.is_empty() {
        return Ok(None);
    }
    let norm = norms[rng.below(norms.len())];
    let Some(weight) = &norm.weight else { return Ok(None) };
    let mut editor = pair.editor();
    scale_gamma(&mut editor, norm, factor)?;
    Ok(editor.blame(weight.name()))
}

pub(super) fn eta_forgotten(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    gamma(pair, 1.0 / pair.eta(), rng)
}

pub(super) fn eta_inverted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    gamma(pair, pair.eta().powi(-2), rng)
}

pub(super) fn gamma_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let norms = pair.live_norms();
    let order = rng.permutation(norms.len());
    let factor = 1.0 + pair.visible(1e-4);
    let seen = pair.residue().unwrap_or(pair.expanded_model.sizes.hidden);
    first_that_changes(norms, &order, |norm| {
        let mut editor = pair.editor();
        let channel = rng.below(seen);
        let Some(weight) = &norm.weight else { return Ok(None) };
        let scaled = |weight: f64| (norm.offset + weight) * factor - norm.offset;
        editor.edit(weight, |w| w[[channel, 0]] = scaled(w[[channel, 0]]))?;
        Ok(editor.blame(weight.name()))
    })
}

pub(super) fn beta_on_residue(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some(first) = pair.residue() else { return Ok(None) };
    let norms: Vec<&Norm> =
        pair.live_norms().into_iter().filter(|norm| norm.bias.is_some()).collect();
    if norms.is_empty() {
        return Ok(None);
    }
    let norm = norms[rng.below(norms.len())];
    let Some(bias) = &norm.bias else { return Ok(None) };
    let mut editor = pair.editor();
    editor.edit(bias, |beta| beta.iter_mut().skip(first).for_each(|b| *b += 1.0))?;
    Ok(editor.blame(bias.name()))
}

/// Multiplies β, and γ if asked, of the norm in front of a tied head by k.
fn tied(pair: &Pair, gamma_too: bool) -> Change {
    let factor = pair.copies() as f64;
    let Some(norm) = pair.norm_before_tied_head() else { return Ok(None) };
    let mut editor = pair.editor();
    let Some(weight) = &norm.weight else { return Ok(None) };
    let mut subject = weight;
    if let Some(bias) = &norm.bias {
        editor.edit(bias, |beta| *beta *= factor)?;
        subject = bias;
    }
    if gamma_too {
        scale_gamma(&mut editor, norm, factor)?;
        subject = weight;
    }
    Ok(editor.blame(subject.name()))
}

pub(super) fn tied_forgotten(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    tied(pair, true)
}

pub(super) fn tied_forgotten_in_beta(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    tied(pair, false)
}

/// What is stored of γ is multiplied by eta, as if the offset were not there.
pub(super) fn offset_forgotten(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let eta = pair.eta();
    let norms: Vec<&Norm> =
        pair.live_branches().into_iter().filter_map(|b| b.norm.as_ref()).collect();
    let order = rng.permutation(norms.len());
    first_that_changes(norms, &order, |norm| {
        let Some(weight) = norm.weight.as_ref().filter(|_| norm.offset != 0.0) else {
            return Ok(None);
        };
        let mut editor = pair.editor();
        // γ = eta·(offset + w) becomes offset + eta·w.
        editor.edit(weight, |stored| stored.mapv_inplace(|w| w + norm.offset * (1.0 - eta)))?;
        Ok(editor.blame(weight.name()))
    })
}

/// The factor in code on the tied table, or on what the head reads, is left out of h.
pub(super) fn head_ratio_kept(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let scale = |model: &Model| {
        let table = model.embedding.tables.first().map_or(1.0, |table| table.scale);
        let steps = model.outputs.iter().flat_map(|output| &output.steps);
        let read = steps.filter_map(|step| match step {
            Step::Scale(factor) => Some(factor),
            _ => None,
        });
        table / read.product::<f64>()
    };
    let ratio = scale(pair.source_model) / scale(pair.expanded_model);
    let Some(norm) = pair.norm_before_tied_head() else { return Ok(None) };
    let Some(weight) = norm.weight.as_ref().filter(|_| ratio != 1.0) else { return Ok(None) };
    let mut editor = pair.editor();
    scale_gamma(&mut editor, norm, ratio)?;
    Ok(editor.blame(weight.name()))
}
