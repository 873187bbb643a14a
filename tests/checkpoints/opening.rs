//! What is opened: places, and the configuration that belongs to them.

use crate::{config, header_of, tensors, word, write, write_index};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use lemon_check::model;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

#[test]
fn every_golden_model_is_described_without_strangers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases = 0;
    for entry in fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        // Convolutional networks are described in a way of their own.
        if path.is_dir() && !path.to_string_lossy().contains("resnet") {
            let checkpoint = Checkpoint::open(&path, None).unwrap();
            let described = model::describe(&checkpoint).unwrap_or_else(|e| panic!("{e}"));
            let strangers = described.strangers(&checkpoint);
            assert!(strangers.is_empty(), "{}: {strangers:?}", path.display());
            cases += 1;
        }
    }
    assert!(cases > 80, "{cases}");
}

#[test]
fn misaligned_numbers_are_read() {
    let folder = tempdir().unwrap();
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                     "w":{"dtype":"F64","shape":[1],"data_offsets":[1,9]}}"#;
    let data = [&[7u8][..], &1.5f64.to_le_bytes()].concat();
    let path = write(folder.path(), "m.safetensors", header, &data);
    fs::write(folder.path().join("m.json"), "{}").unwrap();
    let opened = Checkpoint::open(&path, None).unwrap();
    assert_eq!(Dtype::F64.get(opened.tensor("w").unwrap().bytes(), 0), 1.5);
}

#[test]
fn a_folder_with_one_file_of_any_name_is_opened() {
    let folder = tempdir().unwrap();
    write(folder.path(), "weights.safetensors", &header_of("w"), &[0; 8]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(Checkpoint::open(folder.path(), None).unwrap().has("w"));
}

#[test]
fn a_tensor_that_the_index_does_not_list_is_read() {
    let folder = tempdir().unwrap();
    let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},
                     "hidden":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    write(folder.path(), "a.safetensors", header, &[0; 2]);
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let index = write_index(folder.path(), r#"{"a":"a.safetensors"}"#);
    for path in [folder.path(), &index] {
        assert!(Checkpoint::open(path, None).unwrap().has("hidden"));
    }
}

#[test]
#[cfg(unix)]
fn links_out_of_the_folder_are_followed_as_in_the_hub_cache() {
    let (cache, folder) = (tempdir().unwrap(), tempdir().unwrap());
    let blob = write(cache.path(), "blob", &header_of("a"), &[0; 8]);
    std::os::unix::fs::symlink(blob, folder.path().join("a.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    write_index(folder.path(), r#"{"a":"a.safetensors"}"#);
    assert!(Checkpoint::open(folder.path(), None).unwrap().has("a"));
}

#[test]
fn configurations_are_looked_up_in_order() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    save(&file, &config("metadata"), &tensors(1), SHARD_LIMIT).unwrap();
    let put = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, format!(r#"{{"z":"{name}"}}"#)).unwrap();
        path
    };
    let explicit = put("other.json");
    let (beside, _) = (put("m.json"), put("config.json"));
    let found = |path: &Path, explicit: Option<&Path>| {
        let opened = Checkpoint::open(path, explicit).unwrap();
        (word(&opened).to_string(), opened.config().origin().display().to_string())
    };
    assert_eq!(found(&file, Some(&explicit)).0, "other.json");
    let (word, origin) = found(&file, None);
    assert_eq!(word, "metadata");
    assert!(origin.ends_with("m.safetensors (metadata `config`)"), "{origin}");
    assert_eq!(found(folder.path(), None).0, "metadata");

    write(folder.path(), "m.safetensors", &header_of("w"), &[0; 8]);
    assert_eq!(found(&file, None).0, "m.json");
    assert_eq!(found(folder.path(), None).0, "config.json");
    fs::remove_file(beside).unwrap();
    assert_eq!(found(&file, None).0, "config.json");
}

#[test]
fn an_index_has_the_configuration_of_its_stem_or_folder() {
    let folder = tempdir().unwrap();
    save(folder.path(), &config("folder"), &tensors(3), 16).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    assert_eq!(word(&Checkpoint::open(&index, None).unwrap()), "folder");
    fs::write(folder.path().join("model.json"), r#"{"z":"stem"}"#).unwrap();
    assert_eq!(word(&Checkpoint::open(&index, None).unwrap()), "stem");
}
