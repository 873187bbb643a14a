//! No command destroys what it reads, or what it was not asked to replace.

use assert_cmd::Command;
use std::fs;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

const WIDER: [&str; 4] = ["--hidden-size", "16", "--num-attention-heads", "4"];

fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.current_dir(folder.path()).args(arguments).output().unwrap()
}

fn expand(folder: &TempDir, source: &str, out: &str) -> Output {
    run(folder, &[&["expand", source, out], &WIDER[..]].concat())
}

/// A folder with `model/`, and `other.safetensors`.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("model")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let from = root("tests/golden/gpt2-lm").join(name);
        fs::copy(from, folder.path().join("model").join(name)).unwrap();
    }
    let source = root("tests/data/source.safetensors");
    fs::copy(source, folder.path().join("other.safetensors")).unwrap();
    folder
}

/// The names and bytes of the model.
fn content(folder: &TempDir) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.path().join("model")).unwrap().map(|entry| entry.unwrap());
    let mut all: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .collect();
    all.sort();
    all
}

#[track_caller]
fn assert_refused(output: &Output, part: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains(part) && message.contains("help: "), "{message}");
}

#[test]
fn a_model_is_not_expanded_onto_itself() {
    let folder = folder();
    let before = content(&folder);
    for (source, out) in [
        ("model", "model"),
        ("model", "./model/../model/"),
        ("model", "new/../model"),
        ("model", "model/model.safetensors"),
        ("model", "model/other.safetensors"),
        ("model/model.safetensors", "model"),
        ("model/model.safetensors", "model/model.safetensors"),
        ("other.safetensors", "."),
        ("other.safetensors", "model/../other.safetensors"),
    ] {
        assert_refused(&expand(&folder, source, out), "holds the source");
        assert_eq!(content(&folder), before, "{source} {out}");
    }
    assert!(expand(&folder, "model", "model/larger").status.success());
}

#[cfg(unix)]
#[test]
fn links_do_not_hide_the_source() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    symlink("model", folder.path().join("link")).unwrap();
    symlink("model/model.safetensors", folder.path().join("link.safetensors")).unwrap();
    for (source, out) in [
        ("model", "link"),
        ("link", "model"),
        ("link/model.safetensors", "model"),
        ("model", "link.safetensors"),
        ("link.safetensors", "model"),
        ("link.safetensors", "link/model.safetensors"),
    ] {
        assert_refused(&expand(&folder, source, out), "holds the source");
    }
}

#[test]
fn a_folder_that_holds_another_model_is_not_replaced_but_a_file_is() {
    let folder = folder();
    let before = content(&folder);
    assert_refused(&expand(&folder, "other.safetensors", "model"), "holds a model already");
    assert_eq!(content(&folder), before);
    fs::create_dir(folder.path().join("shards")).unwrap();
    fs::write(folder.path().join("shards/model-00001-of-00002.safetensors"), "").unwrap();
    let output = expand(&folder, "other.safetensors", "shards");
    assert_refused(&output, "choose another folder, or remove this one");
    let index = "shards/model.safetensors.index.json";
    fs::write(folder.path().join(index), "{}").unwrap();
    let output = expand(&folder, index, "shards/model-00001-of-00002.safetensors");
    assert_refused(&output, "holds the source");
    for _ in 0..2 {
        assert!(expand(&folder, "model", "large.safetensors").status.success());
    }
}

#[test]
fn a_report_does_not_replace_an_input() {
    let folder = folder();
    let before = content(&folder);
    for report in ["model/config.json", "model/model.safetensors", "model/new", "model/../model"] {
        for format in ["text", "json"] {
            let arguments = ["model", "model", "--format", format, "--output", report];
            let output = run(&folder, &arguments);
            assert_eq!(output.status.code(), Some(2), "{report}");
            assert_eq!(content(&folder), before, "{report}");
        }
    }
    let weights = "model/model.safetensors";
    for report in ["model/config.json", "model/model.json", weights] {
        assert_refused(&run(&folder, &[weights, weights, "--output", report]), "an input");
    }
    assert!(run(&folder, &[weights, weights, "--output", "model/report"]).status.success());
}

#[cfg(unix)]
#[test]
fn a_report_does_not_replace_a_device_or_a_pipe() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = folder();
    symlink("/dev/null", folder.path().join("null")).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for report in ["/dev/null", "null", "pipe", "."] {
        let output = run(&folder, &["model", "model", "--output", report]);
        assert_refused(&output, "no regular file");
    }
    assert!(pipe.metadata().unwrap().file_type().is_fifo());
}
