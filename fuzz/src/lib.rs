//! What the fuzz targets share: models to start from, and a folder to write to.

use lemon_check::checkpoint::{Checkpoint, Config};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use tempfile::TempDir;

/// A folder in memory where there is one, for the files of one case after the other.
pub struct Scratch(TempDir);

impl Default for Scratch {
    fn default() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        Scratch(TempDir::new_in(folder).expect("a folder for the files"))
    }
}

impl Scratch {
    /// Where a file of this name lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file of this name.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        let folder = path.parent().expect("it lies in the scratch folder");
        std::fs::create_dir_all(folder).expect("the folder can be made");
        std::fs::write(&path, bytes).expect("the file can be written");
        path
    }
}

/// One of the small models, one or more per family, that the tests compare with other libraries.
pub struct Golden {
    /// Its folder.
    pub folder: PathBuf,
    /// Its weights, as the file has them.
    pub weights: Vec<u8>,
    /// Its configuration and tensors.
    pub checkpoint: Checkpoint,
}

/// All such models.
pub static GOLDENS: LazyLock<Vec<Golden>> = LazyLock::new(|| {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let entries = std::fs::read_dir(&all).expect("the models of the tests");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.sort();
    let models = folders.into_iter().filter(|folder| folder.join("model.safetensors").exists());
    let golden = |folder: PathBuf| Golden {
        weights: std::fs::read(folder.join("model.safetensors")).expect("readable"),
        checkpoint: Checkpoint::open(&folder, None).expect("a model"),
        folder,
    };
    models.map(golden).collect()
});

impl Golden {
    /// The one of a number, round and round.
    pub fn of(number: u8) -> &'static Golden {
        &GOLDENS[usize::from(number) % GOLDENS.len()]
    }

    /// Its configuration with the fields of `changes` set; those that are null are removed.
    pub fn config(&self, changes: &Map<String, Value>) -> Map<String, Value> {
        let mut config = self.checkpoint.config().json().clone();
        for (field, value) in changes {
            match value {
                Value::Null => config.shift_remove(field),
                value => config.insert(field.clone(), value.clone()),
            };
        }
        config
    }

    /// The model with such a configuration, in memory.
    pub fn with(&self, changes: &Map<String, Value>) -> Checkpoint {
        let config = Config::new("config.json", self.config(changes));
        Checkpoint::in_memory("fuzzed model", config, self.checkpoint.tensors().clone())
    }
}

/// The fields that a text of JSON names; none if it is not JSON.
pub fn fields(text: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(text).ok()
}
