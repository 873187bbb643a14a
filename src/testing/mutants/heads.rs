//! Mistakes in attention: which head is whose copy, which channel goes with which.

use super::edit::Editor;
use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::error::Result;
use crate::model::{Attention, Lens, Linear};
use crate::testing::random::Draw;
use ndarray::Axis;
use rand_chacha::ChaCha8Rng;

/// The order of channels when blocks of `size` channels are put in this `order`.
pub(super) fn blocks(order: &[usize], size: usize) -> Vec<usize> {
    order.iter().flat_map(|block| block * size..(block + 1) * size).collect()
}

/// Puts the rows of a layer, bias included, in another order.
pub(super) fn reorder_rows(editor: &mut Editor, linear: &Linear, order: &[usize]) -> Result<()> {
    for lens in std::iter::once(&linear.weight).chain(&linear.bias) {
        editor.edit(lens, |matrix| *matrix = matrix.select(Axis(0), order))?;
    }
    Ok(())
}

/// Puts the columns of a matrix in another order.
pub(super) fn reorder_columns(editor: &mut Editor, lens: &Lens, order: &[usize]) -> Result<()> {
    editor.edit(lens, |matrix| *matrix = matrix.select(Axis(1), order))
}

/// An attention layer at random on which `change` changes something, blamed on what it returns.
pub(super) fn on_attention<'a>(
    pair: &Pair<'a>,
    rng: &mut ChaCha8Rng,
    mut change: impl FnMut(&'a Attention, &mut Editor, &mut ChaCha8Rng) -> Result<Option<&'a Lens>>,
) -> Change {
    let layers = pair.attentions();
    let order = rng.permutation(layers.len());
    first_that_changes(layers, &order, |attention| {
        let mut editor = pair.editor();
        let subject = change(attention, &mut editor, rng)?;
        Ok(subject.and_then(|lens| editor.blame(lens.name())))
    })
}

pub(super) fn query_key_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, _| {
        let (query, key) = (&attention.query, &attention.key);
        if query.weight.rows() != key.weight.rows() {
            return Ok(None);
        }
        let pairs = [(&query.weight, &key.weight)].into_iter();
        for (one, other) in pairs.chain(query.bias.iter().zip(&key.bias)) {
            let (first, second) = (editor.read(one)?, editor.read(other)?);
            editor.write(one, &second)?;
            editor.write(other, &first)?;
        }
        Ok(Some(&query.weight))
    })
}

/// The order of query heads that puts them in plain circular order, given that each key/value
/// group holds copies of one group of the source; `None` where they are in that order already.
fn plain_order(pair: &Pair, attention: &Attention) -> Option<Vec<usize>> {
    let source = &pair.source_model.sizes;
    let (group, source_group) =
        (attention.heads / attention.kv_heads, source.heads / source.kv_heads);
    let copied: Vec<usize> = (0..attention.heads)
        .map(|head| {
            let kv_head = head / group;
            let place = kv_head / source.kv_heads * group + head % group;
            kv_head % source.kv_heads * source_group + place % source_group
        })
        .collect();
    let mut free: Vec<usize> = (0..attention.heads).collect();
    let mut order = Vec::new();
    for place in 0..attention.heads {
        let wanted = free.iter().position(|head| copied[*head] == place % source.heads);
        order.push(free.remove(wanted.unwrap_or(0)));
    }
    let changes = order.iter().enumerate().any(|(place, head)| copied[place] != copied[*head]);
    changes.then_some(order)
}

pub(super) fn plain_circular(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, _| {
        let Some(order) = plain_order(pair, attention) else { return Ok(None) };
        let order = blocks(&order, attention.head_dim);
        reorder_rows(editor, &attention.query, &order)?;
        reorder_columns(editor, &attention.output.weight, &order)?;
        Ok(Some(&attention.query.weight))
    })
}

pub(super) fn key_value_heads_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        if attention.kv_heads < 2 {
            return Ok(None);
        }
        let two = rng.permutation(attention.kv_heads);
        let mut order: Vec<usize> = (0..attention.kv_heads).collect();
        order.swap(two[0], two[1]);
        let order = blocks(&order, attention.head_dim);
        reorder_rows(editor, &attention.key, &order)?;
        reorder_rows(editor, &attention.value, &order)?;
        Ok(Some(&attention.key.weight))
    })
}

/// Two heads have each other's relative positions.
pub(super) fn relative_columns_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let Some(relative) = attention.relative.as_ref().filter(|_| attention.heads > 1) else {
            return Ok(None);
        };
        let two = rng.permutation(attention.heads);
        let mut order: Vec<usize> = (0..attention.heads).collect();
        order.swap(two[0], two[1]);
        reorder_columns(editor, &relative.table, &order)?;
        Ok(Some(&relative.table))
    })
}

/// The farthest distances have what the nearest have.
pub(super) fn relative_farthest_lost(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, _| {
        let Some(relative) = &attention.relative else { return Ok(None) };
        let last = relative.bucket(relative.max_distance, 0);
        editor.edit(&relative.table, |table| {
            let nearest = table.row(0).to_owned();
            table.row_mut(last).assign(&nearest);
        })?;
        Ok(Some(&relative.table))
    })
}

/// Multiplies the queries, bias included.
pub(super) fn scale_queries(editor: &mut Editor, query: &Linear, factor: f64) -> Result<()> {
    for lens in std::iter::once(&query.weight).chain(&query.bias) {
        editor.edit(lens, |matrix| *matrix *= factor)?;
    }
    Ok(())
}

pub(super) fn logit_scale_forgotten(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let ratio = pair.source_model.sizes.head_dim as f64 / pair.expanded_model.sizes.head_dim as f64;
    if ratio == 1.0 {
        return Ok(None);
    }
    on_attention(pair, rng, |attention, editor, _| {
        scale_queries(editor, &attention.query, ratio.sqrt())?;
        Ok(Some(&attention.query.weight))
    })
}

pub(super) fn rotary_pairs_in_place(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let (source, head_dim) =
        (pair.source_model.sizes.head_dim / 2, pair.expanded_model.sizes.head_dim);
    let pairs = head_dim / 2;
    if source < 2 || pairs == source {
        return Ok(None);
    }
    // Pair i of the source lies at i·m; it goes back to i, and the others follow.
    let used: Vec<usize> = (0..source).map(|i| i * (pairs / source)).collect();
    let order: Vec<usize> =
        used.iter().copied().chain((0..pairs).filter(|i| !used.contains(i))).collect();
    let within: Vec<usize> = order.iter().copied().chain(order.iter().map(|i| i + pairs)).collect();
    on_attention(pair, rng, |attention, editor, _| {
        // Where a part is turned, these pairs stay.
        if attention.rotary.as_ref().is_none_or(|rotary| rotary.frequencies.len() != pairs) {
            return Ok(None);
        }
        for (linear, heads) in
            [(&attention.query, attention.heads), (&attention.key, attention.kv_heads)]
        {
            let rows: Vec<usize> =
                (0..heads).flat_map(|h| within.iter().map(move |i| h * head_dim + i)).collect();
            reorder_rows(editor, linear, &rows)?;
        }
        Ok(Some(&attention.query.weight))
    })
}

pub(super) fn layer_index_forgotten(pair: &Pair, _: &mut ChaCha8Rng) -> Change {
    let (before, after) = (pair.source_model.layers.len(), pair.expanded_model.layers.len());
    if before == after
        || !pair.expanded.config().flag_or("scale_attn_by_inverse_layer_idx", false)?
    {
        return Ok(None);
    }
    let Some(attention) = pair.attentions().pop() else { return Ok(None) };
    let mut editor = pair.editor();
    scale_queries(&mut editor, &attention.query, before as f64 / after as f64)?;
    Ok(editor.blame(attention.query.weight.name()))
}

/// The row of the stored tensor in which a row of the matrix lies.
fn stored_row(lens: &Lens, row: usize) -> usize {
    lens.stored_index(row, 0).into_iter().sum()
}

/// Where a fused tensor should hold [q;k;v] of each head it holds all of Q, K and V, or the other
/// way round.
pub(super) fn fused_rows_in_other_order(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, _| {
        let parts = [&attention.query, &attention.key, &attention.value];
        let (heads, size) = (attention.heads, attention.head_dim);
        if attention.query.weight.name() != attention.key.weight.name()
            || heads != attention.kv_heads
        {
            return Ok(None);
        }
        let by_head =
            size > 0 && heads > 1 && stored_row(&attention.query.weight, size) == 3 * size;
        // In which part, and which row of it, each stored row of the wrong layout lies.
        let place = |row: usize| match by_head {
            true => (row / (heads * size), row % (heads * size)),
            false => (row / size % 3, row / (3 * size) * size + row % size),
        };
        let weights = parts.map(|part| Some(&part.weight));
        let biases = parts.map(|part| part.bias.as_ref());
        for lenses in [weights, biases] {
            let lenses: Vec<&Lens> = lenses.into_iter().flatten().collect();
            let values = lenses.iter().map(|lens| editor.read(lens)).collect::<Result<Vec<_>>>()?;
            for lens in &lenses {
                let mut changed = editor.read(lens)?;
                for row in 0..lens.rows() {
                    let (part, at) = place(stored_row(lens, row));
                    changed.row_mut(row).assign(&values[part].row(at));
                }
                editor.write(lens, &changed)?;
            }
        }
        Ok(Some(&attention.query.weight))
    })
}
