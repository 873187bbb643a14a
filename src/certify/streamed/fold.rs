//! Rows folded to the columns of the source: a sum over the copies of each, with bounds.

use super::super::bounded::Bounded;
use super::super::stored::StoredRows;
use crate::wide::wide;
use std::ops::Range;

/// A folded row.
#[derive(Clone, Default)]
pub(super) struct Line {
    /// Over the source's columns.
    pub value: Vec<f64>,
    pub variance: Vec<f64>,
    /// What the row adds whatever it reads, with its variance.
    pub bias: (f64, f64),
}

/// Columns in a row that go to columns in a row.
struct Run {
    from: Range<usize>,
    to: usize,
}

/// Where each column of a row goes, and times what.
pub(super) struct Fold {
    width: usize,
    runs: Vec<Run>,
    /// The columns that are read.
    wanted: Vec<Range<usize>>,
    /// The columns that must be zero.
    zero: Vec<Range<usize>>,
    /// For each column its factor, the square of it, and the factor's variance.
    factor: Vec<f64>,
    square: Vec<f64>,
    spread: Vec<f64>,
    /// By what the columns are multiplied to be added to the bias, as `[cols, 1]`.
    constants: Option<(Vec<f64>, Vec<f64>)>,
    /// Whether the mean over the columns is removed.
    centred: bool,
}

/// A column's place and factor, with the factor's variance; nothing if it is not read.
pub(super) type Target = Option<(usize, f64, f64)>;

impl Fold {
    /// Of rows that become `width` wide.
    pub fn new(width: usize, targets: &[Target]) -> Fold {
        let mut runs: Vec<Run> = Vec::new();
        for (col, target) in targets.iter().enumerate() {
            let Some((to, ..)) = *target else { continue };
            match runs.last_mut() {
                Some(run) if run.from.end == col && run.to + run.from.len() == to => {
                    run.from.end += 1;
                }
                _ => runs.push(Run { from: col..col + 1, to }),
            }
        }
        let of = |part: fn(&(usize, f64, f64)) -> f64| -> Vec<f64> {
            targets.iter().map(|target| target.as_ref().map_or(0.0, part)).collect()
        };
        let factor = of(|target| target.1);
        Fold {
            width,
            wanted: runs.iter().map(|run| run.from.clone()).collect(),
            zero: Vec::new(),
            runs,
            square: factor.iter().map(|factor| factor * factor).collect(),
            factor,
            spread: of(|target| target.2),
            constants: None,
            centred: false,
        }
    }

    /// Adds the product with a column to the bias.
    pub fn with_constants(mut self, column: &Bounded) -> Fold {
        self.constants = Some((
            column.value.iter().copied().collect(),
            column.variance.iter().copied().collect(),
        ));
        self.wanted = std::iter::once(0..self.factor.len()).collect();
        self
    }

    /// Removes the mean over the folded columns.
    pub fn centred(self) -> Fold {
        Fold { centred: true, ..self }
    }

    /// Demands that the columns that go nowhere are zero.
    pub fn nothing_else(mut self) -> Fold {
        let mut next = 0;
        for run in &self.runs {
            if run.from.start > next {
                self.zero.push(next..run.from.start);
            }
            next = run.from.end;
        }
        if next < self.factor.len() {
            self.zero.push(next..self.factor.len());
        }
        self
    }

    /// Multiplies what becomes of a row.
    pub fn times(&mut self, factor: f64) {
        let scale = |numbers: &mut Vec<f64>, factor: f64| {
            numbers.iter_mut().for_each(|number| *number *= factor);
        };
        scale(&mut self.factor, factor);
        scale(&mut self.square, factor * factor);
        scale(&mut self.spread, factor * factor);
        if let Some((values, variances)) = &mut self.constants {
            scale(values, factor);
            scale(variances, factor * factor);
        }
    }

    /// Whether the mean over the folded columns is removed.
    pub fn is_centred(&self) -> bool {
        self.centred
    }

    /// Columns of a folded row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The columns that go to `to`, with their factors.
    pub fn columns_of(&self, to: usize) -> Vec<(usize, f64)> {
        let of = self.runs.iter().filter(|run| (run.to..run.to + run.from.len()).contains(&to));
        of.map(|run| run.from.start + to - run.to).map(|col| (col, self.factor[col])).collect()
    }

    /// Reads rows and folds them; `None` if one of them is not what it must be.
    pub fn fold(
        &self,
        rows: &StoredRows,
        numbers: &[usize],
        biases: Option<&Bounded>,
        scratch: &mut Scratch,
        lines: &mut Vec<Line>,
    ) -> Option<()> {
        rows.read(numbers, (&self.wanted, &self.zero), &mut scratch.values)?;
        lines.resize_with(numbers.len(), Line::default);
        scratch.variances.resize(rows.cols(), 0.0);
        let values = scratch.values.chunks_exact(rows.cols().max(1));
        for ((number, values), line) in numbers.iter().zip(values).zip(lines) {
            let bias =
                biases.map_or((0.0, 0.0), |b| (b.value[[*number, 0]], b.variance[[*number, 0]]));
            let variances = &mut scratch.variances;
            for range in &self.wanted {
                let (values, out) = (&values[range.clone()], &mut variances[range.clone()]);
                rows.variances(*number, range.clone(), values, out);
            }
            line.bias = bias;
            fold_row(self, values, variances, line);
        }
        Some(())
    }

    #[inline(always)]
    fn fold_row(&self, values: &[f64], variances: &[f64], line: &mut Line) {
        if let Some((by, spread)) = &self.constants {
            line.bias.0 += dot(values, by);
            line.bias.1 += products(values, variances, by, spread);
        }
        line.value.clear();
        line.value.resize(self.width, 0.0);
        line.variance.clear();
        line.variance.resize(self.width, 0.0);
        for run in &self.runs {
            let (from, to) = (run.from.clone(), run.to..run.to + run.from.len());
            add_products(
                &mut line.value[to.clone()],
                &values[from.clone()],
                &self.factor[from.clone()],
            );
            add_variances(
                &mut line.variance[to],
                [&values[from.clone()], &variances[from.clone()]],
                [&self.square[from.clone()], &self.spread[from]],
            );
        }
        if self.centred {
            let count = self.width as f64;
            let mean = sum(&line.value) / count;
            let shared = sum(&line.variance) / (count * count);
            line.value.iter_mut().for_each(|value| *value -= mean);
            line.variance.iter_mut().for_each(|variance| *variance += shared);
        }
    }
}

wide! {
    fn fold_row(fold: &Fold, values: &[f64], variances: &[f64], line: &mut Line) {
        fold.fold_row(values, variances, line);
    }
}

/// Room for rows, used again and again.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f64>,
    variances: Vec<f64>,
}

impl Scratch {
    /// One of the rows that were read, as it is stored.
    pub fn row(&self, place: usize, cols: usize) -> &[f64] {
        &self.values[place * cols..(place + 1) * cols]
    }
}

#[inline(always)]
fn add_products(out: &mut [f64], values: &[f64], factors: &[f64]) {
    for ((out, value), factor) in out.iter_mut().zip(values).zip(factors) {
        *out += factor * value;
    }
}

#[inline(always)]
fn add_variances(out: &mut [f64], [values, own]: [&[f64]; 2], [square, spread]: [&[f64]; 2]) {
    let factors = square.iter().zip(spread);
    for (((out, value), own), (square, spread)) in out.iter_mut().zip(values).zip(own).zip(factors)
    {
        *out += own * square + value * value * spread;
    }
}

/// Sums are formed in this many parts, so that the compiler can form several at a time.
const LANES: usize = 8;

/// The sum of `term(i)` over all `i` below `count`.
#[inline(always)]
fn sum_of(count: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    let rest: f64 = (whole..count).map(term).sum();
    lanes.iter().sum::<f64>() + rest
}

/// The sums of all four terms at `i` over all `i` below `count`.
#[inline(always)]
pub(super) fn sums_of(count: usize, terms: impl Fn(usize) -> [f64; 4]) -> [f64; 4] {
    let mut lanes = [[0.0; LANES]; 4];
    let mut add = |i: usize, lane: usize| {
        for (sums, term) in lanes.iter_mut().zip(terms(i)) {
            sums[lane] += term;
        }
    };
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        (0..LANES).for_each(|lane| add(start + lane, lane));
    }
    (whole..count).for_each(|i| add(i, 0));
    lanes.map(|lanes| lanes.iter().sum())
}

#[inline(always)]
pub(super) fn sum(values: &[f64]) -> f64 {
    sum_of(values.len(), |i| values[i])
}

/// The scalar product.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let b = &b[..a.len()];
    sum_of(a.len(), |i| a[i] * b[i])
}

/// The variance of the scalar product of two bounded vectors.
#[inline(always)]
fn products(a: &[f64], a_variance: &[f64], b: &[f64], b_variance: &[f64]) -> f64 {
    let count = a.len();
    let (a_variance, b, b_variance) = (&a_variance[..count], &b[..count], &b_variance[..count]);
    sum_of(count, |i| a_variance[i] * b[i] * b[i] + a[i] * a[i] * b_variance[i])
}

/// Σ value²·variance.
#[inline(always)]
pub(super) fn weighted(value: &[f64], variance: &[f64]) -> f64 {
    let variance = &variance[..value.len()];
    sum_of(value.len(), |i| value[i] * value[i] * variance[i])
}
