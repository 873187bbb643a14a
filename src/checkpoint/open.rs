//! Opening a checkpoint.

use super::file::map;
use super::header::{Entry, Header, TENSORS_LIMIT};
use super::index::Index;
use super::lookup::Lookup;
use super::place::Place;
use super::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

impl Checkpoint {
    /// Opens the weights at `path` with their configuration.
    ///
    /// `path` is a `.safetensors` file, an `.index.json` of several, or a folder with
    /// `model.safetensors`, or `model.safetensors.index.json`, or exactly one `*.safetensors`.
    /// `config` is its configuration; without one it is looked for in the metadata of the (first)
    /// file under `config`, in `<stem>.json` beside the file, in `config.json` in its folder; if
    /// `path` is a folder, in the metadata and in `config.json`.
    ///
    /// The files are mapped into memory. No program may change them while they are open; replacing
    /// them by renaming, as [`super::save`] does, is fine.
    ///
    /// # Errors
    /// If a file is missing, damaged, too large in its header, or of another kind; if a tensor's
    /// name appears twice; if there is no tensor, more than 2¹⁸ of them, or no configuration.
    pub fn open(path: &Path, config: Option<&Path>) -> Result<Checkpoint> {
        let (files, index) = match Place::find(path)? {
            Place::File(file) => (vec![file], None),
            Place::Index(file) => {
                let index = Index::read(&file)?;
                (index.files()?, Some(index))
            }
        };
        let mut weights = Weights::default();
        for file in &files {
            weights.add(file)?;
        }
        if let Some(index) = index {
            index.check(&weights.found)?;
        }
        if weights.tensors.is_empty() {
            return Err(Error::bad_input("the file holds no tensor")
                .at(&files[0])
                .help("save the model again, with its weights"));
        }
        let metadata = &weights.metadata.unwrap_or_default();
        let lookup = Lookup { explicit: config, path, weights: &files[0], metadata };
        Ok(Checkpoint::in_memory(path, lookup.config()?, weights.tensors))
    }
}

/// The tensors in one `.safetensors` file, which need not be a model's; no configuration is looked
/// for.
///
/// # Errors
/// If the file is missing, damaged, too large in its header, or of another kind; if a tensor's name
/// appears twice.
pub fn read_tensors(file: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut weights = Weights::default();
    weights.add(file)?;
    Ok(weights.tensors)
}

/// The tensors in the bytes of a `.safetensors` file, copied.
///
/// # Errors
/// As [`read_tensors`].
pub fn parse_tensors(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let header = Header::read(bytes)?;
    let tensor = |entry: Entry| {
        let data = bytes[entry.range].to_vec();
        let format = entry.format.to_string();
        let tensor = Tensor::from_bytes(&format, entry.shape, data);
        tensor.map(|tensor| (entry.name.clone(), tensor)).map_err(|e| e.tensor(&entry.name))
    };
    header.tensors.into_iter().map(tensor).collect()
}

/// What the files read so far hold.
#[derive(Default)]
struct Weights {
    tensors: BTreeMap<String, Tensor>,
    /// The file of each tensor.
    found: BTreeMap<String, PathBuf>,
    /// The first file's metadata.
    metadata: Option<BTreeMap<String, String>>,
}

impl Weights {
    fn add(&mut self, file: &Path) -> Result<()> {
        let map = map(file)?;
        let header = Header::read(&map).map_err(|e| e.at(file))?;
        self.metadata.get_or_insert(header.metadata);
        if self.tensors.len() + header.tensors.len() > TENSORS_LIMIT {
            let problem = format!("with this file there are more than {TENSORS_LIMIT} tensors");
            return Err(Error::bad_input(problem).at(file).help("is this one model?"));
        }
        for entry in header.tensors {
            if let Some(other) = self.found.insert(entry.name.clone(), file.to_path_buf()) {
                let problem = format!("it is stored in {} too", other.display());
                let advice = "keep it in one shard; fetch or save all shards again";
                return Err(Error::bad_input(problem).at(file).tensor(&entry.name).help(advice));
            }
            let tensor = Tensor::mapped(&map, entry.format, entry.shape, entry.range);
            self.tensors.insert(entry.name, tensor);
        }
        Ok(())
    }
}
