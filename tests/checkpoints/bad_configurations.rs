//! Configurations that are missing, damaged or huge.

use crate::{folder, header_of, refused, write};
use lemon_check::checkpoint::Checkpoint;
use std::fs;
use tempfile::tempdir;

#[test]
fn a_missing_configuration_lists_the_places_looked_at() {
    let folder = tempdir().unwrap();
    let path = write(folder.path(), "m.safetensors", &header_of("w"), &[0; 8]);
    refused(&path, &["m.safetensors (metadata `config`)", "m.json", "config.json"]);
    refused(folder.path(), &["found no configuration", "metadata `config`", "config.json"]);
}

#[test]
fn a_huge_configuration_is_refused() {
    let folder = folder();
    write(folder.path(), "model.safetensors", &header_of("w"), &[0; 8]);
    let config = folder.path().join("config.json");
    fs::File::options().write(true).open(config).unwrap().set_len(4_000_001).unwrap();
    refused(folder.path(), &["config.json", "the configuration is too large"]);
}

#[test]
fn a_damaged_configuration_is_refused_by_its_origin() {
    let folder = folder();
    let header = header_of("w").replacen('{', r#"{"__metadata__":{"config":"{"},"#, 1);
    let path = write(folder.path(), "m.safetensors", &header, &[0; 8]);
    refused(&path, &["m.safetensors (metadata `config`): ", "not valid JSON"]);
    fs::write(folder.path().join("m.json"), b"\xff").unwrap();
    let path = write(folder.path(), "m.safetensors", &header_of("w"), &[0; 8]);
    let message = Checkpoint::open(&path, None).unwrap_err().to_string();
    assert!(message.contains("m.json: the configuration is not UTF-8"), "{message}");
}

#[test]
fn an_explicit_configuration_that_is_missing_or_a_folder_is_refused() {
    let folder = folder();
    let path = write(folder.path(), "m.safetensors", &header_of("w"), &[0; 8]);
    for (config, part) in [("gone.json", "no such file"), ("", "not a regular file")] {
        let config = folder.path().join(config);
        let message = Checkpoint::open(&path, Some(&config)).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("configuration"), "{message}");
    }
}
