//! Depth: which sublayers of the two models correspond, and which write nothing.
//!
//! On a Pre-LN stream a sublayer that writes nothing may stand anywhere in either model. The
//! alignment is found by dynamic programming over {match; the expanded one alone; the source one
//! alone}, on a cheap invariant: the sum of all fan-outs of a sublayer maps by E like each group of
//! them. It only proposes; the equations judge.

use super::bounded::Bounded;
use super::map::Map;
use super::side::Side;
use super::sublayer::kind;
use crate::error::Result;
use crate::model::{Branch, Linear, Sublayer};
use rayon::prelude::*;

/// A step of the alignment: sublayer numbers of the source and the expanded model.
pub(super) type Pair = (Option<usize>, Option<usize>);

/// Matches sublayers one by one.
pub(super) fn in_order(count: usize) -> Vec<Pair> {
    (0..count).map(|i| (Some(i), Some(i))).collect()
}

/// Matches the rest in order where sublayers of the expanded model that write with zeros stand
/// alone; `None` where that leaves not one for each of the source's, or the source has such too.
pub(super) fn around_zeros(
    (source, expanded): (&Side, &Side),
    sublayers: (&[Sublayer], &[Sublayer]),
) -> Result<Option<Vec<Pair>>> {
    let zero = |side: &Side, sublayer: &Sublayer| -> Result<bool> {
        let writers = sublayer.branches.iter().flat_map(|branch| branch.op.writers());
        for lens in writers.flat_map(Linear::lenses) {
            if !side.looks_zero(lens)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let zeros = |side: &Side, sublayers: &[Sublayer]| -> Result<Vec<bool>> {
        sublayers.par_iter().map(|sublayer| zero(side, sublayer)).collect()
    };
    let (s, t) = (zeros(source, sublayers.0)?, zeros(expanded, sublayers.1)?);
    if s.contains(&true) || t.iter().filter(|zero| !**zero).count() != s.len() {
        return Ok(None);
    }
    let mut next = 0..s.len();
    let pair = |(j, zero): (usize, &bool)| (if *zero { None } else { next.next() }, Some(j));
    Ok(Some(t.iter().enumerate().map(pair).collect()))
}

/// The cheapest alignment of the sublayers of two models on a Pre-LN stream.
pub(super) fn align(
    (source, expanded): (&Side, &Side),
    sublayers: (&[&Sublayer], &[&Sublayer]),
    map: &Map,
    modulo_one: bool,
) -> Result<Vec<Pair>> {
    // Over a single channel everything is a constant: centred features would all be zero.
    let modulo_one = modulo_one && map.source > 1;
    let s = features(source, sublayers.0, Some(map), modulo_one)?;
    let t = features(expanded, sublayers.1, None, modulo_one)?;
    let typical = |part: fn(&Feature) -> &Vec<f64>| {
        let mean =
            |f: &[Feature]| f.iter().map(|f| square(part(f))).sum::<f64>() / f.len().max(1) as f64;
        mean(&s).max(mean(&t)).sqrt().max(f64::MIN_POSITIVE)
    };
    let (weight, bias) = (typical(|f| &f.weight), typical(|f| &f.bias));
    let alone = |f: &Feature| {
        let size = |part: &[f64], typical: f64| (square(part).sqrt() / typical).min(1.0);
        0.6 * size(&f.weight, weight) + 0.4 * size(&f.bias, bias)
    };
    let matched = |a: &Feature, b: &Feature| {
        if a.kind != b.kind {
            return 4.0;
        }
        0.6 * distance(&a.weight, &b.weight, weight) + 0.4 * distance(&a.bias, &b.bias, bias)
    };
    Ok(cheapest(s.len(), t.len(), |pair| match pair {
        (Some(i), Some(j)) => matched(&s[i], &t[j]),
        (Some(i), None) => alone(&s[i]) + TIE,
        (None, Some(j)) => alone(&t[j]) + TIE,
        (None, None) => 0.0,
    }))
}

/// Prefers matching where it makes no difference otherwise.
pub(super) const TIE: f64 = 1e-9;

/// Costs that differ by less are equal but for the order in which they were summed.
const SAME: f64 = 1e-12;

/// Dynamic programming over the three moves; deterministic. Of equally cheap alignments, the one
/// that matches as early as it can: what is left over comes last.
pub(super) fn cheapest(source: usize, expanded: usize, cost: impl Fn(Pair) -> f64) -> Vec<Pair> {
    // Of the rests of both models, from these sublayers on.
    let mut best = vec![vec![(f64::INFINITY, (None, None)); expanded + 1]; source + 1];
    best[source][expanded].0 = 0.0;
    let after = |i: usize, j: usize, step: Pair| {
        (i + usize::from(step.0.is_some()), j + usize::from(step.1.is_some()))
    };
    for i in (0..=source).rev() {
        for j in (0..=expanded).rev() {
            let (s, t) = ((i < source).then_some(i), (j < expanded).then_some(j));
            let mut moves: Vec<Pair> = Vec::new();
            if s.is_some() && t.is_some() {
                moves.push((s, t));
            }
            moves.extend(t.map(|_| (None, t)));
            moves.extend(s.map(|_| (s, None)));
            for step in moves {
                let (next_i, next_j) = after(i, j, step);
                let total = best[next_i][next_j].0 + cost(step);
                if total < best[i][j].0 - SAME {
                    best[i][j] = (total, step);
                }
            }
        }
    }
    let mut path = Vec::new();
    let (mut i, mut j) = (0, 0);
    while (i, j) != (source, expanded) {
        let step = best[i][j].1;
        path.push(step);
        (i, j) = after(i, j, step);
    }
    path
}

/// What a sublayer writes when every channel is one.
struct Feature {
    /// See [`kind`].
    kind: &'static str,
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
            let (total, bias) = written(side, branch)?;
            sum = Some(match sum {
                Some((w, b)) => (w.plus(&total), b.plus(&bias)),
                None => (total, bias),
            });
        }
        let (weight, bias) = sum.unwrap_or((Bounded::zeros(1, 1), Bounded::zeros(1, 1)));
        Ok(Feature {
            kind: kind(sublayer),
            weight: finished(weight, map, modulo_one),
            bias: finished(bias, map, modulo_one),
        })
    };
    sublayers.par_iter().map(feature).collect()
}

/// The sum of a branch's fan-outs, over the mean expert, and its bias, each `[hidden, 1]`. A norm
/// behind it stands for nothing here, unless it writes nothing.
fn written(side: &Side, branch: &Branch) -> Result<(Bounded, Bounded)> {
    let writers = branch.op.writers();
    let share = 1.0 / writers.len().max(1) as f64;
    let rows = writers.first().map_or(1, |out| out.weight.rows());
    let mut sum = (Bounded::zeros(rows, 1), Bounded::zeros(rows, 1));
    if let Some(norm) = &branch.post_norm
        && side.gamma(norm, rows)?.value.iter().all(|gamma| *gamma == 0.0)
    {
        return Ok(sum);
    }
    for out in writers {
        let total = side.row_sums(&out.weight)?;
        sum = (sum.0.plus(&total.times(share)), sum.1.plus(&side.bias(out)?.times(share)));
    }
    if let Some(scale) = &branch.scale {
        let scale = side.read(scale)?;
        sum = (sum.0.times_rows(&scale), sum.1.times_rows(&scale));
    }
    Ok(sum)
}

/// Maps to the expanded stream, and removes the mean where it does not matter.
fn finished(mut column: Bounded, map: Option<&Map>, modulo_one: bool) -> Vec<f64> {
    if let Some(map) = map {
        column = map.image(&column);
    }
    if modulo_one {
        column = column.centre_columns();
    }
    column.value.into_iter().collect()
}

fn square(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum()
}

/// The relative distance of two vectors, at most 1; vectors far smaller than `typical` are equal.
fn distance(a: &[f64], b: &[f64], typical: f64) -> f64 {
    let size = square(a).max(square(b)).sqrt().max(0.01 * typical);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    (difference.sqrt() / size).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_smaller_than_usual_is_at_no_distance() {
        let [a, b, zero] = [[3.0, 4.0], [3.0, 4.5], [0.0, 0.0]];
        assert_eq!(distance(&a, &b, 1.0), 0.5 / (9.0f64 + 20.25).sqrt());
        assert_eq!([distance(&a, &zero, 1.0), distance(&zero, &a, 5e4)], [1.0, 0.01]);
        assert_eq!(distance(&zero, &zero, 1.0), 0.0);
    }

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

    #[test]
    fn what_is_repeated_is_matched_where_it_comes_first() {
        let source = [3.0f64, 5.0, 0.1];
        let expanded = [source, source].concat();
        let path = cheapest(3, 6, |pair| match pair {
            (Some(i), Some(j)) => (source[i] - expanded[j]).abs(),
            (Some(i), None) => source[i] + TIE,
            (None, Some(j)) => expanded[j] + TIE,
            _ => 0.0,
        });
        let second = [(None, Some(3)), (None, Some(4)), (None, Some(5))];
        assert_eq!(path, [in_order(3), second.to_vec()].concat());
    }
}
