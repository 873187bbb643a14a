//! `lemon-check crosscheck`

use super::Format;
use super::output::to_stdout;
use crate::backend::case::Case;
use crate::backend::judge::Place;
use crate::backend::program::{Limits, Program};
use crate::backend::reference::{self, Reference};
use crate::backend::suite::{Finding, Outcome, Plan, Problem, Tally, Verdict, replay, run};
use crate::backend::{Backend, dtype_named, python};
use crate::checkpoint::Dtype;
use crate::error::{Class, Error, Result};
use crate::report::{SCHEMA_VERSION, shell_word};
use clap::Args;
use serde::Serialize;
use std::fmt::Write;

#[derive(Args)]
pub(super) struct CrosscheckArguments {
    /// reference-f32, numpy, jax, onnxruntime, torch, or a command that speaks the protocol
    #[arg(long, value_name = "NAME|COMMAND")]
    backend: String,
    /// Random cases of each operation, and of each family of models
    #[arg(long, value_name = "N", default_value_t = 50)]
    cases: u64,
    /// What all random choices follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Number format: f32, f64, f16 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = parse_dtype)]
    dtype: Dtype,
    /// One case, as a report shows it, instead of random ones
    #[arg(long, value_name = "JSON", conflicts_with_all = ["cases", "seed"])]
    case: Option<String>,
    /// How the report is written
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
}

pub(super) fn parse_dtype(name: &str) -> std::result::Result<Dtype, String> {
    dtype_named(name).ok_or_else(|| "expected f32, f64, f16 or bf16".into())
}

/// Holds the backend against the reference; returns the exit code: 0 where everything agrees, 1
/// where something does not, 3 where nothing was compared.
///
/// # Errors
/// If the backend does not start or does not take the number format, or the case cannot be read.
pub(super) fn run_command(arguments: &CrosscheckArguments) -> Result<u8> {
    let mut backend = open(&arguments.backend)?;
    let outcome = match &arguments.case {
        Some(case) => {
            let case = serde_json::from_str(case).map_err(|e| {
                Error::new(Class::Usage, format!("--case: {e}"))
                    .help("give the case as a report shows it, in quotes")
            })?;
            replay(&mut *backend, &case, arguments.dtype)?
        }
        None => {
            let CrosscheckArguments { cases, seed, dtype, .. } = *arguments;
            run(&mut *backend, Plan { cases, seed, dtype }, |_| ())?
        }
    };
    to_stdout(&match arguments.format {
        Format::Text => text(&arguments.backend, &outcome),
        Format::Json => json(&outcome),
    })?;
    Ok(match outcome.verdict() {
        Verdict::Agrees => 0,
        Verdict::Disagrees => 1,
        Verdict::NothingCompared => 3,
    })
}

/// The backend of this name, or the program that a command starts.
fn open(name: &str) -> Result<Box<dyn Backend>> {
    if name == reference::NAME {
        return Ok(Box::new(Reference::new()));
    }
    let command = python::command(name)?.unwrap_or_else(|| name.to_string());
    Ok(Box::new(Program::start(&command, Limits::default())?))
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    version: &'static str,
    verdict: Verdict,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

fn json(outcome: &Outcome) -> String {
    let report = Report {
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION"),
        verdict: outcome.verdict(),
        outcome,
    };
    serde_json::to_string_pretty(&report).expect("it holds no keys but strings") + "\n"
}

fn text(backend: &str, outcome: &Outcome) -> String {
    let name = &outcome.backend.name;
    let vague = outcome.subjects.iter().any(|tally| tally.vague > 0);
    let mut page = match outcome.verdict() {
        Verdict::Agrees => format!("agrees: {name} computes what the reference computes, "),
        Verdict::Disagrees => {
            format!("disagrees: {name} does not compute what the reference does, ")
        }
        Verdict::NothingCompared if vague => {
            format!("nothing compared: rounding may change all that {name} was asked, ")
        }
        Verdict::NothingCompared => {
            format!("nothing compared: {name} did none of what was asked, ")
        }
    };
    let _ = writeln!(page, "in {} on {}\n", outcome.dtype, or_unknown(&outcome.backend.device));
    for tally in &outcome.subjects {
        if let Some(finding) = &tally.finding {
            page += &finding_text(backend, outcome.dtype, &tally.subject, finding);
        }
    }
    let _ = writeln!(
        page,
        "  {:<22} {:>7} {:>9} {:>9} {:>10}",
        "", "cases", "numbers", "worst", "tolerance"
    );
    let (listed, others): (Vec<_>, Vec<_>) =
        outcome.subjects.iter().partition(|tally| tally.listed);
    page.extend(listed.into_iter().map(tally_text));
    if !others.is_empty() {
        let _ =
            writeln!(page, "  and {} that it does not list in its reply to hello", others.len());
    }
    page += "\n  worst: the largest difference in units of the bound of rounding errors; at most 1 \
             is right\n  tolerance: the smallest absolute one that would pass\n";
    if outcome.subjects.iter().any(|tally| tally.left_out > 0) {
        page += "  left out: cases that overflow, or whose expansion would show nothing\n";
    }
    if vague {
        page += "  vague: cases beside these whose bound is as large as what is returned; fewer \
                 with --dtype f64\n";
    }
    page
}

fn or_unknown(device: &str) -> &str {
    if device.is_empty() { "an unnamed device" } else { device }
}

fn tally_text(tally: &Tally) -> String {
    let Tally { subject, cases, numbers, worst, difference, finding, .. } = tally;
    let counts =
        [(tally.unsupported, "unsupported"), (tally.vague, "vague"), (tally.left_out, "left out")];
    let counted = counts.iter().filter(|(count, _)| *count > 0);
    let state = match finding {
        Some(_) => "wrong".to_string(),
        None if tally.not_asked > 0 => "not asked: it kept one waiting".to_string(),
        None => counted.map(|(n, what)| format!("{n} {what}")).collect::<Vec<_>>().join(", "),
    };
    let line = format!(
        "  {subject:<22} {cases:>7} {numbers:>9} {worst:>9.3} {difference:>10.1e}  {state}"
    );
    line.trim_end().to_string() + "\n"
}

fn finding_text(backend: &str, dtype: &str, subject: &str, finding: &Finding) -> String {
    let mut text = String::new();
    match &finding.problem {
        Problem::Failure { why } => {
            let _ = writeln!(text, "  fails     {subject}: {why}");
        }
        Problem::NotLossless { report, .. } => {
            let _ = writeln!(text, "  fails     {subject}: the expansion is not proven lossless");
            text.extend(report.lines().map(|line| format!("  | {line}\n")));
        }
        Problem::Disagreement { place, units, stream } => {
            let _ = writeln!(text, "  fails     {subject}: `{}`", place.tensor);
            let _ = writeln!(text, "  at        index {:?}", place.index);
            let _ = writeln!(text, "  expected  {}", place.expected);
            let _ = writeln!(text, "  got       {}", place.got);
            let off = (place.got - place.expected).abs();
            let _ = match place.bound {
                0.0 => writeln!(text, "  off by    {off:.3e}, where nothing is rounded"),
                bound => writeln!(
                    text,
                    "  off by    {off:.3e}: {units:.3e} units of the bound {bound:.3e}"
                ),
            };
            text += &stream.as_ref().map_or(String::new(), stream_text);
        }
    }
    let case_of = match finding.case {
        Case::Op(_) => "operation",
        Case::Forward(_) | Case::Expand(_) => "family",
    };
    let case = serde_json::to_string(&finding.case).expect("a case is plain data");
    let _ = writeln!(
        text,
        "  found     at case {} of this {case_of}, then made small",
        finding.found_at
    );
    let _ = writeln!(
        text,
        "  replay    lemon-check crosscheck --backend {} --dtype {dtype} --case {}\n",
        shell_word(backend),
        shell_word(&case)
    );
    text
}

/// Where the residual stream differs first.
fn stream_text(place: &Place) -> String {
    let layer = place.tensor.rsplit('.').next().and_then(|number| number.parse::<usize>().ok());
    let behind = match layer.and_then(|number| number.checked_sub(1)) {
        Some(layer) => format!("layer {layer}"),
        None => "the embedding".into(),
    };
    let Place { tensor, index, expected, got, .. } = place;
    format!("  first     behind {behind}: `{tensor}` {index:?} is {got}, not {expected}\n")
}
