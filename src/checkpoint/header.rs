//! The header of a safetensors file: which tensor lies where.
//!
//! A file is eight bytes that say how long the header is, the header (JSON), and the numbers. See
//! <https://huggingface.co/docs/safetensors>. The reader is stricter than others: it refuses
//! duplicate names, and names the tensor in every error.

use super::format::Format;
use super::unique::{Unique, insert};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The longest header that is read, in bytes: that of some 200 000 tensors.
pub(super) const HEADER_LIMIT: usize = 25_000_000;
/// More tensors than any model has, in all of its files.
pub(super) const TENSORS_LIMIT: usize = 1 << 18;
/// Bytes before the header, which say how long it is.
pub(super) const PREFIX: usize = 8;
/// The name in a header that is no tensor's.
pub(super) const METADATA: &str = "__metadata__";
/// More dimensions than any tensor has.
const RANK_LIMIT: usize = 64;
/// A longer name than any tensor has, in bytes.
const NAME_LIMIT: usize = 1024;

const DAMAGED: &str = "the file is damaged or was not written completely; fetch or save it again";

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    /// Free text by name.
    pub metadata: BTreeMap<String, String>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<Entry>,
}

/// One tensor of a header.
#[derive(Debug)]
pub(super) struct Entry {
    pub name: String,
    pub format: Format,
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<usize>,
}

impl Header {
    /// Reads the header of a whole `file`, and checks that its tensors fill the file without a gap.
    ///
    /// # Errors
    /// If it is not a safetensors file, is damaged, or names a tensor twice.
    pub fn read(file: &[u8]) -> Result<Header> {
        let raw: Raw = serde_json::from_str(text(file)?)
            .map_err(|e| damaged(format!("the header is not a safetensors header: {e}")))?;
        let start = PREFIX + length(file).unwrap_or(0) as usize;
        let mut infos: Vec<(String, Info)> = raw.tensors.into_iter().collect();
        infos.sort_by_key(|(_, info)| info.data_offsets);
        let mut end = start;
        let mut tensors = Vec::with_capacity(infos.len());
        for (name, info) in infos {
            let range = place(&info, start, end, file.len()).map_err(|e| e.tensor(&name))?;
            end = range.end;
            let format = info.format;
            tensors.push(Entry { name, format, shape: info.shape, range });
        }
        if end != file.len() {
            let rest = file.len() - end;
            return Err(damaged(format!("{rest} bytes at the end belong to no tensor")));
        }
        Ok(Header { metadata: raw.metadata, tensors })
    }
}

/// Checks that a tensor can have this name, and can be shown in a message.
///
/// # Errors
/// If the name is very long, has control characters, or is the one that headers reserve.
pub(super) fn check_name(name: &str) -> std::result::Result<(), String> {
    if name.len() > NAME_LIMIT {
        Err(format!("a tensor's name is {} bytes long; at most {NAME_LIMIT} are read", name.len()))
    } else if name == METADATA || name.chars().any(char::is_control) {
        Err(format!("{name:?} cannot be the name of a tensor"))
    } else {
        Ok(())
    }
}

fn damaged(problem: impl Into<String>) -> Error {
    Error::bad_input(problem).help(DAMAGED)
}

/// The length of the header, in bytes, as the file says it.
fn length(file: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*file.first_chunk::<PREFIX>()?))
}

/// The header's text.
fn text(file: &[u8]) -> Result<&str> {
    if file.get(PREFIX) != Some(&b'{') {
        foreign(file)?;
    }
    let Some(length) = length(file) else {
        return Err(damaged(format!(
            "it has {} bytes; a safetensors file begins with the length of its header (8 bytes)",
            file.len()
        )));
    };
    let rest = &file[PREFIX..];
    if length > rest.len() as u64 {
        return Err(damaged(format!(
            "the header should be {length} bytes long, but only {} bytes follow",
            rest.len()
        )));
    }
    if length > HEADER_LIMIT as u64 {
        return Err(Error::bad_input(format!(
            "the header is {length} bytes long; at most {HEADER_LIMIT} are read"
        ))
        .help("split the tensors over several files with a model.safetensors.index.json"));
    }
    std::str::from_utf8(&rest[..length as usize])
        .map_err(|e| damaged(format!("the header is not UTF-8 text: {e}")))
}

/// Refuses files of other kinds by their first bytes.
fn foreign(file: &[u8]) -> Result<()> {
    let convert = "convert it to safetensors; in Python: \
                   safetensors.torch.save_file(torch.load(FILE, weights_only=True), \
                   'model.safetensors')";
    let (kind, advice) = match file {
        [] => ("is empty", DAMAGED),
        [b'P', b'K', 3, 4, ..] => ("is a zip archive (PyTorch .bin or .pt?)", convert),
        [0x80, 2..=5, ..] => ("is a Python pickle (PyTorch .bin or .pt?)", convert),
        [0x89, b'H', b'D', b'F', ..] => ("is an HDF5 file", "convert it to safetensors"),
        [b'G', b'G', b'U', b'F', ..] => ("is a GGUF file", "convert it to safetensors"),
        _ if file.starts_with(b"version https://git-lfs") => {
            ("is a Git LFS pointer, not the weights themselves", "fetch them with `git lfs pull`")
        }
        _ => return Ok(()),
    };
    Err(Error::bad_input(format!("the file {kind}; expected a safetensors file")).help(advice))
}

/// Where in the file the tensor lies, which must be right behind `end`, the end of the one before.
fn place(info: &Info, start: usize, end: usize, file_size: usize) -> Result<Range<usize>> {
    let (first, last) = info.data_offsets;
    let shift = |offset: usize| {
        offset.checked_add(start).filter(|at| *at <= file_size).ok_or_else(|| {
            damaged(format!(
                "its bytes are said to be {first} to {last}, but the file holds {}",
                file_size - start
            ))
        })
    };
    let range = shift(first)?..shift(last)?;
    if range.start != end {
        return Err(damaged(format!(
            "its bytes begin at {first}, but the tensor before it ends at {}",
            end - start
        )));
    }
    if info.shape.len() > RANK_LIMIT {
        let rank = info.shape.len();
        return Err(damaged(format!("it has {rank} dimensions; at most {RANK_LIMIT} are read")));
    }
    let stored = last.checked_sub(first);
    if stored.is_none() || stored != info.format.bytes(&info.shape) {
        return Err(damaged(format!(
            "its bytes are said to be {first} to {last}, which does not fit {} of shape {:?}",
            info.format, info.shape
        )));
    }
    Ok(range)
}

/// A header as written, its names unique.
struct Raw {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Info>,
}

/// What a header says about a tensor.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "dtype", deserialize_with = "format")]
    format: Format,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

fn format<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Format, D::Error> {
    let name = String::deserialize(deserializer)?;
    Format::named(&name).ok_or_else(|| D::Error::custom(format!("unknown dtype {name:?}")))
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(RawReader)
    }
}

struct RawReader;

impl<'de> Visitor<'de> for RawReader {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Raw, A::Error> {
        let mut metadata: Option<Option<Unique<String>>> = None;
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == METADATA {
                if metadata.replace(map.next_value()?).is_some() {
                    return Err(A::Error::custom(format!("the name {METADATA:?} appears twice")));
                }
                continue;
            }
            check_name(&name).map_err(A::Error::custom)?;
            let info: Info =
                map.next_value().map_err(|e| A::Error::custom(format!("tensor `{name}`: {e}")))?;
            insert(&mut tensors, name, info)?;
            if tensors.len() > TENSORS_LIMIT {
                return Err(A::Error::custom(format!(
                    "it names more than {TENSORS_LIMIT} tensors"
                )));
            }
        }
        let metadata = metadata.flatten().map(|m| m.0).unwrap_or_default();
        Ok(Raw { metadata, tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &vec![0; data]].concat()
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"I64","shape":[],"data_offsets":[24,32]},
        "c":{"dtype":"BF16","shape":[0],"data_offsets":[32,32]},
        "d":{"dtype":"F4","shape":[6],"data_offsets":[32,35]}}"#;

    #[test]
    fn a_good_header_is_read_with_places_in_the_file() {
        let bytes = file(GOOD, 35);
        let header = Header::read(&bytes).unwrap();
        let start = 8 + GOOD.len();
        let places: Vec<_> =
            header.tensors.iter().map(|t| (&t.name[..], t.range.clone())).collect();
        let expected = [(0, 24), (24, 32), (32, 32), (32, 35)];
        let expected: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .zip(expected.map(|(first, last)| start + first..start + last))
            .collect();
        assert_eq!(places, expected);
        assert_eq!(header.metadata["format"], "pt");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = file(GOOD, 35);
        for length in 0..bytes.len() {
            assert!(Header::read(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The safetensors crate judges: we may refuse more than it does, never less.
        #[test]
        fn what_the_safetensors_crate_refuses_is_refused(
            edits in prop::collection::vec(
                (any::<prop::sample::Index>(), "[0-9,:\"\\[\\]{}a-dF]"), 1..4
            ),
        ) {
            let mut header = GOOD.as_bytes().to_vec();
            for (at, new) in edits {
                let at = at.index(header.len());
                header[at] = new.as_bytes()[0];
            }
            let bytes = file(std::str::from_utf8(&header).unwrap(), 35);
            if let Ok(ours) = Header::read(&bytes) {
                let theirs = SafeTensors::deserialize(&bytes);
                prop_assert!(theirs.is_ok(), "{:?}", theirs.err());
                let theirs = theirs.unwrap();
                prop_assert_eq!(ours.tensors.len(), theirs.len());
                for tensor in ours.tensors {
                    let view = theirs.tensor(&tensor.name).unwrap();
                    prop_assert_eq!(view.shape(), &tensor.shape[..]);
                    prop_assert_eq!(view.data(), &bytes[tensor.range]);
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::read(&bytes);
        }
    }
}
