//! The directory that a log lives in: one process at a time, and a marker that tells a lost log from a new one.
//!
//! ```text
//! lock                locked while a process has the directory; holds its process id
//! redeliver.marker    written last at creation: this directory holds a log, of this format
//! store/              the store: sled's files, and the journal before them
//! ```
//!
//! The order at creation survives a power cut at any instant. The marker appears, whole and synced, only once the store
//! durably holds the log's first data, and before anything is acknowledged. So
//!
//! - marker and an empty store, or none: a log was lost. It must never be opened as if it were new.
//! - no marker, no store: a new directory.
//! - no marker, a store that opens: a creation that was cut before its end (or a marker that somebody removed). Either way
//!   what is there is right, so it is opened and marked.
//! - no marker, a store that does not open: if it is as small as a creation leaves it, it never held anything that was
//!   acknowledged; it is moved aside, not deleted, and created anew. If it is larger it is not touched.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redeliver_protocol::seq::Epoch;
use redeliver_protocol::time::{Instant, Timestamp};

use crate::config::LogConfig;
use crate::dir_lock::DirLock;
use crate::error::LogError;
use crate::kv::journaled::{JournalConfig, JournaledKv};
use crate::kv::sled::{SledConfig, SledKv};
use crate::kv::{Kv, KvError};
use crate::layout::key;
use crate::log::Log;

/// Opens the log in a data directory, which is created if it is not there, and durably begins `epoch`. The directory stays
/// locked until the log is dropped.
///
/// # Errors
///
/// As [`DataDir::open`], [`DataDir::open_store`] and [`Log::open`].
pub fn open_dir(
    path: &Path,
    config: LogConfig,
    epoch: Epoch,
    now: Timestamp,
    monotonic: Instant,
) -> Result<Log, LogError> {
    let mut dir = DataDir::open(path)?;
    let kv = Arc::new(dir.open_journal(dir.open_store(&SledConfig::default())?)?);
    let log = Log::open(Arc::clone(&kv) as Arc<dyn Kv>, config, epoch, now, monotonic)?;
    if !dir.is_marked {
        // A marked directory whose store is empty counts as lost, whatever the journal holds.
        kv.settle()?;
        dir.mark(epoch)?;
    }
    Ok(log)
}

/// A data directory that this process has to itself, as long as this value or a store of it lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: DirLock,
    is_marked: bool,
}

impl DataDir {
    /// Takes a directory, which is created (readable by its owner alone) if it is not there.
    ///
    /// # Errors
    ///
    /// [`LogError::InUse`], [`LogError::Unusable`], [`LogError::NewerFormat`], or [`LogError::Lost`] if the store's files
    /// are gone.
    pub fn open(path: &Path) -> Result<DataDir, LogError> {
        create_dir(path).map_err(|error| unusable(path, "creating it", &error))?;
        refuse_open_directory(path)?;
        let lock = take_lock(path)?;
        restrict(path);
        let is_marked = read_marker(path)?;
        let dir = DataDir { path: path.to_owned(), lock, is_marked };
        if is_marked && !dir.has_store() {
            return Err(LogError::Lost(dir.words()));
        }
        Ok(dir)
    }

    /// Opens the directory's store, which keeps the directory locked until it is dropped.
    ///
    /// # Errors
    ///
    /// [`LogError::Lost`] if the store is empty and must not be, [`LogError::StorageFull`] if there is no room to open it,
    /// [`LogError::Unusable`].
    pub fn open_store(&self, config: &SledConfig) -> Result<SledKv, LogError> {
        let store = self.path.join(STORE_NAME);
        create_dir(&store).map_err(|error| unusable(&self.path, "creating its store", &error))?;
        let kv = match SledKv::open(&store, config) {
            Err(KvError::Failed(why)) if !self.is_marked && self.is_unfinished() => {
                self.move_aside(&why)?;
                create_dir(&store).map_err(|error| unusable(&self.path, "creating its store", &error))?;
                SledKv::open(&store, config)
            }
            opened => opened,
        };
        let kv = kv.map_err(|error| self.not_opened(error))?;
        if self.is_marked && kv.is_empty()? {
            return Err(LogError::Lost(self.words()));
        }
        sync_dir(&self.path).map_err(|error| unusable(&self.path, "syncing it", &error))?;
        let lock = self.lock.try_clone().map_err(|error| unusable(&self.path, "keeping its lock", &error))?;
        Ok(kv.holding(lock))
    }

    /// Puts the directory's journal before its store.
    ///
    /// # Errors
    ///
    /// [`LogError::StorageFull`] if there is no room for it, [`LogError::Unusable`].
    pub fn open_journal(&self, store: SledKv) -> Result<JournaledKv, LogError> {
        let path = self.path.join(STORE_NAME);
        let config = JournalConfig { settled_last: Some(key::COMMIT), ..JournalConfig::default() };
        let kv = JournaledKv::open(Arc::new(store), &path, &config);
        kv.map_err(|error| self.not_opened(error))
    }

    /// Says durably that this directory holds a log, if it does not say so yet. To be called once the store durably holds
    /// its first data, and before anything is acknowledged.
    ///
    /// # Errors
    ///
    /// [`LogError::Unusable`].
    pub fn mark(&mut self, creation: Epoch) -> Result<(), LogError> {
        if !self.is_marked {
            let marker = format!("{MARKER_TITLE}\nformat {FORMAT}\ncreated {creation}\n");
            write_marker(&self.path, &marker).map_err(|error| unusable(&self.path, "writing its marker", &error))?;
            self.is_marked = true;
        }
        Ok(())
    }

    fn not_opened(&self, error: KvError) -> LogError {
        match error {
            KvError::Full => LogError::StorageFull,
            KvError::TooLarge(why) | KvError::Failed(why) => {
                LogError::Unusable { path: self.words(), reason: format!("{why}; restore it from a backup") }
            }
        }
    }

    fn has_store(&self) -> bool {
        fs::metadata(self.path.join(STORE_NAME).join("db")).is_ok_and(|db| db.len() > 0)
    }

    fn is_unfinished(&self) -> bool {
        fs::metadata(self.path.join(STORE_NAME).join("db")).map_or(0, |db| db.len()) <= UNFINISHED_BYTES_MAX
    }

    fn move_aside(&self, why: &str) -> Result<(), LogError> {
        let store = self.path.join(STORE_NAME);
        let aside = (1..=UNFINISHED_MAX)
            .map(|number| self.path.join(format!("{STORE_NAME}.unfinished.{number}")))
            .find(|aside| !aside.exists());
        let Some(aside) = aside else {
            let reason = format!("creating it was cut short {UNFINISHED_MAX} times; remove it to start anew");
            return Err(LogError::Unusable { path: self.words(), reason });
        };
        tracing::warn!(dir = %self.path.display(), why, "creating the log was cut short; starting anew");
        fs::rename(store, aside).map_err(|error| unusable(&self.path, "moving an unfinished store aside", &error))
    }

    fn words(&self) -> String {
        self.path.display().to_string()
    }
}

fn take_lock(path: &Path) -> Result<DirLock, LogError> {
    let lock_path = path.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    keep_to_files(&mut options);
    let mut lock = options.open(&lock_path).map_err(|error| unusable(path, "opening its lock", &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let process = fs::read_to_string(&lock_path).ok().and_then(|pid| pid.trim().parse().ok());
            return Err(LogError::InUse { path: path.display().to_string(), process });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(path, "locking it", &error)),
    }
    // Only for the message that a second process gives. On a full disk it may be missing.
    let noted = lock.set_len(0).and_then(|()| lock.write_all(format!("{}\n", std::process::id()).as_bytes()));
    if let Err(error) = noted {
        tracing::debug!(%error, "the process id was not noted in the lock");
    }
    let path = fs::canonicalize(&lock_path).map_err(|error| unusable(path, "finding its lock", &error))?;
    Ok(DirLock::new(lock, path))
}

/// Sees to it that only the owner can read what lies in a directory, whatever its own mode: it may have been made by hand, or
/// be a volume. What the store makes later lies behind the mode of the store's own directory.
fn restrict(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    let close = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    if is_open(path) {
        tracing::warn!(dir = %path.display(), "others may enter the data directory: its files are kept for its owner alone");
    }
    let store = path.join(STORE_NAME);
    let files = [path, &store].into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let ours = files.map(|entry| entry.path()).filter(|path| path.parent() == Some(&store) || is_own(path));
    for file in ours.filter(|path| is_open(path)) {
        let mode = if file.is_dir() { 0o700 } else { 0o600 };
        if let Err(error) = close(&file, mode) {
            tracing::warn!(file = %file.display(), %error, "others may be able to read a file of the log");
        }
    }
}

/// Follows no symbolic link: in a directory that others may write to, one could lead to a file that is not the log's.
fn keep_to_files(options: &mut OpenOptions) {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, flags);
}

/// Refuses a directory in which anybody may replace the log's files.
fn refuse_open_directory(path: &Path) -> Result<(), LogError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).map_or(0, |found| found.permissions().mode());
    if mode & 0o002 != 0 {
        let reason = "everybody may write to it: take that away (chmod o-w), or use a directory within it".to_owned();
        return Err(LogError::Unusable { path: path.display().to_string(), reason });
    }
    if mode & 0o020 != 0 {
        tracing::warn!(dir = %path.display(), "its group may replace the files of the data directory: chmod g-w unless that is meant");
    }
    Ok(())
}

/// Whether a path in a data directory is the log's own.
fn is_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == LOCK_NAME || name == MARKER_NAME || name == STORE_NAME)
}

/// Whether there is a marker of a format that is known.
fn read_marker(path: &Path) -> Result<bool, LogError> {
    let bytes = match fs::read(path.join(MARKER_NAME)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(unusable(path, "reading its marker", &error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines();
    let title = lines.next();
    let format = lines.next().and_then(|line| line.strip_prefix("format ")).and_then(|number| number.parse().ok());
    match (title, format) {
        (Some(MARKER_TITLE), Some(found)) if found > FORMAT => Err(LogError::NewerFormat { found, known: FORMAT }),
        (Some(MARKER_TITLE), Some(_)) => Ok(true),
        _ => {
            let reason = format!("its {MARKER_NAME} is damaged; if {STORE_NAME} is intact, remove the marker alone");
            Err(LogError::Unusable { path: path.display().to_string(), reason })
        }
    }
}

fn write_marker(path: &Path, marker: &str) -> io::Result<()> {
    let new = path.join(format!("{MARKER_NAME}.new"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    keep_to_files(&mut options);
    let mut file = options.open(&new)?;
    file.write_all(marker.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path.join(MARKER_NAME))?;
    sync_dir(path)
}

/// Creates a directory durably, for its owner alone. One that is there stays as it is.
fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    };
    create_dir(parent)?;
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    sync_dir(parent)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn unusable(path: &Path, doing: &str, error: &io::Error) -> LogError {
    if error.kind() == io::ErrorKind::StorageFull {
        return LogError::StorageFull;
    }
    LogError::Unusable { path: path.display().to_string(), reason: format!("{doing}: {error}") }
}

/// The data directory's format. To be raised whenever an older version could misread what is written.
const FORMAT: u32 = 1;

const LOCK_NAME: &str = "lock";
const MARKER_NAME: &str = "redeliver.marker";
const MARKER_TITLE: &str = "redeliver data directory";
const STORE_NAME: &str = "store";
const UNFINISHED_BYTES_MAX: u64 = 4 * 1024 * 1024;
const UNFINISHED_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use redeliver_protocol::seq::Epoch;
    use uuid::Uuid;

    use super::*;
    use crate::kv::WriteBatch;

    fn created(path: &Path) {
        let mut dir = DataDir::open(path).unwrap();
        let kv = dir.open_store(&SledConfig::default()).unwrap();
        write(&kv);
        dir.mark(Epoch::from(Uuid::from_u128(1))).unwrap();
    }

    fn write(kv: &SledKv) {
        let mut batch = WriteBatch::default();
        batch.put(b"m".to_vec(), b"1".to_vec());
        kv.apply_batch(&batch).unwrap();
        kv.sync().unwrap();
    }

    #[test]
    fn a_directory_that_was_closed_opens_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("some").join("data");
        created(&path);
        let dir = DataDir::open(&path).unwrap();
        let kv = dir.open_store(&SledConfig::default()).unwrap();
        assert_eq!(kv.get(b"m").unwrap(), Some(b"1".to_vec()));
    }

    #[cfg(unix)]
    #[test]
    fn a_new_directory_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        created(&path);
        for path in [path.clone(), path.join(STORE_NAME)] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_directory_that_others_may_enter_has_files_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(temp.path(), 0o755);
        created(temp.path());
        let store = temp.path().join(STORE_NAME);
        // As earlier versions left them.
        set(&store, 0o755);
        set(&store.join("db"), 0o644);
        fs::write(temp.path().join("not-ours"), "").unwrap();
        set(&temp.path().join("not-ours"), 0o644);
        let dir = DataDir::open(temp.path()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store), mode(&store.join("db"))), (0o700, 0o600));
        for name in [LOCK_NAME, MARKER_NAME] {
            assert_eq!(mode(&temp.path().join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&temp.path().join("not-ours")), 0o644);
        drop(dir);
    }

    #[test]
    fn a_directory_that_everybody_may_write_to_is_refused_and_a_lock_that_is_a_link_leads_nowhere() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let (data, outside) = (temp.path().join("data"), temp.path().join("precious"));
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
        let error = DataDir::open(&data).unwrap_err();
        assert!(error.to_string().contains("chmod o-w"), "{error}");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(&outside, "precious").unwrap();
        std::os::unix::fs::symlink(&outside, data.join(LOCK_NAME)).unwrap();
        assert!(matches!(DataDir::open(&data), Err(LogError::Unusable { .. })));
        assert_eq!(fs::read_to_string(&outside).unwrap(), "precious");
        fs::remove_file(data.join(LOCK_NAME)).unwrap();
        DataDir::open(&data).unwrap();
    }

    #[test]
    fn a_directory_that_was_replaced_under_its_store_is_noticed() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("data");
        let dir = DataDir::open(&path).unwrap();
        let kv = dir.open_store(&SledConfig::default()).unwrap();
        kv.check_place().unwrap();
        fs::rename(&path, temp.path().join("aside")).unwrap();
        assert!(matches!(kv.check_place(), Err(KvError::Failed(_))), "it is gone");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(LOCK_NAME), "").unwrap();
        assert!(matches!(kv.check_place(), Err(KvError::Failed(_))), "it is another one");
    }

    #[test]
    fn a_second_opening_is_told_who_has_the_directory_until_the_store_is_dropped() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let kv = dir.open_store(&SledConfig::default()).unwrap();
        drop(dir);
        let error = DataDir::open(temp.path()).unwrap_err();
        let LogError::InUse { process, .. } = &error else { panic!("{error}") };
        assert_eq!(*process, Some(std::process::id()));
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(kv);
        DataDir::open(temp.path()).unwrap();
    }

    #[test]
    fn a_marked_directory_without_its_store_is_lost_and_says_what_to_do() {
        for damage in [
            |store: &Path| fs::remove_dir_all(store).unwrap(),
            |store: &Path| fs::remove_file(store.join("db")).unwrap(),
            |store: &Path| fs::write(store.join("db"), b"").unwrap(),
        ] {
            let temp = tempfile::tempdir().unwrap();
            created(temp.path());
            damage(&temp.path().join(STORE_NAME));
            let error = DataDir::open(temp.path()).unwrap_err();
            assert!(matches!(error, LogError::Lost(_)), "{error}");
            assert!(error.to_string().contains("backup"), "{error}");
        }
    }

    #[test]
    fn a_marked_directory_with_an_empty_store_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let mut dir = DataDir::open(temp.path()).unwrap();
        drop(dir.open_store(&SledConfig::default()).unwrap());
        dir.mark(Epoch::from(Uuid::from_u128(1))).unwrap();
        drop(dir);
        let dir = DataDir::open(temp.path()).unwrap();
        assert!(matches!(dir.open_store(&SledConfig::default()), Err(LogError::Lost(_))));
    }

    #[test]
    fn a_creation_that_was_cut_before_the_marker_goes_on() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        write(&dir.open_store(&SledConfig::default()).unwrap());
        drop(dir);
        let dir = DataDir::open(temp.path()).unwrap();
        assert_eq!(dir.open_store(&SledConfig::default()).unwrap().get(b"m").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn an_unmarked_store_that_does_not_open_is_moved_aside_only_if_it_is_as_small_as_a_creation() {
        let conf = b"segment_size: 4096\nuse_compression: false\nversion: 0.34\n\0\0\0\0";
        for (bytes, is_moved) in [(100_000, true), (5_000_000, false)] {
            let temp = tempfile::tempdir().unwrap();
            let store = temp.path().join(STORE_NAME);
            fs::create_dir(&store).unwrap();
            fs::write(store.join("conf"), conf).unwrap();
            fs::create_dir(store.join("damaged.conf")).unwrap();
            fs::write(store.join("db"), vec![0xff; bytes]).unwrap();
            let dir = DataDir::open(temp.path()).unwrap();
            let opened = dir.open_store(&SledConfig::default());
            assert_eq!(opened.is_ok(), is_moved, "{opened:?}");
            assert_eq!(temp.path().join("store.unfinished.1").exists(), is_moved);
        }
    }

    #[test]
    fn damaged_and_newer_markers_are_refused_in_words() {
        let temp = tempfile::tempdir().unwrap();
        created(temp.path());
        let marker = temp.path().join(MARKER_NAME);
        fs::write(&marker, format!("{MARKER_TITLE}\nformat 7\n")).unwrap();
        assert!(matches!(DataDir::open(temp.path()), Err(LogError::NewerFormat { found: 7, known: FORMAT })));
        for damaged in [&b""[..], &[0; 60], b"redeliver data directory\nformat one\n", b"\xff\xfe"] {
            fs::write(&marker, damaged).unwrap();
            let error = DataDir::open(temp.path()).unwrap_err();
            assert!(error.to_string().contains("remove the marker"), "{error}");
        }
        fs::remove_file(&marker).unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        assert!(dir.open_store(&SledConfig::default()).unwrap().get(b"m").unwrap().is_some());
    }

    #[test]
    fn a_path_that_is_no_directory_is_unusable() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, b"").unwrap();
        assert!(matches!(DataDir::open(&path), Err(LogError::Unusable { .. })));
    }
}
