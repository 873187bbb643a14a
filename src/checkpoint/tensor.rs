//! A stored tensor.

use super::Dtype;
use super::format::Format;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::ops::Range;
use std::sync::Arc;

/// A stored tensor: its format, shape and bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Number format, or `None` for integers, booleans and rarer formats (FP8 …), which no model
    /// equation reads.
    pub dtype: Option<Dtype>,
    /// Shape as stored, row-major.
    pub shape: Vec<usize>,
    format: Format,
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
        Self::new(dtype.into(), shape, Bytes::Owned(Arc::new(bytes)))
    }

    /// A tensor in memory, in any format that a safetensors file can name (`F32`, `I64`, `BOOL` …).
    ///
    /// # Errors
    /// If the format is unknown, or the bytes are not as many as format and shape say.
    pub fn from_bytes(format: &str, shape: Vec<usize>, bytes: Vec<u8>) -> Result<Self> {
        let Some(format) = Format::named(format) else {
            return Err(Error::bad_input(format!("unknown dtype {format:?}")));
        };
        if format.bytes(&shape) != Some(bytes.len()) {
            let count = bytes.len();
            let problem = format!("{count} bytes do not fit {format} of shape {shape:?}");
            return Err(Error::bad_input(problem));
        }
        Ok(Self::new(format, shape, Bytes::Owned(Arc::new(bytes))))
    }

    /// A tensor in a mapped file; a checked header says where.
    pub(super) fn mapped(
        map: &Arc<Mmap>,
        format: Format,
        shape: Vec<usize>,
        range: Range<usize>,
    ) -> Self {
        Self::new(format, shape, Bytes::Mapped(map.clone(), range))
    }

    fn new(format: Format, shape: Vec<usize>, bytes: Bytes) -> Self {
        Tensor { dtype: format.dtype(), shape, format, bytes }
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

    /// Every number, in row-major order; `None` in a format that weights do not have.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        let dtype = self.dtype?;
        Some((0..self.len()).map(|index| dtype.get(self.bytes(), index)).collect())
    }

    /// A tensor of whole numbers, as `I64`.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`.
    pub fn from_integers(shape: Vec<usize>, values: impl IntoIterator<Item = i64>) -> Self {
        let bytes = values.into_iter().flat_map(i64::to_le_bytes).collect();
        Self::from_bytes("I64", shape, bytes).expect("as many values as the shape says")
    }

    /// Every number of an `I64` tensor, in row-major order; `None` in another format.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let word = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        (self.format_name() == "I64").then(|| self.bytes().chunks_exact(8).map(word).collect())
    }

    /// The stored format by its name in the file: `BF16`, `I64`, `F8_E4M3` …
    pub fn format_name(&self) -> String {
        self.format.to_string()
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }
}
