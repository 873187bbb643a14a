//! What the command line tool says: commands that can be run, names that cannot harm.

use assert_cmd::Command;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const BERT: &str = "tests/golden/bert-mlm";
const VIT: &str = "tests/golden/vit-hf";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.current_dir(folder).args(arguments).output().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    run_in(&root(""), arguments)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn assert_error(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A copy of one of the shipped pair, with a changed header.
fn changed(name: &str, to: &Path, change: impl Fn(&mut Value)) {
    let bytes = fs::read(root("tests/data").join(name)).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    change(&mut header);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(to, [&length[..], header.as_bytes(), &bytes[end..]].concat()).unwrap();
}

#[cfg(unix)]
#[test]
fn the_commands_of_a_witness_run_as_they_are_shown() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (name, to) in [("source", "-small"), ("broken", "it's large")] {
        changed(&format!("{name}.safetensors"), &at(to), |header| {
            let metadata = header.as_object_mut().unwrap().remove("__metadata__").unwrap();
            fs::write(at(&format!("{name}.conf")), metadata["config"].as_str().unwrap()).unwrap();
        });
    }
    let configs = ["--source-config", "source.conf", "--expanded-config", "broken.conf"];
    let models = ["--format", "json", "--", "-small", "it's large"];
    let report = run_in(folder.path(), &[&configs[..], &models].concat());
    let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
    let bin = assert_cmd::cargo::cargo_bin("lemon-check");
    let path = format!("{}:/usr/bin:/bin", bin.parent().unwrap().display());
    for command in report["witness"]["replay"].as_array().unwrap() {
        let command = command.as_str().unwrap();
        assert!(command.contains("--config "), "{command}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", command]).env("PATH", &path).current_dir(folder.path());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
    }
}

#[test]
fn names_from_files_cannot_steer_the_terminal() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wild.safetensors");
    changed("expanded.safetensors", &file, |header| {
        let config = json!({"model_type": "\u{1b}]0;x\u{7}\u{202e}"}).to_string();
        header["__metadata__"]["config"] = config.into();
    });
    let output = run(&["tests/data/source.safetensors", file.to_str().unwrap()]);
    assert_error(&output, 3, &[r"\u{1b}]0;x\u{7}\u{202e}"]);
    changed("expanded.safetensors", &file, |header| {
        header["a\u{1b}[2Jb"] = json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    });
    let output = run(&["tests/data/source.safetensors", file.to_str().unwrap()]);
    let all = stdout(&output) + &stderr(&output);
    assert!(all.contains(r"a\u{1b}[2Jb") && !all.contains('\u{1b}'), "{all:?}");
}

#[test]
fn names_that_a_wrapper_changed_are_explained() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("wrapped.safetensors");
    for wrapper in ["module.", "_orig_mod."] {
        changed("expanded.safetensors", &file, |header| {
            let tensors = std::mem::take(header.as_object_mut().unwrap());
            let renamed = |name: String| match name.starts_with("__") {
                true => name,
                false => format!("{wrapper}{name}"),
            };
            *header = tensors.into_iter().map(|(name, entry)| (renamed(name), entry)).collect();
        });
        let output = run(&["tests/data/source.safetensors", file.to_str().unwrap()]);
        let begins = format!("begin with `{wrapper}`");
        assert_error(&output, 4, &["wrapped.safetensors: ", "`transformer.wte.weight`", &begins]);
    }
}

#[test]
fn the_verdict_line_says_that_strict_failed() {
    let folder = TempDir::new().unwrap();
    let report = folder.path().join("report");
    let pair = ["tests/data/source.safetensors", "tests/data/expanded.safetensors"];
    let output = ["--output", report.to_str().unwrap()];
    assert!(!stdout(&run(&[&pair[..], &output].concat())).contains("strict"));
    let output = run(&[&pair[..], &output, &["--strict"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("--strict: failed"), "{}", stdout(&output));
}

#[test]
fn a_model_is_asked_for_the_kind_of_input_that_it_reads() {
    assert_error(&run(&["logits", VIT]), 2, &[VIT, "--pixels"]);
    assert_error(&run(&["logits", BERT]), 2, &[BERT, "--input-ids"]);
    for flag in ["--attention-mask", "--token-type-ids", "--position-ids"] {
        let output = run(&["logits", VIT, "--pixels", "random:0", flag, "1"]);
        assert_error(&output, 2, &[flag, "--pixels"]);
    }
    assert_error(&run(&["logits", VIT, "--input-ids", "1"]), 4, &[VIT, "reads images"]);
    assert_error(&run(&["logits", BERT, "--input-ids", "99999"]), 4, &[BERT, "99999"]);
}

#[test]
fn a_change_of_the_number_format_is_said() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("half.safetensors");
    let source = "tests/data/source.safetensors";
    let expand = ["expand", source, out.to_str().unwrap()];
    let output = run(&[&expand[..], &["--dtype", "bf16"]].concat());
    assert!(stdout(&output).contains("half.safetensors: float32 → bfloat16\n"));
    assert!(stdout(&run(&expand)).contains("nothing changed"));
}
