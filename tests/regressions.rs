//! Cases that failed once, replayed: right expansions that were not proven, mistakes that were
//! missed, equivalent changes that were not accepted.
//!
//! Each is a small file in `tests/regressions/`: what went wrong in a sentence, the source, its
//! target, and the seed of the changes. `lemon-check mutants` prints all of these where something
//! should not be.

use lemon_check::testing::survey::survey_pair;
use lemon_check::testing::{Models, SourceCase, TargetCase};
use serde::Deserialize;
use std::fs;

/// A case that failed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Regression {
    /// What went wrong.
    failed: String,
    source: SourceCase,
    target: TargetCase,
    /// What the changes and the inputs follow from.
    seed: u64,
}

#[test]
fn what_failed_once_does_not_fail_again() {
    let mut failures = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir("tests/regressions").unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.display();
        assert!(text.len() < 4000, "{shown}: a case is small");
        let case: Regression =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let models =
            Models::build(case.source, case.target).unwrap_or_else(|e| panic!("{shown}: {e}"));
        let tally =
            survey_pair(&models, usize::MAX, case.seed).unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!(tally.all_rights().pairs, 1);
        let failed = case.failed;
        // No case was of a changed basis, of which rounding leaves too little in some of them.
        let mixed = |note: &&String| {
            ["queries and keys mixed", "values mixed"].iter().any(|name| note.starts_with(name))
        };
        let wrong = tally.notes.iter().chain(tally.unproven.iter().filter(|note| !mixed(note)));
        failures.extend(wrong.map(|note| format!("{shown} ({failed}): {note}")));
        count += 1;
    }
    assert!(count > 0, "no case was replayed");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
