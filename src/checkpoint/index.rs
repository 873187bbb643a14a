//! The index of a checkpoint in several files (shards): `model.safetensors.index.json`.

use super::file::read_text;
use super::unique::Unique;
use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// The largest index that is read, in bytes.
const INDEX_LIMIT: u64 = 25_000_000;

/// Which shard holds which tensor.
pub(super) struct Index {
    path: PathBuf,
    folder: PathBuf,
    /// The shard's file name by the tensor's name.
    shards: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Raw {
    weight_map: Unique<String>,
}

impl Index {
    /// Reads the index at `path`. The shards lie in its folder.
    ///
    /// A shard must be named by a plain file name, so that an index can name no file elsewhere. The
    /// file of that name may be a link that leads out of the folder: the Hugging Face cache
    /// consists of such links, and only who owns the folder can put one there.
    ///
    /// # Errors
    /// If it is unreadable, names a tensor twice, or names a shard by more than a file name.
    pub fn read(path: &Path) -> Result<Index> {
        let advice = "expected an index such as model.safetensors.index.json, with `weight_map`: \
                      {tensor: file}; point to it, to a .safetensors file, or to their folder";
        let raw: Raw =
            serde_json::from_str(&read_text(path, INDEX_LIMIT, "index")?).map_err(|e| {
                Error::bad_input(format!("not an index of shards: {e}")).at(path).help(advice)
            })?;
        let shards = raw.weight_map.0;
        for (tensor, shard) in &shards {
            if !is_plain(shard) {
                let problem = format!("its file is {shard:?}, which is not a plain file name");
                let advice = "every shard must lie beside the index; correct `weight_map`";
                return Err(Error::bad_input(problem).at(path).tensor(tensor).help(advice));
            }
        }
        if shards.is_empty() {
            let error = Error::bad_input("`weight_map` names no tensor").at(path);
            return Err(error.help("save or fetch the model again"));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Index { path: path.to_path_buf(), folder, shards })
    }

    /// The shards' paths, each once, in the order of their names.
    ///
    /// # Errors
    /// If one is missing.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let names: BTreeSet<&String> = self.shards.values().collect();
        names
            .into_iter()
            .map(|name| {
                let file = self.folder.join(name);
                if file.exists() { Ok(file) } else { Err(self.missing_shard(name)) }
            })
            .collect()
    }

    /// Checks that every listed tensor is in the shard that the index says; `found` says in which
    /// file each is. A tensor that is not listed is fine: it is read, so that nothing is hidden.
    ///
    /// # Errors
    /// If a tensor is missing or elsewhere.
    pub fn check(&self, found: &BTreeMap<String, PathBuf>) -> Result<()> {
        for (tensor, shard) in &self.shards {
            let expected = self.folder.join(shard);
            let problem = match found.get(tensor) {
                Some(file) if *file == expected => continue,
                Some(file) => format!("listed in {shard}, but stored in {}", file.display()),
                None => format!("listed in {shard}, which does not hold it"),
            };
            let advice = "index and shards are not of one model; fetch or save all of them again";
            return Err(Error::bad_input(problem).at(&self.path).tensor(tensor).help(advice));
        }
        Ok(())
    }

    fn missing_shard(&self, name: &str) -> Error {
        Error::bad_input(format!("the shard {name} is missing in its folder"))
            .at(&self.path)
            .help("fetch all the files that the index lists, into the folder of the index")
    }
}

fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    // Backslashes and colons are separators elsewhere: an index must mean the same everywhere.
    !name.contains(|c: char| matches!(c, '/' | '\\' | ':') || c.is_control())
        && matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
}
