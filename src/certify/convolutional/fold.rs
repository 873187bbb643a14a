//! Convolutions with their BatchNorm folded in, as functions of the source's channels.

use super::copies::Copies;
use crate::certify::bounded::{Bounded, Stored};
use crate::certify::floors::Floors;
use crate::certify::side::unit;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::convolutional::{BatchNorm, Block, Convolution};
use crate::model::{Lens, Linear};
use ndarray::Array2;

/// A layer as a matrix over the source's channels.
pub(super) struct Folded {
    /// `[out, in·taps + 1]`: for each source channel and tap the sum over its copies; last the
    /// constant.
    pub rows: Bounded,
    /// The largest relative error that the entries of a row have in common.
    pub shared: f64,
    parts: Vec<Part>,
    constant: Lens,
}

/// Where some columns come from: all taps of one tensor.
struct Part {
    weight: Lens,
    columns: usize,
    taps: usize,
    /// The first copy of each source channel.
    first: Vec<Option<usize>>,
}

/// The weights of one network.
pub(super) struct Reader<'a> {
    pub checkpoint: &'a Checkpoint,
    /// The expanded network's file: the source's numbers define what is asked for, so that only
    /// the rounding of this file may blur them.
    pub expanded: &'a Checkpoint,
}

/// γ/√(variance + ε) and β − mean·γ/√(variance + ε), each `[channels, 1]`.
struct Scale {
    factor: Bounded,
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
        Ok(Stored { value, unit, floors: Floors::of(self.checkpoint, lens, unit) })
    }

    fn scale(&self, norm: &BatchNorm) -> Result<Scale> {
        let read = |lens| Ok::<_, Error>(self.stored(lens)?.bounded());
        let (gamma, beta) = (read(&norm.weight)?, read(&norm.bias)?);
        let (mean, variance) = (read(&norm.mean)?, read(&norm.variance)?);
        let mut factor = Bounded::zeros(gamma.rows(), 1);
        let mut constant = beta;
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
        Ok(Scale { factor, constant, shared })
    }

    /// A convolution that reads channels under `map`.
    pub fn fold(&self, convolution: &Convolution, map: &Copies) -> Result<Folded> {
        let scale = self.scale(&convolution.norm)?;
        let (taps, weight) = (convolution.taps(), &convolution.weight);
        let mut summed = self.summed(weight, taps, map)?;
        for row in 0..summed.rows() {
            let (factor, spread) = (scale.factor.value[[row, 0]], scale.factor.variance[[row, 0]]);
            for column in 0..summed.cols() {
                let at = [row, column];
                let value = summed.value[at];
                summed.variance[at] =
                    summed.variance[at] * factor * factor + value * value * spread;
                summed.value[at] = value * factor;
            }
        }
        Ok(Folded {
            rows: summed.beside(&scale.constant),
            shared: scale.shared,
            parts: vec![Part::new(weight, summed.cols(), taps, map)],
            constant: convolution.norm.bias.clone(),
        })
    }

    /// A linear layer with bias that reads channels under `map`.
    pub fn linear(&self, linear: &Linear, map: &Copies) -> Result<Folded> {
        let summed = self.summed(&linear.weight, 1, map)?;
        let bias = match &linear.bias {
            Some(bias) => self.stored(bias)?.bounded(),
            None => Bounded::zeros(linear.weight.rows(), 1),
        };
        Ok(Folded {
            rows: summed.beside(&bias),
            shared: 0.0,
            parts: vec![Part::new(&linear.weight, summed.cols(), 1, map)],
            constant: linear.bias.as_ref().unwrap_or(&linear.weight).clone(),
        })
    }

    /// `[out, in·taps]`: for each source channel and tap the sum over the channel's copies.
    fn summed(&self, weight: &Lens, taps: usize, map: &Copies) -> Result<Bounded> {
        let stored = self.stored(weight)?;
        let mut summed = Bounded::zeros(weight.rows(), map.sources() * taps);
        for (place @ (row, column), value) in stored.value.indexed_iter() {
            if let Some(of) = map.of()[column / taps] {
                let at = [row, of * taps + column % taps];
                summed.value[at] += value;
                summed.variance[at] += stored.variance(place, *value);
            }
        }
        Ok(summed)
    }

    /// What a block adds to its convolutions' output: its shortcut, or its input.
    pub fn shortcut(&self, block: &Block, map: &Copies) -> Result<Folded> {
        if let Some(shortcut) = &block.shortcut {
            return self.fold(shortcut, map);
        }
        let mut rows = Array2::zeros((map.of().len(), map.sources() + 1));
        for (row, of) in map.of().iter().enumerate() {
            if let Some(of) = of {
                rows[[row, *of]] = 1.0;
            }
        }
        let last = &block.convolutions[block.convolutions.len() - 1];
        let columns = map.sources();
        Ok(Folded {
            rows: Bounded { variance: Array2::zeros(rows.dim()), value: rows },
            shared: 0.0,
            parts: vec![Part::new(&last.norm.bias, columns, 1, map)],
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
        let folded = self.fold(last, &Copies::identity(last.inputs()))?;
        if folded.rows.value.iter().any(|value| *value != 0.0) {
            return Ok(false);
        }
        // What is multiplied by zero must be finite all the same.
        for convolution in &block.convolutions {
            self.scale(&convolution.norm)?;
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
    fn new(weight: &Lens, columns: usize, taps: usize, map: &Copies) -> Part {
        let mut first = vec![None; map.sources()];
        for (copy, of) in map.of().iter().enumerate() {
            if let Some(of) = of {
                first[*of].get_or_insert(copy);
            }
        }
        Part { weight: weight.clone(), columns, taps, first }
    }
}
