//! `lemon-check mutants`

use super::output::to_stdout;
use crate::certify::UNITS as LIMIT;
use crate::error::{Class, Error, Result};
use crate::testing::Intent;
use crate::testing::survey::{Cell, Right, Subject, Tally, UNITS, VISIBLE, survey};
use clap::Args;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Instant;

#[derive(Args)]
pub(super) struct MutantsArguments {
    /// The kind of model, such as `llama` [default: every one]
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Random pairs per family
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    cases: u64,
    /// Changes of each pair, drawn from those that apply [default: every one]
    #[arg(long, value_name = "N")]
    changes: Option<usize>,
    /// What all random choices follow from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

type Surveys = BTreeMap<Subject, Tally>;

/// Surveys random pairs and prints what became of them, in Markdown; returns the exit code.
///
/// # Errors
/// If the family is unknown, or a pair cannot be made.
pub(super) fn run(arguments: &MutantsArguments) -> Result<u8> {
    let subjects = subjects(arguments.family.as_deref())?;
    let start = Instant::now();
    let mut surveys = Surveys::new();
    for subject in subjects {
        let changes = arguments.changes.unwrap_or(usize::MAX);
        surveys.insert(subject, survey(subject, arguments.cases, changes, arguments.seed)?);
    }
    to_stdout(&page(arguments, &surveys, processor_seconds(start)))?;
    Ok(u8::from(surveys.values().any(|tally| !tally.notes.is_empty())))
}

fn subjects(family: Option<&str>) -> Result<Vec<Subject>> {
    let all = Subject::all();
    let Some(family) = family else { return Ok(all) };
    if let Some(subject) = all.iter().find(|subject| subject.name().eq_ignore_ascii_case(family)) {
        return Ok(vec![*subject]);
    }
    let names: Vec<String> = all.iter().map(|subject| subject.name()).collect();
    let error = Error::new(Class::Usage, format!("no random models are made of family {family:?}"));
    Err(error.help(format!("give one of {}, or none for all", names.join(", "))))
}

fn page(arguments: &MutantsArguments, surveys: &Surveys, seconds: f64) -> String {
    let MutantsArguments { family, cases, changes, seed } = arguments;
    let mut asked = family.iter().map(|family| format!(" --family {family}")).collect::<String>();
    let _ = write!(asked, " --cases {cases}");
    let each = match changes {
        Some(changes) => {
            let _ = write!(asked, " --changes {changes}");
            format!("each with {changes} deliberate changes, drawn from those of the catalogue")
        }
        None => "each with every deliberate change of the catalogue".into(),
    };
    let mut page = format!(
        "# Which mistakes are found\n\n`lemon-check mutants{asked} --seed {seed}` \
         (lemon-check {}, {seconds:.0} s of processor time)\n\n\
         Random expansions of random models, {cases} per family, {each}\nthat apply. Both models \
         are run: a change counts if an output differs by more than {VISIBLE:e} of its \
         spread in\nfloat64 files, and in coarser ones by more than moving every weight by up to \
         {UNITS} units of its storage rounding does.\nAn \
         equation that is off by more than {LIMIT} units of its carried bound is never called \
         equal; so a change of\n{UNITS} units in an equation could be missed by wrong maps alone, \
         and outputs show it without any maps.\n\n",
        env!("CARGO_PKG_VERSION")
    );
    let all = surveys.values();
    let right = |part: fn(&Right) -> usize| -> usize {
        all.clone().map(|tally| part(&tally.all_rights())).sum()
    };
    let pairs = right(|right| right.pairs);
    let total = |equivalent: bool, part: fn(&Cell) -> usize| -> usize {
        all.clone().map(|tally| part(&tally.all_cells(equivalent))).sum()
    };
    let changed = total(false, |cell| cell.changed);
    let share = |part: usize| 100.0 * part as f64 / changed.max(1) as f64;
    let tensor = total(false, |cell| cell.tensor);
    let equation = total(false, |cell| cell.equation);
    let judged = pairs + total(false, Cell::all) + total(true, Cell::all);
    let rate = judged as f64 / seconds.max(f64::MIN_POSITIVE);
    let lines = [
        ("kinds of mistakes", surveyed_kinds(surveys, Intent::Mistake).to_string()),
        ("kinds of equivalent changes", surveyed_kinds(surveys, Intent::Equivalent).to_string()),
        ("models judged: made, held to the equations and run", judged.to_string()),
        ("of these, per second and core", format!("{rate:.0}")),
        ("right expansions", pairs.to_string()),
        ("of these called different: false alarms", right(|right| right.alarms).to_string()),
        ("of these undecided", right(Right::undecided).to_string()),
        ("mistakes that change an output", changed.to_string()),
        ("of these missed", total(false, |cell| cell.missed).to_string()),
        (
            "of these, a changed tensor is blamed first",
            format!("{tensor} ({:.2} %)", share(tensor)),
        ),
        (
            "of these, that or another tensor of its equations",
            format!("{} ({:.2} %)", tensor + equation, share(tensor + equation)),
        ),
        (
            "of the others, parts are said to be of different kinds, and the verdict is undecided",
            total(false, |cell| cell.undecided).to_string(),
        ),
        ("equivalent changes", total(true, |cell| cell.equal).to_string()),
        ("of these proven", total(true, |cell| cell.proven).to_string()),
        ("of these called different", total(true, |cell| cell.alarms).to_string()),
    ];
    page += "| | |\n| --- | --- |\n";
    for (what, count) in lines {
        let _ = writeln!(page, "| {what} | {count} |");
    }
    page += "\n## Right expansions\n\n`proven/pairs`, by number format.\n\n";
    let formats: BTreeSet<&str> =
        all.clone().flat_map(|tally| tally.rights.keys().copied()).collect();
    let rows: Vec<&str> = formats.into_iter().collect();
    table(&mut page, surveys, &rows, |tally, format| {
        let right = tally.rights.get(format)?;
        Some(format!("{}/{}", right.proven, right.pairs))
    });
    page += "\n## Mistakes\n\n`tensor+equation/changed`: an output changed in so many pairs, in so \
             many of them a changed tensor or field is\nblamed first, or another tensor of the \
             same equations. `·`: it changed no output; `–`: it never applied.\n\n";
    table_of_changes(&mut page, surveys, false);
    page += "\n## Equivalent changes\n\n`proven/applied`.\n\n";
    table_of_changes(&mut page, surveys, true);
    list(&mut page, "What should not be", all.clone().flat_map(|tally| &tally.notes));
    let unproven = all.flat_map(|tally| &tally.unproven);
    list(&mut page, "Equivalent changes that are not proven", unproven);
    page
}

fn list<'a>(page: &mut String, title: &str, notes: impl Iterator<Item = &'a String>) {
    for (number, note) in notes.enumerate() {
        if number == 0 {
            let _ = write!(page, "\n## {title}\n\n");
        }
        let _ = writeln!(page, "- {}", note.replace('\n', " "));
    }
}

/// How many changes of this intent there are for the kinds of models in question.
fn surveyed_kinds(surveys: &Surveys, intent: Intent) -> usize {
    surveys.keys().flat_map(|subject| subject.changes(intent)).collect::<BTreeSet<_>>().len()
}

/// Seconds that the processor spent on this program, all cores together; of the clock on the wall
/// where the system does not tell.
fn processor_seconds(_since: Instant) -> f64 {
    #[cfg(unix)]
    {
        use rustix::time::{ClockId, clock_gettime};
        let spent = clock_gettime(ClockId::ProcessCPUTime);
        spent.tv_sec as f64 + spent.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(unix))]
    {
        _since.elapsed().as_secs_f64()
    }
}

fn table_of_changes(page: &mut String, surveys: &Surveys, equivalent: bool) {
    let names: BTreeSet<&str> = surveys
        .values()
        .flat_map(|tally| tally.cells.keys())
        .filter(|(kind, _)| *kind == equivalent)
        .map(|(_, name)| *name)
        .collect();
    let rows: Vec<&str> = names.into_iter().collect();
    table(page, surveys, &rows, |tally, name| {
        let (_, cell) =
            tally.cells.iter().find(|((kind, n), _)| *kind == equivalent && *n == name)?;
        Some(match cell {
            Cell { missed, changed, .. } if *missed > 0 => format!("**missed {missed}**/{changed}"),
            Cell { changed: 0, .. } if !equivalent => "·".into(),
            Cell { tensor, equation: 0, changed, .. } if !equivalent => {
                format!("{tensor}/{changed}")
            }
            Cell { tensor, equation, changed, .. } if !equivalent => {
                format!("{tensor}+{equation}/{changed}")
            }
            Cell { changed: 0, proven, equal, .. } => format!("{proven}/{equal}"),
            Cell { changed, .. } => format!("**{changed} changed an output**"),
        })
    });
}

fn table(
    page: &mut String,
    surveys: &Surveys,
    rows: &[&str],
    cell: impl Fn(&Tally, &str) -> Option<String>,
) {
    let names: Vec<String> = surveys.keys().map(|subject| subject.name()).collect();
    let _ = writeln!(page, "| | {} |\n| --- |{}", names.join(" | "), " --- |".repeat(names.len()));
    for row in rows {
        let cells = surveys.values().map(|tally| cell(tally, row).unwrap_or_else(|| "–".into()));
        let _ = writeln!(page, "| {row} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}
