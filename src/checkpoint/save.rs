//! Saving a checkpoint so that at no moment a mixture of two can be read.

use super::draft::{Draft, folder_of, sync_folder};
use super::lookup::{CONFIG_FILE, CONFIG_KEY, beside};
use super::place::{INDEX, SINGLE};
use super::weights::Weights;
use super::{Config, Tensor};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The size above which a folder's weights are split into shards, in bytes, as Hugging Face does.
pub const SHARD_LIMIT: u64 = 5_000_000_000;

/// What other programs expect to find in a file's metadata.
const PYTORCH: (&str, &str) = ("format", "pt");

/// Saves `tensors` with their `config`.
///
/// A `path` that ends in `.safetensors` becomes one file that carries its configuration in its
/// metadata. Any other becomes a folder with `config.json` and `model.safetensors`, or, above
/// `shard_limit` bytes, `model-00001-of-0000N.safetensors` … and `model.safetensors.index.json`.
///
/// Everything is written under temporary names first: if that fails, what was there before is
/// untouched. One file is then replaced in one step. In a folder the old `config.json` goes first,
/// and the new one comes last, after the weights: if the computer stops in between, the folder
/// has no configuration, and opening it is an error instead of a mixture of old and new.
///
/// # Errors
/// If there is no tensor, a name cannot be stored, or the files cannot be written; if the folder
/// holds a `model.json`, which would be taken for the configuration of `model.safetensors`.
pub fn save(
    path: &Path,
    config: &Config,
    tensors: &BTreeMap<String, Tensor>,
    shard_limit: u64,
) -> Result<()> {
    if tensors.is_empty() {
        return Err(Error::bad_input("there is no tensor to save")
            .at(path)
            .help("a checkpoint without tensors could not be opened again"));
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        save_file(path, config, tensors)
    } else {
        save_folder(path, config, tensors, shard_limit)
    }
}

/// Some tensors with their names, in the order of the names.
type Named<'a> = Vec<(&'a str, &'a Tensor)>;

/// The bytes of a `.safetensors` file with these tensors.
///
/// # Errors
/// If a name cannot be stored.
pub fn to_bytes(tensors: &BTreeMap<String, Tensor>) -> Result<Vec<u8>> {
    let named = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let mut bytes = Vec::new();
    Weights::new(named, &[])?.write(&mut bytes).expect("memory can be written");
    Ok(bytes)
}

fn save_file(path: &Path, config: &Config, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    if path.is_dir() {
        let problem = "this is a folder, and a file is to be written";
        return Err(Error::bad_input(problem).at(path).help("choose another name"));
    }
    let config = Value::Object(config.json().clone()).to_string();
    let all = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    draft(path, all.collect(), &[(CONFIG_KEY, config), pytorch()])?.publish()?;
    sync_folder(folder_of(path));
    Ok(())
}

fn save_folder(
    folder: &Path,
    config: &Config,
    tensors: &BTreeMap<String, Tensor>,
    shard_limit: u64,
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| {
        Error::io(folder, "create the folder", e)
            .help("name a folder that can be created, or a file that ends in .safetensors")
    })?;
    refuse_rival(folder)?;
    let shards = shards(tensors, shard_limit);
    let names: Vec<String> = (1..=shards.len()).map(|at| shard_name(at, shards.len())).collect();
    let index = (shards.len() > 1).then(|| index(&shards, &names));
    let mut weights = Vec::with_capacity(shards.len());
    for (shard, name) in shards.into_iter().zip(&names) {
        weights.push(draft(&folder.join(name), shard, &[pytorch()])?);
    }
    let index = index.map(|json| json_draft(&folder.join(INDEX), &json)).transpose()?;
    let config = json_draft(&folder.join(CONFIG_FILE), &Value::Object(config.json().clone()))?;
    replace(folder, weights, index, config)
}

/// Replaces what a folder holds by the finished drafts; the order is explained at [`save`].
fn replace(folder: &Path, weights: Vec<Draft>, index: Option<Draft>, config: Draft) -> Result<()> {
    remove(config.target())?;
    sync_folder(folder);
    remove(&folder.join(INDEX))?;
    for old in saved_weights(folder)? {
        if !weights.iter().any(|draft| draft.target() == old) {
            remove(&old)?;
        }
    }
    for draft in weights.into_iter().chain(index) {
        draft.publish()?;
    }
    sync_folder(folder);
    config.publish()?;
    sync_folder(folder);
    Ok(())
}

/// Refuses a file that would come before `config.json` if `model.safetensors` is opened by name.
fn refuse_rival(folder: &Path) -> Result<()> {
    match beside(&folder.join(SINGLE)).filter(|rival| rival.exists()) {
        None => Ok(()),
        Some(rival) => {
            let problem = format!("this would be taken for the configuration of {SINGLE}");
            let advice = "remove it, or choose another folder";
            Err(Error::bad_input(problem).at(&rival).help(advice))
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(Error::io(path, "remove the old file", e).help("choose another folder"))
        }
        _ => Ok(()),
    }
}

/// The files of weights that an earlier save left in the folder.
fn saved_weights(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |e| Error::io(folder, "list the folder", e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name().to_str().is_some_and(is_saved_weights) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn is_saved_weights(name: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let shard = name.strip_prefix("model-").and_then(|n| n.strip_suffix(".safetensors"));
    name == SINGLE
        || shard
            .and_then(|numbers| numbers.split_once("-of-"))
            .is_some_and(|(at, count)| number(at) && number(count))
}

fn shard_name(at: usize, count: usize) -> String {
    if count == 1 { SINGLE.into() } else { format!("model-{at:05}-of-{count:05}.safetensors") }
}

/// Splits the tensors, by name, into shards of at most `limit` bytes each; a larger tensor has a
/// shard of its own.
fn shards(tensors: &BTreeMap<String, Tensor>, limit: u64) -> Vec<Named<'_>> {
    let mut shards: Vec<Named> = vec![Vec::new()];
    let mut size = 0u64;
    for (name, tensor) in tensors {
        let bytes = tensor.bytes().len() as u64;
        let full = shards.last().is_some_and(|shard| !shard.is_empty());
        if full && size.saturating_add(bytes) > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size = size.saturating_add(bytes);
        shards.last_mut().expect("there is one").push((name, tensor));
    }
    shards
}

fn index(shards: &[Named], names: &[String]) -> Value {
    let total: u64 = shards.iter().flatten().map(|(_, t)| t.bytes().len() as u64).sum();
    let weight_map: Map<String, Value> = shards
        .iter()
        .zip(names)
        .flat_map(|(shard, file)| {
            shard.iter().map(move |(tensor, _)| (tensor.to_string(), file.as_str().into()))
        })
        .collect();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}

fn pytorch() -> (&'static str, String) {
    (PYTORCH.0, PYTORCH.1.into())
}

fn draft(path: &Path, tensors: Named, metadata: &[(&str, String)]) -> Result<Draft> {
    let weights = Weights::new(tensors, metadata).map_err(|e| e.at(path))?;
    Draft::write(path, |file| weights.write(file))
}

fn json_draft(path: &Path, json: &Value) -> Result<Draft> {
    // `{:#}` is JSON with line breaks.
    Draft::write(path, |file| file.write_all(format!("{json:#}\n").as_bytes()))
}
