//! The files through which tensors pass.
//!
//! What a backend wrote is read with care: it may be no file, or larger than any answer, or cut
//! while it is read. So it is copied and never mapped.

use super::Tensors;
use crate::checkpoint::{Checkpoint, Config, SHARD_LIMIT, parse_tensors, save, to_bytes};
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Where files are kept in memory.
const MEMORY: &str = "/dev/shm";
/// No answer is larger.
const ANSWER_LIMIT: u64 = 1 << 28;

/// A folder for the files of one backend; it is removed in the end.
pub(super) struct Folder(TempDir);

impl Folder {
    /// A new folder, in memory where the system has that.
    ///
    /// # Errors
    /// If none can be made.
    pub fn new() -> Result<Folder> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("lemon-check-");
        let made = builder.tempdir_in(MEMORY).or_else(|_| builder.tempdir());
        made.map(Folder).map_err(|e| {
            Error::io(&std::env::temp_dir(), "make a folder for tensors", e)
                .help("set TMPDIR to a folder that may be written")
        })
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Writes `tensors` to a file.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(path: &Path, tensors: &Tensors) -> Result<()> {
    let bytes = to_bytes(tensors)?;
    std::fs::write(path, bytes).map_err(|e| Error::io(path, "write tensors", e))
}

/// Writes a model into a folder of its own, in which nothing of another is left.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write_model(folder: &Path, model: &Checkpoint) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(Error::io(folder, "remove the model of before", e));
        }
        _ => {}
    }
    save(folder, model.config(), model.tensors(), SHARD_LIMIT)
}

/// Writes a configuration.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write_config(path: &Path, config: &Config) -> Result<()> {
    let text = serde_json::Value::Object(config.json().clone()).to_string();
    std::fs::write(path, text).map_err(|e| Error::io(path, "write a configuration", e))
}

/// Reads what a backend wrote.
///
/// # Errors
/// If it is no safetensors file of a reasonable size.
pub(super) fn read(path: &Path) -> Result<Tensors> {
    let fail = |e| Error::io(path, "read what the backend wrote", e);
    let file = open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::bad_input("the backend wrote no regular file").at(path));
    }
    let mut bytes = Vec::new();
    file.take(ANSWER_LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > ANSWER_LIMIT {
        return Err(Error::bad_input("what the backend wrote is too large").at(path));
    }
    parse_tensors(&bytes).map_err(|e| e.at(path))
}

/// Opens without waiting, as a pipe would make one wait.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits() as i32);
    }
    options.open(path)
}
