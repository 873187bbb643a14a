//! What a check has to say: one versioned schema, of which JSON and text are views.
//!
//! # The schema, version 1
//!
//! [`Report`] is written field by field. Names and meanings stay; a later version may add fields.
//! A number that is not finite is written as `null`.

mod shell;
mod summary;
mod text;
mod wording;

pub use shell::{shell_path, shell_word};
pub use summary::{EffectSummary, Ignored, ModelSummary, SizeSummary, WitnessSummary};
pub(crate) use text::eps_words;

use crate::certify::{Failure, MapInWords, Unknown};
use crate::check::{Check, Detail, EpsLimit, Evidence, Verdict};
use crate::error::{Class, Error};
use serde::Serialize;

/// The version of the schema of [`Report`] and [`ErrorReport`].
pub const SCHEMA_VERSION: u32 = 1;

/// A finished check as data.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lemon-check that wrote it.
    pub version: &'static str,
    /// `lossless`, `not_lossless` or `undecided`.
    pub verdict: Verdict,
    /// `exact` or `to_storage_rounding`, where lossless; `eps_limited` where only ε conditions
    /// fail.
    pub detail: Option<Detail>,
    /// What the verdict rests on: `proof`, `witness`, `equation`; `null` where undecided.
    pub evidence: Option<Evidence>,
    /// Whether exactness to the last bit was asked for.
    pub strict: bool,
    /// Whether a pair that is equal but for ε was to pass (`--allow eps-limited`).
    pub eps_limited_allowed: bool,
    /// Whether the check passes: lossless, and exact where that was asked for; or equal but for ε
    /// where that was allowed.
    pub passed: bool,
    /// The small model.
    pub source: ModelSummary,
    /// The large model.
    pub expanded: ModelSummary,
    /// The maps from the source's activations to the expanded model's, in words.
    pub maps: Vec<MapInWords>,
    /// Equations held against the weights.
    pub equations: usize,
    /// Entries compared in all equations.
    pub entries: u64,
    /// Largest residual among the equations that hold, in units of its rounding bound.
    pub worst_units: f64,
    /// Smallest relative error of scale that the equations exclude.
    pub resolution: f64,
    /// Equations that fail, in network order; the first is the root.
    pub failures: Vec<Failure>,
    /// What could not be judged.
    pub unknowns: Vec<Unknown>,
    /// Inputs on which the models differ.
    pub witness: Option<WitnessSummary>,
    /// How many inputs were tried in search of a witness.
    pub inputs_tried: usize,
    /// Smallest error of outputs, relative to their spread, that these inputs could have shown.
    pub forward_resolution: Option<f64>,
    /// Where only ε conditions fail: how much they can matter.
    pub eps_limits: Vec<EpsLimit>,
    /// How far the outputs of a lossless pair are apart, as measured; `null` where it was not.
    pub effect: Option<EffectSummary>,
    /// Stored tensors that are no parameters and were not judged.
    pub ignored_buffers: Ignored,
    /// Wall-clock time of the check.
    pub seconds: f64,
}

/// What a check must show to pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Exactness to the last bit.
    pub strict: bool,
    /// Whether ε conditions may fail, as long as nothing else does.
    pub allow_eps_limited: bool,
}

impl Report {
    /// The report of a check that took `seconds`, judged by `demands`.
    pub fn new(check: Check, demands: Demands, seconds: f64) -> Self {
        let Demands { strict, allow_eps_limited } = demands;
        let passed = match check.detail {
            Some(Detail::Exact) => true,
            Some(Detail::ToStorageRounding) => !strict,
            Some(Detail::EpsLimited) => allow_eps_limited && !strict,
            None => false,
        };
        let witness = check.witness.as_ref().map(|witness| WitnessSummary::new(witness, &check));
        let (source, expanded) = (check.source, check.expanded);
        Report {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION"),
            verdict: check.verdict,
            detail: check.detail,
            evidence: check.evidence,
            strict,
            eps_limited_allowed: allow_eps_limited,
            passed,
            source: ModelSummary::new(&source),
            expanded: ModelSummary::new(&expanded),
            maps: check.certificate.maps,
            equations: check.certificate.equations,
            entries: check.certificate.entries,
            worst_units: check.certificate.worst_units,
            resolution: check.certificate.resolution,
            failures: check.certificate.failures,
            unknowns: check.certificate.unknown,
            witness,
            inputs_tried: check.inputs_tried,
            forward_resolution: check.forward_resolution,
            eps_limits: check.eps_limits,
            effect: check.effect.map(EffectSummary::from),
            ignored_buffers: Ignored { source: source.buffers, expanded: expanded.buffers },
            seconds,
        }
    }

    /// As indented JSON, with a newline at the end.
    pub fn json(&self) -> String {
        json(self)
    }

    /// As text for people, with a newline at the end.
    pub fn text(&self) -> String {
        text::text(self)
    }

    /// The verdict in one sentence.
    pub fn headline(&self) -> String {
        text::headline(self)
    }
}

/// An error as data: there is no verdict.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What is wrong.
    pub error: ErrorSummary,
}

/// What is wrong, and of which kind it is.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorSummary {
    /// `usage`, `bad_input`, `unsupported` or `refused`.
    pub class: &'static str,
    /// What is wrong, where, and what to do next.
    pub message: String,
}

impl ErrorReport {
    /// The report of an error.
    pub fn new(error: &Error) -> Self {
        let class = match error.class() {
            Class::Usage => "usage",
            Class::BadInput => "bad_input",
            Class::Unsupported => "unsupported",
            Class::Refused => "refused",
        };
        let error = ErrorSummary { class, message: error.to_string() };
        ErrorReport { schema_version: SCHEMA_VERSION, error }
    }

    /// As indented JSON, with a newline at the end.
    pub fn json(&self) -> String {
        json(self)
    }
}

fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("reports have string keys alone");
    text + "\n"
}
