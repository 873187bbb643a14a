//! Other implementations, held against the reference: kernels, forward passes, expanders.
//!
//! A [`Backend`] answers [`Request`]s. [`program::Program`] is any program in any language, asked
//! over its standard input and output (the protocol is in [`protocol`]); [`mod@reference`] is this
//! crate's own f32 path. [`ops`] are the single operations that they are asked for,
//! [`mod@forward`] the whole models, and [`mod@expand`] their expansions, with random cases;
//! [`suite`] asks, judges and shrinks; [`vectors`] writes cases of operations into files.
//! [`tutorial`] makes a backend in 40 lines of Python.
//!
//! What is right is computed in f64, and how far an answer may be from it by [`bound`]: a running
//! error bound for the number format, not a tolerance that someone chose.

pub mod bound;
pub mod case;
pub mod expand;
mod files;
pub mod forward;
pub mod judge;
pub mod ops;
pub mod program;
pub mod protocol;
pub mod python;
pub mod reference;
pub mod suite;
#[doc = include_str!("tutorial.md")]
pub mod tutorial {}
pub mod vectors;

use crate::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use expand::ToldSizes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Named tensors.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a backend says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its name, with the versions of what it is made of: `numpy 2.4.6`.
    pub name: String,
    /// What it runs on: `cpu`, or the name of a GPU.
    #[serde(default)]
    pub device: String,
    /// Number formats of tensors that it takes: `f32`, `f64`, `f16`, `bf16`.
    pub dtypes: Vec<String>,
    /// The operations of [`ops::OPERATIONS`] that it has, by name.
    #[serde(default)]
    pub ops: Vec<String>,
    /// The families whose models it runs, by the names of [`mod@forward`].
    #[serde(default)]
    pub forward: Vec<String>,
    /// The families whose models it expands, by the same names.
    #[serde(default)]
    pub expand: Vec<String>,
}

/// A question to a backend.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// One operation on tensors.
    Op(&'a OpRequest),
    /// A model on an input.
    Forward(&'a ForwardRequest),
    /// A model that is to become a larger one.
    Expand(&'a ExpandRequest),
}

/// One operation on tensors.
#[derive(Clone, Debug)]
pub struct OpRequest {
    /// The operation's name.
    pub op: String,
    /// Number format of the inputs and of the answer.
    pub dtype: Dtype,
    /// Numbers and switches: `eps`, `causal` …
    pub attributes: Map<String, Value>,
    /// What it reads.
    pub inputs: Tensors,
}

/// A model on an input; see [`mod@forward`].
#[derive(Debug)]
pub struct ForwardRequest {
    /// The family's name.
    pub family: String,
    /// Number format of the weights, of pixels and of the answer.
    pub dtype: Dtype,
    /// The model.
    pub model: Checkpoint,
    /// What it reads.
    pub inputs: Tensors,
    /// The outputs that are asked for.
    pub returns: Vec<String>,
}

/// A model that is to become a larger one; see [`mod@expand`].
#[derive(Debug)]
pub struct ExpandRequest {
    /// The family's name.
    pub family: String,
    /// Number format of the weights of both.
    pub dtype: Dtype,
    /// The small model.
    pub model: Checkpoint,
    /// The configuration of the larger one.
    pub config: Config,
    /// The sizes of the small model.
    pub source: ToldSizes,
    /// The sizes of the larger one.
    pub target: ToldSizes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend says that it does not do this.
    Unsupported(String),
    /// It crashed, was late, or answered what is no answer.
    Failed(String),
}

/// The tensors that a backend computed.
pub type Answer = Result<Tensors, Failure>;

/// An implementation that can be asked.
pub trait Backend {
    /// What it says of itself.
    fn about(&self) -> &About;

    /// Computes. Never panics and never waits for ever, whatever the implementation does; after a
    /// failure it can be asked again.
    fn answer(&mut self, request: &Request) -> Answer;
}

/// The name of a number format in the protocol.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "f64",
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    }
}

/// The number format that the protocol calls `name`.
pub fn dtype_named(name: &str) -> Option<Dtype> {
    [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16].into_iter().find(|d| dtype_name(*d) == name)
}
