//! Depth: which sublayers of the two models correspond, and which write nothing.
//!
//! On a Pre-LN stream a sublayer that writes nothing may stand anywhere in either model. The
//! alignment is found by dynamic programming over {match; the expanded one alone; the source one
//! alone}, on a cheap invariant: the sum of all fan-outs of a sublayer maps by E like each group of
//! them. It only proposes; the equations judge.

use super::bounded::{Bounded, UNITS};
use super::map::Map;
use super::side::Side;
use crate::error::Result;
use crate::model::{Op, Sublayer};

/// A step of the alignment: sublayer numbers of the source and the expanded model.
pub(super) type Pair = (Option<usize>, Option<usize>);

/// Matches sublayers one by one.
pub(super) fn in_order(count: usize) -> Vec<Pair> {
    (0..count).map(|i| (Some(i), Some(i))).collect()
}

/// The cheapest alignment of the sublayers of two models on a Pre-LN stream.
pub(super) fn align(
    (source, expanded): (&Side, &Side),
    sublayers: (&[&Sublayer], &[&Sublayer]),
    map: &Map,
    modulo_one: bool,
) -> Result<Vec<Pair>> {
    let s = features(source, sublayers.0, Some(map), modulo_one)?;
    let t = features(expanded, sublayers.1, None, modulo_one)?;
    let typical = |f: &[Feature]| {
        let sum: f64 = f.iter().map(|f| square(&f.weight)).sum();
        (sum / f.len().max(1) as f64).sqrt()
    };
    let scale = typical(&s).max(typical(&t)).max(f64::MIN_POSITIVE);
    let alone = |f: &Feature| {
        let weight = (square(&f.weight).sqrt() / scale).min(1.0);
        0.6 * weight + if square(&f.bias) > 0.0 { 0.4 } else { 0.0 }
    };
    let matched = |a: &Feature, b: &Feature| {
        if a.attention != b.attention {
            return 4.0;
        }
        0.6 * distance(&a.weight, &b.weight) + 0.4 * distance(&a.bias, &b.bias)
    };
    Ok(cheapest(s.len(), t.len(), |pair| match pair {
        (Some(i), Some(j)) => matched(&s[i], &t[j]),
        (Some(i), None) => alone(&s[i]) + TIE,
        (None, Some(j)) => alone(&t[j]) + TIE,
        (None, None) => 0.0,
    }))
}

/// Prefers matching where it makes no difference otherwise.
const TIE: f64 = 1e-9;

/// Dynamic programming over the three moves; deterministic.
fn cheapest(source: usize, expanded: usize, cost: impl Fn(Pair) -> f64) -> Vec<Pair> {
    let mut best = vec![vec![(f64::INFINITY, (None, None)); expanded + 1]; source + 1];
    best[0][0].0 = 0.0;
    for i in 0..=source {
        for j in 0..=expanded {
            let mut moves: Vec<Pair> = Vec::new();
            if i > 0 && j > 0 {
                moves.push((Some(i - 1), Some(j - 1)));
            }
            if j > 0 {
                moves.push((None, Some(j - 1)));
            }
            if i > 0 {
                moves.push((Some(i - 1), None));
            }
            for step in moves {
                let from = best[step.0.unwrap_or(i)][step.1.unwrap_or(j)].0;
                let total = from + cost(step);
                if total < best[i][j].0 {
                    best[i][j] = (total, step);
                }
            }
        }
    }
    let mut path = Vec::new();
    let (mut i, mut j) = (source, expanded);
    while (i, j) != (0, 0) {
        let step = best[i][j].1;
        path.push(step);
        (i, j) = (step.0.unwrap_or(i), step.1.unwrap_or(j));
    }
    path.reverse();
    path
}

/// What a sublayer writes when every channel is one.
struct Feature {
    attention: bool,
    weight: Vec<f64>,
    bias: Vec<f64>,
}

fn features(
    side: &Side,
    sublayers: &[&Sublayer],
    map: Option<&Map>,
    modulo_one: bool,
) -> Result<Vec<Feature>> {
    let feature = |sublayer: &&Sublayer| -> Result<Feature> {
        let mut sum: Option<(Bounded, Bounded)> = None;
        for branch in &sublayer.branches {
            let out = match &branch.op {
                Op::Attention(attention) => &attention.output,
                Op::Mlp(mlp) => &mlp.down,
            };
            let fan_out = side.read(&out.weight)?;
            let total = fan_out.apply(&ones(fan_out.cols()));
            let bias = side.bias(out)?;
            sum = Some(match sum {
                Some((w, b)) => (w.plus(&total), b.plus(&bias)),
                None => (total, bias),
            });
        }
        let (weight, bias) = sum.unwrap_or((Bounded::zeros(1, 1), Bounded::zeros(1, 1)));
        Ok(Feature {
            attention: matches!(sublayer.branches[..], [ref b] if matches!(b.op, Op::Attention(_))),
            weight: finished(weight, map, modulo_one),
            bias: finished(bias, map, modulo_one),
        })
    };
    sublayers.iter().map(feature).collect()
}

fn ones(count: usize) -> Bounded {
    let mut ones = Bounded::zeros(count, 1);
    ones.value.fill(1.0);
    ones
}

/// Maps to the expanded stream, removes the mean where it does not matter, and sets what is zero
/// within its bound to zero.
fn finished(column: Bounded, map: Option<&Map>, modulo_one: bool) -> Vec<f64> {
    let mut column = match map {
        Some(map) => map.image(&column),
        None => column,
    };
    if modulo_one {
        column = column.centre_columns();
    }
    let zero = column.clone().transposed().row(0).is_zero(UNITS);
    column.value.iter().map(|v| if zero { 0.0 } else { *v }).collect()
}

fn square(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum()
}

/// The relative distance of two vectors, at most 1.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let size = square(a).max(square(b));
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    if difference == 0.0 { 0.0 } else { (difference / size).sqrt().min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sublayer_that_writes_nothing_stands_alone() {
        let source = [3.0f64, 5.0];
        let expanded = [3.0f64, 0.0, 5.0];
        let path = cheapest(2, 3, |pair| match pair {
            (Some(i), Some(j)) => (source[i] - expanded[j]).abs(),
            (Some(i), None) => source[i],
            (None, Some(j)) => expanded[j],
            _ => 0.0,
        });
        assert_eq!(path, vec![(Some(0), Some(0)), (None, Some(1)), (Some(1), Some(2))]);
    }
}
