//! Where a checkpoint's configuration is looked for, and in which order.

use super::Config;
use super::file::read_text;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The metadata key of a file that carries its configuration.
pub(super) const CONFIG_KEY: &str = "config";
/// The configuration of a model's folder.
pub(super) const CONFIG_FILE: &str = "config.json";
/// The longest configuration that is read, in bytes: twice what names for 20 000 classes take. As
/// values, JSON takes up to a hundred times its length.
const CONFIG_LIMIT: u64 = 4_000_000;

/// What is known before the configuration is.
pub(super) struct Lookup<'a> {
    /// The configuration that the user names.
    pub explicit: Option<&'a Path>,
    /// The path that the user names: a file, an index or a folder.
    pub path: &'a Path,
    /// The first file of weights.
    pub weights: &'a Path,
    /// The first file's metadata.
    pub metadata: &'a BTreeMap<String, String>,
}

impl Lookup<'_> {
    /// The configuration: the explicit one, or that in the metadata, or `<stem>.json` beside the
    /// file, or `config.json` in the folder. The first that is there counts, even if it is damaged.
    ///
    /// # Errors
    /// If there is none, or it is unreadable.
    pub fn config(&self) -> Result<Config> {
        if let Some(path) = self.explicit {
            return read(path);
        }
        if let Some(text) = self.metadata.get(CONFIG_KEY) {
            return self.in_metadata(text);
        }
        let places = self.places();
        match places.iter().find(|place| place.exists()) {
            Some(path) => read(path),
            None => Err(self.none(&places)),
        }
    }

    fn in_metadata(&self, text: &str) -> Result<Config> {
        let origin = self.metadata_origin();
        if text.len() as u64 > CONFIG_LIMIT {
            let problem = format!(
                "the configuration is {} bytes long; at most {CONFIG_LIMIT} are read",
                text.len()
            );
            let advice = "name a configuration file explicitly";
            return Err(Error::bad_input(problem).at(Path::new(&origin)).help(advice));
        }
        Config::parse(Path::new(&origin), text)
    }

    fn metadata_origin(&self) -> String {
        format!("{} (metadata `{CONFIG_KEY}`)", self.weights.display())
    }

    /// The files that are looked for, in order.
    fn places(&self) -> Vec<PathBuf> {
        if self.path.is_dir() {
            return vec![self.path.join(CONFIG_FILE)];
        }
        let beside = beside(self.path).filter(|place| place != self.path);
        beside.into_iter().chain([self.path.with_file_name(CONFIG_FILE)]).collect()
    }

    fn none(&self, places: &[PathBuf]) -> Error {
        let looked: Vec<String> = [self.metadata_origin()]
            .into_iter()
            .chain(places.iter().map(|p| p.display().to_string()))
            .collect();
        let problem = format!("found no configuration: looked for {}", looked.join(", "));
        let advice = "put the model's config.json there, or name it: --source-config or \
                      --expanded-config where two models are checked, --config elsewhere";
        Error::bad_input(problem).at(self.path).help(advice)
    }
}

/// `<stem>.json` beside a file of weights, or beside an index: `a.json` for `a.safetensors` and for
/// `a.safetensors.index.json`.
pub(super) fn beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = match name.strip_suffix(".index.json").unwrap_or(name) {
        name if name.ends_with(".safetensors") => name.strip_suffix(".safetensors")?,
        name => Path::new(name).file_stem()?.to_str()?,
    };
    Some(path.with_file_name(format!("{stem}.json")))
}

fn read(path: &Path) -> Result<Config> {
    Config::parse(path, &read_text(path, CONFIG_LIMIT, "configuration")?)
}
