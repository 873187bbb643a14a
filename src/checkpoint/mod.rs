//! Weights at rest: named tensors and the configuration that belongs to them.
//!
//! A [`Checkpoint`] is a set of named tensors in memory-mapped files or in memory, with its
//! [`Config`]. It knows bytes, shapes and number formats; what the tensors mean is the business of
//! [`crate::model`].

mod config;
mod dtype;

pub use config::Config;
pub use dtype::Dtype;

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Named tensors with their configuration.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    tensors: BTreeMap<String, Tensor>,
}

/// A stored tensor: its format, shape and bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Number format, or `None` for integers and booleans, which no model equation reads.
    pub dtype: Option<Dtype>,
    /// Shape as stored, row-major.
    pub shape: Vec<usize>,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Tensor {
    /// A tensor in memory: `values` in row-major order, each rounded to `dtype`.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`.
    pub fn from_values(
        dtype: Dtype,
        shape: Vec<usize>,
        values: impl IntoIterator<Item = f64>,
    ) -> Self {
        let count = shape.iter().product::<usize>();
        let mut bytes = Vec::with_capacity(count * dtype.size());
        for value in values {
            dtype.put(&mut bytes, value);
        }
        assert_eq!(bytes.len(), count * dtype.size(), "as many values as the shape {shape:?} says");
        Tensor { dtype: Some(dtype), shape, bytes: Bytes::Owned(Arc::new(bytes)) }
    }

    /// The raw bytes, little-endian, row-major, of any alignment.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map, range) => &map[range.clone()],
        }
    }

    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
