//! Rows of the source with the rows of the expanded model that must be their multiples.

use super::super::agreement::Agreement;
use super::super::bounded::{Bounded, Ratio, UNITS, Weights};
use super::super::stored::StoredRows;
use super::fold::{Fold, Line, Scratch, dot, sum, sums_of, weighted};
use crate::wide::wide;

/// A linear layer of one of the models, as it is streamed.
pub(super) struct Operand<'a> {
    pub rows: StoredRows<'a>,
    pub fold: Fold,
    /// `[rows, 1]`.
    pub biases: Option<Bounded>,
}

/// Rows of the source that belong together, and as many of the expanded model for each copy.
pub(super) struct Bundle {
    pub source: Vec<usize>,
    pub copies: Vec<Vec<usize>>,
}

impl Operand<'_> {
    /// Multiplies the layer by an exactly known number.
    pub fn times(&mut self, factor: f64) {
        if factor != 1.0 {
            self.fold.times(factor);
            self.biases = self.biases.take().map(|biases| biases.times(factor));
        }
    }
}

impl Bundle {
    /// One for each row of the source, with its copies: `of[j]` is the row that row `j` copies.
    pub fn single(rows: usize, of: &[Option<usize>]) -> Vec<Bundle> {
        let bundle = |row| Bundle { source: vec![row], copies: Vec::new() };
        let mut bundles: Vec<Bundle> = (0..rows).map(bundle).collect();
        for (row, of) in of.iter().enumerate() {
            if let Some(of) = of {
                bundles[*of].copies.push(vec![row]);
            }
        }
        bundles
    }
}

/// A bundle of the source and one of its copies.
pub(super) struct Meeting<'m> {
    pub bundle: usize,
    /// Which copy.
    pub copy: usize,
    source: Spaced<'m>,
    expanded: Spaced<'m>,
    /// The first of the expanded rows as it is stored, where it is read.
    pub raw: &'m [f64],
}

/// Some of the lines that were folded together: every `step`-th from `first` on.
#[derive(Clone, Copy)]
struct Spaced<'m> {
    lines: &'m [Line],
    first: usize,
    step: usize,
}

impl<'m> Spaced<'m> {
    fn iter(self) -> impl Iterator<Item = &'m Line> {
        self.lines[self.first..].iter().step_by(self.step)
    }
}

/// Rows that are folded at a time: they stay in the cache until they have been compared.
const TOGETHER: usize = 16;

/// Reads both layers once and has every bundle `meet` each of its copies; stops with `None` if that
/// gives it, or a row is not what it must be.
pub(super) fn each(
    source: &Operand,
    expanded: &Operand,
    bundles: &[Bundle],
    mut meet: impl FnMut(&Meeting) -> Option<()>,
) -> Option<()> {
    let mut scratch = Scratch::default();
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for (block, bundles) in bundles.chunks(TOGETHER).enumerate() {
        // What is read together lies side by side: first rows of all bundles, then second ones.
        let most = bundles.iter().map(|bundle| bundle.copies.len()).max().unwrap_or(0);
        let in_order = |rows: &[&Vec<usize>]| -> Vec<usize> {
            let each = rows.first().map_or(0, |rows| rows.len());
            (0..each).flat_map(|place| rows.iter().map(move |rows| rows[place])).collect()
        };
        let numbers = in_order(&bundles.iter().map(|bundle| &bundle.source).collect::<Vec<_>>());
        source.fold.fold(&source.rows, &numbers, source.biases.as_ref(), &mut scratch, &mut own)?;
        for copy in 0..most {
            let with: Vec<usize> =
                (0..bundles.len()).filter(|at| bundles[*at].copies.len() > copy).collect();
            let rows: Vec<&Vec<usize>> = with.iter().map(|at| &bundles[*at].copies[copy]).collect();
            let numbers = in_order(&rows);
            let biases = expanded.biases.as_ref();
            expanded.fold.fold(&expanded.rows, &numbers, biases, &mut scratch, &mut theirs)?;
            for (place, at) in with.iter().enumerate() {
                let source = Spaced { lines: &own, first: *at, step: bundles.len() };
                let copies = Spaced { lines: &theirs, first: place, step: with.len() };
                let (bundle, raw) =
                    (block * TOGETHER + at, scratch.row(place, expanded.rows.cols()));
                meet(&Meeting { bundle, copy, source, expanded: copies, raw })?;
            }
        }
    }
    Some(())
}

impl<'m> Meeting<'m> {
    /// The rows of both that belong together.
    pub fn pairs(&self) -> impl Iterator<Item = (&'m Line, &'m Line)> {
        self.source.iter().zip(self.expanded.iter())
    }

    /// The first such pair.
    pub fn first(&self) -> (&'m Line, &'m Line) {
        (&self.source.lines[self.source.first], &self.expanded.lines[self.expanded.first])
    }

    /// The factor of the expanded rows, fitted; `None` where the source's cannot be told from zero.
    /// Biases are taken as one more column where they belong to the rows.
    pub fn ratio(&self, with_bias: bool) -> Option<Ratio> {
        let [mut square, mut along, mut own] = [0.0; 3];
        for (s, t) in self.pairs() {
            let sums = squares(s, t);
            square += sums[0];
            along += sums[1];
            own += sums[2];
            if with_bias {
                square += s.bias.0 * s.bias.0;
                along += s.bias.0 * s.bias.0 * s.bias.1;
                own += t.bias.0 * t.bias.0 + t.bias.1;
            }
        }
        if UNITS * along.sqrt() >= square {
            return None;
        }
        let weights = Weights::new(own, square);
        let mut fit = [0.0; 4];
        for (s, t) in self.pairs() {
            let bias = weights.terms(t.bias, s.bias);
            let row = terms(weights, s, t);
            for ((sum, row), bias) in fit.iter_mut().zip(row).zip(bias) {
                *sum += if with_bias { row + bias } else { row };
            }
        }
        Some(Ratio::fitted(fit))
    }

    /// Adds the equations `expanded = ratio · source`; `None` if an entry is beyond its bounds.
    pub fn agree(
        &self,
        ratio: Ratio,
        with_bias: bool,
        agreement: &mut Agreement,
        scratch: &mut [Vec<f64>; 2],
    ) -> Option<()> {
        let [expected, variance] = scratch;
        let (square, error) = (ratio.factor * ratio.factor, ratio.error * ratio.error);
        for (s, t) in self.pairs() {
            multiple((s, t), ratio, expected, variance);
            let weight = &mut agreement.weight;
            weight.add_row((self.bundle, 0), &t.value, expected, variance);
            if with_bias {
                let variance = t.bias.1 + square * s.bias.1 + error * s.bias.0 * s.bias.0;
                let expected = ratio.factor * s.bias.0;
                agreement.bias.add_entry((self.bundle, 0), t.bias.0, expected, variance);
            }
        }
        (agreement.weight.wrong == 0 && agreement.bias.wrong == 0).then_some(())
    }
}

wide! {
    /// Of a row of the source and one of the expanded model: `⟨s, s⟩`, the sum of `s²` times its
    /// variance, and `⟨t, t⟩` with its variance.
    fn squares(s: &Line, t: &Line) -> [f64; 3] {
        [
            dot(&s.value, &s.value),
            weighted(&s.value, &s.variance),
            dot(&t.value, &t.value) + sum(&t.variance),
        ]
    }
}

wide! {
    /// The terms of the fit `t = c·s`, summed over the columns.
    fn terms(weights: Weights, s: &Line, t: &Line) -> [f64; 4] {
        let (value, variance) = (&s.value[..], &s.variance[..s.value.len()]);
        let (own, spread) = (&t.value[..value.len()], &t.variance[..value.len()]);
        sums_of(value.len(), |i| {
            weights.terms((own[i], spread[i]), (value[i], variance[i]))
        })
    }
}

wide! {
    /// The source's row times a ratio, and the variance of its difference from the expanded one.
    fn multiple(
        lines: (&Line, &Line),
        ratio: Ratio,
        value: &mut Vec<f64>,
        variance: &mut Vec<f64>,
    ) {
        let (square, error) = (ratio.factor * ratio.factor, ratio.error * ratio.error);
        value.clear();
        value.extend(lines.0.value.iter().map(|value| ratio.factor * value));
        variance.clear();
        let own = lines.0.value.iter().zip(&lines.0.variance);
        variance.extend(own.zip(&lines.1.variance).map(|((value, own), other)| {
            other + square * own + error * value * value
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(values: &[f64], bias: f64, unit: f64) -> Line {
        let variance = |value: &f64| (unit * value).powi(2) + 1e-20;
        Line {
            value: values.to_vec(),
            variance: values.iter().map(variance).collect(),
            bias: (bias, variance(&bias)),
        }
    }

    #[test]
    fn a_factor_is_fitted_as_that_of_whole_rows() {
        let mut source =
            [line(&[1.0, -2.0, 0.5], 0.25, 1e-3), line(&[3.0, 1e-3, 40.0], -7.0, 1e-4)];
        // Not in proportion to those of the other.
        source.iter_mut().for_each(|line| (line.variance[1], line.bias.1) = (1e-3, 1e-5));
        let expanded =
            [line(&[3.0, -6.0, 1.5], 0.75, 1e-3), line(&[9.0, 3e-3, 119.9], -21.0, 1e-3)];
        let spaced = |lines| Spaced { lines, first: 0, step: 1 };
        let meeting = Meeting {
            bundle: 0,
            copy: 0,
            source: spaced(&source),
            expanded: spaced(&expanded),
            raw: &[],
        };
        for with_bias in [false, true] {
            let row = |lines: &[Line]| {
                let mut numbers: Vec<(f64, f64)> = Vec::new();
                for line in lines {
                    numbers.extend(line.value.iter().copied().zip(line.variance.iter().copied()));
                    numbers.extend(with_bias.then_some(line.bias));
                }
                let of = |part: fn(&(f64, f64)) -> f64| -> ndarray::Array2<f64> {
                    ndarray::Array2::from_shape_fn((1, numbers.len()), |(_, i)| part(&numbers[i]))
                };
                Bounded { value: of(|n| n.0), variance: of(|n| n.1) }
            };
            let (s, t) = (row(&source), row(&expanded));
            let whole = t.row(0).ratio(&s.row(0), UNITS).unwrap();
            let streamed = meeting.ratio(with_bias).unwrap();
            assert!((streamed.factor / whole.factor - 1.0).abs() < 1e-14);
            assert!((streamed.error / whole.error - 1.0).abs() < 1e-12);
            assert!((streamed.factor - 3.0).abs() < UNITS * streamed.error);
        }
    }

    #[test]
    fn rows_agree_where_weights_and_biases_do() {
        let source = [line(&[1.0, -2.0], 0.25, 1e-7)];
        let agrees = |values: &[f64], bias: f64, with_bias| {
            let expanded = [line(values, bias, 1e-7)];
            let spaced = |lines| Spaced { lines, first: 0, step: 1 };
            let (source, expanded) = (spaced(&source), spaced(&expanded));
            let meeting = Meeting { bundle: 0, copy: 0, source, expanded, raw: &[] };
            let (mut agreement, mut room) = (Agreement::new(0.0), Default::default());
            let three = Ratio { factor: 3.0, error: 0.0 };
            meeting.agree(three, with_bias, &mut agreement, &mut room).is_some()
        };
        assert!(agrees(&[3.0, -6.0], 0.75, true));
        assert!(!agrees(&[3.0, -6.0], 0.76, true) && agrees(&[3.0, -6.0], 0.76, false));
        assert!(!agrees(&[3.0, -6.1], 0.75, true) && !agrees(&[3.0, -6.1], 0.76, false));
    }

    #[test]
    fn nothing_is_a_multiple_of_what_cannot_be_told_from_zero() {
        let (nothing, some) = ([line(&[1e-11, 0.0], 0.0, 1e-7)], [line(&[1.0, 0.0], 0.0, 1e-7)]);
        let spaced = |lines| Spaced { lines, first: 0, step: 1 };
        let ratio = |source, expanded| {
            let (source, expanded) = (spaced(source), spaced(expanded));
            Meeting { bundle: 0, copy: 0, source, expanded, raw: &[] }.ratio(true)
        };
        assert!(ratio(&nothing[..], &some[..]).is_none());
        assert!(!ratio(&some[..], &nothing[..]).unwrap().is_known());
    }
}
