//! A check without a search for a witness.

use assert_cmd::Command;
use serde_json::Value;

const SOURCE: &str = "tests/data/source.safetensors";

fn check(expanded: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    let output = command.args([SOURCE, expanded]).args(more).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn report(expanded: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = check(expanded, &[&["--format", "json"], more].concat());
    (code, serde_json::from_str(&text).unwrap())
}

#[test]
fn equations_alone_blame_the_same_but_refute_nothing() {
    let broken = "tests/data/broken.safetensors";
    let (found, with) = report(broken, &[]);
    let (not_found, without) = report(broken, &["--witness", "none"]);
    assert_eq!((found, not_found), (Some(1), Some(3)));
    assert_eq!((&without["verdict"], &without["witness"]), (&"undecided".into(), &Value::Null));
    assert_eq!(without["inputs_tried"], 0);
    assert_eq!(without["failures"], with["failures"]);
    let (_, text) = check(broken, &["--witness", "none"]);
    assert!(text.contains("no input was tried"), "{text}");
}

#[test]
fn a_proof_needs_no_witness() {
    let expanded = "tests/data/expanded.safetensors";
    let (code, report) = report(expanded, &["--witness", "none"]);
    assert_eq!((code, &report["verdict"]), (Some(0), &"lossless".into()));
}
