//! The rules of the house, as a test: which room may import which, and how files look.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms, bottom to top; those on one floor do not import each other.
const FLOORS: [&[&str]; 10] = [
    &["error", "wide"],
    &["checkpoint"],
    &["model"],
    &["forward", "expand", "certify", "compare"],
    &["check"],
    &["report"],
    &["testing"],
    &["backend"],
    &["cli"],
    &["main"],
];

/// A source file of this crate.
struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    let sources: Vec<Source> = found
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap();
            let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
            let room = first.trim_end_matches(".rs").to_string();
            let text = fs::read_to_string(&path).unwrap();
            Source { path, room, text }
        })
        .collect();
    assert!(sources.len() > 20, "found only {} files", sources.len());
    sources
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// A line without what a `//` comment says. (No string of this crate that holds one names a room.)
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The rooms that a text names after `crate::`, singly or in braces.
fn imports(text: &str) -> Vec<String> {
    let code: String = text.lines().map(|line| code(line).to_string() + "\n").collect();
    let mut rooms = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut word = String::new();
                let mut names = Vec::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(std::mem::take(&mut word)),
                        _ if depth == 0 => word.push(c),
                        _ => {}
                    }
                }
                names.push(word);
                rooms.extend(names.iter().map(|name| first_word(name.trim())));
            }
            None => rooms.push(first_word(rest)),
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// What is wrong with the imports of a file in `room`.
fn wrong_imports(room: &str, text: &str) -> Vec<String> {
    if room == "lib" {
        return Vec::new();
    }
    let Some(own) = floor(room) else {
        return vec![format!("the room `{room}` is on no floor: add it to FLOORS")];
    };
    let mut wrong = Vec::new();
    for import in imports(text) {
        // What the crate's root exports (`crate::Error`) comes from the bottom.
        let Some(other) = floor(&import) else { continue };
        let same = import == room;
        if !same && other >= own {
            wrong.push(format!("`{room}` imports `{import}`, which is not below it"));
        }
    }
    wrong
}

fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn arrows_point_down() {
    let problems = sources().into_iter().flat_map(|source| {
        let path = source.path;
        let wrong = wrong_imports(&source.room, &source.text);
        wrong.into_iter().map(move |w| format!("{}: {w}", path.display()))
    });
    report(problems.collect());
}

#[test]
fn an_arrow_that_points_up_or_across_is_found() {
    for (room, text) in [
        ("forward", "use crate::certify::certify;"),
        ("certify", "use crate::{error::Result, expand::{Free, Options}};"),
        ("model", "fn f() { crate::testing::random::generator(0); }"),
        ("expand", "pub use crate::forward;"),
        ("attic", ""),
    ] {
        assert_eq!(wrong_imports(room, text).len(), 1, "{room}: {text}");
    }
    for (room, text) in [
        ("certify", "use crate::{checkpoint::Checkpoint, model::{Model, Lens}};"),
        ("check", "use crate::Error; use crate::certify;"),
        ("checkpoint", "//! as in [`crate::model`]\nuse crate::error::Error;"),
    ] {
        assert_eq!(wrong_imports(room, text), Vec::<String>::new(), "{room}: {text}");
    }
}

#[test]
fn files_and_lines_are_short() {
    let mut problems = Vec::new();
    for Source { path, text, .. } in sources() {
        let limit = if path.ends_with("src/main.rs") { 30 } else { 500 };
        let (path, count) = (path.display(), text.lines().count());
        if count > limit {
            problems.push(format!("{path}: {count} lines, more than {limit}"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > 100 {
                problems.push(format!("{path}:{}: more than 100 columns", number + 1));
            }
        }
    }
    report(problems);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//!"));
    report(silent.map(|s| format!("{}: does not begin with `//!`", s.path.display())).collect());
}

#[test]
fn nothing_is_left_lying_about() {
    let banned = ["todo!", "dbg!", "unimplemented!", "allow(dead_code"];
    let printing = ["println!", "print!"];
    let mut problems = Vec::new();
    for Source { path, room, text } in sources() {
        for (number, line) in text.lines().enumerate() {
            let line = code(line);
            let mut found: Vec<&str> = banned.into_iter().filter(|b| line.contains(b)).collect();
            if room != "cli" {
                found.extend(printing.into_iter().filter(|p| line.contains(p)));
            }
            for word in found {
                problems.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    report(problems);
}
