//! Checkpoints: good ones survive being saved and opened; of damaged, contradictory and hostile
//! ones each is one clear error, never a panic.

mod bad_configurations;
mod bad_files;
mod bad_headers;
mod bad_indexes;
mod opening;
mod round_trips;
mod saving;

use lemon_check::Class;
use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};

/// A header of one F32 tensor `name` of two numbers.
fn header_of(name: &str) -> String {
    format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#)
}

/// Writes a safetensors file by hand: the header as given, then the data.
fn write(folder: &Path, name: &str, header: &str, data: &[u8]) -> PathBuf {
    let length = (header.len() as u64).to_le_bytes();
    let path = folder.join(name);
    fs::write(&path, [&length, header.as_bytes(), data].concat()).unwrap();
    path
}

/// Writes an index whose `weight_map` is this JSON.
fn write_index(folder: &Path, weight_map: &str) -> PathBuf {
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, format!(r#"{{"metadata":{{}},"weight_map":{weight_map}}}"#)).unwrap();
    path
}

/// A new folder with a configuration.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    folder
}

/// A new folder with one file `name` of these bytes.
fn folder_with(name: &str, bytes: &[u8]) -> TempDir {
    let folder = folder();
    fs::write(folder.path().join(name), bytes).unwrap();
    folder
}

/// Opening `path` fails as bad input, in a message that names the path and holds all `parts`.
#[track_caller]
fn refused(path: &Path, parts: &[&str]) {
    let error = Checkpoint::open(path, None).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.class(), Class::BadInput, "{message}");
    let name = path.file_name().unwrap().to_str().unwrap();
    for part in parts.iter().chain(&[name, "help: "]) {
        assert!(message.contains(part), "expected {part:?} in: {message}");
    }
    assert!(message.len() < 1000, "{message}");
}

type Tensors = BTreeMap<String, Tensor>;

fn config(word: &str) -> Config {
    Config::parse(Path::new("test"), &format!(r#"{{"z": "{word}", "a": 1e-12}}"#)).unwrap()
}

/// The word in the configuration that was found.
fn word(checkpoint: &Checkpoint) -> &str {
    checkpoint.config().word_or("z", "none").unwrap()
}

/// `count` tensors of 8 bytes each.
fn tensors(count: usize) -> Tensors {
    let tensor = |i: usize| Tensor::from_values(Dtype::F64, vec![1], [i as f64]);
    (0..count).map(|i| (format!("t{i}"), tensor(i))).collect()
}

#[track_caller]
fn assert_same(found: &Tensors, expected: &Tensors) {
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    for (name, tensor) in expected {
        assert_eq!(found[name].bytes(), tensor.bytes(), "{name}");
        assert_eq!(found[name].shape, tensor.shape, "{name}");
        assert_eq!(found[name].dtype, tensor.dtype, "{name}");
        assert_eq!(found[name].format_name(), tensor.format_name(), "{name}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
