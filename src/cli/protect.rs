//! What a command must not write over: its own inputs, other models, devices.

use crate::error::{Class, Error, Result};
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Refuses to expand `source` onto itself, or into a folder that holds a model already.
///
/// Writing a folder removes the shards of the model that was there; that is never done unasked.
///
/// # Errors
/// Of wrong usage, with what to choose instead.
pub(super) fn refuse_out(out: &Path, source: &Path) -> Result<()> {
    let holds_source = |out: &PathBuf| {
        let is_file = source.is_file();
        places(source).iter().any(|source| {
            let beside = out.parent() == source.parent() && out.exists();
            out == source
                || is_file && (source.parent() == Some(out) || is_json(source) && beside)
                || !is_file && is_weights(out) && out.parent() == Some(source)
        })
    };
    if places(out).iter().any(holds_source) {
        return Err(wrong("this holds the source, which would be destroyed", out)
            .help("choose another folder, or another file, that is not part of the source"));
    }
    if is_weights(out) {
        return refuse_special(out);
    }
    let entries = out.read_dir().into_iter().flatten().flatten();
    match entries.map(|entry| entry.file_name()).filter(|name| is_of_a_model(name)).min() {
        None => Ok(()),
        Some(name) => {
            let problem = format!("the folder holds a model already ({})", name.display());
            Err(wrong(&problem, out).help("choose another folder, or remove this one"))
        }
    }
}

/// Refuses to write a report over one of `inputs`, or over what is no regular file.
///
/// # Errors
/// Of wrong usage.
pub(super) fn refuse_report(report: &Path, inputs: &[&Path]) -> Result<()> {
    refuse_special(report)?;
    let reports = places(report);
    let mut read: Vec<PathBuf> = Vec::new();
    for input in inputs.iter().flat_map(|input| places(input)) {
        read.extend(input.parent().map(|folder| folder.join("config.json")));
        read.extend([input.with_extension("json"), input]);
    }
    let is_input = |report: &PathBuf| {
        read.iter().any(|input| {
            let shard = is_json(input) && is_weights(report) && report.parent() == input.parent();
            report == input || shard || input.is_dir() && report.starts_with(input)
        })
    };
    match reports.iter().any(is_input) {
        false => Ok(()),
        true => Err(wrong("this is part of an input, which the report would destroy", report)
            .help("choose another file for --output, outside the models' folders")),
    }
}

/// Refuses what exists and is no regular file: a rename would replace a device or a pipe.
fn refuse_special(file: &Path) -> Result<()> {
    match file.metadata() {
        Ok(about) if !about.is_file() => {
            let problem = "this is no regular file, and is not replaced";
            Err(wrong(problem, file).help("choose a name that is free, or a regular file's"))
        }
        _ => Ok(()),
    }
}

fn wrong(problem: &str, path: &Path) -> Error {
    Error::new(Class::Usage, problem).at(path)
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn is_of_a_model(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == "config.json"
        || name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
}

/// Where `path` is: the place of the name itself, and of what it links to; without `.`, `..` and
/// links on the way. What does not exist yet is placed in what does.
fn places(path: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut name = PathBuf::new();
    let last = absolute.components().next_back();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                name.pop();
            }
            Component::CurDir => {}
            part => name.push(part),
        }
        if Some(part) != last || part == Component::ParentDir {
            name = name.canonicalize().unwrap_or(name);
        }
    }
    let target = absolute.canonicalize().or_else(|_| name.canonicalize());
    target.into_iter().chain([name]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_depend_on_how_a_path_is_written() {
        let folder = tempfile::TempDir::new().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        let place = |path: &str| places(&root.join(path)).pop().unwrap();
        assert_eq!(place("a/../a/./b"), root.join("a/b"));
        assert_eq!(place("a/.."), root);
        assert_eq!(place("new/../a"), root.join("a"));
    }
}
