//! One of the two models: its weights as bounded numbers, and which of them were read.

use super::bounded::{Bounded, Stored};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::model::{Lens, Linear, Model, Norm};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// A model with its weights.
pub(super) struct Side<'a> {
    pub checkpoint: &'a Checkpoint,
    pub model: &'a Model,
    /// Units above these are taken as these: see [`Side::new`].
    caps: Caps,
    /// Typical size of each role's numbers, in the layer where they are largest.
    scales: BTreeMap<String, f64>,
    /// Layers, as [`layer`] names them, in which factors are far larger than elsewhere.
    uneven: BTreeSet<String>,
    read: Mutex<BTreeSet<(String, usize)>>,
    progress: &'a (dyn Fn(u64) + Sync),
}

/// For f64 files the sums formed here round as much as the file does, so that the bound is a few
/// units of the format.
const F64_UNIT: f64 = 1.0 / (1u64 << 50) as f64;

/// Numbers of a tensor that its typical size is taken from.
const SAMPLES: usize = 4096;

/// The unit of the coarsest arithmetic in which expansions are computed, whatever they are stored
/// in: a sum that should be zero is zero to this, relative to its terms.
const ARITHMETIC: f64 = 1.0 / (1u64 << 24) as f64;

/// What is no larger than this, relative to its role in other layers, may be rounding.
const BLURRED: f64 = 16.0 * ARITHMETIC;

/// What is larger than this, relative to its role in another layer, may enlarge rounding.
const UNEVEN: f64 = 1024.0;

/// Rows that are looked at together where nothing but their numbers matters.
const BLOCK: usize = 256;

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
        let mut scales: BTreeMap<String, f64> = BTreeMap::new();
        for lens in model.lenses() {
            let largest = scales.entry(role(lens)).or_default();
            *largest = largest.max(typical(checkpoint, lens));
        }
        let uneven = uneven(checkpoint, model, &scales);
        Side { checkpoint, model, caps, scales, uneven, read: Mutex::default(), progress }
    }

    /// The unit of rounding of a tensor.
    pub fn unit(&self, lens: &Lens) -> f64 {
        let cap = self.caps.of(lens);
        let dtype = self.checkpoint.tensor(lens.name()).ok().and_then(|t| t.dtype);
        dtype.map_or(cap, unit).min(cap)
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
        let subnormal = dtype.map_or(0.0, Dtype::subnormal_roundoff);
        let floor = (unit.min(ARITHMETIC) * self.scale(lens)).max(subnormal);
        (self.progress)((value.len() * dtype.map_or(0, Dtype::size)) as u64);
        self.mark(lens);
        Ok(Stored { value, unit, floor })
    }

    /// Whether every number of a matrix is exactly zero. The matrix counts as read.
    pub fn is_zero(&self, lens: &Lens) -> Result<bool> {
        let mut zero = true;
        for first in (0..lens.rows()).step_by(BLOCK) {
            let count = BLOCK.min(lens.rows() - first);
            zero &= self.stored_rows(lens, first, count)?.value.iter().all(|v| *v == 0.0);
        }
        Ok(zero)
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

    /// The typical size of a tensor's numbers: its own; or, if that is no more than rounding of
    /// what its role holds in other layers, the role's, so that a 1e-17 where a zero belongs is a
    /// zero. Not so in a layer where something else is as much larger: there it may be no rounding,
    /// for what is halved in one factor may be doubled in another.
    fn scale(&self, lens: &Lens) -> f64 {
        let role = self.scales.get(&role(lens)).copied().unwrap_or(0.0);
        let own = typical(self.checkpoint, lens);
        let even = layer(lens.name()).is_none_or(|layer| !self.uneven.contains(layer));
        if own > BLURRED * role || (own > 0.0 && !even) { own } else { role }
    }

    fn mark(&self, lens: &Lens) {
        let key = (lens.name().to_string(), lens.position(0, 0));
        self.read.lock().expect("no panic while marking").insert(key);
    }

    /// Tensors of the model that no equation has read.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.lock().expect("no panic while marking");
        let lenses = self.model.lenses();
        let unread =
            lenses.iter().filter(|l| !read.contains(&(l.name().to_string(), l.position(0, 0))));
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

/// The name of the layer that a tensor belongs to: all in front of its number, and that.
fn layer(name: &str) -> Option<&str> {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return Some(&name[..end]);
        }
        end += 1;
    }
    None
}

/// The layers in which a factor (anything but a bias) is far larger than in another layer.
fn uneven(
    checkpoint: &Checkpoint,
    model: &Model,
    largest: &BTreeMap<String, f64>,
) -> BTreeSet<String> {
    let factors = model.lenses().into_iter().filter(|lens| !lens.name().ends_with("bias"));
    let sizes = factors.map(|lens| (lens.name(), role(lens), typical(checkpoint, lens)));
    let sizes: Vec<(&str, String, f64)> = sizes.filter(|(.., size)| *size > 0.0).collect();
    let mut smallest: BTreeMap<&str, f64> = BTreeMap::new();
    for (_, role, size) in &sizes {
        let least = smallest.entry(role).or_insert(*size);
        *least = least.min(*size);
    }
    let large =
        |role: &str, size: f64| size > UNEVEN * smallest[role] && size > BLURRED * largest[role];
    let uneven = sizes.iter().filter(|(_, role, size)| large(role, *size));
    uneven.filter_map(|(name, ..)| layer(name).map(String::from)).collect()
}

/// The median size of the numbers of a matrix that are not zero, from evenly spaced ones: a
/// yardstick, not a verdict. A median, since free numbers and outliers may be of any size.
fn typical(checkpoint: &Checkpoint, lens: &Lens) -> f64 {
    let Ok(tensor) = checkpoint.tensor(lens.name()) else { return 0.0 };
    let (Some(dtype), cols) = (tensor.dtype, lens.cols()) else { return 0.0 };
    let total = lens.rows() * cols;
    let step = (total / SAMPLES).max(1) | 1;
    let mut sizes: Vec<f64> = (0..total)
        .step_by(step)
        .map(|at| dtype.get(tensor.bytes(), lens.position(at / cols, at % cols)).abs())
        .filter(|size| *size > 0.0 && size.is_finite())
        .collect();
    if sizes.is_empty() {
        return 0.0;
    }
    let middle = sizes.len() / 2;
    *sizes.select_nth_unstable_by(middle, f64::total_cmp).1
}
