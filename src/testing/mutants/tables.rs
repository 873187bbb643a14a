//! Mistakes in what writes the stream first: tables, class token, patch convolution.

use super::{Change, Pair};
use crate::model::{Lens, Model, TableIndex};
use crate::testing::random::Draw;
use ndarray::{Axis, s};
use rand_chacha::ChaCha8Rng;

/// The expansion's token table.
fn tokens<'a>(pair: &Pair<'a>) -> Option<&'a Lens> {
    table(pair, |index| index == TableIndex::Token)
}

/// The expansion's position table.
fn positions<'a>(pair: &Pair<'a>) -> Option<&'a Lens> {
    table(pair, |index| matches!(index, TableIndex::Position(_)))
}

fn table<'a>(pair: &Pair<'a>, is_it: impl Fn(TableIndex) -> bool) -> Option<&'a Lens> {
    let tables = &pair.expanded_model.embedding.tables;
    let wide = tables.iter().filter(|table| table.projection.is_none());
    wide.into_iter().find(|table| is_it(table.index)).map(|table| &table.lens)
}

/// Zeroes the residue columns.
fn zero_residue(pair: &Pair, lens: Option<&Lens>) -> Change {
    let (Some(first), Some(lens)) = (pair.residue(), lens) else { return Ok(None) };
    let mut editor = pair.editor();
    editor.edit(lens, |table| table.slice_mut(s![.., first..]).fill(0.0))?;
    Ok(editor.blame(lens.name()))
}

pub(super) fn tokens_zero_expanded(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    zero_residue(pair, tokens(pair))
}

pub(super) fn positions_zero_expanded(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    zero_residue(pair, positions(pair))
}

pub(super) fn prefix_zero_expanded(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let prefix = &pair.expanded_model.embedding.prefix;
    let lens = if prefix.is_empty() { None } else { Some(&prefix[rng.below(prefix.len())]) };
    zero_residue(pair, lens)
}

pub(super) fn patch_zero_expanded(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let (Some(first), Some(patch)) = (pair.residue(), &pair.expanded_model.embedding.patch) else {
        return Ok(None);
    };
    let mut editor = pair.editor();
    for lens in std::iter::once(&patch.weight).chain(&patch.bias) {
        editor.edit(lens, |matrix| matrix.slice_mut(s![first.., ..]).fill(0.0))?;
    }
    Ok(editor.blame(patch.weight.name()))
}

pub(super) fn tokens_circular(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let Some((first, lens)) = pair.residue().zip(tokens(pair)) else {
        return Ok(None);
    };
    let mut editor = pair.editor();
    editor.edit(lens, |table| {
        let copied = table.slice(s![.., ..table.ncols() - first]).to_owned();
        table.slice_mut(s![.., first..]).assign(&copied);
    })?;
    Ok(editor.blame(lens.name()))
}

/// Replaces the last row by random numbers as large as the table's.
fn last_row(pair: &Pair, lens: Option<&Lens>, rng: &mut ChaCha8Rng) -> Change {
    let Some(lens) = lens else { return Ok(None) };
    let mut editor = pair.editor();
    editor.edit(lens, |table| {
        let mean_square = table.iter().map(|x| x * x).sum::<f64>() / table.len() as f64;
        let last = table.nrows() - 1;
        table.row_mut(last).iter_mut().for_each(|x| *x = mean_square.sqrt() * rng.normal());
    })?;
    Ok(editor.blame(lens.name()))
}

pub(super) fn last_position_overwritten(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    last_row(pair, positions(pair), rng)
}

pub(super) fn last_token_overwritten(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    last_row(pair, tokens(pair), rng)
}

pub(super) fn positions_shifted(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let Some(lens) = positions(pair) else { return Ok(None) };
    let mut editor = pair.editor();
    editor.edit(lens, |table| {
        let order: Vec<usize> = (0..table.nrows()).map(|row| (row + 1) % table.nrows()).collect();
        *table = table.select(Axis(0), &order);
    })?;
    Ok(editor.blame(lens.name()))
}

pub(super) fn scale_forgotten(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let tables = |model: &'_ Model| model.embedding.tables.first().cloned();
    let (Some(source), Some(expanded)) = (tables(pair.source_model), tables(pair.expanded_model))
    else {
        return Ok(None);
    };
    if source.scale == expanded.scale {
        return Ok(None);
    }
    let mut editor = pair.editor();
    editor.edit(&expanded.lens, |table| *table *= expanded.scale / source.scale)?;
    Ok(editor.blame(expanded.lens.name()))
}
