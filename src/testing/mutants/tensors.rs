//! Mistakes that know nothing of expansion: numbers, rows, tensors and layers that are lost, mixed
//! up, or rounded.

use super::edit::Editor;
use super::heads::{blocks, on_attention, reorder_columns};
use super::linears::live;
use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::{Branch, Lens, Linear, Norm, Step, Sublayer, TableIndex};
use crate::testing::random::Draw;
use ndarray::{Array2, Axis};
use rand_chacha::ChaCha8Rng;

/// One of `lenses`, at random, that `change` changes.
fn one_of(
    pair: &Pair,
    rng: &mut ChaCha8Rng,
    lenses: Vec<&Lens>,
    change: impl Fn(&mut Array2<f64>, &mut ChaCha8Rng),
) -> Change {
    let order = rng.permutation(lenses.len());
    first_that_changes(lenses, &order, |lens| {
        let mut editor = pair.editor();
        editor.edit(lens, |matrix| change(matrix, rng))?;
        Ok(editor.blame(lens.name()))
    })
}

/// The matrices inside the branches that write something.
fn matrices<'a>(pair: &Pair<'a>) -> Vec<&'a Lens> {
    live(pair).into_iter().map(|linear| &linear.weight).collect()
}

pub(super) fn entry_negated(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, rng| {
        let at = [rng.below(matrix.nrows()), rng.below(matrix.ncols())];
        matrix[at] = -matrix[at];
    })
}

pub(super) fn column_negated(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, rng| {
        let column = rng.below(matrix.ncols());
        matrix.column_mut(column).mapv_inplace(|w| -w);
    })
}

pub(super) fn row_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, rng| {
        let row = rng.below(matrix.nrows());
        matrix.row_mut(row).fill(0.0);
    })
}

/// Swaps two rows at random.
fn swap_rows(matrix: &mut Array2<f64>, rng: &mut ChaCha8Rng) {
    let mut order: Vec<usize> = (0..matrix.nrows()).collect();
    order.swap(rng.below(matrix.nrows()), rng.below(matrix.nrows()));
    *matrix = matrix.select(Axis(0), &order);
}

pub(super) fn rows_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), swap_rows)
}

pub(super) fn tensor_scaled(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let factor = 1.0 + pair.visible(1e-2);
    one_of(pair, rng, matrices(pair), |matrix, _| *matrix *= factor)
}

pub(super) fn tensor_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, _| matrix.fill(0.0))
}

pub(super) fn tensor_redrawn(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, rng| {
        let size = (matrix.iter().map(|w| w * w).sum::<f64>() / matrix.len() as f64).sqrt();
        matrix.mapv_inplace(|_| size * rng.normal());
    })
}

/// A number as bfloat16 would keep it.
fn rounded(number: f64) -> f64 {
    let mut bytes = Vec::new();
    Dtype::Bf16.put(&mut bytes, number);
    Dtype::Bf16.get(&bytes, 0)
}

pub(super) fn tensor_rounded(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, matrices(pair), |matrix, _| matrix.mapv_inplace(rounded))
}

pub(super) fn all_rounded(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let mut editor = pair.editor();
    let lenses = pair.expanded_model.lenses();
    for lens in &lenses {
        editor.edit(lens, |matrix| matrix.mapv_inplace(rounded))?;
    }
    Ok(editor.blame(lenses[0].name()))
}

/// Gives two tensors of one shape each other's numbers; false where the shapes differ.
fn swap(editor: &mut Editor, one: &Lens, other: &Lens) -> Result<bool> {
    let (first, second) = (editor.read(one)?, editor.read(other)?);
    let alike = first.dim() == second.dim();
    if alike {
        editor.write(one, &second)?;
        editor.write(other, &first)?;
    }
    Ok(alike)
}

pub(super) fn key_and_value_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let attentions = pair.attentions();
    let order = rng.permutation(attentions.len());
    first_that_changes(attentions, &order, |attention| {
        let mut editor = pair.editor();
        for (one, other) in attention.key.lenses().zip(attention.value.lenses()) {
            swap(&mut editor, one, other)?;
        }
        Ok(editor.blame(attention.key.weight.name()))
    })
}

/// The tensors of each branch of each layer of the decoder.
fn by_layer<'a>(pair: &Pair<'a>) -> Vec<Vec<&'a Lens>> {
    let lenses = |layer: &'a Vec<Sublayer>| {
        layer.iter().flat_map(|s| &s.branches).flat_map(Branch::lenses).collect()
    };
    pair.expanded_model.layers.iter().map(lenses).collect()
}

/// Two different layers, if there are two.
fn two_layers<'a>(pair: &Pair<'a>, rng: &mut ChaCha8Rng) -> Option<[Vec<&'a Lens>; 2]> {
    let mut layers = by_layer(pair);
    let order = rng.permutation(layers.len());
    let (one, other) = (*order.first()?, *order.get(1)?);
    Some([std::mem::take(&mut layers[one]), std::mem::take(&mut layers[other])])
}

pub(super) fn tensors_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some([one, other]) = two_layers(pair, rng) else { return Ok(None) };
    let both: Vec<_> = one.into_iter().zip(other).collect();
    let order = rng.permutation(both.len());
    first_that_changes(both, &order, |(one, other)| {
        let mut editor = pair.editor();
        swap(&mut editor, one, other)?;
        Ok(editor.blame(one.name()))
    })
}

pub(super) fn layers_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some([one, other]) = two_layers(pair, rng) else { return Ok(None) };
    let mut editor = pair.editor();
    let Some(first) = one.first().copied() else { return Ok(None) };
    for (one, other) in one.into_iter().zip(other) {
        if !swap(&mut editor, one, other)? {
            return Ok(None);
        }
    }
    Ok(editor.blame(first.name()))
}

pub(super) fn norms_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let norms = pair.live_norms();
    let order = rng.permutation(norms.len());
    let (Some(one), Some(other)) = (order.first(), order.get(1)) else { return Ok(None) };
    let (one, other): (&Norm, &Norm) = (norms[*one], norms[*other]);
    let Some(weight) = &one.weight else { return Ok(None) };
    let mut editor = pair.editor();
    for (one, other) in one.lenses().zip(other.lenses()) {
        swap(&mut editor, one, other)?;
    }
    Ok(editor.blame(weight.name()))
}

pub(super) fn beta_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let betas = pair.live_norms().into_iter().filter_map(|norm| norm.bias.as_ref()).collect();
    one_of(pair, rng, betas, |beta, _| beta.fill(0.0))
}

pub(super) fn bias_negated(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    // What a key's bias adds is seen under rotary positions alone.
    let keys: Vec<&Lens> =
        pair.attentions().into_iter().filter_map(|attention| attention.key.bias.as_ref()).collect();
    let biases = live(pair).into_iter().filter_map(|linear| linear.bias.as_ref());
    let biases = biases.filter(|bias| !keys.contains(bias)).collect();
    one_of(pair, rng, biases, |bias, _| bias.mapv_inplace(|b| -b))
}

fn table<'a>(pair: &Pair<'a>, index: TableIndex) -> Vec<&'a Lens> {
    let tables = pair.expanded_model.embedding.tables.iter();
    tables.filter(|table| table.index == index).map(|table| &table.lens).collect()
}

pub(super) fn tokens_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, table(pair, TableIndex::Token), swap_rows)
}

pub(super) fn token_types_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    one_of(pair, rng, table(pair, TableIndex::TokenType), |table, _| {
        table.invert_axis(Axis(0));
    })
}

pub(super) fn head_rows_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let tables = table(pair, TableIndex::Token);
    let heads = pair.expanded_model.outputs.iter().filter(|output| output.fixed);
    let heads = heads.filter_map(|output| match output.steps.iter().rev().find(is_linear) {
        Some(Step::Linear(head)) if !tables.contains(&&head.weight) => Some(&head.weight),
        _ => None,
    });
    one_of(pair, rng, heads.collect(), swap_rows)
}

fn is_linear(step: &&Step) -> bool {
    matches!(step, Step::Linear(_))
}

pub(super) fn inserted_writer(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    if pair.expanded_model.layers.len() == pair.source_model.layers.len() {
        return Ok(None);
    }
    let writers = pair.branches().flat_map(|branch| branch.op.writers());
    let silent = |linear: &&Linear| {
        linear.weight.read(pair.expanded).is_ok_and(|weight| weight.iter().all(|w| *w == 0.0))
    };
    let silent = writers.filter(silent).map(|linear| &linear.weight).collect();
    one_of(pair, rng, silent, |matrix, rng| matrix.mapv_inplace(|_| 0.1 * rng.normal()))
}

pub(super) fn neuron_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let readers = pair.mlps().into_iter().map(|mlp| &mlp.down.weight).collect();
    one_of(pair, rng, readers, |matrix, rng| {
        let neuron = rng.below(matrix.ncols());
        matrix.column_mut(neuron).fill(0.0);
    })
}

pub(super) fn outputs_of_heads_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let mut order: Vec<usize> = (0..attention.heads).collect();
        order.swap(rng.below(attention.heads), rng.below(attention.heads));
        let columns = blocks(&order, attention.head_dim);
        reorder_columns(editor, &attention.output.weight, &columns)?;
        Ok(Some(&attention.output.weight))
    })
}
