//! Changes that leave the function as it was.

use super::edit::Editor;
use super::heads::{blocks, on_attention, reorder_columns, reorder_rows};
use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::error::Result;
use crate::model::{Activation, Attention, Lens, Linear, Op, Step, Table, TableIndex};
use crate::testing::random::Draw;
use ndarray::{Axis, s};
use rand_chacha::ChaCha8Rng;

pub(super) fn key_bias_random(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let Some(bias) = &attention.key.bias else { return Ok(None) };
        // A soft cap sees what is added to all logits, as a norm of keys and a rotation do.
        let seen = attention.head_norms.is_some() || attention.softcap.is_some();
        if seen || attention.rotary.is_some() {
            return Ok(None);
        }
        editor.edit(bias, |bias| bias.iter_mut().for_each(|b| *b = 0.5 * rng.normal()))?;
        Ok(Some(bias))
    })
}

pub(super) fn gamma_on_residue(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some(first) = pair.residue() else { return Ok(None) };
    let norms = pair.reading_norms();
    if norms.is_empty() {
        return Ok(None);
    }
    let Some(weight) = &norms[rng.below(norms.len())].weight else { return Ok(None) };
    let mut editor = pair.editor();
    editor.edit(weight, |gamma| {
        gamma.iter_mut().skip(first).for_each(|g| *g = 1.0 + 0.5 * rng.normal());
    })?;
    Ok(editor.blame(weight.name()))
}

pub(super) fn reader_on_residue(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some(first) = pair.residue() else { return Ok(None) };
    let branches = pair.branches().filter(|branch| branch.norm.is_some());
    let readers: Vec<&Linear> = branches
        .flat_map(|branch| match &branch.op {
            Op::Attention(a) => vec![&a.query, &a.key, &a.value],
            Op::Mlp(m) => m.gate.iter().chain([&m.up]).collect(),
            Op::Experts(e) => vec![&e.router],
        })
        .collect();
    let order = rng.permutation(readers.len());
    first_that_changes(readers, &order, |reader| {
        let mut editor = pair.editor();
        editor.edit(&reader.weight, |weight| {
            weight.slice_mut(s![.., first..]).iter_mut().for_each(|w| *w += 0.3 * rng.normal());
        })?;
        Ok(editor.blame(reader.weight.name()))
    })
}

pub(super) fn neurons_permuted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let mlps = pair.mlps();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let neurons = rng.permutation(mlp.up.weight.rows());
        let mut editor = pair.editor();
        for linear in mlp.gate.iter().chain([&mlp.up]) {
            reorder_rows(&mut editor, linear, &neurons)?;
        }
        reorder_columns(&mut editor, &mlp.down.weight, &neurons)?;
        Ok(editor.blame(mlp.up.weight.name()))
    })
}

pub(super) fn heads_permuted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        if let Some(relative) = &attention.relative {
            // All layers add the columns of one table, so the heads of all of them follow it.
            let order = rng.permutation(attention.heads);
            let rows = blocks(&order, attention.head_dim);
            let shares = |other: &&Attention| {
                other.relative.as_ref().is_some_and(|bias| bias.table == relative.table)
            };
            for layer in pair.expanded_attentions().filter(shares) {
                for linear in [&layer.query, &layer.key, &layer.value] {
                    reorder_rows(editor, linear, &rows)?;
                }
                reorder_columns(editor, &layer.output.weight, &rows)?;
            }
            reorder_columns(editor, &relative.table, &order)?;
            return Ok(Some(&relative.table));
        }
        let group = attention.heads / attention.kv_heads;
        let kv_order = rng.permutation(attention.kv_heads);
        let mut order = Vec::new();
        for kv_head in &kv_order {
            order.extend(rng.permutation(group).into_iter().map(|h| kv_head * group + h));
        }
        let rows = blocks(&order, attention.head_dim);
        let kv_rows = blocks(&kv_order, attention.head_dim);
        reorder_rows(editor, &attention.query, &rows)?;
        reorder_rows(editor, &attention.key, &kv_rows)?;
        reorder_rows(editor, &attention.value, &kv_rows)?;
        reorder_columns(editor, &attention.output.weight, &rows)?;
        Ok(Some(&attention.query.weight))
    })
}

/// Every key is as much more wanted as any other.
pub(super) fn relative_shifted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let Some(relative) = attention.relative.as_ref().filter(|_| attention.softcap.is_none())
        else {
            return Ok(None);
        };
        let head = rng.below(attention.heads);
        editor.edit(&relative.table, |table| {
            table.column_mut(head).iter_mut().for_each(|bias| *bias += 0.5);
        })?;
        Ok(Some(&relative.table))
    })
}

pub(super) fn value_bias_moved(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, _| {
        let (Some(value), Some(output)) = (&attention.value.bias, &attention.output.bias) else {
            return Ok(None);
        };
        let bias = editor.read(value)?;
        let group = attention.heads / attention.kv_heads;
        let order: Vec<usize> = (0..attention.heads).map(|head| head / group).collect();
        let read = bias.select(Axis(0), &blocks(&order, attention.head_dim));
        let written = editor.read(&attention.output.weight)?.dot(&read);
        editor.edit(output, |bias| *bias += &written)?;
        editor.edit(value, |bias| bias.fill(0.0))?;
        Ok(Some(value))
    })
}

pub(super) fn writer_shifted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let writers = pair.writers();
    if !pair.stream_is_centred() || writers.is_empty() {
        return Ok(None);
    }
    let writer = writers[rng.below(writers.len())];
    let mut editor = pair.editor();
    for lens in std::iter::once(&writer.weight).chain(&writer.bias) {
        editor.edit(lens, |matrix| {
            for mut column in matrix.columns_mut() {
                let shift = 0.3 * rng.normal();
                column.iter_mut().for_each(|w| *w += shift);
            }
        })?;
    }
    Ok(editor.blame(writer.weight.name()))
}

pub(super) fn tables_shifted(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let tables = &pair.expanded_model.embedding.tables;
    let plain = |t: &&Table| t.scale == 1.0 && t.projection.is_none();
    let find = |is_it: fn(TableIndex) -> bool| {
        tables.iter().filter(plain).find(|t| is_it(t.index)).map(|t| &t.lens)
    };
    let tokens = find(|index| index == TableIndex::Token);
    let positions = find(|index| matches!(index, TableIndex::Position(_)));
    let (Some(tokens), Some(positions)) = (tokens, positions) else {
        return Ok(None);
    };
    // A tied head would see the row.
    let steps = pair.expanded_model.outputs.iter().flat_map(|output| &output.steps);
    let mut heads = steps.filter_map(|step| match step {
        Step::Linear(linear) => Some(&linear.weight),
        _ => None,
    });
    if heads.any(|head| head == tokens) {
        return Ok(None);
    }
    let width = pair.expanded_model.sizes.hidden;
    let row: Vec<f64> = (0..width).map(|_| 0.1 * rng.normal()).collect();
    let mut editor = pair.editor();
    for (lens, sign) in [(tokens, 1.0), (positions, -1.0)] {
        editor.edit(lens, |table| {
            for mut entry in table.rows_mut() {
                entry.iter_mut().zip(&row).for_each(|(x, shift)| *x += sign * shift);
            }
        })?;
    }
    Ok(editor.blame(tokens.name()))
}

/// Multiplies some rows of a layer, bias included.
fn scale_rows(editor: &mut Editor, linear: &Linear, rows: &[usize], factor: f64) -> Result<()> {
    for lens in std::iter::once(&linear.weight).chain(&linear.bias) {
        editor.edit(lens, |matrix| {
            for row in rows {
                matrix.row_mut(*row).iter_mut().for_each(|w| *w *= factor);
            }
        })?;
    }
    Ok(())
}

/// Multiplies some columns of a matrix.
fn scale_columns(editor: &mut Editor, lens: &Lens, columns: &[usize], factor: f64) -> Result<()> {
    editor.edit(lens, |matrix| {
        for column in columns {
            matrix.column_mut(*column).iter_mut().for_each(|w| *w *= factor);
        }
    })
}

/// The channels of a key/value head, and those of the query heads that read it.
fn group_channels(attention: &Attention, kv_head: usize) -> (Vec<usize>, Vec<usize>) {
    let group = attention.heads / attention.kv_heads;
    let heads: Vec<usize> = (kv_head * group..(kv_head + 1) * group).collect();
    (blocks(&[kv_head], attention.head_dim), blocks(&heads, attention.head_dim))
}

pub(super) fn query_key_rescaled(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        if attention.head_norms.is_some() {
            return Ok(None);
        }
        let (kv, queries) = group_channels(attention, rng.below(attention.kv_heads));
        scale_rows(editor, &attention.query, &queries, 2.0)?;
        scale_rows(editor, &attention.key, &kv, 0.5)?;
        Ok(Some(&attention.query.weight))
    })
}

pub(super) fn value_output_rescaled(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let (kv, queries) = group_channels(attention, rng.below(attention.kv_heads));
        scale_rows(editor, &attention.value, &kv, 2.0)?;
        scale_columns(editor, &attention.output.weight, &queries, 0.5)?;
        Ok(Some(&attention.value.weight))
    })
}

pub(super) fn neuron_rescaled(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let mlps = pair.mlps();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        if mlp.gate.is_none() && mlp.activation != Activation::Relu {
            return Ok(None);
        }
        let neuron = [rng.below(mlp.up.weight.rows())];
        let mut editor = pair.editor();
        scale_rows(&mut editor, &mlp.up, &neuron, 2.0)?;
        scale_columns(&mut editor, &mlp.down.weight, &neuron, 0.5)?;
        Ok(editor.blame(mlp.up.weight.name()))
    })
}
