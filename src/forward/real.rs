//! The two number formats in which a model is run.

use ndarray::{Array2, LinalgScalar};
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{AddAssign, MulAssign};

/// A floating-point format to compute in: `f64` or `f32`.
///
/// Every operation rounds to the format; none goes through a wider one. The functions are those of
/// the `libm` crate, so that a result does not depend on the machine's C library.
pub trait Real:
    LinalgScalar + PartialOrd + AddAssign + MulAssign + Sum + Send + Sync + Debug
{
    /// The name in messages: `f64`.
    const NAME: &'static str;
    /// Largest relative error of one rounding (dimensionless).
    const UNIT_ROUNDOFF: f64;

    /// `value`, rounded to nearest.
    fn from_f64(value: f64) -> Self;
    /// The same number as an `f64`.
    fn to_f64(self) -> f64;
    /// Every element of `matrix`, rounded to nearest.
    fn from_matrix(matrix: Array2<f64>) -> Array2<Self>;
    /// Neither NaN nor infinite.
    fn is_finite(self) -> bool;
    /// √x.
    fn sqrt(self) -> Self;
    /// eˣ.
    fn exp(self) -> Self;
    /// tanh x.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// Sine and cosine of an angle in radians.
    fn sin_cos(self) -> (Self, Self);
    /// max(x, 0); NaN stays NaN.
    fn positive_part(self) -> Self {
        if self < Self::zero() { Self::zero() } else { self }
    }
    /// The same number, which follows from a choice that was made as `margin` is positive. Numbers
    /// that know their rounding error forget their bound where that may have turned the choice.
    fn chosen_by(self, _margin: Self) -> Self {
        self
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const UNIT_ROUNDOFF: f64 = f64::EPSILON / 2.0;

    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn from_matrix(matrix: Array2<f64>) -> Array2<Self> {
        matrix
    }
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
    fn sqrt(self) -> Self {
        libm::sqrt(self)
    }
    fn exp(self) -> Self {
        libm::exp(self)
    }
    fn tanh(self) -> Self {
        libm::tanh(self)
    }
    fn erf(self) -> Self {
        libm::erf(self)
    }
    fn sin_cos(self) -> (Self, Self) {
        libm::sincos(self)
    }
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const UNIT_ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        self as f64
    }
    fn from_matrix(matrix: Array2<f64>) -> Array2<Self> {
        matrix.mapv(|value| value as f32)
    }
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
    fn sqrt(self) -> Self {
        libm::sqrtf(self)
    }
    fn exp(self) -> Self {
        libm::expf(self)
    }
    fn tanh(self) -> Self {
        libm::tanhf(self)
    }
    fn erf(self) -> Self {
        libm::erff(self)
    }
    fn sin_cos(self) -> (Self, Self) {
        libm::sincosf(self)
    }
}
