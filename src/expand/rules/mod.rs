//! The elementary rules, each a function on matrices with its reason: what a backend can be held
//! to, entry by entry.
//!
//! A [`Map`] says how an activation space grows: copies, means and zeros. [`linear()`] is the one
//! primitive between two maps, deterministic given a random initialisation; [`vector()`] expands
//! biases and gains; [`norm()`] says which maps a norm can stand between; [`copy_heads`] and
//! [`rotary_channels`] make the maps of attention, [`tied_growth`] and [`layer_scale()`] what makes
//! up for tied heads and LayerScale. [`crate::expand::expand`] is put together from these.
//!
//! ```
//! use lemon_check::expand::rules::{Map, Share, linear, rows_of};
//! use ndarray::array;
//!
//! // Three channels become seven, two neurons four; Z is the large model's random initialisation.
//! let (rows, columns) = (Map::average(3, 7), Map::circular(2, 4));
//! let small = array![[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]];
//! let initial = ndarray::Array2::from_shape_fn((7, 4), |(i, j)| (i * 4 + j) as f64 / 28.0);
//! let large = linear(&small, &rows, &columns, Share::Equal, rows_of(&initial))?;
//!
//! // What the large one makes of copied neurons is the expansion of what the small one makes.
//! let x = array![[0.5], [-2.0]];
//! let error = large.dot(&columns.expand_rows(&x)) - rows.expand_rows(&small.dot(&x));
//! assert!(error.iter().all(|e| e.abs() < 1e-12));
//! # Ok::<(), lemon_check::Error>(())
//! ```

mod heads;
mod layer_scale;
mod linear;
mod map;
mod norm;
mod rotary;
#[cfg(test)]
pub(super) mod samples;
mod tied;
mod vector;

pub use heads::{Heads, copy_heads};
pub use layer_scale::{LayerScale, layer_scale};
pub use linear::{cancelling, linear, opposite, rows_of};
pub use map::{Entry, Map, Share};
pub(in crate::expand) use norm::eta_squared;
pub use norm::{NormRow, NormRule, eta, norm, norm_reads, norms_in_a_row};
pub use rotary::rotary_channels;
pub use tied::tied_growth;
pub use vector::vector;
