//! Numbers that carry a bound on their rounding error: the yardstick for other implementations.
//!
//! A [`Bounded`] is the value that a computation has in f64 beside a bound on how far an
//! implementation in a coarser format may be from it, carried along operation by operation (a
//! running error analysis: Higham, *Accuracy and Stability of Numerical Algorithms*, sections 3.3
//! and 4.2). The same code that computes a reference so says what may be asked of others. There is
//! no factor to tune.
//!
//! With u the format's unit roundoff and e the bounds of the operands:
//!
//! | operation | bound of the result |
//! | --- | --- |
//! | a sum of n terms, in any order | Σe + γₙ₋₁ Σ(\|x\| + e), with γₖ = ku/(1 − ku) |
//! | a sum of two | Σe + u(\|a + b\| + Σe) |
//! | a product | \|a\|e_b + \|b\|e_a + e_a e_b + u\|ab\| |
//! | a quotient | (e_a + \|q\|e_b)/(\|b\| − e_b) + 2.5 ulp |
//! | √x | what x's error makes + 5 ulp |
//! | eˣ | what x's error makes + (3 + 2\|x\|) ulp |
//! | tanh x, erf x | what x's error makes + 5 ulp, 16 ulp |
//! | sin x, cos x | x's error + 4 ulp of 1 |
//! | a constant | 8 ulp, unless every format holds it as it is |
//!
//! One ulp is 2u of the result. The allowances are those of the weakest of OpenCL 3.0 (section 7.4,
//! full profile), CUDA (Programming Guide, mathematical functions) and WGSL (accuracy of built-in
//! functions), but for WGSL's sine and hyperbolic tangent, which are too coarse to run a model.
//! Every operation may also flush a result below the smallest normal number to zero, and what is
//! divided by a number beyond the largest (as in SiLU of −100 in f32) may be zero. A fused
//! multiply-add, or a wider accumulator, rounds less often and stays within the bound.
//!
//! A constant that the format does not hold may be computed in it: the frequencies of rotary
//! positions as a power of 10⁴, whose exponent is rounded (ln 10⁴ = 9.2 times half an ulp), and the
//! reciprocal of that. In f64 that goes for every constant that f32 does not hold: √½ is a number
//! of f64 as soon as somebody has computed it. Weights are as they are stored.
//!
//! Where a choice depends on which of two numbers is larger (experts, by their router's logits) and
//! rounding may decide it, what follows from the choice has no bound.
//!
//! A sum is gathered as long as terms are added to it on the right (`sum + term`); what is added
//! may be a sum of its own, which then counts as one term.

use crate::forward::Real;
use ndarray::Array2;
use num_traits::{One, Zero};
use std::cmp::Ordering;
use std::fmt::Debug;
use std::iter::Sum;
use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Sub};

/// A format that others compute in.
pub trait Format: Copy + Send + Sync + Debug + 'static {
    /// Largest relative error of one rounding (dimensionless).
    const UNIT: f64;
    /// The smallest normal number: results below it may be flushed to zero.
    const TINY: f64;
    /// The largest number: what is larger may be infinite.
    const LARGEST: f64;
    /// Whether the format holds this number.
    fn holds(value: f64) -> bool;
    /// Whether a constant of this value is the same in every implementation.
    fn is_plain(value: f64) -> bool {
        f64::from(value as f32) == value
    }
}

/// IEEE single precision; also where numbers are stored in half precision and computed with in
/// single.
#[derive(Clone, Copy, Debug)]
pub struct Single;

/// IEEE double precision.
#[derive(Clone, Copy, Debug)]
pub struct Double;

impl Format for Single {
    const UNIT: f64 = f32::EPSILON as f64 / 2.0;
    const TINY: f64 = f32::MIN_POSITIVE as f64;
    const LARGEST: f64 = f32::MAX as f64;

    fn holds(value: f64) -> bool {
        f64::from(value as f32) == value
    }
}

impl Format for Double {
    const UNIT: f64 = f64::EPSILON / 2.0;
    const TINY: f64 = f64::MIN_POSITIVE;
    const LARGEST: f64 = f64::MAX;

    fn holds(_: f64) -> bool {
        true
    }
}

/// A number computed in f64, with a bound on the error of computing it in format `F`.
#[derive(Clone, Copy, Debug)]
pub struct Bounded<F> {
    value: f64,
    /// Errors of the terms.
    error: f64,
    /// Σ(|term| + its error).
    mass: f64,
    /// How many terms were added up; 0 for an exact zero.
    terms: f64,
    format: PhantomData<F>,
}

/// Errors that functions may make, in ulp; see the module.
const DIVISION: f64 = 2.5;
const SQUARE_ROOT: f64 = 5.0;
const EXPONENTIAL: (f64, f64) = (3.0, 2.0);
const TANH: f64 = 5.0;
const ERF: f64 = 16.0;
const SINE: f64 = 4.0;
const CONSTANT: f64 = 8.0;

impl<F: Format> Bounded<F> {
    /// A number that the format holds.
    pub fn exact(value: f64) -> Self {
        if value == 0.0 {
            return Self::zero();
        }
        Bounded { value, error: 0.0, mass: value.abs(), terms: 1.0, format: PhantomData }
    }

    /// A number that is at most `error` away.
    pub fn within(value: f64, error: f64) -> Self {
        // Zero times an unbounded error is no number, and must not become a small error.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        Bounded { value, error, mass: value.abs() + error, terms: 1.0, format: PhantomData }
    }

    /// A number that implementations need not agree about.
    pub fn unknown() -> Self {
        Self::within(0.0, f64::INFINITY)
    }

    /// The value in f64.
    pub fn value(self) -> f64 {
        self.value
    }

    /// How far an implementation in the format may be from the value; also the value's own error in
    /// f64 is in it.
    pub fn bound(self) -> f64 {
        // Bounds are polynomials in u without a constant term, so that in f64 they are smaller by
        // the ratio of the units at least.
        self.error_bound() * (1.0 + Double::UNIT / F::UNIT)
    }

    fn error_bound(self) -> f64 {
        let additions = (self.terms - 1.0).max(0.0);
        let gamma = additions * F::UNIT / (1.0 - additions * F::UNIT);
        match additions {
            0.0 => self.error,
            // Two terms are rounded once, relative to their sum.
            1.0 => self.error + F::UNIT * (self.value.abs() + self.error) + F::TINY,
            _ => self.error + gamma * self.mass + additions * F::TINY,
        }
    }

    /// As one term of a further sum.
    fn settled(self) -> Self {
        if self.terms <= 1.0 { self } else { Self::within(self.value, self.error_bound()) }
    }

    fn is_exact_zero(self) -> bool {
        self.value == 0.0 && self.error == 0.0 && self.terms <= 1.0
    }

    /// Whether multiplying by it only changes the exponent.
    fn is_power_of_two(self) -> bool {
        let mantissa = self.value.to_bits() & ((1 << 52) - 1);
        self.error == 0.0 && self.terms == 1.0 && self.value.is_normal() && mantissa == 0
    }

    /// The result of a function: `moved` is what the argument's error makes of it, `ulps` what the
    /// function may add.
    fn of_function(value: f64, moved: f64, ulps: f64) -> Self {
        let rounding = 2.0 * ulps * F::UNIT * (value.abs() + moved);
        Self::within(value, moved + rounding + F::TINY)
    }

    fn scaled_exactly(self, factor: f64) -> Self {
        let size = factor.abs();
        let (value, error) = (self.value * factor, self.error * size);
        Bounded { value, error, mass: self.mass * size, ..self }
    }

    /// The larger one. Its error is at most the larger error.
    pub fn max(self, other: Self) -> Self {
        let (a, b) = (self.settled(), other.settled());
        Self::within(a.value.max(b.value), a.error.max(b.error))
    }

    /// |x|, with which bounds can be made by hand.
    pub fn magnitude(self) -> f64 {
        self.value.abs() + self.error_bound()
    }
}

impl<F: Format> Add for Bounded<F> {
    type Output = Self;

    fn add(self, term: Self) -> Self {
        let term = term.settled();
        if term.is_exact_zero() {
            return self;
        }
        if self.is_exact_zero() {
            return term;
        }
        Bounded {
            value: self.value + term.value,
            error: self.error + term.error,
            mass: self.mass + term.mass,
            terms: self.terms + term.terms,
            format: PhantomData,
        }
    }
}

impl<F: Format> Sub for Bounded<F> {
    type Output = Self;

    fn sub(self, term: Self) -> Self {
        let term = term.settled();
        self + Bounded { value: -term.value, ..term }
    }
}

impl<F: Format> Mul for Bounded<F> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let (a, b) = (self.settled(), other.settled());
        if a.is_exact_zero() || b.is_exact_zero() {
            return Self::zero();
        }
        if a.is_power_of_two() {
            return b.scaled_exactly(a.value);
        }
        if b.is_power_of_two() {
            return a.scaled_exactly(b.value);
        }
        let value = a.value * b.value;
        let moved = a.value.abs() * b.error + b.value.abs() * a.error + a.error * b.error;
        Self::within(value, moved + F::UNIT * (value.abs() + moved) + F::TINY)
    }
}

impl<F: Format> Div for Bounded<F> {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let (a, b) = (self.settled(), other.settled());
        if a.is_exact_zero() {
            return a;
        }
        if b.is_power_of_two() {
            return a.scaled_exactly(1.0 / b.value);
        }
        let value = a.value / b.value;
        let moved = match b.value.abs() > b.error {
            true => (a.error + value.abs() * b.error) / (b.value.abs() - b.error),
            false => f64::INFINITY,
        };
        // A divisor that overflows makes zero.
        let vanished = if b.magnitude() > F::LARGEST { value.abs() } else { 0.0 };
        Self::of_function(value, moved + vanished, DIVISION)
    }
}

impl<F: Format> AddAssign for Bounded<F> {
    fn add_assign(&mut self, term: Self) {
        *self = *self + term;
    }
}

impl<F: Format> MulAssign for Bounded<F> {
    fn mul_assign(&mut self, other: Self) {
        *self = *self * other;
    }
}

impl<F: Format> Sum for Bounded<F> {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        terms.fold(Self::zero(), Add::add)
    }
}

impl<F: Format> Zero for Bounded<F> {
    fn zero() -> Self {
        Bounded { value: 0.0, error: 0.0, mass: 0.0, terms: 0.0, format: PhantomData }
    }

    fn is_zero(&self) -> bool {
        self.is_exact_zero()
    }
}

impl<F: Format> One for Bounded<F> {
    fn one() -> Self {
        Self::exact(1.0)
    }
}

impl<F: Format> PartialEq for Bounded<F> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<F: Format> PartialOrd for Bounded<F> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<F: Format> Real for Bounded<F> {
    const NAME: &'static str = "f64 with a bound of its error";
    const UNIT_ROUNDOFF: f64 = F::UNIT;

    fn from_f64(value: f64) -> Self {
        match F::is_plain(value) {
            true => Self::exact(value),
            false => Self::within(value, 2.0 * CONSTANT * F::UNIT * value.abs() + F::TINY),
        }
    }

    fn to_f64(self) -> f64 {
        self.value
    }

    fn from_matrix(matrix: Array2<f64>) -> Array2<Self> {
        matrix.mapv(|value| match F::holds(value) {
            true => Self::exact(value),
            false => Self::from_f64(value),
        })
    }

    fn is_finite(self) -> bool {
        self.value.is_finite()
    }

    fn sqrt(self) -> Self {
        let x = self.settled();
        let value = libm::sqrt(x.value);
        let below = libm::sqrt((x.value - x.error).max(0.0));
        let moved = if x.error > 0.0 { x.error / (value + below) } else { 0.0 };
        Self::of_function(value, moved, SQUARE_ROOT)
    }

    fn exp(self) -> Self {
        let x = self.settled();
        let value = libm::exp(x.value);
        let ulps = EXPONENTIAL.0 + EXPONENTIAL.1 * x.value.abs();
        Self::of_function(value, value * libm::expm1(x.error), ulps)
    }

    fn tanh(self) -> Self {
        let x = self.settled();
        let steepest = libm::tanh((x.value.abs() - x.error).max(0.0));
        let moved = x.error * (1.0 - steepest * steepest);
        Self::of_function(libm::tanh(x.value), moved, TANH)
    }

    fn erf(self) -> Self {
        let x = self.settled();
        let nearest = (x.value.abs() - x.error).max(0.0);
        let slope = std::f64::consts::FRAC_2_SQRT_PI * libm::exp(-nearest * nearest);
        Self::of_function(libm::erf(x.value), x.error * slope, ERF)
    }

    fn sin_cos(self) -> (Self, Self) {
        let x = self.settled();
        let moved = x.error + 2.0 * SINE * F::UNIT;
        let (sine, cosine) = libm::sincos(x.value);
        (Self::within(sine, moved), Self::within(cosine, moved))
    }

    fn positive_part(self) -> Self {
        self.max(Self::zero())
    }

    fn chosen_by(self, margin: Self) -> Self {
        match margin.value > margin.error_bound() {
            true => self,
            false => Self::within(self.value, f64::INFINITY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random::{Draw, generator};

    type Number = Bounded<Single>;

    #[test]
    fn sums_in_any_order_stay_within_the_bound_and_come_near_it() {
        let mut rng = generator(0);
        let mut nearest = 0f64;
        for count in [2, 3, 7, 40] {
            for _ in 0..200 {
                let terms: Vec<f32> = (0..count).map(|_| rng.normal() as f32).collect();
                let bounded: Number = terms.iter().map(|x| Number::exact(f64::from(*x))).sum();
                let order = rng.permutation(count);
                let shuffled = order.iter().fold(0f32, |sum, place| sum + terms[*place]);
                let halves = terms.chunks(count.div_ceil(2)).map(|half| half.iter().sum::<f32>());
                for sum in [shuffled, halves.sum()] {
                    let error = (f64::from(sum) - bounded.value()).abs();
                    assert!(error <= bounded.bound(), "{count}: {error:e}");
                    nearest = nearest.max(error / bounded.bound());
                }
            }
        }
        assert!(nearest > 0.5, "{nearest}");
    }

    #[test]
    fn every_operation_of_f32_stays_within_its_bound() {
        let mut rng = generator(1);
        for _ in 0..2000 {
            let [a, b] = [(); 2].map(|()| (3.0 * rng.normal()) as f32);
            let (x, y) = (Number::exact(a.into()), Number::exact(b.into()));
            // Operands with rounding errors of their own.
            let (ra, rb, rx, ry) = (a * b, a + b, x * y, x + y);
            let pairs = [
                (ra + rb, rx + ry),
                (ra - rb, rx - ry),
                (ra * rb, rx * ry),
                (ra / rb, rx / ry),
                (libm::sqrtf(ra * ra), (rx * rx).sqrt()),
                (libm::expf(ra), rx.exp()),
                (libm::tanhf(ra), rx.tanh()),
                (libm::erff(ra), rx.erf()),
                (libm::sincosf(ra).0, rx.sin_cos().0),
                (ra.max(rb), rx.max(ry)),
                (ra.max(0.0), rx.positive_part()),
            ];
            for (index, (got, right)) in pairs.into_iter().enumerate() {
                let error = (f64::from(got) - right.value()).abs();
                assert!(error <= right.bound(), "operation {index} of {a}, {b}: {error:e}");
            }
        }
    }

    #[test]
    fn what_is_exact_has_no_bound() {
        let (two, x) = (Number::exact(2.0), Number::exact(0.3f32.into()));
        for exact in [x, x * two, x / two, x + Number::zero(), x * Number::zero(), Number::one()] {
            assert_eq!(exact.bound(), 0.0);
        }
        assert!(Number::from_f64(0.3).bound() > 0.0);
        assert!((x * x).bound() > 0.0 && (x + two).bound() > 0.0);
    }

    #[test]
    fn a_quotient_by_what_may_be_zero_is_unknown() {
        let vague = Number::within(0.1, 0.2);
        assert!(!(Number::one() / vague).bound().is_finite());
    }

    #[test]
    fn what_has_no_bound_spreads_over_zeros_and_functions() {
        let vague = Number::within(0.0, f64::INFINITY);
        let zero = Number::within(0.0, 1e-9);
        for number in [vague * zero, (vague * zero).sqrt(), (vague * zero).positive_part()] {
            assert_eq!(number.bound(), f64::INFINITY);
        }
    }

    #[test]
    fn a_choice_that_rounding_may_turn_has_no_bound() {
        let x = Number::exact(3.0);
        assert_eq!(x.chosen_by(Number::within(0.2, 0.1)).bound(), 0.0);
        assert_eq!(x.chosen_by(Number::within(0.1, 0.2)).bound(), f64::INFINITY);
    }

    #[test]
    fn constants_that_may_be_computed_differ_and_weights_do_not() {
        type Wide = Bounded<Double>;
        assert!(Wide::from_f64(0.3).bound() > 0.0);
        assert_eq!(Wide::from_matrix(Array2::from_elem((1, 1), 0.3))[[0, 0]].bound(), 0.0);
    }

    #[test]
    fn a_quotient_by_what_overflows_may_be_zero() {
        let x = -90f32;
        let quotient = Number::exact(x.into()) / (Number::one() + Number::exact(90.0).exp());
        assert_eq!(x / (1.0 + libm::expf(-x)), 0.0);
        assert!(quotient.value().abs() > f32::MIN_POSITIVE.into());
        assert!((quotient.value().abs()..1e-30).contains(&quotient.bound()));
    }
}
