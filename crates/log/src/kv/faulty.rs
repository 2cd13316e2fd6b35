//! A store that misbehaves on demand, over any other: power cuts, failing or lying syncs, a full disk. For tests and the
//! simulation, behind the feature `faults`; never part of a product. Deterministic: no clock, no randomness.
//!
//! What is applied lies in memory over the inner store, and reaches that with its sync. So the inner store is what a power
//! cut leaves.

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::kv::journaled::table::{LayeredRange, SharedTable};
use crate::kv::memory::{Map, MemoryKv, weight};
use crate::kv::{Direction, Entries, Entry, Kv, KvError, WriteBatch};

/// A [`Kv`] over another, with faults. What was applied and not synced is volatile: [`FaultyKv::crash`] decides what is
/// left of it.
pub struct FaultyKv<K = MemoryKv> {
    inner: Arc<K>,
    state: Mutex<State>,
}

/// What a crash leaves of the batches that were applied and not synced. Batches stay atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// None of them.
    Lost,
    /// All of them.
    Kept,
    /// The first so many, the later ones are lost.
    First(usize),
}

/// How a store misbehaves. Numbers count from 1 over the store's life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The batch with this number is refused as [`KvError::Failed`] and changes nothing; the store is dead from there.
    pub fail_batch: Option<u64>,
    /// The sync with this number fails; the store is dead from there, and what was not synced stays volatile.
    pub fail_sync: Option<u64>,
    /// Batches that would take the store above so many bytes of keys and values are refused as [`KvError::Full`].
    pub capacity_bytes: Option<u64>,
    /// Whether [`Kv::has_room`] tells of that. Otherwise there is always room until it is needed.
    pub foresees_full: bool,
    /// Syncs say that they succeeded and do nothing: a disk that lies. Several batches can then be unsynced at once.
    pub sync_is_a_lie: bool,
}

/// What a store in memory held at some moment. Cloning is cheap, and so is making a store of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    map: Arc<Map>,
}

struct State {
    /// The batches that were applied since the last sync that did something, oldest first.
    unsynced: Vec<WriteBatch>,
    /// What they make of their keys.
    over: SharedTable,
    /// Size of the keys and values that readers see.
    bytes: u64,
    /// Whether a sync was asked for since the last batch.
    synced: bool,
    batches: u64,
    syncs: u64,
    faults: Faults,
    failed: Option<String>,
}

impl<K: Kv> FaultyKv<K> {
    /// Over another store, without a fault yet.
    #[must_use]
    pub fn over(inner: Arc<K>) -> FaultyKv<K> {
        let state = State {
            unsynced: Vec::new(),
            over: SharedTable::default(),
            bytes: inner.bytes_on_disk(),
            synced: true,
            batches: 0,
            syncs: 0,
            faults: Faults::default(),
            failed: None,
        };
        FaultyKv { inner, state: Mutex::new(state) }
    }

    /// Sets how the store misbehaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Cuts the power: returns what the next process finds, and kills this store, whose holders get [`KvError::Failed`].
    ///
    /// # Panics
    ///
    /// If the inner store does not take what the crash keeps.
    #[must_use]
    pub fn crash(&self, unsynced: Unsynced) -> FaultyKv<K> {
        let mut state = self.state.lock();
        let kept = match unsynced {
            Unsynced::Lost => 0,
            Unsynced::Kept => state.unsynced.len(),
            Unsynced::First(batches) => batches.min(state.unsynced.len()),
        };
        state.failed.get_or_insert_with(|| "the power was cut".to_owned());
        let batches: Vec<_> = state.unsynced.drain(..).take(kept).collect();
        let written = batches.iter().try_for_each(|batch| self.write_through(batch));
        assert!(written.is_ok(), "the inner store works: {written:?}");
        FaultyKv::over(Arc::clone(&self.inner))
    }

    /// Returns how many batches are applied and not synced.
    #[must_use]
    pub fn unsynced_batches(&self) -> usize {
        self.state.lock().unsynced.len()
    }

    /// Returns how many batches were applied and how many syncs were asked for, over the store's life.
    #[must_use]
    pub fn operations(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.batches, state.syncs)
    }

    fn write_through(&self, batch: &WriteBatch) -> Result<(), KvError> {
        self.inner.apply_batch(batch)?;
        self.inner.sync()
    }

    /// What readers see of a key.
    fn look_up(&self, state: &State, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match state.over.read().get(key) {
            Some(value) => Ok(value.map(|value| value.to_vec())),
            None => self.inner.get(key),
        }
    }

    /// Size of the keys and values once a batch is applied.
    fn bytes_with(&self, state: &State, batch: &WriteBatch) -> Result<u64, KvError> {
        // Of several entries for one key the last counts.
        let changes: std::collections::BTreeMap<_, _> =
            batch.entries().iter().map(|(key, value)| (key, value)).collect();
        let mut bytes = state.bytes;
        for (key, value) in changes {
            bytes += value.as_ref().map_or(0, |value| weight(key, value));
            bytes -= self.look_up(state, key)?.map_or(0, |before| weight(key, &before));
        }
        Ok(bytes)
    }
}

impl FaultyKv<MemoryKv> {
    /// An empty store in memory.
    #[must_use]
    pub fn new() -> FaultyKv {
        FaultyKv::from_image(&Image::default())
    }

    /// A store in memory that holds an image, durably: what was copied away, restored from a backup, or rolled back.
    #[must_use]
    pub fn from_image(image: &Image) -> FaultyKv {
        FaultyKv::over(Arc::new(MemoryKv::with_map(Arc::clone(&image.map))))
    }

    /// Returns what is durable now, whatever happens next.
    #[must_use]
    pub fn durable(&self) -> Image {
        Image { map: self.inner.map() }
    }
}

impl Default for FaultyKv<MemoryKv> {
    fn default() -> FaultyKv {
        FaultyKv::new()
    }
}

impl<K> fmt::Debug for FaultyKv<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let mut out = f.debug_struct("FaultyKv");
        out.field("faults", &state.faults).field("unsynced", &state.unsynced.len()).field("failed", &state.failed);
        out.finish_non_exhaustive()
    }
}

impl<K: Kv> Kv for FaultyKv<K> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let state = self.state.lock();
        state.check_alive()?;
        self.look_up(&state, key)
    }

    fn range(&self, from: &[u8], to: &[u8], direction: Direction) -> Entries<'_> {
        let over = Arc::clone(&self.state.lock().over);
        let inner = self.inner.range(from, to, direction);
        let entries = LayeredRange::new(vec![over], inner, (from, to), direction);
        Box::new(FaultyRange { kv: self, entries, failed: false })
    }

    fn has_room(&self, batch: &WriteBatch, waiting_bytes: u64) -> Result<bool, KvError> {
        let state = self.state.lock();
        let bytes = state.bytes.saturating_add(batch.bytes() as u64).saturating_add(waiting_bytes);
        Ok(!state.faults.foresees_full || state.faults.capacity_bytes.is_none_or(|capacity| bytes <= capacity))
    }

    fn apply_batch(&self, batch: &WriteBatch) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.check_alive()?;
        batch.check()?;
        if !state.synced {
            return Err(state.fail("a batch was applied before the one before it was synced"));
        }
        state.batches += 1;
        if state.faults.fail_batch == Some(state.batches) {
            return Err(state.fail("the batch failed, as ordered"));
        }
        let bytes = self.bytes_with(&state, batch)?;
        if state.faults.capacity_bytes.is_some_and(|capacity| bytes > capacity && bytes > state.bytes) {
            return Err(KvError::Full);
        }
        state.over.write().apply(batch.clone());
        state.unsynced.push(batch.clone());
        state.bytes = bytes;
        state.synced = false;
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        let mut state = self.state.lock();
        state.check_alive()?;
        state.syncs += 1;
        if state.faults.fail_sync == Some(state.syncs) {
            return Err(state.fail("the sync failed, as ordered"));
        }
        if !state.faults.sync_is_a_lie {
            let batches = std::mem::take(&mut state.unsynced);
            for batch in &batches {
                if let Err(error) = self.write_through(batch) {
                    return Err(state.fail(&error.to_string()));
                }
            }
            // Ranges that have begun keep the table that they know.
            state.over = Arc::new(RwLock::default());
        }
        state.synced = true;
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.state.lock().bytes
    }
}

impl State {
    fn check_alive(&self) -> Result<(), KvError> {
        match &self.failed {
            Some(why) => Err(KvError::Failed(why.clone())),
            None => Ok(()),
        }
    }

    fn fail(&mut self, why: &str) -> KvError {
        self.failed = Some(why.to_owned());
        KvError::Failed(why.to_owned())
    }
}

impl Image {
    /// Returns how many entries it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns the entries in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.map.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Changes what a key holds, or removes it: damage, for tests of what the log makes of it.
    pub fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let map = Arc::make_mut(&mut self.map);
        match value {
            Some(value) => map.insert(key.into(), value.into()),
            None => map.remove(key),
        };
    }
}

/// Ends with an error once the store is dead.
struct FaultyRange<'a, K> {
    kv: &'a FaultyKv<K>,
    entries: LayeredRange<'a>,
    failed: bool,
}

impl<K: Kv> Iterator for FaultyRange<'_, K> {
    type Item = Result<Entry, KvError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Err(error) = self.kv.state.lock().check_alive() {
            self.failed = true;
            return Some(Err(error));
        }
        self.entries.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8], value: &[u8]) -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(key.to_vec(), value.to_vec());
        batch
    }

    fn write(kv: &FaultyKv, batch: &WriteBatch) {
        kv.apply_batch(batch).unwrap();
        kv.sync().unwrap();
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_by_choice_what_was_not() {
        for (unsynced, expected) in [
            (Unsynced::Lost, Some(b"old".to_vec())),
            (Unsynced::First(0), Some(b"old".to_vec())),
            (Unsynced::First(1), Some(b"new".to_vec())),
            (Unsynced::Kept, Some(b"new".to_vec())),
        ] {
            let kv = FaultyKv::new();
            write(&kv, &put(b"a", b"old"));
            let mut batch = put(b"a", b"newer");
            batch.put(b"a".to_vec(), b"new".to_vec());
            batch.put(b"b".to_vec(), b"1".to_vec());
            kv.apply_batch(&batch).unwrap();
            assert_eq!(kv.unsynced_batches(), 1);
            let after = kv.crash(unsynced);
            assert_eq!(after.get(b"a").unwrap(), expected, "{unsynced:?}");
            assert_eq!(after.get(b"b").unwrap().is_some(), expected == Some(b"new".to_vec()), "batches are atomic");
            assert!(matches!(kv.get(b"a"), Err(KvError::Failed(_))), "the crashed store is dead");
            assert!(matches!(kv.range(b"", b"z", Direction::Up).next(), Some(Err(KvError::Failed(_)))));
        }
    }

    #[test]
    fn a_lying_disk_loses_a_suffix_of_whole_batches() {
        let kv = FaultyKv::new();
        write(&kv, &put(b"k", b"0"));
        kv.set_faults(Faults { sync_is_a_lie: true, ..Faults::default() });
        for number in 1..=3_u8 {
            write(&kv, &put(b"k", &[b'0' + number]));
        }
        assert_eq!(kv.durable().entries().collect::<Vec<_>>(), [(&b"k"[..], &b"0"[..])]);
        assert_eq!(kv.crash(Unsynced::First(2)).get(b"k").unwrap(), Some(b"2".to_vec()));
    }

    #[test]
    fn a_failed_sync_is_the_end_and_leaves_the_batch_volatile() {
        for (unsynced, expected) in [(Unsynced::Lost, b"1"), (Unsynced::Kept, b"2")] {
            let kv = FaultyKv::new();
            kv.set_faults(Faults { fail_sync: Some(2), ..Faults::default() });
            write(&kv, &put(b"a", b"1"));
            kv.apply_batch(&put(b"a", b"2")).unwrap();
            assert!(matches!(kv.sync(), Err(KvError::Failed(_))));
            assert!(matches!(kv.sync(), Err(KvError::Failed(_))), "never retried");
            assert!(matches!(kv.apply_batch(&put(b"a", b"3")), Err(KvError::Failed(_))));
            assert_eq!(kv.crash(unsynced).get(b"a").unwrap(), Some(expected.to_vec()), "{unsynced:?}");
        }
    }

    #[test]
    fn a_full_store_refuses_without_a_change_and_takes_again_once_there_is_room() {
        let kv = FaultyKv::new();
        kv.set_faults(Faults { capacity_bytes: Some(10), ..Faults::default() });
        write(&kv, &put(b"a", b"1234"));
        let mut batch = put(b"a", b"12");
        batch.put(b"b".to_vec(), b"1234567".to_vec());
        assert!(matches!(kv.apply_batch(&batch), Err(KvError::Full)));
        assert_eq!((kv.get(b"a").unwrap(), kv.get(b"b").unwrap()), (Some(b"1234".to_vec()), None));
        assert_eq!((kv.bytes_on_disk(), kv.unsynced_batches()), (5, 0));
        let mut freeing = WriteBatch::default();
        freeing.delete(b"a".to_vec());
        write(&kv, &freeing);
        write(&kv, &put(b"b", b"1234567"));
    }

    #[test]
    fn images_are_independent_of_the_store_they_came_from() {
        let kv = FaultyKv::new();
        write(&kv, &put(b"a", b"1"));
        let image = kv.durable();
        write(&kv, &put(b"a", b"2"));
        let restored = FaultyKv::from_image(&image);
        assert_eq!(restored.get(b"a").unwrap(), Some(b"1".to_vec()));
        write(&restored, &put(b"a", b"3"));
        assert_eq!(kv.get(b"a").unwrap(), Some(b"2".to_vec()));
        assert_eq!(image.len(), 1);
    }
}
