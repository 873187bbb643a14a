//! Changes of the basis that two factors have in common: what they come to stays as it was.

use super::edit::Editor;
use super::heads::on_attention;
use super::pair::first_that_changes;
use super::{Change, Pair};
use crate::error::Result;
use crate::model::{Attention, Lens, Linear};
use crate::testing::random::Draw;
use ndarray::Array2;
use rand_chacha::ChaCha8Rng;
use std::f64::consts::PI;

/// A step of a change of basis: `factor` times row `from` is added to row `to`.
#[derive(Clone, Copy)]
struct Shear {
    to: usize,
    from: usize,
    factor: f64,
}

impl Shear {
    /// Steps that leave none of these rows as it was.
    fn all(rows: &[usize], rng: &mut ChaCha8Rng) -> Vec<Shear> {
        let factor = |rng: &mut ChaCha8Rng| if rng.chance(0.5) { 0.5 } else { -0.7 };
        (0..rows.len())
            .map(|at| (rows[at], rows[(at + 1) % rows.len()]))
            .filter(|(to, from)| to != from)
            .map(|(to, from)| Shear { to, from, factor: factor(rng) })
            .collect()
    }

    /// The step that undoes it on the other side of a product.
    fn opposite(self) -> Shear {
        Shear { to: self.from, from: self.to, factor: -self.factor }
    }

    /// On the rows from `first` on.
    fn apply(self, matrix: &mut Array2<f64>, first: usize) {
        let from = matrix.row(first + self.from).mapv(|v| self.factor * v);
        let mut to = matrix.row_mut(first + self.to);
        to += &from;
    }
}

/// Changes a layer's rows, bias included.
fn on_rows(
    editor: &mut Editor,
    linear: &Linear,
    mut change: impl FnMut(&mut Array2<f64>),
) -> Result<()> {
    for lens in std::iter::once(&linear.weight).chain(&linear.bias) {
        editor.edit(lens, |matrix| change(matrix))?;
    }
    Ok(())
}

/// The first channels of the query heads that read a key/value head.
fn heads_of(attention: &Attention, kv_head: usize) -> Vec<usize> {
    let group = attention.heads / attention.kv_heads;
    (kv_head * group..(kv_head + 1) * group).map(|head| head * attention.head_dim).collect()
}

/// How much smaller than the largest a row may be that is mixed with others: rounding would take of
/// a smaller one what counts.
const SMALLEST: f64 = 1.0 / 16.0;

/// Which of the `count` rows from each of `firsts` on are of one size in all these matrices.
fn alike(matrices: &[(Array2<f64>, Vec<usize>)], count: usize) -> Vec<usize> {
    let size = |matrix: &Array2<f64>, row: usize| matrix.row(row).dot(&matrix.row(row)).sqrt();
    let is_large = |channel: usize| {
        matrices.iter().all(|(matrix, firsts)| {
            firsts.iter().all(|first| {
                let sizes = (0..count).map(|channel| size(matrix, first + channel));
                let own = size(matrix, first + channel);
                own > 0.0 && own >= SMALLEST * sizes.fold(0.0, f64::max)
            })
        })
    };
    (0..count).filter(|channel| is_large(*channel)).collect()
}

/// Keys `B` times, queries `B⁻ᵀ` times as they were; with rotary positions, each frequency's key
/// times a complex number z and its query times 1/conj(z).
pub(super) fn queries_and_keys(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        if attention.head_norms.is_some() {
            return Ok(None);
        }
        let kv_head = rng.below(attention.kv_heads);
        let key = (editor.read(&attention.key.weight)?, vec![kv_head * attention.head_dim]);
        let query = (editor.read(&attention.query.weight)?, heads_of(attention, kv_head));
        let alike = alike(&[key, query], attention.head_dim);
        let frequencies: &[f64] = attention.rotary.as_ref().map_or(&[], |r| &r.frequencies);
        let pairs = frequencies.len();
        let is_turned =
            |channel: &usize| *channel < 2 * pairs && frequencies[channel % pairs] != 0.0;
        let plain: Vec<usize> = alike.iter().copied().filter(|c| !is_turned(c)).collect();
        let steps = Shear::all(&plain, rng);
        let turns: Vec<(usize, [f64; 2])> = (0..pairs)
            .filter(|pair| {
                is_turned(pair) && [*pair, pair + pairs].iter().all(|c| alike.contains(c))
            })
            .map(|pair| {
                let (angle, size) = (PI * (2.0 * rng.uniform() - 1.0), 0.7 + 0.6 * rng.uniform());
                (pair, [size * libm::cos(angle), size * libm::sin(angle)])
            })
            .collect();
        let turn = |matrix: &mut Array2<f64>, first: usize, pair: usize, [re, im]: [f64; 2]| {
            let (a, b) = (matrix.row(first + pair), matrix.row(first + pair + pairs));
            let (a, b) = (re * &a - im * &b, im * &a + re * &b);
            matrix.row_mut(first + pair).assign(&a);
            matrix.row_mut(first + pair + pairs).assign(&b);
        };
        on_rows(editor, &attention.key, |rows| {
            let first = kv_head * attention.head_dim;
            steps.iter().for_each(|step| step.apply(rows, first));
            turns.iter().for_each(|(pair, by)| turn(rows, first, *pair, *by));
        })?;
        on_rows(editor, &attention.query, |rows| {
            for first in heads_of(attention, kv_head) {
                steps.iter().for_each(|step| step.opposite().apply(rows, first));
                for (pair, [re, im]) in &turns {
                    let size = re * re + im * im;
                    turn(rows, first, *pair, [re / size, im / size]);
                }
            }
        })?;
        Ok(Some(&attention.query.weight))
    })
}

/// Values `B` times, what reads them `B⁻¹` times as it was.
pub(super) fn values(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    on_attention(pair, rng, |attention, editor, rng| {
        let kv_head = rng.below(attention.kv_heads);
        let values = (editor.read(&attention.value.weight)?, vec![kv_head * attention.head_dim]);
        let columns = editor.read(&attention.output.weight)?.reversed_axes();
        let read = (columns, heads_of(attention, kv_head));
        let steps = Shear::all(&alike(&[values, read], attention.head_dim), rng);
        on_rows(editor, &attention.value, |rows| {
            steps.iter().for_each(|step| step.apply(rows, kv_head * attention.head_dim));
        })?;
        on_columns(editor, &attention.output.weight, |columns| {
            for first in heads_of(attention, kv_head) {
                steps.iter().for_each(|step| step.opposite().apply(columns, first));
            }
        })?;
        Ok(Some(&attention.value.weight))
    })
}

/// Changes a matrix column by column.
fn on_columns(
    editor: &mut Editor,
    lens: &Lens,
    mut change: impl FnMut(&mut Array2<f64>),
) -> Result<()> {
    editor.edit(lens, |matrix| {
        let mut columns = matrix.t().to_owned();
        change(&mut columns);
        matrix.assign(&columns.t());
    })
}

/// Of two gated neurons with one gate and one fan-out, one linear input has more and the other
/// less.
pub(super) fn gated_neurons(pair: &Pair, rng: &mut ChaCha8Rng) -> Change {
    let mlps = pair.mlps();
    let order = rng.permutation(mlps.len());
    first_that_changes(mlps, &order, |mlp| {
        let Some(gate) = &mlp.gate else { return Ok(None) };
        let mut editor = pair.editor();
        let mut same: Vec<Array2<f64>> = vec![editor.read(&gate.weight)?];
        same.push(editor.read(&mlp.down.weight)?.reversed_axes());
        same.extend(gate.bias.as_ref().map(|bias| editor.read(bias)).transpose()?);
        let neurons = gate.weight.rows();
        let pairs = (0..neurons).flat_map(|one| (one + 1..neurons).map(move |other| (one, other)));
        let mut alike = pairs.filter(|(one, other)| {
            same.iter().all(|matrix| matrix.row(*one) == matrix.row(*other))
        });
        let Some((one, other)) = alike.next() else { return Ok(None) };
        editor.edit(&mlp.up.weight, |rows| {
            for column in 0..rows.ncols() {
                let more = 0.5 * rng.normal();
                rows[[one, column]] += more;
                rows[[other, column]] -= more;
            }
        })?;
        Ok(editor.blame(mlp.up.weight.name()))
    })
}
