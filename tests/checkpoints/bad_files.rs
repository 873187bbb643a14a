//! Paths without weights, and files that are something else.

use crate::{folder, folder_with, header_of, refused, write};
use std::path::Path;

#[test]
fn a_missing_path_is_refused() {
    refused(&folder().path().join("nothing.safetensors"), &["no such file or folder"]);
}

#[test]
fn a_path_below_a_file_is_refused() {
    let folder = folder();
    refused(&folder.path().join("config.json/model"), &["cannot look at the path"]);
}

#[test]
#[cfg(unix)]
fn a_device_is_refused_without_reading_it() {
    refused(Path::new("/dev/zero"), &["neither a file nor a folder"]);
}

#[test]
fn a_folder_without_weights_is_refused_with_what_was_looked_for() {
    let looked = ["model.safetensors", "model.safetensors.index.json", "*.safetensors"];
    refused(folder().path(), &looked);
}

#[test]
fn a_folder_with_pytorch_weights_says_to_convert_them() {
    let folder = folder_with("pytorch_model.bin", b"PK");
    refused(folder.path(), &["convert pytorch_model.bin to safetensors"]);
}

#[test]
fn a_folder_with_two_files_and_no_index_is_refused() {
    let folder = folder();
    for name in ["a.safetensors", "b.safetensors"] {
        write(folder.path(), name, &header_of("w"), &[0; 8]);
    }
    refused(folder.path(), &["2 .safetensors files (a.safetensors, b.safetensors", "point to"]);
}

#[test]
fn an_empty_file_is_refused() {
    let folder = folder_with("m.safetensors", b"");
    refused(&folder.path().join("m.safetensors"), &["the file is empty"]);
}

#[test]
fn a_file_shorter_than_the_header_length_is_refused() {
    let folder = folder_with("m.safetensors", &[1, 0, 0]);
    refused(&folder.path().join("m.safetensors"), &["it has 3 bytes"]);
}

#[test]
fn a_pytorch_zip_says_to_convert_it() {
    let folder = folder_with("m.bin", b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl");
    refused(&folder.path().join("m.bin"), &["zip archive", "convert it to safetensors"]);
}

#[test]
fn a_pickle_says_to_convert_it() {
    let folder = folder_with("m.bin", b"\x80\x02}q\x00.");
    refused(&folder.path().join("m.bin"), &["pickle", "convert it to safetensors"]);
}

#[test]
fn other_kinds_of_weights_are_named() {
    for (bytes, name) in [(&b"\x89HDF\r\n\x1a\n........"[..], "HDF5"), (b"GGUF\x03\0\0\0.", "GGUF")]
    {
        let folder = folder_with("m.file", bytes);
        refused(&folder.path().join("m.file"), &[name]);
    }
}

#[test]
fn a_git_lfs_pointer_says_to_fetch_the_weights() {
    let text = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let folder = folder_with("model.safetensors", text);
    refused(&folder.path().join("model.safetensors"), &["Git LFS pointer", "git lfs pull"]);
}
