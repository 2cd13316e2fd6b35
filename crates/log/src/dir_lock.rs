//! The lock of a data directory, and whether it is still in its place. Never takes a lock: that is `data_dir`'s.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// The lock of a data directory, which holds as long as this value lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: File,
    /// Where it was when it was taken: absolute.
    path: PathBuf,
}

impl DirLock {
    /// A lock that was taken on this file, which lies at this absolute path.
    pub(crate) fn new(file: File, path: PathBuf) -> DirLock {
        DirLock { file, path }
    }

    /// The same lock once more: it holds until both are dropped.
    pub(crate) fn try_clone(&self) -> io::Result<DirLock> {
        Ok(DirLock { file: self.file.try_clone()?, path: self.path.clone() })
    }

    /// Whether the lock file is still the one at its path. What cannot be looked at is taken to be.
    pub(crate) fn is_in_place(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), fs::symlink_metadata(&self.path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            (Ok(_), Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }

    /// What has happened if it is not.
    pub(crate) fn words(&self) -> String {
        let dir = self.path.parent().unwrap_or(&self.path).display();
        format!(
            "the data directory {dir} was deleted or replaced while it was in use: what this process stores would be lost"
        )
    }
}
