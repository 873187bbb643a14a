//! Every number format that a safetensors file can name.

use super::Dtype;
use serde::Deserialize;
use serde::de::value::{Error as Unknown, StrDeserializer};
use std::fmt;

/// A stored number format: those that weights have, and all others, which are only carried along.
///
/// The order is that of alignment, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Format(safetensors::Dtype);

impl Format {
    /// The format that a header calls `name`; `None` if there is no such format.
    pub fn named(name: &str) -> Option<Format> {
        let name = StrDeserializer::<Unknown>::new(name);
        safetensors::Dtype::deserialize(name).ok().map(Format)
    }

    /// The format as one that weights are read in.
    pub fn dtype(self) -> Option<Dtype> {
        match self.0 {
            safetensors::Dtype::F64 => Some(Dtype::F64),
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            _ => None,
        }
    }

    /// The bytes that a tensor of `shape` takes; `None` if that is no whole number, or too large.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size))?;
        let bits = count.checked_mul(self.0.bitsize())?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

impl From<Dtype> for Format {
    fn from(dtype: Dtype) -> Format {
        Format(match dtype {
            Dtype::F64 => safetensors::Dtype::F64,
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::Bf16 => safetensors::Dtype::BF16,
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
