//! What it means that outputs are equal.
//!
//! Two questions, both asked of numbers that two models returned for the same inputs:
//!
//! - [`Difference`]: the outputs are the same things (words, classes). How far apart are they, how
//!   much is that next to the spread of the source's outputs, and is one a multiple of the other?
//! - [`Image`]: the outputs are hidden channels. Is there *any* matrix A with `y_expanded = A
//!   y_source` for all of them?
//!
//! Neither proves anything: a sample that agrees is no proof. A sample that does not agree, by
//! more than rounding can explain, refutes.

mod difference;
mod image;

pub use difference::{Difference, EXPLAINED, Spread};
pub use image::Image;

/// How many times larger than the measured storage noise a difference must be to refute.
///
/// The noise is the largest change in a few random draws, so a rare change may be larger; for
/// independent roundings the deviation between the largest of a few draws and the largest of very
/// many is below 3. The rest is margin: a false alarm is worse than one more undecided.
pub const NOISE_FACTOR: f64 = 8.0;

/// A relative error below which two f64 computations of the same thing may differ for no other
/// reason than the order of their sums (dimensionless).
pub const COMPUTING_FLOOR: f64 = 1e-13;
