//! Random numbers for the free parts, pinned: a seed means the same on every machine and next year.

use ndarray::{Array1, Array2};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Numbers for one part of one tensor. They depend on the seed, the tensor's name and the part's
/// place in it, and on nothing else: not on the order of the work, not on threads.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    /// The numbers for the part of tensor `name` that begins at number `place`.
    pub fn new(seed: u64, name: &str, place: usize) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(name).to_le_bytes());
        key[16..24].copy_from_slice(&(place as u64).to_le_bytes());
        Random(ChaCha8Rng::from_seed(key))
    }

    /// A number from −1 to 1, uniform: 53 bits of the stream.
    pub fn symmetric(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * 2f64.powi(-52) - 1.0
    }

    /// `count` numbers of mean 0 and root mean square `rms`.
    pub fn vector(&mut self, count: usize, rms: f64) -> Array1<f64> {
        let half_width = rms * 3f64.sqrt();
        Array1::from_shape_simple_fn(count, || half_width * self.symmetric())
    }
}

/// The 64-bit FNV-1a hash: short, and the same everywhere.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Root mean square of the entries; 0 if there are none.
pub(super) fn root_mean_square(matrix: &Array2<f64>) -> f64 {
    let sum: f64 = matrix.iter().map(|v| v * v).sum();
    (sum / matrix.len().max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Axis;

    #[test]
    fn numbers_depend_on_seed_name_and_place() {
        let first = |seed, name, place| Random::new(seed, name, place).symmetric();
        let base = first(0, "w", 0);
        assert_eq!(base, first(0, "w", 0));
        for other in [first(1, "w", 0), first(0, "v", 0), first(0, "w", 1)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn random_numbers_have_the_root_mean_square_asked_for() {
        let numbers = Random::new(3, "w", 0).vector(10_000, 0.7);
        assert!((root_mean_square(&numbers.clone().insert_axis(Axis(1))) - 0.7).abs() < 0.02);
        assert!(numbers.sum().abs() < 300.0);
    }

    #[test]
    fn a_seed_means_the_same_on_every_machine() {
        let number = Random::new(7, "transformer.wte.weight", 0).symmetric();
        assert_eq!(number, -0.6264658753813717);
    }
}
