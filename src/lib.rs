//! Does this larger model compute exactly what the small one computed?
//!
//! [`check::check`] answers for every input, from the weights alone:
//!
//! ```
//! use lemon_check::check::{Verdict, check};
//! use lemon_check::checkpoint::Checkpoint;
//!
//! # fn main() -> lemon_check::Result<()> {
//! let source = Checkpoint::open("tests/data/source.safetensors".as_ref(), None)?;
//! let broken = Checkpoint::open("tests/data/broken.safetensors".as_ref(), None)?;
//! let check = check(&source, &broken, &|_done, _total| ())?;
//! assert_eq!(check.verdict, Verdict::NotLossless);
//! assert_eq!(check.certificate.failures[0].tensor, "transformer.h.1.ln_2.weight");
//! # Ok(())
//! # }
//! ```
//!
//! Bottom to top: [`checkpoint`] reads and writes weights; [`model`] says what the tensors mean,
//! once per family; [`forward`] computes what a model returns, [`expand`] makes lossless
//! expansions, [`certify`] proves from the weights that two models are equal, and none of the three
//! knows another; [`compare`] says what equal outputs are; [`check`] gives the verdict; [`testing`]
//! makes random models and deliberate mistakes; [`backend`] holds other implementations against the
//! reference; [`report`] and [`cli`] tell it to people and
//! programs.

pub mod backend;
pub mod certify;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod error;
pub mod expand;
pub mod forward;
pub mod model;
pub mod report;
pub mod testing;
mod wide;

pub use error::{Class, Error, Result};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
