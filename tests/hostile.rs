//! Files that are large on purpose are refused in little time and memory.
//!
//! Each runs the program under the limits of the operating system: two seconds of processor time,
//! of all threads together, and 1 GiB of address space, mapped files included.
#![cfg(target_os = "linux")]

use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use tempfile::{TempDir, tempdir};

const LIMITS: &str = "ulimit -t 2; ulimit -v 1048576; exec \"$@\"";

/// What the program says of a model, held against itself.
fn check(model: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("sh");
    command.args(["-c", LIMITS, "sh", env!("CARGO_BIN_EXE_lemon-check")]);
    let ended = command.args([model, model]).env("RUST_BACKTRACE", "0").output().unwrap();
    (ended.status.code(), String::from_utf8(ended.stderr).unwrap())
}

/// The program ends as with bad input, in a message that holds `part`.
#[track_caller]
fn refused(folder: &TempDir, part: &str) {
    let (code, message) = check(folder.path());
    assert_eq!(code, Some(4), "{message}");
    assert!(message.contains(part), "{message}");
    assert!(message.len() < 1000, "{} bytes of message", message.len());
}

/// A folder with the configuration of a GPT-2.
fn folder() -> TempDir {
    let folder = tempdir().unwrap();
    fs::copy("tests/golden/gpt2-lm/config.json", folder.path().join("config.json")).unwrap();
    folder
}

fn with_header(folder: &Path, name: &str, header: &str) {
    let length = (header.len() as u64).to_le_bytes();
    fs::write(folder.join(name), [&length, header.as_bytes()].concat()).unwrap();
}

/// A header of `count` tensors without numbers.
fn tensors(prefix: &str, count: usize) -> String {
    let mut header = String::from("{");
    for index in 0..count {
        let comma = if index > 0 { "," } else { "" };
        let info = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        write!(header, "{comma}\"{prefix}{index:x}\":{info}").unwrap();
    }
    header + "}"
}

#[test]
fn a_header_of_100_megabytes() {
    let folder = folder();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, [&100_000_000u64.to_le_bytes()[..], b"{"].concat()).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(100_000_008).unwrap();
    refused(&folder, "the header is 100000000 bytes long");
}

#[test]
fn half_a_million_tensors_in_one_file() {
    let folder = folder();
    with_header(folder.path(), "model.safetensors", &tensors("", 500_000));
    refused(&folder, "bytes long; at most");
}

#[test]
fn as_many_tensors_as_a_header_holds() {
    let folder = folder();
    with_header(folder.path(), "model.safetensors", &tensors("", 430_000));
    refused(&folder, "it names more than 262144 tensors");
}

#[test]
fn half_a_million_tensors_in_two_files() {
    let folder = folder();
    for file in ["a", "b"] {
        with_header(folder.path(), &format!("{file}.safetensors"), &tensors(file, 250_000));
    }
    let index = json!({"weight_map": {"a0": "a.safetensors", "b0": "b.safetensors"}});
    let path = folder.path().join("model.safetensors.index.json");
    fs::write(path, serde_json::to_vec(&index).unwrap()).unwrap();
    refused(&folder, "there are more than 262144 tensors");
}

#[test]
fn a_shape_of_twelve_million_dimensions() {
    let folder = folder();
    let shape = "0,".repeat(12_000_000);
    let header = format!(r#"{{"a":{{"dtype":"U8","shape":[{shape}0],"data_offsets":[0,0]}}}}"#);
    with_header(folder.path(), "model.safetensors", &header);
    refused(&folder, "dimensions; at most 64");
}

#[test]
fn metadata_of_two_million_entries() {
    let folder = folder();
    let entries: Vec<String> = (0..2_000_000).map(|index| format!(r#""{index:x}":"""#)).collect();
    let header = format!(r#"{{"__metadata__":{{{}}}}}"#, entries.join(","));
    with_header(folder.path(), "model.safetensors", &header);
    refused(&folder, "holds no tensor");
}

#[test]
fn an_index_of_a_million_files() {
    let folder = folder();
    let entries: Vec<String> =
        (0..1_200_000).map(|index| format!(r#""{index:x}":"{index:x}""#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","));
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    refused(&folder, "the shard 0 is missing");
}

/// As large as configurations are read, in what takes most memory as JSON values.
#[test]
fn a_configuration_of_a_million_sections() {
    let folder = folder();
    let golden = "tests/golden/gpt2-lm/model.safetensors";
    fs::copy(golden, folder.path().join("model.safetensors")).unwrap();
    let config = format!(r#"{{"model_type":"gpt2","a":[{}0]}}"#, r#"{"":{}},"#.repeat(490_000));
    fs::write(folder.path().join("config.json"), config).unwrap();
    refused(&folder, "`n_embd`: the field is missing");
}

/// A model of the tests with another value in one field.
fn changed(model: &Path, field: &str, value: Value) -> TempDir {
    let folder = tempdir().unwrap();
    let weights = "model.safetensors";
    fs::copy(model.join(weights), folder.path().join(weights)).unwrap();
    let mut config = config(model);
    config.insert(field.into(), value);
    fs::write(folder.path().join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    folder
}

fn config(model: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap()
}

#[test]
fn ten_thousand_layers() {
    let folder = changed("tests/golden/gpt2-lm".as_ref(), "n_layer", 10_000.into());
    refused(&folder, "at most 4096 layers, got 10000");
    let folder = changed("tests/golden/gpt2-lm".as_ref(), "n_layer", 4096.into());
    refused(&folder, "the tensor is missing");
}

/// Whatever a configuration says, the program ends within the limits, with a verdict or an error.
#[test]
fn a_huge_number_in_any_field_of_any_model() {
    let mut tried = 0;
    let mut models: Vec<_> =
        fs::read_dir("tests/golden").unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|model| model.join("model.safetensors").exists());
    models.sort();
    // A model of each family says what there is to say.
    models.dedup_by_key(|model| config(model).get("model_type").cloned());
    for model in models {
        for (field, value) in config(&model) {
            if !value.is_u64() {
                continue;
            }
            for size in [10_000, 1 << 24, u64::MAX] {
                let folder = changed(&model, &field, size.into());
                let (code, message) = check(folder.path());
                let shown = format!("{}, `{field}` = {size}: {message}", model.display());
                assert!(code.is_some_and(|code| code <= 4), "{shown}");
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "only {tried} fields");
}
