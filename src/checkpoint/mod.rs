//! Weights at rest: named tensors and the configuration that belongs to them.
//!
//! A [`Checkpoint`] is a set of named tensors in memory-mapped files or in memory, with its
//! [`Config`]. It knows bytes, shapes and number formats; what the tensors mean is the business of
//! [`crate::model`].

mod config;
mod draft;
mod dtype;
mod file;
mod format;
mod header;
mod index;
mod lookup;
mod numbers;
mod open;
mod place;
mod save;
mod tensor;
mod unique;
mod weights;

pub use config::Config;
pub use dtype::Dtype;
pub use open::{parse_tensors, read_tensors};
pub use save::{SHARD_LIMIT, save, to_bytes};
pub use tensor::Tensor;

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors with their configuration.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// A checkpoint in memory; `path` is the name it goes by in messages.
    pub fn in_memory(
        path: impl Into<PathBuf>,
        config: Config,
        tensors: BTreeMap<String, Tensor>,
    ) -> Self {
        Checkpoint { path: path.into(), config, tensors }
    }

    /// The file or folder it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// Whether a tensor of this name is stored.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            Error::bad_input("the tensor is missing").at(&self.path).tensor(name).help(
                "compare the tensor names with the configuration: `model_type`, the number of \
                 layers, tied or untied head",
            )
        })
    }
}
