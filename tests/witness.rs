//! The inputs that show a difference, and by what factor; and a check without a search for them.

use assert_cmd::Command;
use lemon_check::check::check;
use lemon_check::checkpoint::Checkpoint;
use lemon_check::model::{Step, describe};
use lemon_check::report::{Demands, Report};
use lemon_check::testing::Editor;
use serde_json::Value;

const SOURCE: &str = "tests/data/source.safetensors";

fn command(expanded: &str, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    let output = command.args([SOURCE, expanded]).args(more).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn report(expanded: &str, more: &[&str]) -> (Option<i32>, Value) {
    let (code, text) = command(expanded, &[&["--format", "json"], more].concat());
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
    let (_, text) = command(broken, &["--witness", "none"]);
    assert!(text.contains("no input was tried"), "{text}");
}

#[test]
fn a_proof_needs_no_witness() {
    let expanded = "tests/data/expanded.safetensors";
    let (code, report) = report(expanded, &["--witness", "none"]);
    assert_eq!((code, &report["verdict"]), (Some(0), &"lossless".into()));
}

/// What is said of the source against itself, with other factors on the weight and the bias of the
/// last norm.
fn scaled_output(source: &Checkpoint, weight: f64, bias: f64) -> String {
    let model = describe(source).unwrap();
    let mut editor = Editor::new(source, &model);
    let Some(Step::Norm(norm)) = model.outputs[0].steps.first() else { panic!("a norm") };
    for (lens, factor) in [(&norm.weight, weight), (&norm.bias, bias)] {
        editor.edit(lens.as_ref().unwrap(), |values| *values *= factor).unwrap();
    }
    let found = check(source, &editor.finish(), &|_, _| ()).unwrap();
    Report::new(found, Demands::default(), 0.0).text()
}

#[test]
fn a_scale_is_said_where_it_explains_the_difference() {
    let source = Checkpoint::open(SOURCE.as_ref(), None).unwrap();
    let scaled = scaled_output(&source, 2f64.sqrt(), 2f64.sqrt());
    assert!(scaled.contains("the expanded outputs are 1.4142 times the source's"), "{scaled}");
    let tiny = scaled_output(&source, 1.0001, 1.0001);
    assert!(tiny.contains("the expanded outputs are 1 + 1.0e-4 times"), "{tiny}");
    assert!(!scaled_output(&source, 1.0, 2.0).contains("times the source's"));
}
