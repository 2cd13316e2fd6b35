//! The one door to storage: an ordered key-value store with atomic batches and a real sync.
//!
//! The log's layout, fold, trim and recovery are written once over this trait. Engines' peculiarities stay behind it.

mod descriptors;
#[cfg(feature = "faults")]
pub mod faulty;
pub mod journaled;
pub mod memory;
pub mod sled;

use std::fmt;

use bytes::Bytes;

/// Most bytes of keys and values in one batch. More between two syncs of sled was not safe (docs/storage.md).
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// Longest value, in bytes. With longer ones sled would write whole leaves to files of their own, which it never syncs
/// (docs/adr/0003).
pub const VALUE_BYTES_MAX: usize = 7_000;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 600;

/// A key with its new value, or nothing to delete it. Cheap to clone but for the key.
pub type Change = (Vec<u8>, Option<Bytes>);

/// A row of puts and deletes that happen together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    entries: Vec<Change>,
    bytes: usize,
}

impl WriteBatch {
    /// Stands for a batch of the greatest size, for asking whether there is room. It must not be applied.
    pub(crate) fn largest() -> WriteBatch {
        WriteBatch { entries: vec![(Vec::new(), Some(Bytes::new()))], bytes: BATCH_BYTES_MAX }
    }

    /// Sets a key. A later entry for the same key wins.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.put_shared(key, value.into());
    }

    /// Sets a key to a value that others share.
    fn put_shared(&mut self, key: Vec<u8>, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.entries.push((key, Some(value)));
    }

    /// Removes a key, whether or not it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.entries.push((key, None));
    }

    /// Adds what another batch does.
    pub fn append(&mut self, other: &WriteBatch) {
        self.bytes += other.bytes;
        self.entries.extend_from_slice(&other.entries);
    }

    /// Keys with their new value, or `None` to delete.
    #[must_use]
    pub fn entries(&self) -> &[Change] {
        &self.entries
    }

    fn into_entries(self) -> Vec<Change> {
        self.entries
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Refuses what no store may be given.
    fn check(&self) -> Result<(), KvError> {
        if self.bytes() > BATCH_BYTES_MAX {
            return Err(KvError::TooLarge(format!("a batch of {} bytes", self.bytes())));
        }
        for (key, value) in &self.entries {
            let value_bytes = value.as_ref().map_or(0, Bytes::len);
            if key.is_empty() || key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
                return Err(KvError::TooLarge(format!("a key of {} and a value of {value_bytes} bytes", key.len())));
            }
        }
        Ok(())
    }
}

/// Which way a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key up.
    Up,
    /// From the highest key down.
    Down,
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// A stream of entries in key order.
pub type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, KvError>> + 'a>;

/// An ordered key-value store. Reads may run beside each other and beside the one writer.
pub trait Kv: Send + Sync + fmt::Debug {
    /// A key's value.
    ///
    /// # Errors
    ///
    /// [`KvError`], after which the store is not to be used.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// The entries with `from <= key < to`, from whichever end `direction` says. It is not a snapshot: beside a writer, an
    /// entry that changes meanwhile is seen before or after the change. It ends after its first error.
    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_>;

    /// Whether a batch would find room now, behind others of so many bytes that are still to come before it. An estimate,
    /// which must not be relied on.
    ///
    /// # Errors
    ///
    /// [`KvError`], after which the store is not to be used.
    fn has_room(&self, _batch: &WriteBatch, _waiting_bytes: u64) -> Result<bool, KvError> {
        Ok(true)
    }

    /// Whether the store is still where it was opened: not if its directory was deleted or replaced under it, so that what is
    /// written would be gone with the process. Cheap; asked every few seconds.
    ///
    /// # Errors
    ///
    /// [`KvError::Failed`] if it is not, after which the store is not to be used.
    fn check_place(&self) -> Result<(), KvError> {
        Ok(())
    }

    /// Applies a batch atomically. Readers may see it; it is durable only after [`Kv::sync`], which must follow before
    /// the next batch.
    ///
    /// # Errors
    ///
    /// [`KvError`]: `Full` leaves the store as it was; any other means that it is not to be used any more.
    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError>;

    /// Makes everything applied durable: it survives a power cut from here on.
    ///
    /// # Errors
    ///
    /// [`KvError`], after which nothing may be written or promised any more. A failed sync is never tried again.
    fn sync(&self) -> Result<(), KvError>;

    /// Bytes that the store takes on its medium now.
    fn bytes_on_disk(&self) -> u64;
}

/// What a store can fail with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// There is no space left. Nothing was changed.
    #[error("no space left on the device")]
    Full,
    /// A batch or value is larger than allowed: a bug of the caller's.
    #[error("a batch or value is larger than allowed: {0}")]
    TooLarge(String),
    /// The store has failed and must not be used any more.
    #[error("the store has failed: {0}")]
    Failed(String),
}
