//! The protocol between lemon-check and a backend program, version 1.
//!
//! The program runs as long as it is asked. Each request is one line of JSON on its standard input,
//! each reply one line on its standard output (nothing else may be printed there; standard error is
//! free, and its end is shown when the program fails). Tensors lie in safetensors files, in memory
//! (`/dev/shm`) where the system has that; paths are absolute.
//!
//! ```json
//! {"protocol": 1, "id": 0, "request": "hello"}
//! {"id": 1, "request": "op", "op": "linear", "dtype": "f32", "attributes": {},
//!  "inputs": "/dev/shm/…/in.safetensors", "outputs": "/dev/shm/…/out.safetensors"}
//! {"id": 2, "request": "forward", "family": "llama", "dtype": "f32",
//!  "model": "/dev/shm/…/model", "inputs": "/dev/shm/…/in.safetensors", "returns": ["logits"],
//!  "outputs": "/dev/shm/…/out.safetensors"}
//! {"id": 3, "request": "expand", "family": "llama", "dtype": "f32", "model": "/dev/shm/…/model",
//!  "config": "/dev/shm/…/config.json", "source": {"hidden": 8, …}, "target": {"hidden": 20, …},
//!  "outputs": "/dev/shm/…/out.safetensors"}
//! ```
//!
//! What operations read and return stands in [`super::ops`], what models do in
//! [`mod@super::forward`], what expansions do in [`mod@super::expand`].
//!
//! Replies repeat the `id`:
//!
//! ```json
//! {"id": 0, "protocol": 1, "name": "mine 0.1", "device": "cpu", "dtypes": ["f32"],
//!  "ops": ["linear"], "forward": ["llama"], "expand": []}
//! {"id": 1, "ok": true}
//! {"id": 2, "unsupported": "no windows"}
//! {"id": 3, "error": "out of memory"}
//! ```
//!
//! A backend is asked for the operations that it lists in `ops`, for models of the families that it
//! lists in `forward`, and for expansions of those that it lists in `expand`. With `ok`, the file
//! `outputs` has been written, with the tensors that the operation or the model returns in the
//! shapes and the number format that it says. A program ends when its standard input ends. A field
//! that is not known is to be ignored.

use super::About;
use super::expand::ToldSizes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// A request, as the program reads it.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// The protocol's version; only where the program is greeted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
    /// To be repeated in the reply.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub asked: Asked<'a>,
}

/// What is asked.
#[derive(Debug, Serialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Asked<'a> {
    /// What the program can do.
    Hello {},
    /// A model on an input.
    Forward {
        /// The family's name.
        family: &'a str,
        /// Number format of weights, pixels and outputs.
        dtype: &'a str,
        /// A folder with `config.json` and `model.safetensors`.
        model: &'a Path,
        /// A safetensors file.
        inputs: &'a Path,
        /// The outputs that are asked for.
        returns: &'a [String],
        /// The safetensors file to write.
        outputs: &'a Path,
    },
    /// A model that is to become a larger one.
    Expand {
        /// The family's name.
        family: &'a str,
        /// Number format of the weights of both.
        dtype: &'a str,
        /// A folder with `config.json` and `model.safetensors`.
        model: &'a Path,
        /// The file `config.json` of the larger model.
        config: &'a Path,
        /// The sizes of the small model.
        source: &'a ToldSizes,
        /// The sizes of the larger one.
        target: &'a ToldSizes,
        /// The safetensors file to write.
        outputs: &'a Path,
    },
    /// One operation.
    Op {
        /// Its name.
        op: &'a str,
        /// Number format of inputs and outputs.
        dtype: &'a str,
        /// Numbers and switches.
        attributes: &'a Map<String, Value>,
        /// A safetensors file.
        inputs: &'a Path,
        /// The safetensors file to write.
        outputs: &'a Path,
    },
}

/// A reply, as the program writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// The request's.
    pub id: Option<u64>,
    /// The protocol's version, in the reply to `hello`.
    pub protocol: Option<u32>,
    /// Whether the outputs have been written.
    pub ok: bool,
    /// Why the program does not do this.
    pub unsupported: Option<String>,
    /// Why the program failed.
    pub error: Option<String>,
    /// The reply to `hello`.
    #[serde(flatten)]
    pub about: Option<About>,
}
