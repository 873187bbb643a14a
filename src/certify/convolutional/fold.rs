//! Convolutions with their BatchNorm folded in, as functions of groups of channels.

use super::alike::{Alike, Channels};
use crate::certify::bounded::{Bounded, Ratio, Stored};
use crate::certify::floors::Floors;
use crate::certify::side::unit;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::convolutional::{BatchNorm, Block, Convolution};
use crate::model::{Lens, Linear};

/// A layer as a matrix over groups of channels.
pub(super) struct Folded {
    /// `[out, groups·taps + 1]`: for each group of channels that are read, and tap, the sum over
    /// its channels; last the constant.
    pub rows: Bounded,
    /// The largest relative error that the entries of a row have in common.
    pub shared: f64,
    pub parts: Vec<Part>,
    constant: Lens,
}

/// Where some columns come from: all taps of one tensor.
pub(super) struct Part {
    pub weight: Lens,
    pub columns: usize,
    taps: usize,
    /// The norm behind it.
    pub norm: Option<Norm>,
    /// The first channel of each group.
    first: Vec<Option<usize>>,
}

/// The weights of one network.
pub(super) struct Reader<'a> {
    pub checkpoint: &'a Checkpoint,
    /// The expanded network's file: the source's numbers define what is asked for, so that only
    /// the rounding of this file may blur them.
    pub expanded: &'a Checkpoint,
}

/// A BatchNorm, read.
pub(super) struct Norm {
    /// γ, β, mean and variance, each `[channels, 1]`.
    pub vectors: [(Lens, Bounded); 4],
    /// γ/√(variance + ε), `[channels, 1]`.
    pub factor: Bounded,
    /// β − mean·γ/√(variance + ε), `[channels, 1]`.
    constant: Bounded,
    shared: f64,
}

impl Reader<'_> {
    /// The unit of rounding of the numbers of a tensor.
    fn unit(&self, lens: &Lens) -> f64 {
        let formats = self.expanded.tensors().values().filter_map(|tensor| tensor.dtype);
        let cap = formats.map(unit).fold(0.0, f64::max);
        let stored = self.checkpoint.tensor(lens.name()).ok().and_then(|tensor| tensor.dtype);
        stored.map_or(cap, unit).min(cap)
    }

    fn stored(&self, lens: &Lens) -> Result<Stored> {
        let value = lens.read(self.checkpoint)?;
        let unit = self.unit(lens);
        Ok(Stored { value, unit, floors: Floors::of(self.checkpoint, lens, unit, None) })
    }

    fn norm(&self, norm: &BatchNorm) -> Result<Norm> {
        let read = |lens| Ok::<_, Error>(self.stored(lens)?.bounded());
        let (gamma, beta) = (read(&norm.weight)?, read(&norm.bias)?);
        let (mean, variance) = (read(&norm.mean)?, read(&norm.variance)?);
        let mut factor = Bounded::zeros(gamma.rows(), 1);
        let mut constant = beta.clone();
        for at in (0..gamma.rows()).map(|row| [row, 0]) {
            let spread = variance.value[at] + norm.eps;
            if spread.is_nan() || spread <= 0.0 {
                return Err(Error::bad_input(format!("it holds {}", variance.value[at]))
                    .at(self.checkpoint.path())
                    .tensor(norm.variance.name())
                    .help("a variance is not negative; find the step that wrote this number"));
            }
            let value = gamma.value[at] / spread.sqrt();
            let half = value / (2.0 * spread);
            factor.value[at] = value;
            factor.variance[at] = gamma.variance[at] / spread + half * half * variance.variance[at];
            let (m, f) = (mean.value[at], factor.variance[at]);
            constant.value[at] -= m * value;
            constant.variance[at] += value * value * mean.variance[at] + m * m * f;
        }
        let shared = self.unit(&norm.weight) + self.unit(&norm.variance);
        let lenses = [&norm.weight, &norm.bias, &norm.mean, &norm.variance].map(Lens::clone);
        let [a, b, c, d] = lenses;
        let vectors = [(a, gamma), (b, beta), (c, mean), (d, variance)];
        Ok(Norm { vectors, factor, constant, shared })
    }

    /// A convolution that reads channels under `map`.
    pub fn fold(&self, convolution: &Convolution, map: &Channels) -> Result<Folded> {
        let norm = self.norm(&convolution.norm)?;
        let (taps, weight) = (convolution.taps(), &convolution.weight);
        let mut summed = self.summed(weight, taps, map)?;
        for row in 0..summed.rows() {
            let (factor, spread) = (norm.factor.value[[row, 0]], norm.factor.variance[[row, 0]]);
            for column in 0..summed.cols() {
                let at = [row, column];
                let value = summed.value[at];
                summed.variance[at] =
                    summed.variance[at] * factor * factor + value * value * spread;
                summed.value[at] = value * factor;
            }
        }
        Ok(Folded {
            rows: summed.beside(&norm.constant),
            shared: norm.shared + map.factor_error(),
            parts: vec![Part { norm: Some(norm), ..Part::new(weight, taps, map) }],
            constant: convolution.norm.bias.clone(),
        })
    }

    /// A linear layer with bias that reads channels under `map`.
    pub fn linear(&self, linear: &Linear, map: &Channels) -> Result<Folded> {
        let summed = self.summed(&linear.weight, 1, map)?;
        let bias = match &linear.bias {
            Some(bias) => self.stored(bias)?.bounded(),
            None => Bounded::zeros(linear.weight.rows(), 1),
        };
        Ok(Folded {
            rows: summed.beside(&bias),
            shared: map.factor_error(),
            parts: vec![Part::new(&linear.weight, 1, map)],
            constant: linear.bias.as_ref().unwrap_or(&linear.weight).clone(),
        })
    }

    /// `[out, groups·taps]`: for each group and tap the sum over the group's channels.
    fn summed(&self, weight: &Lens, taps: usize, map: &Channels) -> Result<Bounded> {
        let stored = self.stored(weight)?;
        let mut summed = Bounded::zeros(weight.rows(), map.groups * taps);
        for (place @ (row, column), value) in stored.value.indexed_iter() {
            if let Some((group, Ratio { factor, error })) = map.of[column / taps] {
                let at = [row, group * taps + column % taps];
                summed.value[at] += factor * value;
                summed.variance[at] +=
                    factor * factor * stored.variance(place, *value) + (error * value).powi(2);
            }
        }
        Ok(summed)
    }

    /// What a block adds to its convolutions' output: its shortcut, or its input.
    pub fn shortcut(&self, block: &Block, map: &Channels) -> Result<Folded> {
        if let Some(shortcut) = &block.shortcut {
            return self.fold(shortcut, map);
        }
        let mut rows = Bounded::zeros(map.of.len(), map.groups + 1);
        for (row, member) in map.of.iter().enumerate() {
            if let Some((group, ratio)) = member {
                rows.value[[row, *group]] = ratio.factor;
                rows.variance[[row, *group]] = ratio.error * ratio.error;
            }
        }
        let last = &block.convolutions[block.convolutions.len() - 1];
        Ok(Folded {
            rows,
            shared: map.factor_error(),
            parts: vec![Part::new(&last.norm.bias, 1, map)],
            constant: last.norm.bias.clone(),
        })
    }

    /// The blocks of a stage that compute something: the others add exactly zero to their input,
    /// which is a ReLU's output.
    pub fn kept(&self, blocks: &[Block]) -> Result<Vec<usize>> {
        let mut kept = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            if block.shortcut.is_some() || !self.is_zero(block)? {
                kept.push(index);
            }
        }
        Ok(kept)
    }

    fn is_zero(&self, block: &Block) -> Result<bool> {
        let last = &block.convolutions[block.convolutions.len() - 1];
        let folded = self.fold(last, &Alike::identity(last.inputs()).source)?;
        if folded.rows.value.iter().any(|value| *value != 0.0) {
            return Ok(false);
        }
        // What is multiplied by zero must be finite all the same.
        for convolution in &block.convolutions {
            self.norm(&convolution.norm)?;
            self.stored(&convolution.weight)?;
        }
        Ok(true)
    }
}

impl Folded {
    /// The sum with another layer that writes the same channels from other inputs.
    pub fn plus(mut self, other: Folded) -> Folded {
        let (mine, theirs) = (self.rows.cols() - 1, other.rows.cols() - 1);
        let constant = self.rows.columns(mine, 1).plus(&other.rows.columns(theirs, 1));
        let weights = self.rows.columns(0, mine).beside(&other.rows.columns(0, theirs));
        self.rows = weights.beside(&constant);
        self.parts.extend(other.parts);
        self.shared = self.shared.max(other.shared);
        self
    }

    /// The tensor that holds an entry, or the first of them, and its index there.
    pub fn origin(&self, row: usize, column: usize) -> (&Lens, Vec<usize>) {
        let mut rest = column;
        for part in &self.parts {
            if rest < part.columns {
                let first = part.first[rest / part.taps].unwrap_or(0);
                let stored = (first * part.taps + rest % part.taps).min(part.weight.cols() - 1);
                return (&part.weight, part.weight.stored_index(row, stored));
            }
            rest -= part.columns;
        }
        (&self.constant, self.constant.stored_index(row.min(self.constant.rows() - 1), 0))
    }
}

impl Part {
    fn new(weight: &Lens, taps: usize, map: &Channels) -> Part {
        let (weight, columns, first) = (weight.clone(), map.groups * taps, map.firsts());
        Part { weight, columns, taps, norm: None, first }
    }
}
