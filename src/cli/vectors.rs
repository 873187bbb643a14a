//! `lemon-check vectors OUT`

use super::crosscheck::parse_dtype;
use super::output::to_stdout;
use crate::backend::suite::Plan;
use crate::backend::vectors::write;
use crate::checkpoint::Dtype;
use crate::error::Result;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct VectorsArguments {
    /// A new folder
    out: PathBuf,
    /// Random cases of each operation
    #[arg(long, value_name = "N", default_value_t = 10)]
    cases: u64,
    /// What all random choices follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Number format: f32, f64, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = parse_dtype)]
    dtype: Dtype,
}

/// Writes golden cases; returns the exit code 0.
///
/// # Errors
/// If the folder exists, or cannot be written.
pub(super) fn run(arguments: &VectorsArguments) -> Result<u8> {
    let VectorsArguments { cases, seed, dtype, .. } = *arguments;
    let count = write(&arguments.out, Plan { cases, seed, dtype })?;
    to_stdout(&format!("{count} cases are in {}\n", arguments.out.display()))?;
    Ok(0)
}
