//! A store behind a journal: batches are durable after one small write to a plain file, and settle into the inner store
//! later, many at a time, on a thread of their own. Never changes what a reader sees by that, and never gives the inner
//! store anything that the journal does not durably hold.
//!
//! Batches since the last *generation* began are in its journal (docs/storage.md) and in a table in memory, which readers
//! ask before the inner store. Once either is large enough the table is frozen, a new generation begins, and the frozen one
//! is settled in small batches, each with its sync. Its journal is used again only after the last of them. What the
//! generation after it has durably deleted by then need not be settled any more. So
//! whatever is cut, the inner store and the journals that it has not settled are the store, and an open reads them in again.

mod journal;
mod settling;
pub(super) mod table;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, RwLock};

use self::journal::Journals;
use self::settling::Progress;
use self::table::{LayeredRange, Table, Tables};
use super::{Direction, Entries, Kv, KvError, WriteBatch};

/// How a [`JournaledKv`] is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct JournalConfig {
    /// Size of one generation's journal and about that of its table in memory, in bytes. There are at most two tables and
    /// three journals. The more, the more of what is soon deleted never reaches the inner store.
    pub bytes_max: u64,
    /// The first byte of keys that are deleted soon after they are put. They are settled last, so that most of them never
    /// reach the inner store.
    pub settled_last: Option<u8>,
}

impl Default for JournalConfig {
    fn default() -> JournalConfig {
        JournalConfig { bytes_max: JOURNAL_BYTES, settled_last: None }
    }
}

/// A [`Kv`] that keeps the newest batches in a journal of its own before they go to another.
pub struct JournaledKv {
    shared: Arc<JournalState>,
    writer: Mutex<Writer>,
    journal_bytes: AtomicU64,
    settler: Option<JoinHandle<()>>,
}

/// What the settling thread shares with readers and the writer.
struct JournalState {
    inner: Arc<dyn Kv>,
    tables: RwLock<Tables>,
    progress: Mutex<Progress>,
    /// Told whenever `progress` changed.
    changed: Condvar,
    failed: OnceLock<String>,
    settled_last: Option<u8>,
}

struct Writer {
    journals: Journals,
    is_synced: bool,
    /// The generation that is still to begin, if the disk was full when the store was opened.
    to_begin: Option<u64>,
    /// The settling steps that had been done when the last batch came.
    steps_seen: u64,
}

impl JournaledKv {
    /// Opens the journals in a directory over the store that they belong to, and takes in what it has not settled. If there
    /// is no room to begin a journal, the store can be read, and the first batch that finds room begins it.
    ///
    /// # Errors
    ///
    /// [`KvError::Failed`] in words.
    pub fn open(inner: Arc<dyn Kv>, dir: &Path, config: &JournalConfig) -> Result<JournaledKv, KvError> {
        let settled = settling::settled_generation(&*inner)?;
        let (mut journals, found) = Journals::open(dir, config.bytes_max, settled)?;
        let mut table = Table::default();
        for batch in found.batches {
            table.apply(batch);
        }
        let shared = Arc::new(JournalState {
            inner,
            tables: RwLock::new(Tables::default()),
            progress: Mutex::new(Progress::new(settled)),
            changed: Condvar::new(),
            failed: OnceLock::new(),
            settled_last: config.settled_last,
        });
        if found.newest > settled {
            shared.freeze(Arc::new(RwLock::new(table)), found.newest);
        }
        if found.generations >= UNSETTLED_MAX {
            // However soon this process is killed again, the journals that were left to it do not become more.
            match shared.settle_all() {
                Ok(()) => {}
                Err(KvError::Full) => tracing::warn!("there is no room to settle the journal at once"),
                Err(error @ (KvError::Failed(_) | KvError::TooLarge(_))) => return Err(error),
            }
        }
        let begun = journals.begin(found.newest + 1, shared.progress.lock().settled);
        let to_begin = match begun.map_err(|error| journal::failed("beginning the journal", &error)) {
            Ok(()) => None,
            Err(KvError::Full) => Some(found.newest + 1),
            Err(error @ (KvError::Failed(_) | KvError::TooLarge(_))) => return Err(error),
        };
        let journal_bytes = AtomicU64::new(journals.bytes_on_disk());
        let writer = Mutex::new(Writer { journals, is_synced: true, to_begin, steps_seen: 0 });
        let settler = Some(settling::start(&shared)?);
        Ok(JournaledKv { shared, writer, journal_bytes, settler })
    }

    /// Settles everything: the inner store has all of it, durably.
    ///
    /// # Errors
    ///
    /// [`KvError::Full`] if the inner store has no room for it now; nothing is lost. [`KvError::Failed`].
    pub fn settle(&self) -> Result<(), KvError> {
        let mut writer = self.writer.lock();
        self.shared.settle_all()?;
        if writer.to_begin.is_some() {
            // Nothing was written since all that was found was settled.
            return Ok(());
        }
        self.freeze(&mut writer)?;
        self.shared.settle_all()
    }

    /// Begins the journal that found no room when the store was opened.
    fn begin(&self, writer: &mut Writer) -> Result<(), KvError> {
        if let Some(generation) = writer.to_begin {
            let settled = self.shared.progress.lock().settled;
            self.guarded("beginning a journal", writer.journals.begin(generation, settled))?;
            writer.to_begin = None;
        }
        Ok(())
    }

    /// Begins a new generation. There is no frozen one.
    fn freeze(&self, writer: &mut Writer) -> Result<(), KvError> {
        let generation = writer.journals.generation();
        let settled = self.shared.progress.lock().settled;
        self.guarded("beginning a journal", writer.journals.begin(generation + 1, settled))?;
        let table = self.shared.tables.write().begin();
        self.shared.freeze(table, generation);
        Ok(())
    }

    /// Sees to it that the journal takes a record of so many bytes. Waits for settling if that falls behind.
    fn make_room(&self, writer: &mut Writer, bytes: u64) -> Result<(), KvError> {
        let most = writer.journals.bytes_max();
        let fill = writer.journals.position().max(self.shared.tables.read().active().read().bytes()) + bytes;
        let (has_room, is_half_full) = (fill <= most, fill > most / 2);
        if is_half_full {
            // One step at a time, so that commits become slower rather than stop.
            let steps = if has_room { writer.steps_seen + 1 } else { u64::MAX };
            writer.steps_seen = self.shared.wait_for_steps(steps)?;
        }
        if has_room {
            return Ok(());
        }
        if self.shared.progress.lock().is_settling() {
            return Err(KvError::Full);
        }
        self.freeze(writer)
    }

    /// Any failure of the journal's file but a full disk is the end of the store.
    fn guarded<T>(&self, doing: &str, result: std::io::Result<T>) -> Result<T, KvError> {
        result.map_err(|error| match journal::failed(doing, &error) {
            KvError::Full => KvError::Full,
            KvError::Failed(why) | KvError::TooLarge(why) => self.shared.fail(why),
        })
    }
}

impl JournalState {
    fn check(&self) -> Result<(), KvError> {
        self.failed.get().map_or(Ok(()), |why| Err(KvError::Failed(why.clone())))
    }

    fn fail(&self, why: String) -> KvError {
        tracing::error!(why, "the store has failed");
        let why = self.failed.get_or_init(|| why).clone();
        self.changed.notify_all();
        KvError::Failed(why)
    }
}

impl Kv for JournaledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.shared.check()?;
        // The tables first: what settles after that is found in the inner store.
        let changed = self.shared.tables.read().get(key);
        match changed {
            Some(value) => Ok(value.map(Vec::from)),
            None => self.shared.inner.get(key),
        }
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        if let Err(error) = self.shared.check() {
            return Box::new(std::iter::once(Err(error)));
        }
        let to = to.min(settling::KEYS_END);
        if from >= to {
            return Box::new(std::iter::empty());
        }
        // The tables first: what settles after that is seen twice, and what has settled before is in the inner store.
        let tables = self.shared.tables.read().layers();
        let inner = self.shared.inner.range(from, to, direction);
        Box::new(LayeredRange::new(tables, inner, (from, to), direction))
    }

    fn has_room(&self, batch: &WriteBatch, waiting_bytes: u64) -> Result<bool, KvError> {
        let waiting = self.shared.tables.read().bytes();
        self.shared.inner.has_room(batch, waiting_bytes.saturating_add(waiting))
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.shared.check()?;
        batch.check()?;
        let mut writer = self.writer.lock();
        if !writer.is_synced {
            return Err(self.shared.fail("a batch was applied before the one before it was synced".to_owned()));
        }
        if !self.has_room(batch, 0)? {
            return Err(KvError::Full);
        }
        self.begin(&mut writer)?;
        let record = writer.journals.encode(batch);
        self.make_room(&mut writer, record)?;
        self.guarded("writing the journal", writer.journals.write())?;
        writer.is_synced = false;
        self.journal_bytes.store(writer.journals.bytes_on_disk(), Ordering::Relaxed);
        let (active, batch) = (self.shared.tables.read().active(), batch.clone());
        active.write().apply(batch);
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        self.shared.check()?;
        let mut writer = self.writer.lock();
        // Also a full disk: what the kernel could not write is gone.
        if let Err(error) = writer.journals.sync() {
            return Err(self.shared.fail(format!("syncing the journal: {error}")));
        }
        writer.is_synced = true;
        self.shared.tables.read().active().write().synced();
        Ok(())
    }

    fn check_place(&self) -> Result<(), KvError> {
        self.shared.inner.check_place()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.shared.inner.bytes_on_disk() + self.journal_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for JournaledKv {
    fn drop(&mut self) {
        self.shared.progress.lock().is_closing = true;
        self.shared.changed.notify_all();
        if let Some(settler) = self.settler.take()
            && settler.join().is_err()
        {
            tracing::error!("the thread that settles the journal panicked");
        }
    }
}

impl std::fmt::Debug for JournaledKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let JournalState { inner, failed, .. } = &*self.shared;
        f.debug_struct("JournaledKv").field("inner", inner).field("failed", &failed.get()).finish_non_exhaustive()
    }
}

/// So many generations that were left unsettled are settled before anything else.
const UNSETTLED_MAX: usize = 3;

/// At about 4 KiB for the smallest commit, 8,000 of them before settling.
const JOURNAL_BYTES: u64 = 32 * 1024 * 1024;
