//! What a save leaves on the disk, above all when it fails.

use crate::{Tensors, assert_same, config, names, tensors, word};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, Tensor, save};
use std::fs;
use std::path::Path;
use tempfile::tempdir;

#[test]
fn a_folder_above_the_limit_is_split_into_shards() {
    let folder = tempdir().unwrap();
    save(folder.path(), &config("x"), &tensors(5), 16).unwrap();
    let shards: Vec<String> =
        (1..=3).map(|i| format!("model-0000{i}-of-00003.safetensors")).collect();
    let expected =
        [&["config.json".to_string()], &shards[..], &["model.safetensors.index.json".to_string()]];
    assert_eq!(names(folder.path()), expected.concat());
    assert_same(Checkpoint::open(folder.path(), None).unwrap().tensors(), &tensors(5));
    let index = fs::read_to_string(folder.path().join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], 40);
    assert_eq!(index["weight_map"]["t4"], shards[2]);
}

#[test]
fn a_folder_saved_again_keeps_nothing_of_the_old_model() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let counts_and_limits = [(5, 16), (2, SHARD_LIMIT), (7, 8), (3, 16)];
    for (count, limit) in counts_and_limits {
        save(folder.path(), &config("x"), &tensors(count), limit).unwrap();
        assert_same(Checkpoint::open(folder.path(), None).unwrap().tensors(), &tensors(count));
    }
    let expected = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn saving_twice_gives_the_same_bytes_aligned_and_readable_by_the_safetensors_crate() {
    let folder = tempdir().unwrap();
    let (one, two) = (folder.path().join("1.safetensors"), folder.path().join("2.safetensors"));
    let mut mixed = tensors(3);
    mixed.insert("a".into(), Tensor::from_bytes("BOOL", vec![3], vec![1, 0, 1]).unwrap());
    for path in [&one, &two] {
        save(path, &config("x"), &mixed, 0).unwrap();
    }
    let bytes = fs::read(&one).unwrap();
    assert_eq!(bytes, fs::read(&two).unwrap());
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.info("t0").unwrap().data_offsets.0 % 8, 0);
    let about = metadata.metadata().as_ref().unwrap();
    assert_eq!((&about["format"][..], &about["config"][..]), ("pt", r#"{"z":"x","a":1e-12}"#));
}

#[test]
fn a_saved_configuration_is_indented_and_ends_its_last_line() {
    let folder = tempdir().unwrap();
    save(folder.path(), &config("x"), &tensors(1), SHARD_LIMIT).unwrap();
    let text = fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert_eq!(text, "{\n  \"z\": \"x\",\n  \"a\": 1e-12\n}\n");
}

#[test]
#[cfg(unix)]
fn saved_files_are_as_readable_as_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    save(folder.path(), &config("x"), &tensors(1), SHARD_LIMIT).unwrap();
    let mode = |name| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    fs::write(folder.path().join("plain"), "").unwrap();
    assert_eq!(mode("model.safetensors"), mode("plain"));
}

/// Saving fails, in a message that holds `part`.
#[track_caller]
fn save_refused(path: &Path, tensors: &Tensors, limit: u64, part: &str) {
    let message = save(path, &config("new"), tensors, limit).unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
}

#[test]
fn a_save_that_fails_leaves_the_old_model_as_it_was() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let model = folder.path().join("model");
    for path in [&file, &model] {
        save(path, &config("old"), &tensors(2), SHARD_LIMIT).unwrap();
    }
    let mut bad = tensors(9);
    // Sorted last: the shards before it are written already.
    bad.insert("x\n".into(), Tensor::from_values(Dtype::F32, vec![1], [0.0]));
    for path in [&file, &model] {
        save_refused(path, &bad, 8, "cannot be the name of a tensor");
        save_refused(path, &Tensors::new(), 8, "no tensor to save");
        let opened = Checkpoint::open(path, None).unwrap();
        assert_eq!(word(&opened), "old");
        assert_same(opened.tensors(), &tensors(2));
    }
    assert_eq!(names(folder.path()), ["m.safetensors", "model"]);
    assert_eq!(names(&model), ["config.json", "model.safetensors"]);
}

#[test]
fn a_target_that_cannot_be_written_is_refused() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "text").unwrap();
    let all = tensors(1);
    save_refused(&file, &all, SHARD_LIMIT, "cannot create the folder");
    save_refused(&file.join("below"), &all, SHARD_LIMIT, "cannot create the folder");
    save_refused(&file.join("m.safetensors"), &all, SHARD_LIMIT, "cannot create a temporary file");
    let gone = folder.path().join("gone/m.safetensors");
    save_refused(&gone, &all, SHARD_LIMIT, "check that the folder exists");
    let taken = folder.path().join("taken.safetensors");
    fs::create_dir(&taken).unwrap();
    save_refused(&taken, &all, SHARD_LIMIT, "this is a folder");
    assert_eq!(fs::read_to_string(file).unwrap(), "text");
}

#[test]
fn a_folder_with_a_rival_configuration_is_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("model.json"), "{}").unwrap();
    save_refused(folder.path(), &tensors(1), SHARD_LIMIT, "would be taken for the configuration");
    assert_eq!(names(folder.path()), ["model.json"]);
}

#[test]
fn a_save_that_fails_halfway_leaves_no_readable_mixture() {
    let folder = tempdir().unwrap();
    save(folder.path(), &config("old"), &tensors(2), 8).unwrap();
    // A folder in the place of the second new shard stops the save after the first.
    let blocked = folder.path().join("model-00002-of-00003.safetensors");
    fs::create_dir(&blocked).unwrap();
    fs::write(blocked.join("file"), "").unwrap();
    save_refused(folder.path(), &tensors(3), 8, "cannot move the finished file");
    assert!(Checkpoint::open(folder.path(), None).is_err());
    let index = folder.path().join("model.safetensors.index.json");
    assert!(!index.exists() && !folder.path().join("config.json").exists());
}
