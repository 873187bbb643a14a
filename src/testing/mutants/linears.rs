//! Mistakes in linear layers: fan-outs, biases, single numbers.

use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::checkpoint::Dtype;
use crate::model::{Linear, Mlp};
use crate::testing::random::Draw;
use ndarray::{Array2, s};
use rand_chacha::ChaCha8Rng;

pub(super) fn fan_out_sum_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let writers = pair.writers();
    let order = rng.permutation(writers.len());
    let factor = 1.0 + pair.visible(1e-4);
    first_that_changes(writers, &order, |writer| {
        let mut editor = pair.editor();
        editor.edit(&writer.weight, |weight| {
            // One of the larger columns: a column of almost nothing is no share of the sum.
            let squares: Vec<f64> =
                weight.columns().into_iter().map(|c| c.iter().map(|w| w * w).sum()).collect();
            let largest = squares.iter().copied().fold(0.0, f64::max);
            let large: Vec<usize> =
                (0..squares.len()).filter(|j| 4.0 * squares[*j] >= largest).collect();
            weight.column_mut(rng.pick(&large)).iter_mut().for_each(|w| *w *= factor);
        })?;
        Ok(editor.blame(writer.weight.name()))
    })
}

pub(super) fn fan_out_not_split(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let neurons = pair.source_model.sizes.intermediate;
    let mlps = pair.mlps();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let mut editor = pair.editor();
        editor.edit(&mlp.down.weight, |down| {
            let mut sums = Array2::<f64>::zeros((down.nrows(), neurons));
            for (j, column) in down.columns().into_iter().enumerate() {
                let mut sum = sums.column_mut(j % neurons);
                sum += &column;
            }
            for (j, mut column) in down.columns_mut().into_iter().enumerate() {
                column.assign(&sums.column(j % neurons));
            }
        })?;
        Ok(editor.blame(mlp.down.weight.name()))
    })
}

pub(super) fn fan_outs_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let mlps: Vec<&Mlp> = pair.mlps().into_iter().filter(|m| m.down.weight.cols() > 1).collect();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let columns = rng.permutation(mlp.down.weight.cols());
        let mut editor = pair.editor();
        editor.edit(&mlp.down.weight, |down| {
            let (one, other) = (columns[0], columns[1]);
            down.rows_mut().into_iter().for_each(|mut row| row.swap(one, other));
        })?;
        Ok(editor.blame(mlp.down.weight.name()))
    })
}

/// Layers with a bias, and how many rows they have in the source. The key is left out where its
/// bias is free.
fn biased<'a>(pair: &Pair<'a>) -> Vec<(&'a Linear, usize)> {
    let sizes = &pair.source_model.sizes;
    let mut found = Vec::new();
    for attention in pair.attentions() {
        found.push((&attention.query, sizes.heads * sizes.head_dim));
        if attention.rotary.is_some() {
            found.push((&attention.key, sizes.kv_heads * sizes.head_dim));
        }
        found.push((&attention.value, sizes.kv_heads * sizes.head_dim));
        found.push((&attention.output, sizes.hidden));
    }
    for mlp in pair.mlps() {
        found.extend(mlp.gate.iter().map(|gate| (gate, sizes.intermediate)));
        found.push((&mlp.up, sizes.intermediate));
        found.push((&mlp.down, sizes.hidden));
    }
    found.retain(|(linear, rows)| linear.bias.is_some() && linear.weight.rows() > *rows);
    found
}

fn bias(pair: &Pair, rng: &mut ChaCha8Rng, change: impl Fn(&mut Array2<f64>, usize)) -> Change {
    let layers = biased(pair);
    let order = rng.permutation(layers.len());
    first_that_changes(layers, &order, |(linear, rows)| {
        let Some(bias) = &linear.bias else { return Ok(None) };
        let mut editor = pair.editor();
        editor.edit(bias, |bias| change(bias, *rows))?;
        Ok(editor.blame(bias.name()))
    })
}

pub(super) fn bias_not_expanded(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    bias(pair, rng, |bias, rows| bias.slice_mut(s![rows.., ..]).fill(0.0))
}

pub(super) fn bias_split(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    bias(pair, rng, |bias, rows| {
        let all = bias.nrows();
        for (row, b) in bias.iter_mut().enumerate() {
            *b /= (all - row % rows).div_ceil(rows) as f64;
        }
    })
}

pub(super) fn writer_residue_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let Some(first) = pair.residue() else { return Ok(None) };
    let writers = pair.writers();
    let order = rng.permutation(writers.len());
    let row = rng.between(first, pair.expanded_model.sizes.hidden - 1);
    first_that_changes(writers, &order, |writer| {
        let mut editor = pair.editor();
        editor.edit(&writer.weight, |weight| {
            weight.row_mut(row).iter_mut().for_each(|w| *w *= 1.5);
        })?;
        Ok(editor.blame(writer.weight.name()))
    })
}

pub(super) fn inserted_bias(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    if pair.expanded_model.layers.len() == pair.source_model.layers.len() {
        return Ok(None);
    }
    let mut editor = pair.editor();
    let outputs = pair.branches().flat_map(|branch| branch.op.writers());
    let mut empty = Vec::new();
    for linear in outputs {
        let Some(bias) = &linear.bias else { continue };
        if editor.read(bias)?.iter().all(|b| *b == 0.0) {
            empty.push(bias);
        }
    }
    if empty.is_empty() {
        return Ok(None);
    }
    let bias = rng.pick(&empty);
    editor.edit(bias, |bias| bias.iter_mut().for_each(|b| *b = 0.3 * rng.normal()))?;
    Ok(editor.blame(bias.name()))
}

/// Every linear layer inside the branches that write something.
pub(super) fn live<'a>(pair: &Pair<'a>) -> Vec<&'a Linear> {
    let mut found = Vec::new();
    for attention in pair.attentions() {
        found.extend([&attention.query, &attention.key, &attention.value, &attention.output]);
    }
    for mlp in pair.mlps() {
        found.extend(mlp.gate.iter().chain([&mlp.up, &mlp.down]));
    }
    found
}

pub(super) fn entry_off(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let lenses = pair.expanded_model.lenses();
    let order = rng.permutation(lenses.len());
    let factor = 1.0 + pair.visible(1e-2);
    first_that_changes(lenses, &order, |lens| {
        let (row, col) = (rng.below(lens.rows()), rng.below(lens.cols()));
        let mut editor = pair.editor();
        editor.edit(lens, |matrix| matrix[[row, col]] *= factor)?;
        Ok(editor.blame(lens.name()))
    })
}

pub(super) fn row_negated(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let layers = live(pair);
    let order = rng.permutation(layers.len());
    first_that_changes(layers, &order, |linear| {
        let row = rng.below(linear.weight.rows());
        let mut editor = pair.editor();
        editor.edit(&linear.weight, |weight| {
            weight.row_mut(row).iter_mut().for_each(|w| *w = -*w);
        })?;
        Ok(editor.blame(linear.weight.name()))
    })
}

pub(super) fn row_cancels(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let (copies, channels) = (pair.copies(), pair.source_model.sizes.hidden);
    if copies < 2 {
        return Ok(None);
    }
    let attentions = pair.attentions().into_iter().flat_map(|a| [&a.query, &a.key, &a.value]);
    let mlps = pair.mlps().into_iter().flat_map(|m| m.gate.iter().chain([&m.up]));
    let readers: Vec<&Linear> = attentions.chain(mlps).collect();
    let order = rng.permutation(readers.len());
    let formats = pair.expanded.tensors().values().filter_map(|tensor| tensor.dtype);
    let unit = formats.map(Dtype::unit_roundoff).fold(0.0, f64::max);
    first_that_changes(readers, &order, |reader| {
        if reader.weight.cols() < copies * channels {
            return Ok(None);
        }
        let row = rng.below(reader.weight.rows());
        let mut editor = pair.editor();
        editor.edit(&reader.weight, |weight| {
            for channel in 0..channels {
                weight[[row, channels + channel]] = -weight[[row, channel]] * (1.0 + 2.0 * unit);
                (2..copies).for_each(|copy| weight[[row, copy * channels + channel]] = 0.0);
            }
        })?;
        Ok(editor.blame(reader.weight.name()))
    })
}

pub(super) fn transposed(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let square = |linear: &&Linear| linear.weight.rows() == linear.weight.cols();
    let layers: Vec<&Linear> = live(pair).into_iter().filter(square).collect();
    let order = rng.permutation(layers.len());
    first_that_changes(layers, &order, |linear| {
        let mut editor = pair.editor();
        editor.edit(&linear.weight, |weight| *weight = weight.t().to_owned())?;
        Ok(editor.blame(linear.weight.name()))
    })
}

pub(super) fn gate_and_up_differ(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let neurons = pair.source_model.sizes.intermediate;
    let mlps: Vec<&Mlp> = pair.mlps().into_iter().filter(|mlp| mlp.gate.is_some()).collect();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let all = mlp.up.weight.rows();
        if neurons < 2 || all < neurons + 2 {
            return Ok(None);
        }
        // The new rows of `up` go round one step further than those of `gate`.
        let from = |row: usize| match row {
            row if row < neurons => row,
            row => neurons + (row - neurons + 1) % (all - neurons),
        };
        let order: Vec<usize> = (0..all).map(from).collect();
        let mut editor = pair.editor();
        for lens in std::iter::once(&mlp.up.weight).chain(&mlp.up.bias) {
            editor.edit(lens, |matrix| *matrix = matrix.select(ndarray::Axis(0), &order))?;
        }
        Ok(editor.blame(mlp.up.weight.name()))
    })
}

pub(super) fn gate_and_up_swapped(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let mlps = pair.mlps();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let Some(gate) = &mlp.gate else { return Ok(None) };
        let mut editor = pair.editor();
        for (one, other) in gate.lenses().zip(mlp.up.lenses()) {
            let (first, second) = (editor.read(one)?, editor.read(other)?);
            editor.write(one, &second)?;
            editor.write(other, &first)?;
        }
        Ok(editor.blame(gate.weight.name()))
    })
}
