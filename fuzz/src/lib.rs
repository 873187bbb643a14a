//! What the fuzz targets share: models to start from, and a folder to write to.

use lemon_check::checkpoint::{Checkpoint, Config};
use lemon_check::testing::random::generator;
use rand::RngCore;
use rand_chacha::ChaCha8Rng;
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

/// Random words that are read off the bytes of a case, and go on from them for ever.
pub struct Words<'a> {
    bytes: &'a [u8],
    rest: ChaCha8Rng,
}

impl<'a> Words<'a> {
    /// Begins with the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Words { bytes, rest: generator(bytes.len() as u64) }
    }
}

impl RngCore for Words<'_> {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// One byte decides the highest bits, which choices depend on.
    fn next_u64(&mut self) -> u64 {
        let rest = self.rest.next_u64();
        match self.bytes.split_first() {
            Some((first, others)) => {
                self.bytes = others;
                u64::from(*first) << 56 | rest >> 8
            }
            None => rest,
        }
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|chunk| {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        });
    }
}
