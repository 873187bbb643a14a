//! Where results and complaints go.

use crate::error::{Error, Result};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Where a result is written.
pub(super) enum Sink {
    /// Standard output.
    Stdout,
    /// A file, which is replaced in one step.
    File(PathBuf),
}

impl Sink {
    /// Writes all of `text`.
    ///
    /// A reader that has gone away (`lemon-check … | head`) is no error.
    ///
    /// # Errors
    /// If it cannot be written; a file is then as it was before.
    pub fn write(&self, text: &str) -> Result<()> {
        match self {
            Sink::Stdout => to_stdout(text),
            Sink::File(path) => to_file(path, text),
        }
    }
}

pub(super) fn to_stdout(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io(Path::new("standard output"), "write the result", e))
        }
        _ => Ok(()),
    }
}

fn to_file(path: &Path, text: &str) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".lemon-check-").suffix(".tmp");
    // Temporary files are private; a report is as readable as any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let advice = "check that the folder exists and may be written";
    let fail = |what: &str, e| Error::io(path, what, e).help(advice);
    let mut file = builder
        .tempfile_in(folder)
        .map_err(|e| fail("create a temporary file in the folder", e))?;
    file.write_all(text.as_bytes()).map_err(|e| fail("write the report", e))?;
    file.persist(path).map_err(|e| fail("move the finished report to its place", e.error))?;
    Ok(())
}

/// Writes a line to standard error, if anyone listens.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
