//! Writing the safetensors format.

use super::Tensor;
use super::header::{HEADER_LIMIT, METADATA, PREFIX, check_name};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::io::{self, Write};

/// The tensors of one file, in the order in which they are stored, with their header.
pub(super) struct Weights<'a> {
    header: Vec<u8>,
    tensors: Vec<&'a Tensor>,
}

impl<'a> Weights<'a> {
    /// Lays the tensors out: largest number format first and then by name, so that every number is
    /// aligned. The same tensors and metadata always give the same bytes.
    ///
    /// # Errors
    /// If a name cannot be stored, or the header would be longer than is read.
    pub fn new(
        tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
        metadata: &[(&str, String)],
    ) -> Result<Self> {
        let mut tensors: Vec<(&str, &Tensor)> = tensors.into_iter().collect();
        tensors.sort_by_key(|(name, tensor)| (Reverse(tensor.format()), *name));
        let mut header = Map::new();
        let about: Map<String, Value> =
            metadata.iter().map(|(key, text)| (key.to_string(), text.as_str().into())).collect();
        header.insert(METADATA.into(), about.into());
        let mut end = 0;
        for (name, tensor) in &tensors {
            check_name(name).map_err(|e| Error::bad_input(e).help("rename the tensor"))?;
            let start = end;
            end += tensor.bytes().len();
            let info = json!({
                "dtype": tensor.format_name(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            });
            header.insert(name.to_string(), info);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(PREFIX), b' ');
        if header.len() > HEADER_LIMIT {
            let length = header.len();
            return Err(Error::bad_input(format!(
                "the header would be {length} bytes long; at most {HEADER_LIMIT} are read"
            ))
            .help("save to a folder, in shards"));
        }
        Ok(Weights { header, tensors: tensors.into_iter().map(|(_, tensor)| tensor).collect() })
    }

    /// Writes the file, tensor after tensor, without a copy of them.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|tensor| out.write_all(tensor.bytes()))
    }
}
