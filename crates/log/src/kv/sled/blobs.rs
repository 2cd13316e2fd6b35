//! The files of their own into which sled puts values that are too large for its data file: it syncs neither them nor their
//! directory. Ours should never be that large; what is there is synced like the rest. Looking needs no new descriptor, for
//! it is done at each sync.

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::kv::descriptors::patiently;

/// sled's directory of blobs.
#[derive(Debug)]
pub(super) struct Blobs {
    path: PathBuf,
    dir: File,
}

impl Blobs {
    /// Opens the directory below a store's, which sled has made.
    pub(super) fn open(store: &Path) -> io::Result<Blobs> {
        let path = store.join("blobs");
        fs::create_dir_all(&path)?;
        Ok(Blobs { dir: File::open(&path)?, path })
    }

    /// Makes all blobs durable. Opens nothing unless there are some.
    pub(super) fn sync(&self) -> io::Result<()> {
        if self.is_empty()? {
            return Ok(());
        }
        let mut blobs = 0;
        for blob in patiently("looking for blobs", || fs::read_dir(&self.path))? {
            let blob = blob?.path();
            match patiently("opening a blob", || File::open(&blob)) {
                Ok(blob) => blob.sync_all()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            blobs += 1;
        }
        if blobs > 0 {
            tracing::warn!(dir = %self.path.display(), blobs, "sled keeps values outside its file");
            self.dir.sync_all()?;
        }
        Ok(())
    }

    fn is_empty(&self) -> io::Result<bool> {
        seek(&self.dir, SeekFrom::Start(0))?;
        let mut space = [MaybeUninit::uninit(); ENTRY_BYTES_MAX];
        let mut entries = RawDir::new(&self.dir, &mut space);
        while let Some(entry) = entries.next() {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Room for several of the shortest names, and for any single one.
const ENTRY_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_seen_when_they_come_and_when_they_go() {
        let temp = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(temp.path()).unwrap();
        assert!(blobs.is_empty().unwrap());
        let blob = temp.path().join("blobs").join("12345");
        fs::write(&blob, "large").unwrap();
        assert!(!blobs.is_empty().unwrap());
        blobs.sync().unwrap();
        fs::remove_file(blob).unwrap();
        assert!(blobs.is_empty().unwrap());
        blobs.sync().unwrap();
    }
}
