//! One of the two models: its weights as bounded numbers, and which of them were read.

use super::Method;
use super::bounded::{Bounded, Stored};
use super::floors::{Floors, Lines};
use super::inputs::{Inputs, Key, key};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::model::{Lens, Linear, Model, Norm};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// A model with its weights.
pub(super) struct Side<'a> {
    pub checkpoint: &'a Checkpoint,
    pub model: &'a Model,
    /// Units above these are taken as these: see [`Side::new`].
    caps: Caps,
    /// Floors of the tensors that were read, by name and place.
    floors: Mutex<BTreeMap<Key, Arc<Floors>>>,
    /// What the matrices multiply.
    inputs: Inputs<'a>,
    read: Mutex<BTreeSet<Key>>,
    /// Called with the bytes that were read.
    pub progress: &'a (dyn Fn(u64) + Sync),
    method: Method,
}

/// For f64 files the sums formed here round as much as the file does, so that the bound is a few
/// units of the format.
const F64_UNIT: f64 = 1.0 / (1u64 << 50) as f64;

/// Rows that are looked at together where nothing but their numbers matters.
const BLOCK: usize = 64;

/// Bytes that are looked at together: few enough to stay in the fastest cache.
const PART: usize = 1 << 14;

/// The rounding bound of a stored number, relative to it.
pub(super) fn unit(dtype: Dtype) -> f64 {
    dtype.unit_roundoff().max(F64_UNIT)
}

impl<'a> Side<'a> {
    /// `caps` bound the unit of rounding, role by role: the source's numbers define the function
    /// that is asked for, and only the rounding of the expanded file may blur them. So a bf16
    /// source read by an f32 expansion is known to f32's unit.
    pub fn new(
        checkpoint: &'a Checkpoint,
        model: &'a Model,
        caps: Caps,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        let (floors, read) = Default::default();
        let method = Method::Streamed;
        let inputs = Inputs::of(checkpoint, model);
        Side { checkpoint, model, caps, floors, inputs, read, progress, method }
    }

    /// The same, its equations held by `method`.
    pub fn by(self, method: Method) -> Self {
        Side { method, ..self }
    }

    /// Whether equations are held without whole matrices where that is possible.
    pub fn is_streamed(&self) -> bool {
        self.method == Method::Streamed
    }

    /// The unit of rounding of a tensor.
    pub fn unit(&self, lens: &Lens) -> f64 {
        let cap = self.caps.of(lens);
        let dtype = self.checkpoint.tensor(lens.name()).ok().and_then(|t| t.dtype);
        dtype.map_or(cap, unit).min(cap)
    }

    /// The coarsest unit of rounding of a tensor's role in the expanded model: one for both sides.
    pub fn coarsest_unit(&self, lens: &Lens) -> f64 {
        self.caps.of(lens)
    }

    /// Reads a whole matrix `[rows, cols]`.
    pub fn read(&self, lens: &Lens) -> Result<Bounded> {
        self.read_rows(lens, 0, lens.rows())
    }

    /// Reads `count` rows from `first` on. The caller reads all rows in the end.
    pub fn read_rows(&self, lens: &Lens, first: usize, count: usize) -> Result<Bounded> {
        Ok(self.stored_rows(lens, first, count)?.bounded())
    }

    /// Like [`Side::read`], without writing out the bounds.
    pub fn stored(&self, lens: &Lens) -> Result<Stored> {
        self.stored_rows(lens, 0, lens.rows())
    }

    /// Like [`Side::read_rows`], without writing out the bounds.
    pub fn stored_rows(&self, lens: &Lens, first: usize, count: usize) -> Result<Stored> {
        let value = lens.read_rows(self.checkpoint, first, count)?;
        let dtype = self.checkpoint.tensor(lens.name())?.dtype;
        let unit = self.unit(lens);
        let floors = self.floors(lens, unit).slice(first, count);
        (self.progress)((value.len() * dtype.map_or(0, Dtype::size)) as u64);
        self.mark(lens);
        Ok(Stored { value, unit, floors })
    }

    /// Whether every number of a matrix is exactly zero. The matrix counts as read.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn is_zero(&self, lens: &Lens) -> Result<bool> {
        let tensor = lens.check(self.checkpoint)?;
        let dtype = tensor.dtype.expect("checked");
        let mut zero = true;
        for span in lens.spans() {
            let bytes = &tensor.bytes()[span.start * dtype.size()..span.end * dtype.size()];
            for part in bytes.chunks(PART) {
                zero = zero && dtype.all_zero(part);
                if !zero && !dtype.all_finite(part) {
                    // It names the number.
                    lens.read(self.checkpoint)?;
                }
                (self.progress)(part.len() as u64);
            }
        }
        self.mark(lens);
        Ok(zero)
    }

    /// Like [`Side::is_zero`], but stops at the first number that is not. The matrix does not count
    /// as read.
    pub fn looks_zero(&self, lens: &Lens) -> Result<bool> {
        let tensor = lens.check(self.checkpoint)?;
        let dtype = tensor.dtype.expect("checked");
        let zero = |span: std::ops::Range<usize>| {
            let bytes = &tensor.bytes()[span.start * dtype.size()..span.end * dtype.size()];
            bytes.chunks(PART).all(|part| dtype.all_zero(part))
        };
        Ok(lens.spans().into_iter().all(zero))
    }

    /// The sum of each row, `[rows, 1]`, without bounds. The matrix counts as read.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn row_sums(&self, lens: &Lens) -> Result<Bounded> {
        let mut sums = Bounded::zeros(lens.rows(), 1);
        for first in (0..lens.rows()).step_by(BLOCK) {
            let count = BLOCK.min(lens.rows() - first);
            let rows = lens.read_rows(self.checkpoint, first, count)?;
            let part = ndarray::s![first..first + count, 0];
            sums.value.slice_mut(part).assign(&rows.sum_axis(ndarray::Axis(1)));
        }
        self.mark(lens);
        Ok(sums)
    }

    /// The bias of a linear layer, zeros without one; `[out, 1]`.
    pub fn bias(&self, linear: &Linear) -> Result<Bounded> {
        match &linear.bias {
            Some(bias) => self.read(bias),
            None => Ok(Bounded::zeros(linear.weight.rows(), 1)),
        }
    }

    /// γ of a norm over `channels` channels, `[channels, 1]`.
    pub fn gamma(&self, norm: &Norm, channels: usize) -> Result<Bounded> {
        let Some(weight) = &norm.weight else { return Ok(Bounded::ones(channels)) };
        let mut gamma = self.read(weight)?;
        if norm.offset != 0.0 {
            gamma.value += norm.offset;
            // The sum is rounded, however small the weight is.
            gamma.variance += &gamma.value.mapv(|value| (F64_UNIT * value).powi(2));
        }
        Ok(gamma)
    }

    /// The unit of rounding of γ; that of f64 where it is 1 in code.
    pub fn unit_of_gamma(&self, norm: &Norm) -> f64 {
        norm.weight.as_ref().map_or(F64_UNIT, |weight| self.unit(weight))
    }

    /// The floors of a whole matrix, worked out once.
    fn floors(&self, lens: &Lens, unit: f64) -> Arc<Floors> {
        let key = key(lens);
        let known = self.floors.lock().expect("no panic while looking").get(&key).cloned();
        known.unwrap_or_else(|| {
            let lines = |other: &Lens| self.floors(other, self.unit(other)).sizes();
            let inputs = self.inputs.sizes(self.checkpoint, lens, &lines);
            let floors = Arc::new(Floors::of(self.checkpoint, lens, unit, inputs.as_deref()));
            self.floors.lock().expect("no panic while adding").insert(key, Arc::clone(&floors));
            floors
        })
    }

    /// The floors of a matrix, line by line; it counts as read.
    pub fn lines(&self, lens: &Lens) -> Lines {
        self.mark(lens);
        self.floors(lens, self.unit(lens)).lines()
    }

    fn mark(&self, lens: &Lens) {
        self.read.lock().expect("no panic while marking").insert(key(lens));
    }

    /// Tensors of the model that no equation has read.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.lock().expect("no panic while marking");
        let lenses = self.model.lenses();
        let unread = lenses.iter().filter(|lens| !read.contains(&key(lens)));
        let names: BTreeSet<String> = unread.map(|l| l.name().to_string()).collect();
        names.into_iter().collect()
    }
}

/// The units of rounding of the expanded model's tensors, by role.
#[derive(Clone)]
pub(super) struct Caps {
    roles: BTreeMap<String, f64>,
    /// For roles that the expanded model has not.
    coarsest: f64,
}

impl Caps {
    /// Those of a model.
    pub fn new(checkpoint: &Checkpoint, model: &Model) -> Self {
        let mut caps = Caps { roles: BTreeMap::new(), coarsest: F64_UNIT };
        for lens in model.lenses() {
            let dtype = checkpoint.tensor(lens.name()).ok().and_then(|t| t.dtype);
            let unit = dtype.map_or(F64_UNIT, unit);
            let role = caps.roles.entry(role(lens)).or_insert(unit);
            *role = role.max(unit);
            caps.coarsest = caps.coarsest.max(unit);
        }
        caps
    }

    fn of(&self, lens: &Lens) -> f64 {
        self.roles.get(&role(lens)).copied().unwrap_or(self.coarsest)
    }
}

/// The same tensor in every layer: its name with the layer's number left out (`.3.`, not the 1 of
/// `ln_1`), and where in it the lens begins.
fn role(lens: &Lens) -> String {
    let parts = lens.name().split('.');
    let name: Vec<&str> =
        parts.map(|p| if p.bytes().all(|b| b.is_ascii_digit()) { "#" } else { p }).collect();
    let part = if lens.rows() == lens.whole_rows() { 0 } else { 1 + lens.position(0, 0) };
    format!("{}/{part}", name.join("."))
}
