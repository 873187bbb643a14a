//! The channels of the stream in another order, or all of them larger.

use super::edit::Editor;
use super::norms::scale_gamma;
use super::{Change, Pair};
use crate::error::Result;
use crate::model::{Lens, Linear, Norm, Op, Step, family_of};
use crate::testing::random::Draw;
use ndarray::Axis;
use rand_chacha::ChaCha8Rng;

/// Along which axes of a matrix the channels of the stream lie.
fn stream_axes<'a>(pair: &Pair<'a>) -> Vec<(&'a Lens, Axis)> {
    let (rows, columns) = (Axis(0), Axis(1));
    let model = pair.expanded_model;
    let mut found: Vec<(&Lens, Axis)> = Vec::new();
    fn vectors(linear: &Linear) -> impl Iterator<Item = (&Lens, Axis)> {
        std::iter::once(&linear.weight).chain(&linear.bias).map(|lens| (lens, Axis(0)))
    }
    for table in &model.embedding.tables {
        match &table.projection {
            None => found.push((&table.lens, columns)),
            Some(projection) => found.extend(vectors(projection)),
        }
    }
    found.extend(model.embedding.prefix.iter().map(|l| (l, columns)));
    found.extend(model.embedding.patch.iter().flat_map(vectors));
    let norms = model
        .embedding
        .norm
        .iter()
        .chain(pair.sublayers().flat_map(|s| s.post_norm.iter()))
        .chain(pair.branches().flat_map(|b| b.post_norm.iter()))
        .chain(pair.reading_norms());
    for norm in norms {
        found.extend(norm.lenses().map(|lens| (lens, rows)));
    }
    for branch in pair.branches() {
        found.extend(branch.scale.iter().map(|scale| (scale, rows)));
        match &branch.op {
            Op::Attention(a) => {
                found.extend([&a.query, &a.key, &a.value].map(|l| (&l.weight, columns)));
                found.extend(vectors(&a.output));
            }
            Op::Mlp(m) => {
                found.extend(m.gate.iter().chain([&m.up]).map(|l| (&l.weight, columns)));
                found.extend(vectors(&m.down));
            }
            Op::Experts(e) => {
                found.push((&e.router.weight, columns));
                for m in &e.experts {
                    found.extend(m.gate.iter().chain([&m.up]).map(|l| (&l.weight, columns)));
                    found.extend(vectors(&m.down));
                }
            }
        }
    }
    for output in &model.outputs {
        found.extend(head_axes(pair, &output.steps));
    }
    found
}

/// As [`stream_axes`], for what the steps behind the stream read.
fn head_axes<'a>(pair: &Pair<'a>, steps: &'a [Step]) -> Vec<(&'a Lens, Axis)> {
    let (rows, columns) = (Axis(0), Axis(1));
    let tables = &pair.expanded_model.embedding.tables;
    let mut linears = steps.iter().filter_map(|step| match step {
        Step::Linear(linear) => Some(linear),
        _ => None,
    });
    let head = linears.clone().next_back();
    let is_table = |head: &Linear| {
        tables.iter().any(|table| table.projection.is_none() && table.lens == head.weight)
    };
    let tied = head.is_some_and(is_table);
    match (linears.next(), linears.next()) {
        // The tied table is in the list already, so what it reads follows the stream's order.
        (Some(transform), Some(_)) if tied => {
            let mut found = vec![(&transform.weight, columns), (&transform.weight, rows)];
            found.extend(transform.bias.iter().map(|bias| (bias, rows)));
            let norms = steps.iter().filter_map(|step| match step {
                Step::Norm(norm) => Some(norm),
                _ => None,
            });
            for norm in norms {
                found.extend(norm.lenses().map(|l| (l, rows)));
            }
            found
        }
        (Some(_), None) if tied => Vec::new(),
        (first, _) => first.map(|linear| (&linear.weight, columns)).into_iter().collect(),
    }
}

pub(super) fn channels_permuted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    // An output of hidden channels would come in another order.
    if pair.expanded_model.outputs.iter().any(|output| !output.fixed) {
        return Ok(None);
    }
    let order = rng.permutation(pair.expanded_model.sizes.hidden);
    let mut editor = pair.editor();
    // A norm that several branches or outputs read is in the list more than once.
    let mut done: Vec<(&Lens, Axis)> = Vec::new();
    for (lens, axis) in stream_axes(pair) {
        if !done.contains(&(lens, axis)) {
            done.push((lens, axis));
            editor.edit(lens, |matrix| *matrix = matrix.select(axis, &order))?;
        }
    }
    let first = pair.expanded_model.lenses()[0];
    Ok(editor.blame(first.name()))
}

/// What is multiplied where everything that the stream holds is doubled and ε quadrupled: norms
/// write what they wrote.
struct Doubled<'a> {
    /// Matrices and vectors that are doubled.
    lenses: Vec<&'a Lens>,
    /// Norms that write the stream: their γ and β are doubled.
    norms: Vec<&'a Norm>,
}

impl<'a> Doubled<'a> {
    /// `None` where something else than a norm with a stored ε reads the stream.
    fn of(pair: &Pair<'a>) -> Option<Doubled<'a>> {
        let model = pair.expanded_model;
        let pre_norm = pair.branches().all(|branch| branch.norm.is_some())
            && pair.sublayers().all(|sublayer| sublayer.post_norm.is_none());
        let steps = model.outputs.iter().flat_map(|output| &output.steps);
        let norms_of_steps = steps.filter(|step| matches!(step, Step::Norm(_))).count();
        let last_norms = pair.last_norms().count();
        let read_by_norms = last_norms == model.outputs.len() && norms_of_steps == last_norms;
        if !pre_norm || !read_by_norms || model.sizes.norm_eps.is_none() {
            return None;
        }
        let mut doubled = Doubled { lenses: Vec::new(), norms: Vec::new() };
        let embedding = &model.embedding;
        for table in &embedding.tables {
            match &table.projection {
                None => doubled.lenses.push(&table.lens),
                Some(projection) => doubled.lenses.extend(projection.lenses()),
            }
        }
        doubled.lenses.extend(&embedding.prefix);
        doubled.lenses.extend(embedding.patch.iter().flat_map(Linear::lenses));
        doubled.norms.extend(&embedding.norm);
        for branch in pair.branches() {
            // A norm behind the op has the same ε, so that it must read twice as much too.
            if branch.scale.is_none() || branch.post_norm.is_some() {
                doubled.lenses.extend(branch.op.writers().into_iter().flat_map(Linear::lenses));
            }
            match &branch.scale {
                Some(scale) => doubled.lenses.push(scale),
                None => doubled.norms.extend(&branch.post_norm),
            }
        }
        Some(doubled)
    }

    /// Applies it; queries and keys that are normalised are doubled too if `heads` says so.
    fn change(self, pair: &Pair<'a>, heads: bool) -> Change {
        let (Some(eps), Some(field)) = (
            pair.expanded_model.sizes.norm_eps,
            family_of(pair.expanded.config())?.fields.norm_eps,
        ) else {
            return Ok(None);
        };
        let mut editor = pair.editor();
        editor.config().set(field, 4.0 * eps);
        let mut lenses = self.lenses;
        let normed = pair.expanded_attentions().filter(|a| a.head_norms.is_some());
        if heads {
            lenses.extend(normed.flat_map(|a| a.query.lenses().chain(a.key.lenses())));
        }
        let mut done: Vec<&Lens> = Vec::new();
        for lens in lenses {
            if !done.contains(&lens) {
                done.push(lens);
                editor.edit(lens, |matrix| *matrix *= 2.0)?;
            }
        }
        for norm in self.norms {
            scale_norm(&mut editor, norm, 2.0)?;
        }
        if let Some(norm) = pair.norm_before_tied_head() {
            if norm.weight.is_none() {
                return Ok(None);
            }
            scale_norm(&mut editor, norm, 0.5)?;
        }
        Ok(editor.blame(field))
    }
}

fn scale_norm(editor: &mut Editor, norm: &Norm, factor: f64) -> Result<()> {
    scale_gamma(editor, norm, factor)?;
    norm.bias.iter().try_for_each(|bias| editor.edit(bias, |beta| *beta *= factor))
}

pub(super) fn stream_doubled(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    Doubled::of(pair).map_or(Ok(None), |doubled| doubled.change(pair, true))
}

pub(super) fn head_norm_eps_forgotten(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    if pair.expanded_attentions().all(|attention| attention.head_norms.is_none()) {
        return Ok(None);
    }
    Doubled::of(pair).map_or(Ok(None), |doubled| doubled.change(pair, false))
}
