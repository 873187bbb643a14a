//! Reading whole files, within limits.

use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

/// Opens a regular file; a pipe or a device might never end.
fn open(path: &Path, what: &str) -> Result<File> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let problem = format!("there is no such file; expected the {what}");
            Err(Error::bad_input(problem).at(path).help("check the path"))
        }
        Err(e) => Err(Error::io(path, &format!("read the {what}"), e).help("check the path")),
        Ok(about) if !about.is_file() => {
            let problem = format!("this is not a regular file; expected the {what}");
            Err(Error::bad_input(problem).at(path).help("copy it to a file and point to that"))
        }
        Ok(_) => File::open(path).map_err(|e| {
            Error::io(path, &format!("open the {what}"), e).help("check who may read the file")
        }),
    }
}

/// Reads a text of at most `limit` bytes; `what` names the file's purpose.
///
/// # Errors
/// If it is no readable file, too long, or not UTF-8.
pub(super) fn read_text(path: &Path, limit: u64, what: &str) -> Result<String> {
    let mut bytes = Vec::new();
    open(path, what)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(path, &format!("read the {what}"), e))?;
    if bytes.len() as u64 > limit {
        let problem = format!("the {what} is too large; at most {limit} bytes are read");
        return Err(Error::bad_input(problem).at(path).help("is it the file you meant?"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let problem = format!("the {what} is not UTF-8 text: {}", e.utf8_error());
        Error::bad_input(problem).at(path).help("expected a JSON file")
    })
}

/// Maps a file of weights into memory.
///
/// # Errors
/// If it is no readable file.
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = open(path, "weights (a safetensors file)")?;
    // SAFETY: the map is only read, as bytes of any value. The one danger is another program that
    // changes or cuts the file meanwhile; `Checkpoint::open` documents that nobody may, and what
    // writes here (`save`) replaces files by renaming, which leaves a mapped file as it is.
    let map = unsafe { Mmap::map(&file) };
    map.map(Arc::new).map_err(|e| Error::io(path, "map the weights into memory", e))
}
