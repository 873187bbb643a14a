//! Other implementations against the reference, and mistakes planted in one of them.
//!
//! `LEMON_BACKEND="python3 mine.py" cargo test --test conformance program` holds a program of yours
//! against it. Without that, the backends under `tests/backends` are asked as far as the Python named
//! by `LEMON_PYTHON` (else `python3`) has their libraries; those named in `LEMON_REQUIRE` must be
//! there, and are asked more.

use lemon_check::backend::Backend;
use lemon_check::backend::program::{Limits, Program};
use lemon_check::backend::python;
use lemon_check::backend::reference::Reference;
use lemon_check::backend::suite::{Outcome, Plan, Verdict, run};
use lemon_check::checkpoint::Dtype;
use std::collections::BTreeSet;
use std::process::Command;

/// Cases of each operation for a backend that is required.
const MANY: u64 = 200;
/// And for one that happens to be there.
const FEW: u64 = 20;

#[test]
fn our_own_f32_path_conforms() {
    conforms(&mut Reference::new(), MANY);
}

#[test]
fn the_program_named_in_the_environment_conforms() {
    let Ok(command) = std::env::var("LEMON_BACKEND") else { return };
    let outcome = ask(&mut Program::start(&command, Limits::default()).unwrap(), MANY, Dtype::F32);
    agrees(&outcome);
    println!("{outcome:#?}");
}

#[test]
fn numpy_conforms() {
    for dtype in [Dtype::F32, Dtype::F64, Dtype::F16, Dtype::Bf16] {
        let Some((mut backend, cases)) = python_backend("numpy") else { return };
        agrees(&ask(&mut backend, cases, dtype));
    }
}

#[test]
fn onnxruntime_conforms() {
    python_conforms("onnxruntime");
}

#[test]
fn jax_conforms() {
    python_conforms("jax");
}

#[test]
fn torch_conforms() {
    python_conforms("torch");
}

fn python_conforms(name: &str) {
    if let Some((mut backend, cases)) = python_backend(name) {
        conforms(&mut backend, cases);
    }
}

/// The backend, and how many cases it is asked; none if its library is not there and not required.
fn python_backend(name: &str) -> Option<(Program, u64)> {
    let required = is_required(name);
    if !required && !has_library(name) {
        eprintln!("{name} is not there and was not asked");
        return None;
    }
    let command = python::command(name).unwrap().unwrap();
    let cases = if required { MANY } else { FEW };
    Some((Program::start(&command, Limits::default()).unwrap(), cases))
}

fn is_required(name: &str) -> bool {
    let required = std::env::var("LEMON_REQUIRE").unwrap_or_default();
    required.split_whitespace().any(|required| required == name)
}

fn has_library(name: &str) -> bool {
    let output = python_command(&format!("import {name}")).output();
    output.is_ok_and(|output| output.status.success())
}

/// Python code that is run beside the backends.
fn python_command(code: &str) -> Command {
    let mut command = Command::new(python::interpreter());
    command.args(["-c", code]).current_dir("tests/backends");
    command
}

fn ask(backend: &mut dyn Backend, cases: u64, dtype: Dtype) -> Outcome {
    run(backend, Plan { cases, seed: 0, dtype }, |_| ()).unwrap()
}

fn agrees(outcome: &Outcome) {
    let findings = outcome.subjects.iter().filter_map(|tally| tally.finding.as_ref());
    let findings: Vec<_> = findings.collect();
    assert_eq!(outcome.verdict(), Verdict::Agrees, "{}: {findings:#?}", outcome.backend.name);
}

/// Every operation was compared in every case, and agrees.
fn conforms(backend: &mut dyn Backend, cases: u64) {
    let outcome = ask(backend, cases, Dtype::F32);
    agrees(&outcome);
    assert!(outcome.subjects.iter().all(|tally| tally.cases == cases), "{outcome:?}");
}

#[test]
fn every_planted_mistake_is_found_and_made_small() {
    if !has_library("numpy") {
        assert!(!is_required("numpy"), "numpy is not there");
        return eprintln!("numpy is not there: no mistakes were planted");
    }
    let list = python_command("import mistakes; print(*mistakes.MISTAKES)").output().unwrap();
    let names = String::from_utf8(list.stdout).unwrap();
    let mut found = BTreeSet::new();
    for name in names.split_whitespace() {
        let command = format!("{} {name}", python::command("numpy").unwrap().unwrap());
        let mut backend = Program::start(&command, Limits::default()).unwrap();
        let outcome = ask(&mut backend, 500, Dtype::F32);
        for tally in outcome.subjects.iter().filter(|tally| tally.unsupported == 0) {
            let finding = tally.finding.as_ref();
            let finding = finding.unwrap_or_else(|| panic!("{name}: {tally:?}"));
            let widest = finding.case.sizes.values().max().unwrap();
            assert!(*widest <= 8, "{name}: {finding:?}");
            found.insert(name);
        }
    }
    assert!(found.len() >= 40, "{found:?}");
    assert_eq!(found.len(), names.split_whitespace().count());
}
