//! Random numbers whose meaning never changes.
//!
//! The generator is ChaCha8 (`rand_chacha::ChaCha8Rng`), whose stream is specified. What is made of
//! its words is written out here, because the distributions of `rand` may change between versions.

use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator for `seed`.
pub fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// How many random cases a property is held to: as many as the environment variable `LEMON_CASES`
/// says, or `usual`.
///
/// # Panics
/// If it is set and no whole number: to fall back would look as if so many had been tried.
pub fn cases(usual: u32) -> u32 {
    let Some(set) = std::env::var_os("LEMON_CASES") else { return usual };
    let number = set.to_str().and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("LEMON_CASES is {set:?}: give a whole number, such as 1000"))
}

/// As [`cases`], but never fewer than `usual`: where so many are needed to meet everything that
/// must be met.
pub fn cases_at_least(usual: u64) -> u64 {
    u64::from(cases(0)).max(usual)
}

/// Draws from any generator.
pub trait Draw: RngCore {
    /// A uniform number in `[0, 1)`, a multiple of 2⁻⁵³.
    fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// A whole number below `bound`, or 0 if `bound` is 0. The bias is below `bound`·2⁻⁶⁴.
    fn below(&mut self, bound: usize) -> usize {
        ((self.next_u64() as u128 * bound as u128) >> 64) as usize
    }

    /// A whole number from `low` to `high`, both included.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True with this probability.
    fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// One of `choices`, each as likely.
    ///
    /// # Panics
    /// If there are none.
    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }

    /// A standard normal number (Box and Muller), computed without the platform's `libm`.
    fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.uniform()));
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// A random order of `0..count` (Fisher and Yates).
    fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

impl<R: RngCore + ?Sized> Draw for R {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_for_ever() {
        let mut rng = generator(0);
        assert_eq!(rng.next_u64(), 0xb585_f767_a79a_3b6c);
        assert_eq!(rng.uniform(), 0.465_921_722_289_610_15);
        assert_eq!(rng.normal(), 1.4404617263059913);
        assert_eq!(rng.permutation(6), [0, 1, 4, 3, 2, 5]);
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut rng = generator(1);
        let drawn: Vec<f64> = (0..10_000).map(|_| rng.normal()).collect();
        let mean = drawn.iter().sum::<f64>() / 1e4;
        let variance = drawn.iter().map(|x| x * x).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
