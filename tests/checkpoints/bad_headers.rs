//! Damaged, contradictory and hostile headers.

use crate::{folder, folder_with, header_of, refused, write};
use std::fs;
use std::path::Path;

/// Writes the header and `data` zero bytes, and expects a refusal.
#[track_caller]
fn header_refused(header: &str, data: usize, parts: &[&str]) {
    let folder = folder();
    refused(&write(folder.path(), "m.safetensors", header, &vec![0; data]), parts);
}

#[test]
fn a_header_longer_than_the_file_is_refused() {
    let folder = folder();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, b"\xff\x00\x00\x00\x00\x00\x00\x00{}").unwrap();
    refused(&path, &["should be 255 bytes long, but only 2"]);
    fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    refused(&path, &["only 2 bytes follow"]);
}

#[test]
fn a_huge_header_is_refused_before_it_is_read() {
    let folder = folder();
    let path = folder.path().join("m.safetensors");
    fs::write(&path, [&25_000_001u64.to_le_bytes()[..], b"{"].concat()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(30_000_000).unwrap();
    refused(&path, &["the header is 25000001 bytes long; at most 25000000"]);
}

#[test]
fn a_header_that_is_not_json_is_refused() {
    header_refused("{\"a\": nonsense}", 0, &["not a safetensors header", "line 1 column"]);
    header_refused("[]", 0, &["expected a JSON object of tensors"]);
    header_refused("", 0, &["not a safetensors header"]);
    header_refused(&format!("{{\"a\":{}", "[".repeat(100_000)), 0, &["not a safetensors header"]);
}

#[test]
fn text_behind_the_header_object_is_refused() {
    header_refused(&format!("{}{}", header_of("w"), "{}"), 8, &["trailing characters"]);
}

#[test]
fn a_header_that_is_not_utf8_is_refused() {
    let bytes = b"\x04\x00\x00\x00\x00\x00\x00\x00{\"\xff}";
    let folder = folder_with("m.safetensors", bytes);
    refused(&folder.path().join("m.safetensors"), &["not UTF-8"]);
}

#[test]
fn a_header_without_tensors_is_refused() {
    header_refused("{}", 0, &["holds no tensor"]);
    header_refused(r#"{"__metadata__":{"format":"pt"}}"#, 0, &["holds no tensor"]);
}

#[test]
fn duplicate_tensor_names_are_refused() {
    let one = r#""w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    header_refused(&format!("{{{one},{one}}}"), 8, &["\"w\" appears twice"]);
    // Escapes make the same name.
    let again = one.replace("\"w\"", "\"\\u0077\"");
    header_refused(&format!("{{{one},{again}}}"), 8, &["\"w\" appears twice"]);
}

#[test]
fn duplicate_metadata_is_refused() {
    let tensor = r#""w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let twice = format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{tensor}}}"#);
    header_refused(&twice, 8, &["\"__metadata__\" appears twice"]);
    let key = format!(r#"{{"__metadata__":{{"config":"a","config":"b"}},{tensor}}}"#);
    header_refused(&key, 8, &["\"config\" appears twice"]);
}

#[test]
fn metadata_that_is_not_text_is_refused() {
    header_refused(r#"{"__metadata__":{"config":{}}}"#, 0, &["expected a string"]);
}

#[test]
fn an_unknown_dtype_is_refused_by_tensor() {
    let header = header_of("w").replace("F32", "F33");
    header_refused(&header, 8, &["tensor `w`", "unknown dtype \"F33\""]);
}

#[test]
fn a_repeated_or_missing_field_is_refused_by_tensor() {
    let shape = r#""shape":[2],"#;
    header_refused(&header_of("w").replace(shape, ""), 8, &["tensor `w`", "missing field `shape`"]);
    let twice = header_of("w").replace(shape, &shape.repeat(2));
    header_refused(&twice, 8, &["tensor `w`", "duplicate field `shape`"]);
}

#[test]
fn negative_and_fractional_sizes_are_refused_by_tensor() {
    for shape in ["[-2]", "[2.5]", "[1e400]", "[18446744073709551616]", "2", "null"] {
        header_refused(&header_of("w").replace("[2]", shape), 8, &["tensor `w`"]);
    }
}

#[test]
fn a_shape_that_does_not_fit_its_bytes_is_refused() {
    let header = header_of("w").replace("[2]", "[3]");
    header_refused(&header, 8, &["tensor `w`", "0 to 8", "F32 of shape [3]"]);
}

#[test]
fn a_shape_that_overflows_is_refused() {
    let huge = u64::MAX;
    for shape in [format!("[{huge},{huge}]"), format!("[{huge}]"), format!("[{huge},2,0]")] {
        header_refused(&header_of("w").replace("[2]", &shape), 8, &["tensor `w`", "of shape"]);
    }
}

#[test]
fn a_shape_of_many_dimensions_is_refused() {
    let ones = vec!["1"; 100_000].join(",");
    let header = header_of("w").replace("[2]", &format!("[{ones}]"));
    header_refused(&header, 8, &["tensor `w`", "100000 dimensions"]);
}

#[test]
fn part_of_a_byte_is_refused() {
    let header = r#"{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}"#;
    header_refused(header, 1, &["tensor `w`", "F4 of shape [3]"]);
}

#[test]
fn offsets_outside_the_file_are_refused() {
    header_refused(&header_of("w"), 7, &["tensor `w`", "0 to 8, but the file holds 7"]);
    for offsets in [format!("[0,{}]", u64::MAX), format!("[{0},{0}]", u64::MAX)] {
        header_refused(&header_of("w").replace("[0,8]", &offsets), 8, &["tensor `w`", "holds 8"]);
    }
}

#[test]
fn offsets_in_reverse_are_refused() {
    header_refused(&header_of("w").replace("[0,8]", "[0,8,9]"), 8, &["tensor `w`"]);
    header_refused(&header_of("w").replace("[0,8]", "[8,0]"), 8, &["tensor `w`"]);
}

#[test]
fn a_gap_between_tensors_is_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                     "b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
    header_refused(header, 5, &["tensor `b`", "begin at 3", "ends at 2"]);
}

#[test]
fn overlapping_tensors_are_refused() {
    let header = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                     "b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
    header_refused(header, 3, &["tensor `b`", "begin at 1", "ends at 2"]);
}

#[test]
fn bytes_behind_the_last_tensor_are_refused() {
    header_refused(&header_of("w"), 9, &["1 bytes at the end belong to no tensor"]);
}

#[test]
fn names_that_garble_a_message_are_refused() {
    header_refused(&header_of(r"a\u001b[2J"), 8, &["cannot be the name of a tensor"]);
    header_refused(&header_of(&"a".repeat(5000)), 8, &["name is 5000 bytes long"]);
}

#[test]
fn every_truncation_of_a_golden_file_is_refused() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gpt2-lm");
    let bytes = fs::read(golden.join("model.safetensors")).unwrap();
    let folder = folder();
    let path = folder.path().join("m.safetensors");
    for length in (0..bytes.len()).step_by(997) {
        fs::write(&path, &bytes[..length]).unwrap();
        refused(&path, &[]);
    }
}
