//! What tests are made of: random models, random inputs, and deliberate mistakes.
//!
//! For use in other people's tests too: [`assert_lossless!`](crate::assert_lossless) holds a pair
//! of models to the proof, [`check_expander`] expansion code on random architectures.
//!
//! A *case* ([`SourceCase`], [`TargetCase`]) is small plain
//! data that reproduces one test, JSON included; weights are made from its seed and never stored.
//! All randomness comes from ChaCha8 and from the arithmetic in [`random`], so that a seed means
//! the same model on every machine and in every later version.

#[cfg(any(feature = "proptest", feature = "quickcheck"))]
pub mod arbitrary;
pub mod convolutional;
pub mod expander;
pub mod inputs;
pub mod lossless;
pub mod models;
pub mod mutants;
pub mod random;
pub mod shrink;
pub mod source;
pub mod survey;
pub mod target;

pub use expander::{Counterexample, Fault, Trials, Tried, check_expander};
pub use models::Models;
pub use mutants::{Editor, Intent, Mutant, Mutated, Pair};
pub use source::{Architecture, SourceCase, WeightStyle};
pub use target::{FreeParts, TargetCase};
