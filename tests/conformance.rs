//! Other implementations against the reference, and mistakes planted in one of them.
//!
//! `LEMON_BACKEND="python3 mine.py" cargo test --test conformance program` holds a program of yours
//! against it. Without that, the backends under `tests/backends` are asked as far as the Python named
//! by `LEMON_PYTHON` (else `python3`) has their libraries; those named in `LEMON_REQUIRE` must be
//! there, and are asked more.

use lemon_check::backend::Backend;
use lemon_check::backend::case::Case;
use lemon_check::backend::program::{Limits, Program};
use lemon_check::backend::python;
use lemon_check::backend::reference::Reference;
use lemon_check::backend::suite::{Finding, Outcome, Plan, Problem, Tally, Verdict, run};
use lemon_check::checkpoint::Dtype;
use std::process::Command;

/// Cases of each operation and each family of models for a backend that is required.
const MANY: u64 = 200;
/// For our own.
const OWN: u64 = 100;
/// And for one that happens to be there.
const FEW: u64 = 20;

#[test]
fn our_own_f32_path_conforms() {
    conforms(&mut Reference::new(), OWN);
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
        let outcome = ask(&mut backend, cases, dtype);
        agrees(&outcome);
        let mut models = outcome.subjects.iter().filter(|t| t.subject.starts_with("forward "));
        let families = models.clone().filter(|tally| tally.unsupported == 0);
        assert_eq!(families.count(), outcome.backend.forward.len());
        assert!(models.all(|tally| tally.cases + tally.unsupported == cases), "{outcome:?}");
        let expansions = outcome.subjects.iter().filter(|t| t.subject.starts_with("expand "));
        let judged = expansions.filter(|tally| tally.cases == cases);
        assert_eq!(judged.count(), outcome.backend.expand.len(), "{outcome:?}");
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

/// The kernels of `backends/wgpu`, built to where `LEMON_WGPU` says.
#[test]
fn wgpu_conforms() {
    let Ok(command) = std::env::var("LEMON_WGPU") else {
        assert!(!is_required("wgpu"), "build backends/wgpu and name its program in LEMON_WGPU");
        eprintln!("LEMON_WGPU is not set and wgpu was not asked");
        return;
    };
    let mut backend = Program::start(&command, Limits::default()).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let outcome = ask(&mut backend, MANY, dtype);
        agrees(&outcome);
        for tally in &outcome.subjects {
            let is_op = !tally.subject.contains(' ');
            assert!(!is_op || tally.cases == MANY, "{tally:?}");
        }
        let models = outcome.subjects.iter().filter(|t| t.subject.starts_with("forward "));
        assert_eq!(models.filter(|t| t.cases > 0).count(), outcome.backend.forward.len());
    }
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

/// Every operation was compared in every case, and agrees; and so does every model that the backend
/// runs, of which it may refuse some, but not all.
fn conforms(backend: &mut dyn Backend, cases: u64) {
    let outcome = ask(backend, cases, Dtype::F32);
    agrees(&outcome);
    for tally in &outcome.subjects {
        let (kind, family) = tally.subject.split_once(' ').unwrap_or((&tally.subject, ""));
        let listed = match kind {
            "expand" => &outcome.backend.expand,
            "forward" => &outcome.backend.forward,
            _ => {
                assert_eq!(tally.cases, cases, "{tally:?}");
                continue;
            }
        };
        let runs = listed.contains(&family.into());
        assert_eq!(tally.cases + tally.unsupported, cases, "{tally:?}");
        assert_eq!(tally.cases > 0, runs, "{tally:?}");
    }
}

#[test]
fn every_planted_mistake_is_found_and_made_small() {
    let names = mistakes("MISTAKES");
    for name in &names {
        let outcome = ask(&mut mistaken(name), 500, Dtype::F32);
        let findings = findings(&outcome).unwrap_or_else(|subject| panic!("{name}: {subject}"));
        assert!(!findings.is_empty(), "{name}");
        for finding in findings {
            let Case::Op(case) = &finding.case else { panic!("{name}: {finding:?}") };
            assert!(case.sizes.values().all(|size| *size <= 8), "{name}: {finding:?}");
        }
    }
    assert!(names.is_empty() || names.len() >= 40, "{names:?}");
}

#[test]
fn every_mistake_planted_in_a_model_is_found_and_made_small() {
    let names = mistakes("FORWARD");
    let mut without_f32 = Vec::new();
    for name in &names {
        let mut outcome = ask(&mut mistaken(name), 50, Dtype::F32);
        if findings(&outcome).is_err() {
            // Below what rounding may do in f32.
            without_f32.push(name.as_str());
            outcome = ask(&mut mistaken(name), 50, Dtype::F64);
        }
        let findings = findings(&outcome).unwrap_or_else(|subject| panic!("{name}: {subject}"));
        assert!(!findings.is_empty(), "{name}");
        for finding in findings {
            let Case::Forward(case) = &finding.case else { panic!("{name}: {finding:?}") };
            let sizes = case.source.model().unwrap().sizes;
            assert!(sizes.layers <= 2 && sizes.hidden <= 8, "{name}: {finding:?}");
        }
    }
    assert!(names.is_empty() || names.len() >= 8, "{names:?}");
    assert!(without_f32.len() <= 1, "{without_f32:?}");
}

#[test]
fn every_mistake_planted_in_an_expansion_is_found_and_made_small() {
    let names = mistakes("EXPAND");
    for name in &names {
        let outcome = ask(&mut mistaken(name), 50, Dtype::F32);
        let findings = findings(&outcome).unwrap_or_else(|subject| panic!("{name}: {subject}"));
        assert!(!findings.is_empty(), "{name}");
        for finding in findings {
            let Case::Expand(case) = &finding.case else { panic!("{name}: {finding:?}") };
            let sizes = case.source.model().unwrap().sizes;
            assert!(sizes.layers <= 2 && sizes.hidden <= 8, "{name}: {finding:?}");
            let Problem::NotLossless { report, .. } = &finding.problem else {
                panic!("{name}: {finding:?}")
            };
            assert!(report.contains("  likely    "), "{name}: {report}");
            if name == "expands_without_eta" && finding.case.subject() == "expand gpt2" {
                let page = include_str!("../src/backend/tutorial.md");
                let mut shown = page.lines().filter_map(|line| line.strip_prefix("  | "));
                assert!(shown.all(|line| report.contains(line)), "{report}");
            }
        }
    }
    assert!(names.is_empty() || names.len() >= 7, "{names:?}");
}

/// The names of the mistakes in one of the tables; none if numpy is not there.
fn mistakes(table: &str) -> Vec<String> {
    if !has_library("numpy") {
        assert!(!is_required("numpy"), "numpy is not there");
        eprintln!("numpy is not there: no mistakes were planted");
        return Vec::new();
    }
    let code = format!("import mistakes; print(*mistakes.{table})");
    let list = python_command(&code).output().unwrap();
    String::from_utf8(list.stdout).unwrap().split_whitespace().map(str::to_string).collect()
}

/// The backend with a mistake.
fn mistaken(name: &str) -> Program {
    let command = format!("{} {name}", python::command("numpy").unwrap().unwrap());
    Program::start(&command, Limits::default()).unwrap()
}

/// The findings of all that was asked; or what was found right.
fn findings(outcome: &Outcome) -> Result<Vec<&Finding>, &str> {
    let is_asked = |t: &&Tally| t.unsupported == 0 || t.cases > 0 || t.finding.is_some();
    let asked = outcome.subjects.iter().filter(is_asked);
    asked.map(|tally| tally.finding.as_ref().ok_or(tally.subject.as_str())).collect()
}
