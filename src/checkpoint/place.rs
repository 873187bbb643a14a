//! Where a model's weights lie: one file, or an index of several.

use crate::error::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The one file of a model's folder.
pub(super) const SINGLE: &str = "model.safetensors";
/// The index of a model's folder.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// How the weights are stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this file.
    File(PathBuf),
    /// In the files that this index lists.
    Index(PathBuf),
}

impl Place {
    /// Finds the weights of `path`, which is a file, an index, or a folder.
    ///
    /// A folder with both `model.safetensors` and an index is read as Hugging Face reads it: the
    /// one file counts.
    ///
    /// # Errors
    /// If there are none, or several and it is not clear which are meant.
    pub fn find(path: &Path) -> Result<Place> {
        let about = std::fs::metadata(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::bad_input("there is no such file or folder")
                .at(path)
                .help("point to a .safetensors file, or to the folder of a model"),
            _ => Error::io(path, "look at the path", e)
                .help("point to a .safetensors file, or to the folder of a model"),
        })?;
        if about.is_dir() {
            return in_folder(path);
        }
        if !about.is_file() {
            return Err(Error::bad_input("this is neither a file nor a folder")
                .at(path)
                .help("point to a .safetensors file, or to the folder of a model"));
        }
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        Ok(if json { Place::Index(path.into()) } else { Place::File(path.into()) })
    }
}

fn in_folder(folder: &Path) -> Result<Place> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok(Place::File(single));
    }
    if index.exists() {
        return Ok(Place::Index(index));
    }
    let names = names(folder)?;
    let weights: Vec<&String> = names.iter().filter(|n| n.ends_with(".safetensors")).collect();
    match weights.as_slice() {
        [one] => Ok(Place::File(folder.join(one))),
        [] => Err(no_weights(folder, &names)),
        [first, second, ..] => Err(Error::bad_input(format!(
            "the folder holds {} .safetensors files ({first}, {second} …), but neither {SINGLE} \
             nor {INDEX}",
            weights.len()
        ))
        .at(folder)
        .help("point to one of the files, or to their .index.json")),
    }
}

fn no_weights(folder: &Path, names: &[String]) -> Error {
    let problem =
        format!("the folder holds no weights: looked for {SINGLE}, {INDEX}, one *.safetensors");
    let old = names.iter().find(|n| {
        [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf"].iter().any(|e| n.ends_with(e))
    });
    let advice = match old {
        Some(name) => format!("convert {name} to safetensors"),
        None => "point to the folder that the model was saved in".into(),
    };
    Error::bad_input(problem).at(folder).help(advice)
}

/// The names in a folder, in order; a name that is not UTF-8 is none that is looked for.
fn names(folder: &Path) -> Result<Vec<String>> {
    let fail = |e| Error::io(folder, "list the folder", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        names.extend(entry.map_err(fail)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
