//! Cursors in one file. Each save writes the whole file beside the old one, syncs it, and puts it in the old one's
//! place, so that a reader finds either the old cursors or the new ones, never a mixture and never none.
//!
//! ```text
//! redeliver-cursors 1
//! {"key":"orders","epoch":"…","seq":48211,"nth":17,"handed_through":20,"earlier":[{"epoch":"…","seq":31000}]}
//! …
//! crc32c 1a2b3c4d          of all the bytes before this line
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use parking_lot::Mutex;
use redeliver_protocol::history::{Cursor, Place};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};
use serde::{Deserialize, Serialize};

use super::{CursorKey, CursorStore};
use crate::error::CursorStoreError;

/// Cursors in one file, for one process at a time. Each save writes all of them: meant for up to some thousand.
///
/// Beside the file stand `FILE.lock`, which keeps a second process out, and for moments `FILE.new`.
#[derive(Debug)]
pub struct FileCursorStore {
    path: PathBuf,
    cursors: Mutex<BTreeMap<CursorKey, Cursor>>,
    /// Locked as long as it is open.
    _lock: File,
}

impl FileCursorStore {
    /// Opens a store; one that does not exist is empty, and made by the first save. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`CursorStoreError`]: `InUse` if another process has it open, `Damaged` if it is not what was written (a
    /// truncated or empty file is damaged, too), `NewerFormat`, or `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<FileCursorStore, CursorStoreError> {
        let path = path.as_ref().to_owned();
        let lock = lock(&path)?;
        let cursors = match fs::read(&path) {
            Ok(bytes) => parse(&bytes, &path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(io_error(&path, error)),
        };
        Ok(FileCursorStore { path, cursors: Mutex::new(cursors), _lock: lock })
    }

    /// The cursors that are in the store.
    #[must_use]
    pub fn cursors(&self) -> BTreeMap<CursorKey, Cursor> {
        self.cursors.lock().clone()
    }
}

impl CursorStore for FileCursorStore {
    fn load(&self, key: &CursorKey) -> Result<Option<Cursor>, CursorStoreError> {
        Ok(self.cursors.lock().get(key).cloned())
    }

    fn save(&self, cursors: &[(CursorKey, Cursor)]) -> Result<(), CursorStoreError> {
        let mut known = self.cursors.lock();
        let mut all = known.clone();
        all.extend(cursors.iter().cloned());
        replace(&self.path, &format(&all)).map_err(|error| io_error(&self.path, error))?;
        *known = all;
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, CursorStoreError> {
    let lock_path = beside(path, ".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|error| io_error(&lock_path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CursorStoreError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error(&lock_path, error)),
    }
}

fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    let new_path = beside(path, ".new");
    let mut new = File::create(&new_path)?;
    new.write_all(content.as_bytes())?;
    new.sync_all()?;
    fs::rename(&new_path, path)?;
    // Without this, a power cut could bring the old file back after the save was reported.
    sync_folder(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file, and the file system itself writes renames in order.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

fn format(cursors: &BTreeMap<CursorKey, Cursor>) -> String {
    let mut text = format!("{MAGIC} {FORMAT}\n");
    for (key, cursor) in cursors {
        // Strings and numbers always have a JSON form.
        if let Ok(line) = serde_json::to_string(&Line::of(key, cursor)) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let crc = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{CRC} {crc:08x}\n"));
    text
}

fn parse(bytes: &[u8], path: &Path) -> Result<BTreeMap<CursorKey, Cursor>, CursorStoreError> {
    let damaged = |reason: String| CursorStoreError::Damaged { path: path.to_owned(), reason };
    let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
    let header = text.lines().next().and_then(|line| line.strip_prefix(MAGIC)).map(str::trim);
    let found: u32 = match header.map(u32::from_str) {
        Some(Ok(found)) => found,
        Some(Err(_)) | None => return Err(damaged(format!("it does not begin with {MAGIC:?} and a number"))),
    };
    if found > FORMAT {
        return Err(CursorStoreError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
    }
    let body_end = text.trim_end_matches('\n').rfind('\n').map_or(0, |newline| newline + 1);
    let (body, last) = text.split_at(body_end);
    if last != format!("{CRC} {:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return Err(damaged("its checksum does not match".to_owned()));
    }
    body.lines()
        .skip(1)
        .map(|line| {
            let line: Line = serde_json::from_str(line).map_err(|error| damaged(error.to_string()))?;
            Ok(line.into_cursor())
        })
        .collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_error(path: &Path, error: std::io::Error) -> CursorStoreError {
    CursorStoreError::Io { path: path.to_owned(), source: error.into() }
}

/// A cursor as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(with = "epoch_text")]
    epoch: Epoch,
    seq: u64,
    nth: u64,
    #[serde(rename = "handed_through")]
    delivered_through: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<Earlier>,
}

#[derive(Serialize, Deserialize)]
struct Earlier {
    #[serde(with = "epoch_text")]
    epoch: Epoch,
    seq: u64,
}

impl Line {
    fn of(key: &CursorKey, cursor: &Cursor) -> Line {
        let earlier = |position: &Position| Earlier { epoch: position.epoch, seq: position.seq.0 };
        Line {
            key: key.as_str().to_owned(),
            epoch: cursor.place.position.epoch,
            seq: cursor.place.position.seq.0,
            nth: cursor.place.nth.0,
            delivered_through: cursor.delivered_through.0.0,
            earlier: cursor.place.earlier.iter().map(earlier).collect(),
        }
    }

    fn into_cursor(self) -> (CursorKey, Cursor) {
        let position = |epoch: Epoch, seq: u64| Position::new(epoch, Seq(seq));
        let known = Place {
            position: position(self.epoch, self.seq),
            nth: Nth(self.nth),
            earlier: self.earlier.into_iter().map(|earlier| position(earlier.epoch, earlier.seq)).collect(),
        };
        (CursorKey::new(self.key), Cursor::new(known, DeliveredThrough(Nth(self.delivered_through))))
    }
}

/// Epochs as people know UUIDs.
mod epoch_text {
    use redeliver_protocol::seq::Epoch;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use uuid::Uuid;

    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(epoch)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        let text = String::deserialize(deserializer)?;
        Uuid::parse_str(&text).map(Epoch::from).map_err(D::Error::custom)
    }
}

const MAGIC: &str = "redeliver-cursors";
const FORMAT: u32 = 1;
const CRC: &str = "crc32c";

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(seq: u64) -> Cursor {
        let earlier = [Position::new(Epoch([7; 16]), Seq(3))].into();
        let known = Place { position: Position::new(Epoch([8; 16]), Seq(seq)), nth: Nth(seq / 2), earlier };
        Cursor::new(known, DeliveredThrough(Nth(seq)))
    }

    fn keyed(key: &str, seq: u64) -> (CursorKey, Cursor) {
        (CursorKey::new(key), cursor(seq))
    }

    #[test]
    fn what_was_saved_is_there_when_the_store_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        let store = FileCursorStore::open(&path).unwrap();
        assert_eq!(store.load(&CursorKey::new("a")).unwrap(), None);
        store.save(&[keyed("a", 10), keyed("line\nbreak \"quoted\"", 20)]).unwrap();
        store.save(&[keyed("a", 12)]).unwrap();
        drop(store);

        let store = FileCursorStore::open(&path).unwrap();
        assert_eq!(store.load(&CursorKey::new("a")).unwrap(), Some(cursor(12)));
        assert_eq!(store.load(&CursorKey::new("line\nbreak \"quoted\"")).unwrap(), Some(cursor(20)));
        assert_eq!(store.load(&CursorKey::new("b")).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_damaged_and_never_taken_for_an_empty_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        FileCursorStore::open(&path).unwrap().save(&[keyed("a", 10), keyed("b", 20)]).unwrap();
        let whole = fs::read(&path).unwrap();
        for end in 0..whole.len() {
            fs::write(&path, &whole[..end]).unwrap();
            let error = FileCursorStore::open(&path).expect_err("a cut file was taken");
            assert!(matches!(error, CursorStoreError::Damaged { .. }), "cut at {end}: {error}");
        }
    }

    #[test]
    fn a_file_with_a_flipped_bit_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        FileCursorStore::open(&path).unwrap().save(&[keyed("a", 10)]).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                fs::write(&path, &flipped).unwrap();
                let error = FileCursorStore::open(&path).expect_err("a damaged file was taken");
                // The one digit of the format may turn into that of a later one.
                let is_refused =
                    matches!(error, CursorStoreError::Damaged { .. } | CursorStoreError::NewerFormat { .. });
                assert!(is_refused, "byte {at}, bit {bit}: {error}");
            }
        }
    }

    #[test]
    fn a_later_format_is_named_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        fs::write(&path, "redeliver-cursors 2\nsomething new\n").unwrap();
        let error = FileCursorStore::open(&path).unwrap_err();
        assert_eq!(error, CursorStoreError::NewerFormat { path, found: 2, known: 1 });
    }

    #[test]
    fn a_store_has_one_user_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        let first = FileCursorStore::open(&path).unwrap();
        assert_eq!(FileCursorStore::open(&path).unwrap_err(), CursorStoreError::InUse { path: path.clone() });
        drop(first);
        assert!(FileCursorStore::open(&path).is_ok());
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_cursors_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursors");
        let store = FileCursorStore::open(&path).unwrap();
        store.save(&[keyed("a", 10)]).unwrap();
        // A folder in the place of the new file: it cannot be written, whoever runs the test.
        fs::create_dir(beside(&path, ".new")).unwrap();
        assert!(matches!(store.save(&[keyed("a", 11)]), Err(CursorStoreError::Io { .. })));
        assert_eq!(store.load(&CursorKey::new("a")).unwrap(), Some(cursor(10)));
        drop(store);
        let store = FileCursorStore::open(&path).unwrap();
        assert_eq!(store.load(&CursorKey::new("a")).unwrap(), Some(cursor(10)));
    }
}
