//! The command line: arguments, one file per subcommand, exit codes.
//!
//! | exit code | meaning |
//! | --- | --- |
//! | 0 | lossless; with `--allow eps-limited` also equal but for ε; or the command did as asked |
//! | 1 | not lossless; with `--strict` also lossless to storage rounding only |
//! | 2 | wrong usage |
//! | 3 | undecided, not implemented, or an expansion that cannot be lossless |
//! | 4 | bad input: a file is missing, damaged, or contradicts itself |
//! | 70 | a bug in lemon-check |

mod check;
mod crosscheck;
mod expand;
mod logits;
mod mutants;
mod output;
mod pixels;
mod progress;
mod protect;
mod vectors;

use crate::error::{Class, Error};
use crate::report::ErrorReport;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use output::Sink;
use std::ffi::OsString;
use std::process::ExitCode;

/// Does EXPANDED compute exactly what SOURCE computes, for every input?
///
/// Holds the equations of a lossless expansion against the weights of both models. Exit code 0:
/// lossless; 1: not lossless; 2: usage; 3: undecided or not implemented; 4: bad input.
#[derive(Parser)]
#[command(name = "lemon-check", version)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(flatten)]
    check: Option<check::CheckArguments>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Hold another implementation's operations against the reference
    Crosscheck(crosscheck::CrosscheckArguments),
    /// Expand SOURCE losslessly and write it to OUT
    Expand(expand::ExpandArguments),
    /// Print what MODEL computes for one input, as JSON
    Logits(logits::LogitsArguments),
    /// Count what the check makes of random expansions and of deliberate mistakes in them
    Mutants(mutants::MutantsArguments),
    /// Write cases of every operation, with what is right, into the folder OUT
    Vectors(vectors::VectorsArguments),
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: see `schema_version`
    Json,
}

/// Exit code of wrong usage.
const USAGE: u8 = 2;

/// Exit code of a bug.
const INTERNAL: u8 = 70;

/// Runs the command line tool on the program's arguments. A panic ends the program, as a bug.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(report_bug));
    ExitCode::from(run(std::env::args_os()))
}

/// Runs one command line, program name included; returns the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match (arguments.command, arguments.check) {
        (Some(Command::Crosscheck(arguments)), _) => {
            let format = arguments.format;
            finish(crosscheck::run_command(&arguments), format, &Sink::Stdout)
        }
        (Some(Command::Expand(arguments)), _) => {
            finish(expand::run(arguments), Format::Text, &Sink::Stdout)
        }
        (Some(Command::Logits(arguments)), _) => {
            finish(logits::run(arguments), Format::Text, &Sink::Stdout)
        }
        (Some(Command::Mutants(arguments)), _) => {
            finish(mutants::run(&arguments), Format::Text, &Sink::Stdout)
        }
        (Some(Command::Vectors(arguments)), _) => {
            finish(vectors::run(&arguments), Format::Text, &Sink::Stdout)
        }
        (None, Some(arguments)) => {
            let format = arguments.format;
            match arguments.sink() {
                Ok(sink) => finish(check::run(arguments, &sink), format, &sink),
                Err(error) => finish(Err(error), format, &Sink::Stdout),
            }
        }
        (None, None) => {
            let kind = clap::error::ErrorKind::MissingRequiredArgument;
            refuse(&Arguments::command().error(kind, "SOURCE and EXPANDED are missing"))
        }
    }
}

/// Says what is wrong with the arguments, or gives the help that they ask for.
fn refuse(error: &clap::Error) -> u8 {
    // Nobody is left to tell where this cannot be written.
    let _ = error.print();
    u8::try_from(error.exit_code()).unwrap_or(USAGE)
}

/// Says what went wrong, if anything, and turns it into an exit code.
fn finish(result: Result<u8, Error>, format: Format, sink: &Sink) -> u8 {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    output::complain(&format!("error: {error}"));
    if format == Format::Json
        && let Err(second) = sink.write(&ErrorReport::new(&error).json())
    {
        output::complain(&format!("error: {second}"));
    }
    match error.class() {
        Class::Usage => USAGE,
        Class::Unsupported | Class::Refused => 3,
        Class::BadInput => 4,
    }
}

/// A panic is a bug of ours: says so and ends the program, whatever thread it happens in.
fn report_bug(info: &std::panic::PanicHookInfo) {
    let version = env!("CARGO_PKG_VERSION");
    output::complain(&format!(
        "internal error: {info}\n  help: this is a bug in lemon-check {version}, and no verdict; \
         please report it with the command and, if you can, the files"
    ));
    std::process::exit(INTERNAL.into());
}
