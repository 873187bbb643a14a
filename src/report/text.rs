//! The view for people.
//!
//! For a failure in this order: the verdict; rule and tensor; where; expected, got and the
//! difference in units of rounding; the likely cause; a witness; where the models part on it; how
//! to replay it.

use super::wording::{count, factor, figure, full, plural};
use super::{ModelSummary, Report, WitnessSummary};
use crate::certify::Failure;
use crate::check::{DOUBTED, Detail, Divergence, EpsLimit, Evidence, Verdict};
use crate::compare::EXPLAINED;
use crate::error::printable;
use std::path::Path;

/// Maps, further failures and unknowns that are listed; JSON has them all.
const LISTED: usize = 8;

pub(super) fn headline(report: &Report) -> String {
    let (source, expanded) = (printable(&report.source.path), printable(&report.expanded.path));
    match report.verdict {
        Verdict::Lossless if report.detail == Some(Detail::Exact) => {
            format!("lossless: for every input, {expanded} computes exactly what {source} computes")
        }
        Verdict::Lossless => format!(
            "lossless: for every input, {expanded} computes what {source} computes, to the \
             rounding of its stored weights"
        ),
        Verdict::NotLossless if report.detail == Some(Detail::EpsLimited) => format!(
            "not lossless (eps-limited): {expanded} computes what {source} computes up to a wrong \
             ε of its norms"
        ),
        Verdict::NotLossless => {
            format!("not lossless: {expanded} does not compute what {source} computes")
        }
        Verdict::Undecided => {
            format!("undecided: whether {expanded} computes what {source} computes is not known")
        }
    }
}

pub(super) fn text(report: &Report) -> String {
    let mut lines = Lines(vec![headline(report), String::new()]);
    match report.verdict {
        Verdict::Lossless => lossless(report, &mut lines),
        Verdict::NotLossless | Verdict::Undecided => otherwise(report, &mut lines),
    }
    models(report, &mut lines);
    lines.0.join("\n") + "\n"
}

/// Lines of a label and what it says.
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, label: &str, text: impl AsRef<str>) {
        let line = format!("  {label:<9} {}", printable(text.as_ref()));
        self.0.push(line.trim_end().to_string());
    }

    fn plain(&mut self, text: impl AsRef<str>) {
        self.0.push(printable(text.as_ref()).into_owned());
    }
}

fn lossless(report: &Report, lines: &mut Lines) {
    let (equations, entries) = (report.equations as u64, report.entries);
    lines.add(
        "proven",
        format!(
            "{} over {} of the weights hold; every tensor of both models took part",
            plural(equations, "equation", "equations"),
            plural(entries, "entry", "entries"),
        ),
    );
    let exactness = match report.detail {
        Some(Detail::Exact) => "exact: every residual is zero".to_string(),
        _ => format!(
            "to storage rounding: residuals of at most {} units of it, where 8 are allowed",
            figure(report.worst_units)
        ),
    };
    lines.add("equal", exactness);
    if let Some(effect) = &report.effect {
        let by = match effect.relative {
            0.0 => "is the same to the last bit".to_string(),
            relative => format!("differs by at most {} of its spread", figure(relative)),
        };
        let inputs = plural(effect.inputs as u64, "input", "inputs");
        lines.add("effect", format!("`{}` {by}, measured on {inputs}", effect.output));
    }
    if report.resolution > 0.0 {
        let resolution = figure(report.resolution);
        lines.add("excludes", format!("every common error of scale above {resolution}"));
    }
    for (at, map) in report.maps.iter().take(LISTED).enumerate() {
        let label = if at == 0 { "maps" } else { "" };
        lines.add(label, format!("{}: {}", map.space, map.words));
    }
    if report.maps.len() > LISTED {
        let more = report.maps.len() - LISTED;
        lines.add("", format!("and {more} more (--format json lists all)"));
    }
    if report.strict && !report.passed {
        lines.plain("");
        lines.plain(
            "--strict: failed, since the equations hold to storage rounding and not exactly",
        );
    }
}

fn otherwise(report: &Report, lines: &mut Lines) {
    let mut failures = report.failures.iter();
    if let Some(root) = failures.next() {
        failure(root, lines);
    }
    evidence(report, lines);
    report.eps_limits.iter().for_each(|limit| eps_limit(limit, lines));
    if report.passed {
        lines.plain("");
        lines.plain("--allow eps-limited: passed, since all equations but those of ε hold");
    }
    let behind: Vec<&Failure> = failures.collect();
    if !behind.is_empty() {
        lines.plain("");
        let many = plural(behind.len() as u64, "more equation fails", "more equations fail");
        lines.plain(format!("Behind it {many}:"));
        for failure in behind.iter().take(LISTED) {
            let Failure { rule, tensor, place, .. } = failure;
            let units = units(failure).map_or(String::new(), |units| format!(", {units}"));
            lines.plain(format!("  {place}: {rule}: `{tensor}`{units}"));
        }
        more(behind.len(), lines);
    }
    if !report.unknowns.is_empty() {
        lines.plain("");
        lines.plain("Not judged:");
        for unknown in report.unknowns.iter().take(LISTED) {
            lines.plain(format!("  {}: {}", unknown.subject, unknown.reason));
        }
        more(report.unknowns.len(), lines);
    }
    lines.plain("");
}

/// How much a wrong ε can matter.
fn eps_limit(limit: &EpsLimit, lines: &mut Lines) {
    let field = format!("with `{}` = {} all equations would hold", limit.field, full(limit.right));
    lines.add("size", field);
    eps_words(limit).iter().for_each(|line| lines.add("", line));
}

/// The largest relative change by a wrong ε, as a function of the variance, on the inputs that were
/// run, and at most.
pub(crate) fn eps_words(limit: &EpsLimit) -> [String; 2] {
    let EpsLimit { right, got, smallest_variance, change, bound, inputs, .. } = limit;
    [
        format!(
            "at variance v, norms write |sqrt((v + {})/(v + {})) - 1| of it too much or too little",
            figure(*right),
            figure(*got)
        ),
        format!(
            "that is {} at the smallest variance on {}, {}; at most {}, at v = 0, where a stream \
             has no variance at all",
            figure(*change),
            plural(*inputs as u64, "input", "inputs"),
            figure(*smallest_variance),
            figure(*bound)
        ),
    ]
}

fn more(all: usize, lines: &mut Lines) {
    if all > LISTED {
        lines.plain(format!("  and {} more (--format json lists all)", all - LISTED));
    }
}

fn failure(failure: &Failure, lines: &mut Lines) {
    let Failure { rule, tensor, source_tensor, place, index, .. } = failure;
    lines.add("fails", format!("{rule}: `{tensor}`"));
    let index = match index.is_empty() {
        true => String::new(),
        false => format!(", index {index:?}"),
    };
    let held = match source_tensor.is_empty() {
        true => String::new(),
        false => format!(", held against the source's `{source_tensor}`"),
    };
    lines.add("at", format!("{place}{index}{held}"));
    // A setting need not be a number: then the cause says what it is.
    if !failure.expected.is_nan() && !failure.got.is_nan() {
        lines.add("expected", full(failure.expected));
        lines.add("got", full(failure.got));
    }
    if let Some(units) = units(failure) {
        lines.add(
            "off by",
            format!(
                "{}: {units}; {} of {} wrong",
                figure(failure.got - failure.expected),
                count(failure.wrong as u64),
                plural(failure.entries as u64, "entry", "entries"),
            ),
        );
    }
    if let Some(cause) = &failure.cause {
        lines.add("likely", cause);
    }
}

/// By how much a failure exceeds rounding; `None` for a setting that has none.
fn units(failure: &Failure) -> Option<String> {
    (failure.units != f64::MAX).then(|| format!("{} units of rounding", figure(failure.units)))
}

fn evidence(report: &Report, lines: &mut Lines) {
    let tried = plural(report.inputs_tried as u64, "input", "inputs");
    match (&report.witness, report.evidence) {
        (Some(found), _) => witness(found, report, lines),
        (None, Some(Evidence::Equation)) => lines.add(
            "evidence",
            "the equation itself: its effect is below what outputs show above storage rounding",
        ),
        (None, _) if report.inputs_tried == 0 => lines.add(
            "evidence",
            "no input was tried: the equations are sufficient, not necessary, and show no \
             difference by themselves",
        ),
        (None, _) if report.unknowns.iter().any(|unknown| unknown.subject == DOUBTED) => {
            lines.add(
                "evidence",
                format!("every equation holds, and yet outputs differ on {tried}"),
            );
        }
        (None, _) if report.failures.is_empty() => {
            lines.add("evidence", format!("no difference found on {tried}; that proves nothing"));
        }
        (None, _) => lines.add(
            "evidence",
            format!(
                "the equation fails, but {tried} showed no difference: the equations are \
                 sufficient, not necessary, so this may be an expansion of an unknown kind"
            ),
        ),
    }
}

fn witness(witness: &WitnessSummary, report: &Report, lines: &mut Lines) {
    match witness {
        WitnessSummary::Outputs {
            input_ids,
            pixels,
            output,
            index: [row, channel],
            source,
            expanded,
            relative,
            noise,
            best_fit_scale,
            left_by_best_fit,
            diverges,
            replay,
            ..
        } => {
            let input = match (input_ids, pixels) {
                (Some(ids), _) => {
                    let words: Vec<String> = ids.iter().map(usize::to_string).collect();
                    format!("token ids {}", words.join(" "))
                }
                (None, Some(pixels)) => format!("the image {pixels}"),
                (None, None) => "an image".to_string(),
            };
            lines.add("witness", format!("{input}: `{output}` [{row}, {channel}]"));
            let difference = (expanded - source).abs();
            lines.add("", format!("source {}, expanded {}", full(*source), full(*expanded)));
            let (part, noise) = (figure(*relative), figure(difference / noise));
            lines.add("", format!("{part} of the output's spread, {noise} times storage noise"));
            if let Some(scale) = best_fit_scale.filter(|_| *left_by_best_fit < EXPLAINED) {
                let left = figure(*left_by_best_fit);
                lines.add(
                    "",
                    format!(
                        "the expanded outputs are {} times the source's, which leaves {left} of \
                         the difference",
                        factor(scale)
                    ),
                );
            }
            if let Some(diverges) = diverges {
                lines.add("diverges", divergence(diverges));
            }
            // A model in memory has a name, and no file that a command could read.
            if Path::new(&report.source.path).exists() && Path::new(&report.expanded.path).exists()
            {
                lines.add("replay", &replay[0]);
                lines.add("", &replay[1]);
            }
        }
        WitnessSummary::NoLinearMap {
            output,
            inputs,
            rows,
            channel,
            relative,
            noise,
            residual,
        } => {
            let place = format!("`{output}` channel {channel} over {rows} rows of {inputs} inputs");
            lines.add("witness", format!("{place}: no linear map from the source's channels fits"));
            let (part, noise) = (figure(*relative), figure(residual / noise));
            lines.add("", format!("the best leaves {part} of it, {noise} times storage noise"));
            lines.add("replay", "run the same command again: the inputs are always the same");
        }
    }
}

/// Where the models part, in words.
fn divergence(divergence: &Divergence) -> String {
    let by = |relative: &f64| format!("by {} of the stream's spread", figure(*relative));
    match divergence {
        Divergence::Embedding { relative } => format!("in the embedding: {}", by(relative)),
        Divergence::Layer { layer, source_layer, relative } => {
            let behind = match source_layer {
                Some(source) => format!("layer {source}"),
                None => "embedding".to_string(),
            };
            format!("in layer {layer}, held against the source's {behind}: {}", by(relative))
        }
        Divergence::Outputs => "behind the last layer: the streams agree up to there".to_string(),
    }
}

fn models(report: &Report, lines: &mut Lines) {
    lines.add("source", model(&report.source));
    lines.add("expanded", model(&report.expanded));
    let ignored = &report.ignored_buffers;
    let buffers = ignored.source.len() + ignored.expanded.len();
    if buffers > 0 {
        let buffers = plural(buffers as u64, "stored buffer", "stored buffers");
        lines.add("ignored", format!("{buffers} that no model reads (masks, position ids)"));
    }
    lines.add("time", format!("{:.2} s", report.seconds));
}

fn model(model: &ModelSummary) -> String {
    let sizes = &model.sizes;
    if sizes.heads == 0 {
        return format!(
            "{}: {} channels, {} inside a block, {}, {} weights in {}",
            model.family,
            sizes.hidden,
            sizes.intermediate,
            plural(sizes.layers as u64, "block", "blocks"),
            count(model.weights),
            model.dtypes.join(", "),
        );
    }
    let groups = match sizes.kv_heads == sizes.heads {
        true => String::new(),
        false => format!(" on {} key/value heads", sizes.kv_heads),
    };
    format!(
        "{}: hidden {}, {} heads of {}{groups}, {} neurons, {}, {} weights in {}",
        model.family,
        sizes.hidden,
        sizes.heads,
        sizes.head_dim,
        sizes.intermediate,
        plural(sizes.layers as u64, "layer", "layers"),
        count(model.weights),
        model.dtypes.join(", "),
    )
}
