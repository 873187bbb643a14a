//! What a check says does not depend on how many threads it uses.

use assert_cmd::Command;
use serde_json::Value;

/// The exit code and the report of a check of the shipped pair, but for the time it took.
fn report(more: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    let pair = ["tests/data/source.safetensors", "tests/data/expanded.safetensors"];
    let output = command.args(pair).args(["--format", "json"]).args(more).output().unwrap();
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    report["seconds"] = Value::Null;
    (output.status.code(), report)
}

#[test]
fn the_number_of_threads_changes_nothing() {
    assert_eq!(report(&["--jobs", "1"]), report(&["--jobs", "3"]));
    assert_eq!(report(&["--jobs", "1"]), report(&[]));
    assert_eq!(report(&[]).0, Some(0));
    assert_eq!(report(&["--jobs", "0"]).0, Some(2));
}
