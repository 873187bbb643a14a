//! How far two outputs are apart.

use serde::Serialize;

/// The difference between what a source and an expanded model returned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Largest absolute difference of two numbers, in the output's own units.
    pub largest: f64,
    /// Where it is: an index into the compared numbers.
    #[serde(skip)]
    pub at: usize,
    /// What the source returned there.
    pub expected: f64,
    /// What the expanded model returned there.
    pub got: f64,
    /// `largest` divided by the [`Spread`] of the source's numbers (dimensionless).
    pub relative: f64,
    /// The a that minimises |got − a·expected|²: 2.000, 1.414 or 0.500 name a mistake. `None` where
    /// the source returned only zeros.
    pub scale: Option<f64>,
    /// What that scale leaves of the difference, |got − a·expected| / |got − expected|: 0 where it
    /// explains all, 1 where it explains nothing or there is no difference or no scale.
    pub left: f64,
}

/// A best-fit scale that leaves less of a difference than this explains it: then "multiplied by it"
/// says what is wrong (dimensionless).
pub const EXPLAINED: f64 = 0.1;

/// Standard deviation of an output's numbers; where all are equal, their size; never zero unless
/// all are zero. A logit's absolute size means nothing, since a constant may be added to all of
/// them: differences are judged against this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread(pub f64);

impl Spread {
    /// The spread of `values`.
    pub fn of(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
        let size = (values.iter().map(|v| v * v).sum::<f64>() / count).sqrt();
        let deviation = variance.sqrt();
        Spread(if deviation > 1e-12 * size { deviation } else { size })
    }

    /// `difference` in units of this spread; 0 for no difference, infinite where there is one and
    /// no spread.
    pub fn units(self, difference: f64) -> f64 {
        if difference == 0.0 { 0.0 } else { difference / self.0 }
    }
}

impl Difference {
    /// Compares `got` with `expected`, number by number. A difference that is NaN is infinite.
    ///
    /// # Panics
    /// If they are not of one length, or empty.
    pub fn between(expected: &[f64], got: &[f64]) -> Self {
        assert_eq!(expected.len(), got.len(), "as many numbers on both sides");
        assert!(!expected.is_empty(), "comparing nothing would pass anything");
        let apart = |at: usize| {
            let difference = (got[at] - expected[at]).abs();
            if difference.is_nan() { f64::INFINITY } else { difference }
        };
        let at =
            (0..expected.len()).max_by(|a, b| apart(*a).total_cmp(&apart(*b))).expect("not empty");
        let product: f64 = expected.iter().zip(got).map(|(a, b)| a * b).sum();
        let square: f64 = expected.iter().map(|a| a * a).sum();
        let scale = (square > 0.0).then(|| product / square);
        let beside = |scale: f64| -> f64 {
            expected.iter().zip(got).map(|(a, b)| (b - scale * a).powi(2)).sum()
        };
        let left = scale.map_or(1.0, |scale| (beside(scale) / beside(1.0)).sqrt());
        Difference {
            largest: apart(at),
            at,
            expected: expected[at],
            got: got[at],
            relative: Spread::of(expected).units(apart(at)),
            scale,
            left: if left.is_finite() { left } else { 1.0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_is_found_with_both_sides() {
        let found = Difference::between(&[1.0, -1.0, 3.0], &[1.0, -1.5, 3.25]);
        assert_eq!((found.at, found.expected, found.got, found.largest), (1, -1.0, -1.5, 0.5));
    }

    #[test]
    fn a_doubled_output_has_a_best_fit_scale_of_two() {
        assert_eq!(Difference::between(&[1.0, -3.0], &[2.0, -6.0]).scale, Some(2.0));
    }

    #[test]
    fn a_scale_explains_only_what_it_leaves_nothing_of() {
        let left = |got: &[f64]| Difference::between(&[1.0, -3.0, 2.0], got).left;
        assert_eq!(left(&[2.0, -6.0, 4.0]), 0.0);
        assert!((0.01..EXPLAINED).contains(&left(&[2.0, -6.0, 4.1])));
        assert!(left(&[1.0, -6.0, 2.0]) > EXPLAINED);
        assert_eq!(left(&[1.0, -3.0, 2.0]), 1.0);
        assert_eq!(Difference::between(&[0.0], &[1.0]).left, 1.0);
    }

    #[test]
    fn differences_are_relative_to_the_spread_and_not_to_an_offset() {
        let (source, moved) = ([1000.0, 1001.0], [1000.0, 1001.5]);
        assert_eq!(Difference::between(&source, &moved).relative, 1.0);
    }

    #[test]
    fn a_nan_is_an_infinite_difference() {
        assert_eq!(Difference::between(&[1.0, 2.0], &[1.0, f64::NAN]).largest, f64::INFINITY);
    }

    #[test]
    fn constant_outputs_are_measured_by_their_size() {
        assert_eq!(Spread::of(&[4.0, 4.0]).units(1.0), 0.25);
        assert_eq!(Spread::of(&[0.0]).units(0.0), 0.0);
        assert_eq!(Spread::of(&[0.0]).units(1.0), f64::INFINITY);
    }
}
