//! Expansions that need more than copies: ResNets, rotary heads of other sizes, Post-LN depth,
//! outputs of several parts. Each is held against both oracles: the certificate, and the forward
//! pass in f64.

mod heads;
mod post_norm;
mod resnet;
mod rotary;

use assert_cmd::Command;
use lemon_check::check::{Check, check};
use lemon_check::checkpoint::{Checkpoint, Config};
use std::path::{Path, PathBuf};
use std::process::Output;

/// The folder of a golden model, relative to the repository.
fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn load(case: &str) -> Checkpoint {
    Checkpoint::open(&golden(case), None).unwrap()
}

/// The same tensors with another configuration.
fn with_config(checkpoint: &Checkpoint, config: Config) -> Checkpoint {
    Checkpoint::in_memory("changed", config, checkpoint.tensors().clone())
}

fn checked(source: &Checkpoint, expanded: &Checkpoint) -> Check {
    check(source, expanded, &|_, _| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs the program on `arguments`.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

/// Checks the exit code of a run; gives what it printed.
#[track_caller]
fn printed(output: Output, code: i32) -> String {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (out, complaint) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{complaint}");
    if code > 1 { complaint } else { out }
}
