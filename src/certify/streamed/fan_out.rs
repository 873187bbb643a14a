//! Fan-outs, row by row: those of copies sum to the source's.

use super::super::bounded::Bounded;
use super::super::channels::compare;
use super::super::cluster::Member;
use super::super::map::{Entry, Map};
use super::super::side::Side;
use super::super::squares::Residual;
use super::super::stored::StoredRows;
use super::fold::{Fold, Line, Scratch, Target};
use super::meet::{Bundle, Operand, each};
use crate::error::Result;
use crate::model::Linear;
use std::collections::BTreeSet;

/// The writing layers of both models, and what is known of their channels.
pub(super) struct FanOut<'a> {
    pub sides: (&'a Side<'a>, &'a Side<'a>),
    pub writers: (&'a Linear, &'a Linear),
    /// What each channel adds whatever the input, `[channels, 1]`.
    pub constants: Option<(Bounded, Bounded)>,
    /// For each expanded channel the source's channel that it is a multiple of.
    pub members: &'a [Member],
    /// Channels of a unit of the expanded model, and pairs of units that are copies of one.
    pub units: (usize, Vec<(usize, usize)>),
    pub map: &'a Map,
    pub modulo_one: bool,
    /// As in [`Residual::new`].
    pub shared: f64,
}

/// What was held.
pub(super) struct Written {
    pub fan_out: Residual,
    pub bias: Residual,
    /// The constants that are written, `[hidden, 1]`.
    pub constants: (Bounded, Bounded),
    /// The pairs of units with equal fan-outs.
    pub equal: BTreeSet<(usize, usize)>,
}

impl FanOut<'_> {
    /// The rounding of fan-outs: those of many copies of one channel may all be rounded to one
    /// side.
    fn unit(&self) -> f64 {
        let ((source, expanded), (s, t)) = (self.sides, self.writers);
        source.unit(&s.weight).max(expanded.unit(&t.weight))
    }

    /// Holds both equations; `None` where one of them does not hold as it stands.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn hold(self) -> Result<Option<Written>> {
        let map = self.map;
        if !map.is_injective() {
            return Ok(None);
        }
        let (source, expanded) = self.operands()?;
        let place = |row: usize| match map.entries[row] {
            Entry::Copy { of, .. } => Some(of),
            Entry::Mean | Entry::Zero => None,
        };
        let of: Vec<Option<usize>> = (0..map.expanded()).map(place).collect();
        let bundles = Bundle::single(map.source, &of);
        let mut held = Held {
            fan_out: Residual::new(self.shared + self.unit()),
            constants: (Bounded::zeros(map.source, 1), Bounded::zeros(map.expanded(), 1)),
            pairs: runs(self.units.1.iter().copied()),
            mean: Line { value: vec![0.0; source.fold.width()], ..Line::default() },
            room: Default::default(),
        };
        held.mean.variance = held.mean.value.clone();
        let rows = &expanded.rows;
        let met = each(&source, &expanded, &bundles, |met| {
            let row = bundles[met.bundle].copies[met.copy][0];
            let (s, t) = met.first();
            if met.copy == 0 {
                held.set_source(met.bundle, s);
            }
            let sign = match map.entries[row] {
                Entry::Copy { sign, .. } => sign,
                Entry::Mean | Entry::Zero => 0.0,
            };
            held.compare(row, t, (s, sign * map.scale))?;
            held.keep_equal(rows, row, met.raw, self.units.0);
            Some(())
        });
        let others = met.and_then(|()| self.rest(&expanded, &mut held));
        if others.is_none() {
            return Ok(None);
        }
        held.fan_out.entries +=
            map.expanded() * self.members.iter().filter(|m| m.is_none()).count();
        let (s, t) = &held.constants;
        let (bias, _) = compare(t.clone(), map.image(s), self.modulo_one, self.shared);
        let holds = held.fan_out.holds() && bias.holds();
        Ok(holds.then(|| Written {
            fan_out: held.fan_out,
            bias,
            constants: held.constants,
            equal: held.pairs.iter().flat_map(Run::pairs).collect(),
        }))
    }

    fn operands(&self) -> Result<(Operand<'_>, Operand<'_>)> {
        let width = self.writers.0.weight.cols();
        let own: Vec<Target> = (0..width).map(|channel| Some((channel, 1.0, 0.0))).collect();
        let target = |member: &Member| {
            member.map(|(of, ratio)| (of, ratio.factor, ratio.error * ratio.error))
        };
        let theirs: Vec<Target> = self.members.iter().map(target).collect();
        let constants = match &self.constants {
            Some((s, t)) => (Some(s), Some(t)),
            None => (None, None),
        };
        let source = operand_of(self.sides.0, self.writers.0, Fold::new(width, &own), constants.0)?;
        let fold = Fold::new(width, &theirs).nothing_else();
        Ok((source, operand_of(self.sides.1, self.writers.1, fold, constants.1)?))
    }

    /// The rows that hold the mean of the source's, or zero.
    fn rest(&self, expanded: &Operand, held: &mut Held) -> Option<()> {
        let count = self.map.source as f64;
        let mut mean = std::mem::take(&mut held.mean);
        mean.value.iter_mut().for_each(|value| *value /= count);
        mean.variance.iter_mut().for_each(|variance| *variance /= count * count);
        let width = expanded.fold.width();
        let zero = Line { value: vec![0.0; width], variance: vec![0.0; width], bias: (0.0, 0.0) };
        let (mut scratch, mut lines) = (Scratch::default(), Vec::new());
        for (entry, line) in [(Entry::Mean, mean), (Entry::Zero, zero)] {
            let rows: Vec<usize> =
                (0..self.map.expanded()).filter(|row| self.map.entries[*row] == entry).collect();
            for rows in rows.chunks(16) {
                let biases = expanded.biases.as_ref();
                expanded.fold.fold(&expanded.rows, rows, biases, &mut scratch, &mut lines)?;
                for (place, row) in rows.iter().enumerate() {
                    held.compare(*row, &lines[place], (&line, self.map.scale))?;
                    let raw = scratch.row(place, expanded.rows.cols());
                    held.keep_equal(&expanded.rows, *row, raw, self.units.0);
                }
            }
        }
        Some(())
    }
}

fn operand_of<'a>(
    side: &Side<'a>,
    linear: &'a Linear,
    fold: Fold,
    constants: Option<&Bounded>,
) -> Result<Operand<'a>> {
    let fold = match constants {
        Some(column) => fold.with_constants(column),
        None => fold,
    };
    let biases = linear.bias.as_ref().map(|bias| side.read(bias)).transpose()?;
    Ok(Operand { rows: StoredRows::new(side, &linear.weight)?, fold, biases })
}

/// What is held while the rows go by.
struct Held {
    fan_out: Residual,
    constants: (Bounded, Bounded),
    pairs: Vec<Run>,
    /// The sum of the source's rows.
    mean: Line,
    room: [Vec<f64>; 2],
}

impl Held {
    fn set_source(&mut self, row: usize, line: &Line) {
        let constants = &mut self.constants.0;
        (constants.value[[row, 0]], constants.variance[[row, 0]]) = line.bias;
        let add = |sum: &mut Vec<f64>, row: &[f64]| {
            sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        };
        add(&mut self.mean.value, &line.value);
        add(&mut self.mean.variance, &line.variance);
    }

    /// Holds one row of the expanded model against a multiple of one of the source.
    fn compare(&mut self, row: usize, got: &Line, (wanted, factor): (&Line, f64)) -> Option<()> {
        let constants = &mut self.constants.1;
        (constants.value[[row, 0]], constants.variance[[row, 0]]) = got.bias;
        let [expected, variance] = &mut self.room;
        expected.clear();
        expected.extend(wanted.value.iter().map(|value| value * factor));
        variance.clear();
        let both = wanted.variance.iter().zip(&got.variance);
        variance.extend(both.map(|(wanted, got)| got + wanted * (factor * factor)));
        self.fan_out.add_row((row, 0), &got.value, expected, variance);
        (self.fan_out.wrong == 0).then_some(())
    }

    /// Keeps of the pairs of units those that write the same to this row.
    fn keep_equal(&mut self, rows: &StoredRows, row: usize, raw: &[f64], size: usize) {
        let of = |unit: usize, count: usize| unit * size..(unit + count) * size;
        let same = |run: &Run| raw[of(run.one, run.count)] == raw[of(run.other, run.count)];
        if self.pairs.iter().all(same) {
            return;
        }
        let near = |(one, other): &(usize, usize)| {
            let mut channels = of(*one, 1).zip(of(*other, 1));
            channels.all(|(a, b)| rows.close(((row, a), raw[a]), ((row, b), raw[b])))
        };
        self.pairs = runs(self.pairs.iter().flat_map(Run::pairs).filter(near));
    }
}

/// Pairs of units of which each is one behind the last, on both sides.
struct Run {
    one: usize,
    other: usize,
    count: usize,
}

impl Run {
    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (one, other) = (self.one, self.other);
        (0..self.count).map(move |next| (one + next, other + next))
    }
}

fn runs(pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (one, other) in pairs {
        match runs.last_mut() {
            Some(run) if (run.one + run.count, run.other + run.count) == (one, other) => {
                run.count += 1;
            }
            _ => runs.push(Run { one, other, count: 1 }),
        }
    }
    runs
}
