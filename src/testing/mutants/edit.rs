//! Editing a checkpoint through lenses.

use super::Mutated;
use crate::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use crate::error::Result;
use crate::model::{Alias, Lens, Model};
use ndarray::Array2;
use std::collections::BTreeMap;

/// A checkpoint under change: matrices are read and written through lenses, the configuration by
/// field; everything else stays byte for byte.
pub struct Editor<'a> {
    checkpoint: &'a Checkpoint,
    aliases: &'a [Alias],
    config: Config,
    changed: BTreeMap<String, Changed>,
}

/// A tensor under change, as numbers.
struct Changed {
    dtype: Dtype,
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Changed {
    fn new(lens: &Lens, checkpoint: &Checkpoint) -> Result<Self> {
        let tensor = lens.check(checkpoint)?;
        let dtype = tensor.dtype.expect("a checked tensor holds numbers");
        let values = (0..tensor.len()).map(|i| dtype.get(tensor.bytes(), i)).collect();
        Ok(Changed { dtype, shape: tensor.shape.clone(), values })
    }
}

impl<'a> Editor<'a> {
    /// Begins with `checkpoint` as it is; `model` must describe it.
    pub fn new(checkpoint: &'a Checkpoint, model: &'a Model) -> Self {
        Editor { aliases: &model.aliases, ..Editor::of_tensors(checkpoint) }
    }

    /// As [`Editor::new`], for a checkpoint without repetitions of tied tensors.
    pub(in crate::testing) fn of_tensors(checkpoint: &'a Checkpoint) -> Self {
        let config = checkpoint.config().clone();
        Editor { checkpoint, aliases: &[], config, changed: BTreeMap::new() }
    }

    /// The matrix `[rows, cols]` as it is now.
    ///
    /// # Errors
    /// If the tensor is missing or has another shape or integers.
    pub fn read(&self, lens: &Lens) -> Result<Array2<f64>> {
        match self.changed.get(lens.name()) {
            None => lens.read(self.checkpoint),
            Some(changed) => Ok(Array2::from_shape_fn((lens.rows(), lens.cols()), |(row, col)| {
                changed.values[lens.position(row, col)]
            })),
        }
    }

    /// Replaces the matrix `[rows, cols]`; its numbers are rounded to the stored format at the end.
    ///
    /// # Errors
    /// As [`Editor::read`].
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn write(&mut self, lens: &Lens, matrix: &Array2<f64>) -> Result<()> {
        if !self.changed.contains_key(lens.name()) {
            self.changed.insert(lens.name().to_string(), Changed::new(lens, self.checkpoint)?);
        }
        if let Some(changed) = self.changed.get_mut(lens.name()) {
            lens.write(&mut changed.values, matrix);
        }
        Ok(())
    }

    /// Changes the matrix `[rows, cols]` in place.
    ///
    /// # Errors
    /// As [`Editor::read`].
    pub fn edit(&mut self, lens: &Lens, change: impl FnOnce(&mut Array2<f64>)) -> Result<()> {
        let mut matrix = self.read(lens)?;
        change(&mut matrix);
        self.write(lens, &matrix)
    }

    /// The configuration, to be changed.
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The changed checkpoint, in memory. Repetitions of a changed tied tensor follow it.
    pub fn finish(self) -> Checkpoint {
        let mut tensors = self.checkpoint.tensors().clone();
        for (name, changed) in self.changed {
            tensors.insert(name, Tensor::from_values(changed.dtype, changed.shape, changed.values));
        }
        for alias in self.aliases {
            if let Some(tensor) = tensors.get(&alias.of).cloned() {
                tensors.insert(alias.name.clone(), tensor);
            }
        }
        Checkpoint::in_memory(self.checkpoint.path(), self.config, tensors)
    }

    /// The changed checkpoint, blamed on `subject` (a tensor or a field); `None` where rounding to
    /// the stored format left every byte as it was.
    pub fn blame(self, subject: &str) -> Option<Mutated> {
        let before = self.checkpoint;
        let checkpoint = self.finish();
        let same = checkpoint.config().json() == before.config().json()
            && checkpoint.tensors().iter().all(|(name, tensor)| {
                before.tensors().get(name).is_some_and(|old| old.bytes() == tensor.bytes())
            });
        (!same).then(|| Mutated { checkpoint, subject: subject.to_string() })
    }
}

/// A relative change that is well above what rounding to the stored format explains: at least
/// `wanted`, at least 16 units of rounding.
pub(in crate::testing) fn visible(checkpoint: &Checkpoint, wanted: f64) -> f64 {
    let dtypes = checkpoint.tensors().values().filter_map(|t| t.dtype);
    let unit = dtypes.map(Dtype::unit_roundoff).fold(0.0, f64::max);
    wanted.max(16.0 * unit)
}
