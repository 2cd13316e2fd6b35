//! The one door to the store: a batch is followed by its sync before the next one, and a failure is the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::LogError;
use crate::kv::{Kv, KvError, WriteBatch};

/// The store, with what must never be forgotten about it.
#[derive(Debug)]
pub(crate) struct Store {
    kv: Arc<dyn Kv>,
    /// Whether a batch was applied that is not yet synced.
    unsynced: AtomicBool,
    failed: Mutex<Option<String>>,
}

impl Store {
    pub(crate) fn new(kv: Arc<dyn Kv>) -> Store {
        Store { kv, unsynced: AtomicBool::new(false), failed: Mutex::new(None) }
    }

    /// For reading.
    pub(crate) fn kv(&self) -> &dyn Kv {
        &*self.kv
    }

    /// Applies a batch that nobody may be told of before [`Store::sync`].
    pub(crate) fn apply(&self, batch: &WriteBatch) -> Result<(), LogError> {
        self.check()?;
        if self.unsynced.swap(true, Ordering::AcqRel) {
            return Err(self.fail("a batch was to be applied before the last one was synced".to_owned()));
        }
        match self.kv.apply_batch(batch) {
            Ok(()) => Ok(()),
            Err(KvError::Full) => {
                self.unsynced.store(false, Ordering::Release);
                Err(LogError::StorageFull)
            }
            Err(error @ (KvError::TooLarge(_) | KvError::Failed(_))) => Err(self.fail(error.to_string())),
        }
    }

    /// Sees to it that the store is still where it was opened.
    pub(crate) fn check_place(&self) -> Result<(), LogError> {
        self.check()?;
        self.kv.check_place().map_err(|error| self.fail(error.to_string()))
    }

    /// Makes what was applied durable.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        self.check()?;
        match self.kv.sync() {
            Ok(()) => {
                self.unsynced.store(false, Ordering::Release);
                Ok(())
            }
            // Whatever it was: a failed sync is never tried again.
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    /// Applies a batch and makes it durable. An empty batch is nothing.
    pub(crate) fn write(&self, batch: &WriteBatch) -> Result<(), LogError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.apply(batch)?;
        self.sync()
    }

    fn check(&self) -> Result<(), LogError> {
        match &*self.failed.lock() {
            None => Ok(()),
            Some(words) => Err(LogError::Failed(words.clone())),
        }
    }

    fn fail(&self, words: String) -> LogError {
        *self.failed.lock() = Some(words.clone());
        LogError::Failed(words)
    }
}
