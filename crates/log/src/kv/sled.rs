//! The durable store: one sled tree, and a real fsync after each batch. All of sled's peculiarities live here.
//!
//! sled's own `flush` does not survive a power cut (it ends in `sync_file_range`, spacejam/sled#1452), so nothing may go to
//! sled except through [`Kv::apply_batch`] and [`Kv::sync`], which cannot be passed without an fdatasync of its file.

mod blobs;
mod panics;
mod space;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::dir_lock::DirLock;
use crate::kv::sled::blobs::Blobs;
use crate::kv::sled::panics::caught;
use crate::kv::sled::space::{Room, Space};
use crate::kv::{Direction, Entries, Entry, Kv, KvError, WriteBatch};

/// How a [`SledKv`] is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SledConfig {
    /// sled's page cache, in bytes. It is not a bound: sled takes up to several times as much.
    pub cache_bytes: u64,
    /// Batches that put something are refused as [`KvError::Full`] while the file system has less free than this and a
    /// multiple of the batch, in bytes; less is asked for once much of the store was deleted. On small file systems an
    /// eighth of their size counts instead.
    pub free_bytes_min: u64,
    /// Size of a file that is kept only to be released when sled must be opened on a full disk, in bytes. On small file
    /// systems a sixteenth of their size counts instead.
    pub reserve_bytes: u64,
}

impl Default for SledConfig {
    fn default() -> SledConfig {
        SledConfig { cache_bytes: CACHE_BYTES, free_bytes_min: FREE_BYTES_MIN, reserve_bytes: RESERVE_BYTES }
    }
}

/// A [`Kv`] over sled 0.34.7, durable through power cuts on disks that honour flush.
pub struct SledKv {
    /// Taken out only by drop.
    db: Option<::sled::Db>,
    /// sled's data file through a handle of our own: sled never fsyncs it.
    file: File,
    blobs: Blobs,
    is_synced: Mutex<bool>,
    space: Mutex<Space>,
    /// Why the store must not be used any more.
    failed: OnceLock<String>,
    dir: PathBuf,
    /// The data directory's lock, if the store is in one: it must not be released while sled lives.
    lock: Option<DirLock>,
}

impl SledKv {
    /// Opens or creates a store in a directory of its own, durably.
    ///
    /// # Errors
    ///
    /// [`KvError::Full`] when there is no room to open it, [`KvError::Failed`] in words otherwise.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<SledKv, KvError> {
        fs::create_dir_all(dir).map_err(|error| io_error("creating the store's directory", &error))?;
        let mut space = Space::new(dir, config);
        space.make_room_to_open();
        prepare(dir)?;
        let db = open_patiently(dir, config).or_else(|error| open_after(error, dir, config, &mut space))?;
        let file = sync_files(dir).map_err(|error| io_error("syncing the store's files", &error))?;
        let blobs = Blobs::open(dir).map_err(|error| io_error("opening the store's directory of blobs", &error))?;
        space.restore_reserve();
        let kv = SledKv {
            db: Some(db),
            file,
            blobs,
            is_synced: Mutex::new(false),
            space: Mutex::new(space),
            failed: OnceLock::new(),
            dir: dir.to_owned(),
            lock: None,
        };
        kv.sync()?;
        Ok(kv)
    }

    /// The same store, which keeps a lock until it is dropped.
    pub(crate) fn holding(mut self, lock: DirLock) -> SledKv {
        self.lock = Some(lock);
        self
    }

    /// Whether the store holds nothing at all.
    ///
    /// # Errors
    ///
    /// [`KvError::Failed`].
    pub fn is_empty(&self) -> Result<bool, KvError> {
        self.guarded("looking for a first key", |db| db.iter().next().transpose()).map(|first| first.is_none())
    }

    /// Refuses a batch as [`KvError::Full`] before sled could meet a full disk.
    fn take_room(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut space = self.space.lock();
        match self.room(&mut space, batch, 0)? {
            Room::Ample => Ok(()),
            Room::Tight => {
                space.replaced(batch, self.replaced_bytes(batch)?);
                Ok(())
            }
            Room::None | Room::Uncounted => Err(KvError::Full),
        }
    }

    fn room(&self, space: &mut Space, batch: &WriteBatch, waiting_bytes: u64) -> Result<Room, KvError> {
        let room = space.room_for(batch, waiting_bytes, self.bytes_on_disk());
        if room != Room::Uncounted {
            return Ok(room);
        }
        space.counted(self.live_bytes()?);
        Ok(space.room_for(batch, waiting_bytes, self.bytes_on_disk()))
    }

    /// Bytes of all keys and values. Reads the whole store.
    fn live_bytes(&self) -> Result<u64, KvError> {
        let mut entries = self.guarded("counting what is there", |db| Ok(db.iter()))?;
        let mut bytes = 0;
        while let Some((key, value)) = self.guarded("counting what is there", |_| entries.next().transpose())? {
            bytes += key.len() + value.len();
        }
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    /// Bytes of the keys and values that a batch replaces or deletes.
    fn replaced_bytes(&self, batch: &WriteBatch) -> Result<u64, KvError> {
        let mut bytes = 0;
        for (key, _) in batch.entries() {
            let replaced = self.guarded("looking for what is replaced", |db| db.get(key))?;
            bytes += replaced.map_or(0, |value| key.len() + value.len());
        }
        Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn check_alive(&self) -> Result<&::sled::Db, KvError> {
        match (self.failed.get(), &self.db) {
            (None, Some(db)) => Ok(db),
            (Some(why), _) => Err(KvError::Failed(why.clone())),
            (None, None) => Err(KvError::Failed("the store is closed".to_owned())),
        }
    }

    /// Calls sled. Any error or panic is the end of the store.
    fn guarded<T>(&self, doing: &str, call: impl FnOnce(&::sled::Db) -> ::sled::Result<T>) -> Result<T, KvError> {
        let db = self.check_alive()?;
        match caught(|| call(db)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.fail(format!("{doing}: {error}"))),
            Err(panic) => Err(self.fail(format!("{doing}: sled panicked: {panic}"))),
        }
    }

    fn fail(&self, why: String) -> KvError {
        tracing::error!(dir = %self.dir.display(), why, "the store has failed");
        KvError::Failed(self.failed.get_or_init(|| why).clone())
    }
}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.guarded("reading a value", |db| db.get(key))?.map(|value| value.to_vec()))
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        if from >= to {
            return Box::new(std::iter::empty());
        }
        match self.guarded("reading a range", |db| Ok(db.range(from.to_vec()..to.to_vec()))) {
            Ok(entries) => Box::new(SledRange { kv: self, entries: Some(entries), direction }),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }

    fn has_room(&self, batch: &WriteBatch, waiting_bytes: u64) -> Result<bool, KvError> {
        match self.room(&mut self.space.lock(), batch, waiting_bytes)? {
            Room::Ample | Room::Tight => Ok(true),
            Room::None | Room::Uncounted => Ok(false),
        }
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.check_alive()?;
        batch.check()?;
        let mut is_synced = self.is_synced.lock();
        if !*is_synced {
            return Err(self.fail("a batch was applied before the one before it was synced".to_owned()));
        }
        self.take_room(batch)?;
        let mut changes = ::sled::Batch::default();
        for (key, value) in batch.entries() {
            match value {
                Some(value) => changes.insert(key.as_slice(), &value[..]),
                None => changes.remove(key.as_slice()),
            }
        }
        *is_synced = false;
        self.guarded("applying a batch", |db| db.apply_batch(changes))
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut is_synced = self.is_synced.lock();
        self.guarded("flushing", |db| db.flush())?;
        if let Err(error) = self.blobs.sync().and_then(|()| self.file.sync_data()) {
            return Err(self.fail(format!("syncing the store's file: {error}")));
        }
        *is_synced = true;
        Ok(())
    }

    fn check_place(&self) -> Result<(), KvError> {
        match &self.lock {
            Some(lock) if !lock.is_in_place() => Err(KvError::Failed(lock.words())),
            Some(_) | None => Ok(()),
        }
    }

    fn bytes_on_disk(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Drop for SledKv {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        if self.failed.get().is_some() {
            // Dropping would make sled write once more, after a failure that nothing may be written after.
            std::mem::forget(db);
        } else if let Err(panic) = caught(move || drop(db)) {
            tracing::error!(dir = %self.dir.display(), panic, "sled panicked while it was closed");
        }
    }
}

impl std::fmt::Debug for SledKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledKv").field("dir", &self.dir).field("failed", &self.failed.get()).finish_non_exhaustive()
    }
}

struct SledRange<'a> {
    kv: &'a SledKv,
    entries: Option<::sled::Iter>,
    direction: Direction,
}

impl Iterator for SledRange<'_> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.as_mut()?;
        let direction = self.direction;
        let next = self.kv.guarded("reading a range", |_| {
            match direction {
                Direction::Up => entries.next(),
                Direction::Down => entries.next_back(),
            }
            .transpose()
        });
        match next {
            Ok(entry) => entry.map(|(key, value)| Ok((key.to_vec(), value.to_vec()))),
            Err(error) => {
                self.entries = None;
                Some(Err(error))
            }
        }
    }
}

/// Makes what a killed process left behind safe to open: what sled reads must not be taken back by a later power cut, and
/// an unfinished snapshot must not be taken for a snapshot.
fn prepare(dir: &Path) -> Result<(), KvError> {
    for path in snapshots(dir) {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&path).map_err(|error| io_error("removing an unfinished snapshot", &error))?;
        }
    }
    if dir.join("db").exists() {
        sync_files(dir).map_err(|error| io_error("syncing what the last process wrote", &error))?;
    }
    Ok(())
}

/// Once more, after what can be repaired was repaired: a snapshot only shortens the replay and `conf` is constant, so both
/// can be moved out of the way; and on a full disk there is a reserve.
fn open_after(error: KvError, dir: &Path, config: &SledConfig, space: &mut Space) -> Result<::sled::Db, KvError> {
    tracing::warn!(dir = %dir.display(), %error, "the store did not open; trying again without its snapshot");
    let had_reserve = space.release_reserve();
    let mut moved = 0;
    for path in snapshots(dir).into_iter().chain([dir.join("conf")]) {
        let Some(name) = path.file_name() else { continue };
        let aside = dir.join(format!("damaged.{}", name.to_string_lossy()));
        moved += usize::from(path.exists() && fs::rename(&path, aside).is_ok());
    }
    if moved == 0 && !had_reserve {
        return Err(error);
    }
    open_patiently(dir, config)
}

/// A store that was dropped a moment ago by this process may still hold sled's lock: its threads finish on their own.
fn open_patiently(dir: &Path, config: &SledConfig) -> Result<::sled::Db, KvError> {
    let begin = Instant::now();
    loop {
        let opened = caught(|| {
            let sled = ::sled::Config::new().path(dir).segment_size(SEGMENT_BYTES);
            sled.cache_capacity(config.cache_bytes).flush_every_ms(None).open()
        });
        match opened {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if is_locked(&error) && begin.elapsed() < LOCK_WAIT => thread::sleep(LOCK_POLL),
            Ok(Err(::sled::Error::Io(error))) => return Err(io_error("opening the store", &error)),
            Ok(Err(error)) => return Err(KvError::Failed(format!("opening the store: {error}"))),
            Err(panic) => return Err(KvError::Failed(format!("opening the store: sled panicked: {panic}"))),
        }
    }
}

fn is_locked(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

/// Syncs what sled creates without an fsync. Gives the handle of its data file.
fn sync_files(dir: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(dir.join("db"))?;
    file.sync_all()?;
    if let Ok(conf) = OpenOptions::new().read(true).write(true).open(dir.join("conf")) {
        conf.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    Ok(file)
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("snap."))
        .map(|entry| entry.path())
        .collect()
}

fn io_error(doing: &str, error: &io::Error) -> KvError {
    if error.kind() == io::ErrorKind::StorageFull {
        KvError::Full
    } else {
        KvError::Failed(format!("{doing}: {error}"))
    }
}

/// sled's unit of allocation. A leaf holds up to 20 entries (17, and 3 of a merged neighbour) and is written as one message; one
/// over a quarter of a segment goes to a file of its own. With sled's 512 KiB, 20 of our largest values did, and cuts made the
/// store unopenable (docs/adr/0003). Changing it makes existing stores unopenable.
const SEGMENT_BYTES: usize = 1024 * 1024;

const CACHE_BYTES: u64 = 128 * 1024 * 1024;
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(10);
