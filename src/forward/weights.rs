//! Reading weights, as they are stored or with a small random change to each.

use super::Real;
use super::variances::Smallest;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::Result;
use crate::model::Lens;
use ndarray::{Array1, Array2};

/// A random change of every weight, of the size that storing it may have made.
///
/// Each weight w is read as w + δ, with δ uniform within ±`units`·max(u·|w|, s): u is the stored
/// number format's [unit roundoff](Dtype::unit_roundoff) and s its
/// [subnormal roundoff](Dtype::subnormal_roundoff). δ depends on the seed, the tensor's name and
/// the number's place in the tensor alone, so a tied table changes in the same way wherever it is
/// read, in whatever order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perturbation {
    /// Largest change, in units of the stored format's roundoff.
    pub units: f64,
    /// Which change. The generator is FNV-1a and SplitMix64: a seed means the same next year.
    pub seed: u64,
}

/// The weights of a checkpoint, as they are read during a run.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    checkpoint: &'a Checkpoint,
    perturbation: Option<Perturbation>,
    smallest: Option<&'a Smallest>,
}

impl<'a> Weights<'a> {
    /// The weights as they are stored.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        Weights { checkpoint, perturbation: None, smallest: None }
    }

    /// The weights, each changed a little.
    pub fn perturbed(checkpoint: &'a Checkpoint, perturbation: Perturbation) -> Self {
        Weights { perturbation: Some(perturbation), ..Weights::new(checkpoint) }
    }

    /// The same, and norms note in `smallest` what variances they meet.
    pub(super) fn watched(self, smallest: &'a Smallest) -> Self {
        Weights { smallest: Some(smallest), ..self }
    }

    /// Notes the variance that a norm with `eps` has met, if someone wants to know.
    pub(super) fn met(&self, eps: f64, variance: impl FnOnce() -> f64) {
        if let Some(smallest) = self.smallest {
            smallest.met(eps, variance());
        }
    }

    /// Where they are stored.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// `count` rows of a matrix from `first` on, `[count, cols]`.
    ///
    /// # Errors
    /// As [`Lens::read`].
    ///
    /// # Panics
    /// If there are not that many rows.
    pub fn rows<R: Real>(&self, lens: &Lens, first: usize, count: usize) -> Result<Array2<R>> {
        let mut matrix = lens.read_rows(self.checkpoint, first, count)?;
        if let Some(perturbation) = self.perturbation {
            let dtype = lens.check(self.checkpoint)?.dtype.expect("it was read");
            let change = Change::new(perturbation, lens.name(), dtype);
            for (row, mut values) in matrix.outer_iter_mut().enumerate() {
                // The columns of a lens lie evenly spaced.
                let start = lens.position(first + row, 0);
                let step = lens.position(first + row, 1) - start;
                for (col, value) in values.iter_mut().enumerate() {
                    *value += change.of(*value, start + col * step);
                }
            }
        }
        Ok(R::from_matrix(matrix))
    }

    /// A vector (a matrix of one column), `[rows]`.
    ///
    /// # Errors
    /// As [`Lens::read`].
    pub fn vector<R: Real>(&self, lens: &Lens) -> Result<Array1<R>> {
        Ok(self.rows(lens, 0, lens.rows())?.flatten().to_owned())
    }
}

/// The change of one tensor's numbers.
struct Change {
    units: f64,
    dtype: Dtype,
    stream: u64,
}

impl Change {
    fn new(perturbation: Perturbation, tensor: &str, dtype: Dtype) -> Self {
        let stream = mix(mix(perturbation.seed) ^ fnv1a(tensor.as_bytes()));
        Change { units: perturbation.units, dtype, stream }
    }

    /// δ for the number `value` at `position` of the tensor.
    fn of(&self, value: f64, position: usize) -> f64 {
        let roundoff =
            (self.dtype.unit_roundoff() * value.abs()).max(self.dtype.subnormal_roundoff());
        let bits = mix(self.stream.wrapping_add((position as u64).wrapping_mul(STEP)));
        // The upper 53 bits as a number in [-1, 1).
        let uniform = (bits >> 11) as f64 * 2f64.powi(-52) - 1.0;
        self.units * roundoff * uniform
    }
}

/// SplitMix64's step between one state and the next: 2⁶⁴ / golden ratio, odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output for the state after `state` (Steele, Lea and Flood, OOPSLA 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The 64-bit FNV-1a hash, which is the same on every machine and in every version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Config, Tensor};
    use crate::model::Dim;

    fn stored(dtype: Dtype, values: &[f64]) -> Checkpoint {
        let tensor = Tensor::from_values(dtype, vec![values.len(), 1], values.iter().copied());
        let config = Config::new("config.json", Default::default());
        Checkpoint::in_memory("memory", config, [("w".to_string(), tensor)].into())
    }

    #[test]
    fn the_generator_is_the_published_one() {
        // First outputs of SplitMix64 from state 0; FNV-1a of "a".
        assert_eq!([mix(0), mix(STEP)], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
        assert_eq!(fnv1a(b"a"), 0xAF63_DC4C_8601_EC8C);
    }

    #[test]
    fn a_change_stays_within_its_units_and_fills_them() {
        let values = vec![3.0; 4000];
        let checkpoint = stored(Dtype::Bf16, &values);
        let lens = Lens::matrix("w", Dim::new(4000, "n"), [Dim::one()]);
        let weights = Weights::perturbed(&checkpoint, Perturbation { units: 1.0, seed: 0 });
        let changed = weights.vector::<f64>(&lens).unwrap();
        let unit = 3.0 * Dtype::Bf16.unit_roundoff();
        let change = changed.mapv(|value| (value - 3.0) / unit);
        assert!(change.iter().all(|c| c.abs() <= 1.0));
        assert!(change.iter().any(|c| *c > 0.99) && change.iter().any(|c| *c < -0.99));
        assert!(change.mean().unwrap().abs() < 0.05);
    }

    #[test]
    fn a_tied_tensor_changes_the_same_way_wherever_it_is_read() {
        let checkpoint = stored(Dtype::F32, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let all = Lens::matrix("w", Dim::new(6, "n"), [Dim::one()]);
        let weights = Weights::perturbed(&checkpoint, Perturbation { units: 1.0, seed: 7 });
        let whole = weights.rows::<f64>(&all, 0, 6).unwrap();
        let part = weights.rows::<f64>(&all.clone().slice(2, 4), 1, 2).unwrap();
        assert_eq!(part, whole.slice(ndarray::s![3..5, ..]));
        let other = Weights::perturbed(&checkpoint, Perturbation { units: 1.0, seed: 8 });
        assert_ne!(other.rows::<f64>(&all, 0, 6).unwrap(), whole);
    }

    #[test]
    fn a_half_precision_zero_changes_by_the_subnormal_spacing() {
        let checkpoint = stored(Dtype::F16, &[0.0]);
        let lens = Lens::matrix("w", Dim::one(), [Dim::one()]);
        let weights = Weights::perturbed(&checkpoint, Perturbation { units: 1.0, seed: 0 });
        let value = weights.vector::<f64>(&lens).unwrap()[0];
        assert!(value != 0.0 && value.abs() <= Dtype::F16.subnormal_roundoff(), "{value:e}");
    }
}
