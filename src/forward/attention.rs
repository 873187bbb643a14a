//! Multi-head attention with causal and padding masks, grouped key/value heads, rotary positions
//! and relative position bias, on the stream itself or on what an encoder returned.

use super::Memory;
use super::input::Batch;
use super::norm::normalise;
use super::ops::{linear, softcap, softmax};
use super::{Real, Weights};
use crate::error::Result;
use crate::model::{Attention, Norm, RelativeBias, Rotary};
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

/// How many logits of one head are held at a time, so that a long sequence does not need memory
/// for the square of its length.
const LOGITS: usize = 1 << 20;

/// Attends within each sequence of the batch, or from it to the encoder's sequence in `memory`:
/// `[positions, hidden]` to the same.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn attention<R: Real>(
    weights: &Weights,
    op: &Attention,
    x: &Array2<R>,
    batch: &Batch,
    memory: Option<&Memory<R>>,
) -> Result<Array2<R>> {
    let (read, others) = match memory {
        Some(memory) if op.reads_encoder => (&memory.values, memory.batch),
        _ => (x, batch),
    };
    let mut queries = linear(weights, &op.query, x)?;
    let mut keys = linear(weights, &op.key, read)?;
    let values = linear(weights, &op.value, read)?;
    if let Some(norms) = &op.head_norms {
        normalise_heads(weights, &norms.query, op.head_dim, &mut queries)?;
        normalise_heads(weights, &norms.key, op.head_dim, &mut keys)?;
    }
    if let Some(rotary) = &op.rotary {
        rotate(rotary, op.head_dim, &batch.positions, &mut queries);
        rotate(rotary, op.head_dim, &batch.positions, &mut keys);
    }
    let table = op.relative.as_ref().map(|bias| weights.rows(&bias.table, 0, bias.table.rows()));
    let table: Option<Array2<R>> = table.transpose()?;
    let mut context = Array2::zeros((x.nrows(), op.heads * op.head_dim));
    let group = op.heads / op.kv_heads;
    context.axis_chunks_iter_mut(Axis(1), op.head_dim).into_par_iter().enumerate().for_each(
        |(head, mut out)| {
            let query = columns(&queries, head, op.head_dim);
            let key = columns(&keys, head / group, op.head_dim);
            let value = columns(&values, head / group, op.head_dim);
            let column = table.as_ref().map(|table| table.column(head).to_vec());
            let bias = op.relative.as_deref().zip(column.as_deref());
            for (rows, seen) in batch.sequences.iter().zip(&others.sequences) {
                let (part, other) = (s![rows.clone(), ..], s![seen.clone(), ..]);
                let inputs = [query.slice(part), key.slice(other), value.slice(other)];
                let visible = &others.visible[seen.clone()];
                attend((op, bias), inputs, visible, out.slice_mut(part));
            }
        },
    );
    linear(weights, &op.output, &context)
}

/// Normalises each head's channels by themselves.
fn normalise_heads<R: Real>(
    weights: &Weights,
    norm: &Norm,
    head_dim: usize,
    x: &mut Array2<R>,
) -> Result<()> {
    for first in (0..x.ncols()).step_by(head_dim) {
        let mut head = x.slice_mut(s![.., first..first + head_dim]);
        let mut copy = head.to_owned();
        normalise(weights, norm, &mut copy)?;
        head.assign(&copy);
    }
    Ok(())
}

/// The columns of one head.
fn columns<R>(matrix: &Array2<R>, head: usize, head_dim: usize) -> ArrayView2<'_, R> {
    matrix.slice(s![.., head * head_dim..(head + 1) * head_dim])
}

/// One head on one sequence. A position that sees no key gets zeros. `bias` comes with the head's
/// own number for each bucket.
fn attend<R: Real>(
    (op, bias): (&Attention, Option<(&RelativeBias, &[R])>),
    [queries, keys, values]: [ArrayView2<R>; 3],
    visible: &[bool],
    mut out: ArrayViewMut2<R>,
) {
    let (count, others) = (queries.nrows(), keys.nrows());
    let scale = R::from_f64(op.scale);
    let block = (LOGITS / others).max(1);
    for first in (0..count).step_by(block) {
        let end = count.min(first + block);
        let reach = if op.causal { end } else { others };
        let mut weights = queries.slice(s![first..end, ..]).dot(&keys.slice(s![..reach, ..]).t());
        weights.mapv_inplace(|logit| logit * scale);
        if let Some((bias, column)) = bias {
            for ((query, key), logit) in weights.indexed_iter_mut() {
                *logit += column[bias.bucket(first + query, key)];
            }
        }
        if let Some(cap) = op.softcap {
            softcap(cap, weights.view_mut());
        }
        let window = op.window.map_or(usize::MAX, |window| window.size);
        for (position, row) in (first..end).zip(weights.outer_iter_mut()) {
            let near = |key: usize| key.saturating_add(window) > position;
            softmax(row, |key| visible[key] && near(key) && (!op.causal || key <= position));
        }
        out.slice_mut(s![first..end, ..]).assign(&weights.dot(&values.slice(s![..reach, ..])));
    }
}

/// Turns each pair of channels of each head by its angle at each position.
pub(super) fn rotate<R: Real>(
    rotary: &Rotary,
    head_dim: usize,
    positions: &[usize],
    x: &mut Array2<R>,
) {
    let half = rotary.frequencies.len();
    for (&position, mut row) in positions.iter().zip(x.outer_iter_mut()) {
        let place = R::from_f64(position as f64);
        let turns = rotary.frequencies.iter().map(|&f| (place * R::from_f64(f)).sin_cos());
        for (pair, (sin, cos)) in turns.enumerate() {
            for first in (pair..row.len()).step_by(head_dim) {
                let (a, b) = (row[first], row[first + half]);
                row[first] = a * cos - b * sin;
                row[first + half] = b * cos + a * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dim, Lens, Linear};
    use ndarray::array;

    fn one_head(causal: bool) -> Attention {
        let weight = Lens::matrix("w", Dim::one(), [Dim::one()]);
        let linear = Linear { weight, bias: None };
        let projections = [linear.clone(), linear.clone(), linear.clone(), linear];
        Attention { scale: 0.5, causal, ..Attention::plain(projections, 1, 1) }
    }

    #[test]
    fn a_long_sequence_in_blocks_attends_like_the_definition() {
        let count = 1100;
        assert!(count * count > LOGITS && count % 2 == 0);
        let number = |i: usize, m: usize| ((i * 37 % m) as f64) / m as f64;
        let [q, k, v] =
            [11, 13, 17].map(|m| Array2::from_shape_fn((count, 1), |(i, _)| number(i, m)));
        let visible: Vec<bool> = (0..count).map(|i| i % 5 != 3).collect();
        for causal in [false, true] {
            let mut out = Array2::zeros((count, 1));
            let inputs = [q.view(), k.view(), v.view()];
            attend((&one_head(causal), None), inputs, &visible, out.view_mut());
            for i in 0..count {
                let seen = (0..count).filter(|&j| visible[j] && (!causal || j <= i));
                let terms = seen.map(|j| ((0.5 * q[[i, 0]] * k[[j, 0]]).exp(), v[[j, 0]]));
                let (sum, total) = terms.fold((0.0, 0.0), |(s, t), (e, v)| (s + e, t + e * v));
                assert!((out[[i, 0]] - total / sum).abs() < 1e-13, "causal {causal}, row {i}");
            }
        }
    }

    #[test]
    fn a_row_that_sees_no_key_is_zero() {
        let x = array![[1.0], [2.0]];
        let mut out = array![[9.0], [9.0]];
        let inputs = [x.view(), x.view(), x.view()];
        attend((&one_head(true), None), inputs, &[false, true], out.view_mut());
        assert_eq!(out, array![[0.0], [2.0]]);
    }

    #[test]
    fn rotation_turns_channel_i_with_channel_i_plus_half() {
        let rotary = Rotary { frequencies: [std::f64::consts::FRAC_PI_2, 0.0].into() };
        let mut x = array![[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]];
        rotate(&rotary, 4, &[0, 1], &mut x);
        let expected = array![[1.0, 2.0, 3.0, 4.0], [-3.0, 2.0, 1.0, 4.0]];
        assert!((&x - &expected).iter().all(|difference: &f64| difference.abs() < 1e-15), "{x}");
    }
}
