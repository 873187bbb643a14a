//! The tutorial does what it says, and golden cases are what backends are asked.
#![cfg(unix)]

use assert_cmd::Command;
use lemon_check::checkpoint::parse_tensors;
use std::fs;
use std::path::Path;

/// The blocks of code of a language, in order.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    let parts = page.split(opening.as_str()).skip(1);
    parts.map(|part| part.split("```").next().unwrap()).collect()
}

/// What the command line tool says of the backend, and its exit code.
fn crosscheck(folder: &Path) -> (String, i32) {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.args(["crosscheck", "--backend", "python3 mine.py", "--cases", "200"]);
    let output = command.current_dir(folder).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (said + &String::from_utf8_lossy(&output.stderr), output.status.code().unwrap())
}

#[test]
fn the_backend_of_the_tutorial_agrees_and_its_mistake_is_found() {
    if Command::new("python3").arg("--version").output().is_err() {
        return eprintln!("python3 is not there: the tutorial was not tried");
    }
    let page = include_str!("../src/backend/tutorial.md");
    let [program, wrong] = blocks(page, "python")[..] else { panic!("two blocks of Python") };
    let [agrees, disagrees, ..] = blocks(page, "text")[..] else { panic!("two reports") };
    assert!(program.lines().count() <= 45, "{}", program.lines().count());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.py");

    fs::write(&path, program).unwrap();
    let (report, code) = crosscheck(folder.path());
    assert!(report.starts_with(agrees), "{report}");
    assert_eq!(code, 0);

    let right = program.lines().find(|line| line.contains("deviation =")).unwrap();
    fs::write(&path, program.replace(right, wrong.trim_end())).unwrap();
    let (report, code) = crosscheck(folder.path());
    let findings: String = report.split_inclusive('\n').skip(2).take(7).collect();
    assert_eq!(findings, disagrees, "{report}");
    assert_eq!(code, 1);
}

#[test]
fn golden_cases_hold_what_is_right_and_how_far_one_may_be_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("cases");
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.args(["vectors", out.to_str().unwrap(), "--cases", "2"]).assert().success();
    let list = fs::read_to_string(out.join("vectors.json")).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let cases = list["cases"].as_array().unwrap();
    let read = |name: &serde_json::Value| {
        parse_tensors(&fs::read(out.join(name.as_str().unwrap())).unwrap()).unwrap()
    };
    let mut relu = cases.iter().filter(|case| case["op"] == "relu");
    let case = relu.next().unwrap();
    assert_eq!(relu.count(), 1);
    let (inputs, outputs) = (read(&case["inputs"]), read(&case["outputs"]));
    let positive = inputs["x"].numbers().unwrap().into_iter().map(|x| x.max(0.0));
    assert_eq!(outputs["y"].numbers().unwrap(), positive.collect::<Vec<_>>());
    assert!(outputs["y.bound"].numbers().unwrap().iter().all(|bound| *bound == 0.0));
    // What is there is not written over.
    command.assert().failure();
}
