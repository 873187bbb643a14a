//! `lemon-check SOURCE EXPANDED`

use super::Format;
use super::output::{Sink, to_stdout};
use super::progress::Progress;
use super::protect::refuse_report;
use crate::check::{Verdict, WitnessSearch, check_with};
use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result, printable};
use crate::report::{Demands, Report};
use clap::{Args, ValueEnum};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
pub(super) struct CheckArguments {
    /// The small model: a .safetensors file, an index, or a folder
    source: PathBuf,
    /// The large model: a .safetensors file, an index, or a folder
    expanded: PathBuf,
    /// How the report is written
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Write the report to FILE, and only the verdict to standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also fail what is equal only to the rounding of the stored weights
    #[arg(long)]
    strict: bool,
    /// Also pass what is equal but for the ε of norms
    #[arg(long, value_enum, conflicts_with = "strict")]
    allow: Option<Allowed>,
    /// Whether an input is looked for on which the models differ, where equations fail
    #[arg(long, value_enum, default_value = "find")]
    witness: Looking,
    /// Threads that the check may use [default: one for each core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The source's configuration, if it is not found beside the weights
    #[arg(long, value_name = "FILE")]
    source_config: Option<PathBuf>,
    /// The expanded model's configuration, if it is not found beside the weights
    #[arg(long, value_name = "FILE")]
    expanded_config: Option<PathBuf>,
}

/// What may pass though it is not lossless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Allowed {
    /// Only the ε of norms is wrong: the report says by how much that can matter
    EpsLimited,
}

/// Whether a witness is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Looking {
    /// Run both models on inputs until one shows the difference
    Find,
    /// Look for none: where an equation fails, the verdict is undecided. Models that are proven
    /// equal are still run on a few inputs, if they are small
    None,
}

impl CheckArguments {
    /// Where the report goes.
    ///
    /// # Errors
    /// If that would destroy an input, or a device.
    pub fn sink(&self) -> Result<Sink> {
        let Some(output) = &self.output else { return Ok(Sink::Stdout) };
        let configs = self.source_config.iter().chain(&self.expanded_config);
        let models = [&self.source, &self.expanded].into_iter();
        let inputs: Vec<&Path> = models.chain(configs).map(PathBuf::as_path).collect();
        refuse_report(output, &inputs)?;
        Ok(Sink::File(output.clone()))
    }
}

/// Checks the pair and writes the report; returns the exit code.
///
/// # Errors
/// If there is no verdict, or the report cannot be written.
pub(super) fn run(arguments: CheckArguments, sink: &Sink) -> Result<u8> {
    let Some(jobs) = arguments.jobs else { return report(arguments, sink) };
    // More threads than processors only wait for one another.
    let most = std::thread::available_parallelism().unwrap_or(jobs);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.min(most).get()).build();
    let pool = pool.map_err(|error| {
        Error::new(Class::Usage, format!("{jobs} threads cannot be started: {error}"))
            .help("ask for fewer by --jobs")
    })?;
    pool.install(|| report(arguments, sink))
}

fn report(arguments: CheckArguments, sink: &Sink) -> Result<u8> {
    let start = Instant::now();
    let source = Checkpoint::open(&arguments.source, arguments.source_config.as_deref())?;
    let expanded = Checkpoint::open(&arguments.expanded, arguments.expanded_config.as_deref())?;
    let progress = Progress::new();
    let search = match arguments.witness {
        Looking::Find => WitnessSearch::Find,
        Looking::None => WitnessSearch::None,
    };
    let mut check =
        check_with(&source, &expanded, search, &|done, total| progress.set(done, total))?;
    drop(progress);
    check.source.config = arguments.source_config;
    check.expanded.config = arguments.expanded_config;
    let demands = Demands {
        strict: arguments.strict,
        allow_eps_limited: arguments.allow == Some(Allowed::EpsLimited),
    };
    let report = Report::new(check, demands, start.elapsed().as_secs_f64());
    sink.write(&match arguments.format {
        Format::Text => report.text(),
        Format::Json => report.json(),
    })?;
    if let Sink::File(path) = sink {
        let path = path.display().to_string();
        let strict = match report.verdict == Verdict::Lossless && !report.passed {
            true => "; --strict: failed",
            false => "",
        };
        let strict = match report.verdict == Verdict::NotLossless && report.passed {
            true => "; --allow eps-limited: passed",
            false => strict,
        };
        to_stdout(&format!("{}{strict} (report: {})\n", report.headline(), printable(&path)))?;
    }
    Ok(match report.verdict {
        Verdict::Undecided => 3,
        _ if report.passed => 0,
        _ => 1,
    })
}
