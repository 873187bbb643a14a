//! Files written beside their place first, and moved there when they are whole.

use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::{Builder, TempPath};

/// A file that is complete on disk under a temporary name; dropped, it is removed.
pub(super) struct Draft {
    content: TempPath,
    target: PathBuf,
}

impl Draft {
    /// Lets `fill` write the content, and brings it to the disk.
    ///
    /// # Errors
    /// If the file cannot be made or written.
    pub fn write(target: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<Draft> {
        let advice = "check that the folder exists, may be written, and has space left";
        let mut file = temporary(folder_of(target)).map_err(|e| {
            Error::io(target, "create a temporary file in its folder", e).help(advice)
        })?;
        fill(file.as_file_mut())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|e| Error::io(target, "write the file", e).help(advice))?;
        // Only the path is kept: a checkpoint may have more shards than a process open files.
        Ok(Draft { content: file.into_temp_path(), target: target.to_path_buf() })
    }

    /// Where the file will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Moves the file to its place, over what may be there.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn publish(self) -> Result<()> {
        let target = self.target;
        self.content.persist(&target).map_err(|e| {
            Error::io(&target, "move the finished file to its place", e.error)
                .help("check that nothing else of this name is there")
        })
    }
}

/// The folder that a file lies in.
pub(super) fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Brings the renamings in a folder to the disk.
pub(super) fn sync_folder(folder: &Path) {
    // Not every system and file system can do this. Where it cannot, there is nothing better to do,
    // and the files themselves are on disk already.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = Builder::new();
    // The name must not look like weights: a crash may leave it behind.
    builder.prefix(".lemon-check-").suffix(".tmp");
    // Temporary files are private; a model is as readable as any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
