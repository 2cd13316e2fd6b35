//! Settling: a frozen table goes to the inner store in small batches, each with its sync. Never lets go of a table, or of
//! its journal, before the last of them, and passes over nothing but what the journal after it has durably deleted.

use std::collections::btree_map;
use std::iter::Peekable;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::JournalState;
use super::table::SharedTable;
use crate::kv::{Kv, KvError, WriteBatch};

/// Where settling stands.
pub(super) struct Progress {
    /// The newest generation that is wholly and durably in the inner store.
    pub(super) settled: u64,
    pub(super) is_closing: bool,
    frozen: Option<Frozen>,
    /// Whether a thread is at it.
    is_busy: bool,
    /// How many batches have gone to the inner store.
    steps: u64,
    /// Whether the inner store has no room at present.
    is_stalled: bool,
}

#[derive(Clone)]
struct Frozen {
    table: SharedTable,
    generation: u64,
}

impl Progress {
    pub(super) fn new(settled: u64) -> Progress {
        Progress { settled, is_closing: false, frozen: None, is_busy: false, steps: 0, is_stalled: false }
    }

    pub(super) fn is_settling(&self) -> bool {
        self.frozen.is_some()
    }
}

/// The newest generation that is wholly in a store.
pub(super) fn settled_generation(inner: &dyn Kv) -> Result<u64, KvError> {
    let Some(value) = inner.get(SETTLED_KEY)? else { return Ok(0) };
    match value.try_into() {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
        Err(_) => Err(KvError::Failed("what the store says of its journal is damaged".to_owned())),
    }
}

/// Starts the thread that settles. It ends when the store is closed or has failed.
pub(super) fn start(shared: &Arc<JournalState>) -> Result<JoinHandle<()>, KvError> {
    let shared = Arc::clone(shared);
    let settler = thread::Builder::new().name("redeliver-settle".to_owned()).spawn(move || shared.settle_ever());
    settler.map_err(|error| KvError::Failed(format!("starting the thread that settles the journal: {error}")))
}

impl JournalState {
    /// A table is to be settled. There is no other one.
    pub(super) fn freeze(&self, table: SharedTable, generation: u64) {
        self.tables.write().set_frozen(Some(Arc::clone(&table)));
        self.progress.lock().frozen = Some(Frozen { table, generation });
        self.changed.notify_all();
    }

    /// Settles the frozen table if there is one, on this thread or by waiting for the other.
    pub(super) fn settle_all(&self) -> Result<(), KvError> {
        loop {
            let mut progress = self.progress.lock();
            self.check()?;
            match progress.frozen.clone() {
                None => return Ok(()),
                Some(_) if progress.is_busy => self.changed.wait(&mut progress),
                Some(frozen) => {
                    progress.is_busy = true;
                    drop(progress);
                    return self.settle(&frozen);
                }
            }
        }
    }

    /// Waits until so many steps were done, nothing is left to settle, or nothing can be settled. Says how many were done.
    pub(super) fn wait_for_steps(&self, steps: u64) -> Result<u64, KvError> {
        let mut progress = self.progress.lock();
        while progress.frozen.is_some() && !progress.is_stalled && progress.steps < steps {
            self.check()?;
            self.changed.wait(&mut progress);
        }
        self.check()?;
        Ok(progress.steps)
    }

    fn settle_ever(&self) {
        let mut progress = self.progress.lock();
        while !progress.is_closing && self.failed.get().is_none() {
            if progress.is_stalled {
                self.changed.wait_for(&mut progress, STALL);
                progress.is_stalled = false;
                continue;
            }
            let Some(frozen) = progress.frozen.clone().filter(|_| !progress.is_busy) else {
                self.changed.wait(&mut progress);
                continue;
            };
            progress.is_busy = true;
            drop(progress);
            match self.settle(&frozen) {
                Ok(()) => progress = self.progress.lock(),
                Err(KvError::Full) => {
                    tracing::warn!("settling the journal waits for room on the disk");
                    progress = self.progress.lock();
                    progress.is_stalled = true;
                    self.changed.notify_all();
                }
                // It was told.
                Err(KvError::Failed(_) | KvError::TooLarge(_)) => return,
            }
        }
    }

    /// Settles a table of which some may be settled already.
    fn settle(&self, frozen: &Frozen) -> Result<(), KvError> {
        let result = self.settle_steps(frozen);
        let mut progress = self.progress.lock();
        progress.is_busy = false;
        if let Ok(true) = result {
            progress.frozen = None;
            progress.settled = frozen.generation;
            drop(progress);
            self.tables.write().set_frozen(None);
        }
        self.changed.notify_all();
        match result {
            Ok(_) => Ok(()),
            Err(KvError::Full) => Err(KvError::Full),
            Err(error @ (KvError::Failed(_) | KvError::TooLarge(_))) => Err(self.fail(error.to_string())),
        }
    }

    /// Says whether it came to the end. It does not if the store is closed meanwhile.
    fn settle_steps(&self, frozen: &Frozen) -> Result<bool, KvError> {
        let table = frozen.table.read();
        // What is deleted makes room; what will be is left to the end.
        for kind in [Kind::Deletes, Kind::Puts, Kind::LatePuts] {
            let mut steps = Steps { entries: table.iter().peekable(), kind, late: self.settled_last };
            while let Some(batch) = self.next_batch(&mut steps)? {
                self.write(&batch)?;
                let mut progress = self.progress.lock();
                progress.steps += 1;
                self.changed.notify_all();
                if progress.is_closing {
                    return Ok(false);
                }
            }
        }
        let mut last = WriteBatch::default();
        last.put(SETTLED_KEY.to_vec(), frozen.generation.to_le_bytes().to_vec());
        self.write(&last)?;
        Ok(true)
    }

    /// The next batch of a kind. Leaves out deletes of what is not there, and what the generation after it has deleted.
    fn next_batch(&self, steps: &mut Steps<'_>) -> Result<Option<WriteBatch>, KvError> {
        let newer = self.tables.read().active();
        let mut batch = WriteBatch::default();
        while let Some((key, value)) = steps.peek() {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            let entries_max = if steps.kind == Kind::Deletes { STEP_DELETES_MAX } else { STEP_PUTS_MAX };
            if batch.bytes() + bytes > STEP_BYTES_MAX || batch.entries().len() >= entries_max {
                break;
            }
            match value {
                None if self.inner.get(key)?.is_some() => batch.delete(key.clone()),
                Some(value) if !newer.read().has_deleted(key) => batch.put_shared(key.clone(), value.clone()),
                None | Some(_) => {}
            }
            steps.entries.next();
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.inner.apply_batch(batch)?;
        self.inner.sync()
    }
}

/// A table's changes of one kind.
struct Steps<'a> {
    entries: Peekable<btree_map::Iter<'a, Vec<u8>, Option<Bytes>>>,
    kind: Kind,
    late: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deletes,
    Puts,
    /// Of keys that are settled last.
    LatePuts,
}

impl<'a> Steps<'a> {
    /// The next change of this kind.
    fn peek(&mut self) -> Option<(&'a Vec<u8>, &'a Option<Bytes>)> {
        loop {
            let (key, value) = *self.entries.peek()?;
            let kind = match value {
                None => Kind::Deletes,
                Some(_) if self.late.is_some() && key.first().copied() == self.late => Kind::LatePuts,
                Some(_) => Kind::Puts,
            };
            if kind == self.kind {
                return Some((key, value));
            }
            self.entries.next();
        }
    }
}

/// Where the inner store keeps which generation is settled.
const SETTLED_KEY: &[u8] = b"\xff\xffsettled";

/// Keys of those who use the store lie below this.
pub(super) const KEYS_END: &[u8] = b"\xff\xff";

/// Bytes of one batch. sled writes whole leaves again, and what lies between two of its syncs must stay small
/// (docs/adr/0003).
const STEP_BYTES_MAX: usize = 512 * 1024;

/// Puts of one batch, for the same reason.
const STEP_PUTS_MAX: usize = 4 * 1024;

/// Deletes of one batch: sled reuses what they free.
const STEP_DELETES_MAX: usize = 64;

/// How long settling waits when the disk is full.
const STALL: Duration = Duration::from_millis(200);
