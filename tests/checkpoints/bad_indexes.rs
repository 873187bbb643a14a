//! Indexes that contradict their shards, or point elsewhere.

use crate::{folder, header_of, refused, write, write_index};
use lemon_check::checkpoint::Checkpoint;
use std::fs;
use tempfile::TempDir;

/// A folder with two shards, `a.safetensors` with tensor `a`, and `b.safetensors` with `b`.
fn shards() -> TempDir {
    let folder = folder();
    for name in ["a", "b"] {
        write(folder.path(), &format!("{name}.safetensors"), &header_of(name), &[0; 8]);
    }
    folder
}

#[track_caller]
fn index_refused(weight_map: &str, parts: &[&str]) {
    let folder = shards();
    refused(&write_index(folder.path(), weight_map), parts);
}

#[test]
fn an_index_that_leaves_its_folder_is_refused() {
    let outside = shards();
    let absolute = outside.path().join("a.safetensors");
    let names =
        ["../a.safetensors", "x/../a.safetensors", "./a.safetensors", "..", "", r"..\\a", "c:a"];
    for name in names.iter().copied().chain(absolute.to_str()) {
        index_refused(
            &format!(r#"{{"a":"{name}"}}"#),
            &["tensor `a`", "not a plain file name", "beside the index"],
        );
    }
}

#[test]
fn a_missing_shard_is_refused() {
    index_refused(r#"{"a":"a.safetensors","c":"c.safetensors"}"#, &["c.safetensors is missing"]);
}

#[test]
fn a_listed_tensor_that_its_shard_does_not_hold_is_refused() {
    index_refused(
        r#"{"a":"a.safetensors","c":"b.safetensors"}"#,
        &["tensor `c`", "listed in b.safetensors, which does not hold it"],
    );
}

#[test]
fn a_tensor_in_another_shard_than_listed_is_refused() {
    index_refused(
        r#"{"a":"b.safetensors","b":"a.safetensors"}"#,
        &["tensor `a`", "listed in b.safetensors, but stored in", "a.safetensors"],
    );
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let folder = shards();
    write(folder.path(), "b.safetensors", &header_of("a"), &[0; 8]);
    write_index(folder.path(), r#"{"a":"a.safetensors","b":"b.safetensors"}"#);
    let message = Checkpoint::open(folder.path(), None).unwrap_err().to_string();
    for part in ["b.safetensors: tensor `a`: it is stored in", "a.safetensors too"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn duplicate_names_in_an_index_are_refused() {
    let map = r#"{"a":"a.safetensors","a":"b.safetensors"}"#;
    index_refused(map, &["\"a\" appears twice"]);
}

#[test]
fn an_index_without_a_weight_map_is_refused() {
    let folder = folder();
    refused(&folder.path().join("config.json"), &["missing field `weight_map`", "point to it"]);
    index_refused("{}", &["`weight_map` names no tensor"]);
    index_refused(r#"{"a":1}"#, &["not an index"]);
    index_refused("nonsense", &["not an index"]);
}

#[test]
fn a_huge_index_is_refused() {
    let folder = shards();
    let path = write_index(folder.path(), "{}");
    fs::File::options().write(true).open(&path).unwrap().set_len(25_000_001).unwrap();
    refused(&path, &["the index is too large; at most 25000000"]);
}

#[test]
fn a_damaged_shard_is_refused_by_its_name() {
    let folder = shards();
    write(folder.path(), "b.safetensors", &header_of("b"), &[0; 7]);
    write_index(folder.path(), r#"{"a":"a.safetensors","b":"b.safetensors"}"#);
    let message = Checkpoint::open(folder.path(), None).unwrap_err().to_string();
    assert!(message.contains("b.safetensors: tensor `b`"), "{message}");
}
