//! Removing what is hidden or has expired, in small steps. What is about to go is durably below the floor before.

use std::collections::VecDeque;
use std::sync::Arc;

use redeliver_protocol::seq::{EmitNumber, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;

use super::folding::{DELETED_KEYS_MAX, WRITE_BYTES};
use super::{Log, Maintenance, WriterState};
use crate::error::LogError;
use crate::fold::manifest;
use crate::kv::{Direction, WriteBatch};
use crate::layout::key::{self, Meta};
use crate::layout::piece::{self, StoredValue};
use crate::layout::value::{CursorEntry, encode_clock};

/// A run that is being deleted.
#[derive(Debug)]
pub(super) struct Trim {
    run: Seq,
    left: VecDeque<Vec<u8>>,
}

/// A search for what has expired.
#[derive(Debug)]
pub(super) enum Expiry {
    Publishers,
    /// These publishers, which were idle when they were found; then on with the next ones, unless these were the last.
    Idle {
        left: Vec<PublisherId>,
        is_through: bool,
    },
    /// Cursors from this key on.
    Cursors(Vec<u8>),
}

impl Log {
    /// Raises the floor by age, durably before it shows.
    pub(super) fn raise_floor_by_age(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let Some(age) = self.config.retention.age else { return Ok(Maintenance::Idle) };
        let Some(floor) = self.shared.read().floor_at(work.clock.now().before(age)) else {
            return Ok(Maintenance::Idle);
        };
        let mut batch = WriteBatch::default();
        piece::put_small(&mut batch, key::meta(Meta::Floor), &floor.encode());
        put_clock(work, &mut batch);
        self.store.write(&batch)?;
        work.saved_floor = floor.seq;
        self.shared.write().raise_floor(floor);
        Ok(Maintenance::More)
    }

    /// Begins to delete the oldest run if it is wholly below the floor.
    pub(super) fn begin_trim(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let run = {
            let shared = self.shared.read();
            match shared.runs.first() {
                Some(run) if run.last <= shared.floor.seq => run.first,
                Some(_) | None => return Ok(Maintenance::Idle),
            }
        };
        let left = self.keys_of_run(run)?;
        let mut batch = WriteBatch::default();
        self.put_floor(work, &mut batch);
        self.store.write(&batch)?;
        let mut shared = self.shared.write();
        work.saved_floor = work.saved_floor.max(shared.floor.seq);
        shared.generation += 1;
        Arc::make_mut(&mut shared.runs).remove(0);
        drop(shared);
        work.trim = Some(Trim { run, left });
        Ok(Maintenance::More)
    }

    /// Deletes some keys of the run that is being trimmed.
    pub(super) fn trim_step(&self, work: &mut WriterState, mut trim: Trim) -> Result<Maintenance, LogError> {
        let mut batch = WriteBatch::default();
        for key in trim.left.iter().take(DELETED_KEYS_MAX) {
            batch.delete(key.clone());
        }
        if let Err(error) = self.store.write(&batch) {
            work.trim = Some(trim);
            return Err(error);
        }
        let count = trim.left.len().min(DELETED_KEYS_MAX);
        trim.left.drain(..count);
        if !trim.left.is_empty() {
            work.trim = Some(trim);
        } else {
            tracing::debug!(run = %trim.run, "a run is trimmed");
        }
        Ok(Maintenance::More)
    }

    /// All keys of a run, the manifest's own last.
    fn keys_of_run(&self, run: Seq) -> Result<VecDeque<Vec<u8>>, LogError> {
        let kv = self.store.kv();
        let prefix = key::run(run);
        let named = match piece::read(kv, &prefix)? {
            StoredValue::Whole(bytes) => manifest::read_keys(&bytes).ok(),
            StoredValue::Nothing | StoredValue::Beginning(_) | StoredValue::Incomplete | StoredValue::Damaged(_) => {
                None
            }
        };
        let mut keys = VecDeque::new();
        if let Some(named) = named {
            for key in named {
                if key.pieces == 0 {
                    keys.push_back(key.prefix);
                } else {
                    let mut batch = WriteBatch::default();
                    piece::delete(&mut batch, &key.prefix, key.pieces);
                    keys.extend(batch.entries().iter().map(|(key, _)| key.clone()));
                }
            }
        } else {
            // Its groups are found by their keys; the topics' own values stay behind, hidden below the floor.
            self.note_damage(vec![prefix.clone()]);
            let (from, to) = (key::group_records(run, 0), key::above_pieces(&key::group_records(run, u32::MAX)));
            for entry in kv.range(&from, &to, Direction::Up) {
                keys.push_back(entry?.0);
            }
        }
        for entry in kv.range(&prefix, &key::above_pieces(&prefix), Direction::Up) {
            keys.push_back(entry?.0);
        }
        Ok(keys)
    }

    /// Puts the floor and the clock into a batch, before anything below the floor goes.
    pub(super) fn put_floor(&self, work: &WriterState, batch: &mut WriteBatch) {
        let floor = self.shared.read().floor;
        if floor.seq > work.saved_floor {
            piece::put_small(batch, key::meta(Meta::Floor), &floor.encode());
        }
        put_clock(work, batch);
    }

    /// Looks for publishers and cursors that have expired, a few at a time, once in a while.
    pub(super) fn expire_step(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let now = work.clock.now();
        let Some(expiry) = work.expiry.take() else {
            if now < work.expiry_began.after(EXPIRY_INTERVAL) {
                return Ok(Maintenance::Idle);
            }
            // The clock is worth a key once in a while, or an idle log would lose it with each restart.
            let mut batch = WriteBatch::default();
            put_clock(work, &mut batch);
            self.store.write(&batch)?;
            work.expiry_began = now;
            work.expiry = Some(Expiry::Publishers);
            return Ok(Maintenance::More);
        };
        match expiry {
            Expiry::Publishers => {
                let before = now.before(self.config.publisher_idle);
                let (left, is_through) = self.publishers.lock().idle_since(before, EXPIRED_AT_ONCE);
                work.expiry = Some(Expiry::Idle { left, is_through });
            }
            Expiry::Idle { mut left, is_through } => {
                self.expire_publishers(&mut left, now.before(self.config.publisher_idle))?;
                work.expiry = Some(match (left.is_empty(), is_through) {
                    (false, _) => Expiry::Idle { left, is_through },
                    (true, false) => Expiry::Publishers,
                    (true, true) => Expiry::Cursors(vec![key::CURSOR]),
                });
            }
            Expiry::Cursors(from) => {
                work.expiry = self.expire_cursors(&from, now.before(self.config.cursor_idle))?.map(Expiry::Cursors);
            }
        }
        Ok(Maintenance::More)
    }

    /// Deletes what is stored of the last of these publishers that are still idle, as much as one step may, and takes those
    /// off the list that are done. What a publisher once emitted goes before its state does: it might come back under the
    /// same id and number from 1 again.
    fn expire_publishers(&self, left: &mut Vec<PublisherId>, before: Timestamp) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        let mut gone = Vec::new();
        while let Some(id) = left.last().copied() {
            if self.publishers.lock().is_idle(id, before) {
                let (from, to) = (key::emits(id, EmitNumber::ZERO), key::emits(id, EmitNumber(u64::MAX)));
                for entry in self.store.kv().range(&from, &to, Direction::Up) {
                    if batch.entries().len() >= DELETED_KEYS_MAX {
                        self.store.write(&batch)?;
                        gone.into_iter().for_each(|id| self.publishers.lock().forget(id));
                        return Ok(());
                    }
                    batch.delete(entry?.0);
                }
                batch.delete(key::publisher(id));
                batch.delete(key::owner(id));
                gone.push(id);
            }
            left.pop();
        }
        self.store.write(&batch)?;
        gone.into_iter().for_each(|id| self.publishers.lock().forget(id));
        Ok(())
    }

    /// Deletes the expired among the next cursors. Gives the key to go on from.
    fn expire_cursors(&self, from: &[u8], before: Timestamp) -> Result<Option<Vec<u8>>, LogError> {
        let mut batch = WriteBatch::default();
        let (mut next, mut bytes) = (None, 0);
        let entries = self.store.kv().range(from, &key::all(key::CURSOR).1, Direction::Up);
        for (at, entry) in entries.enumerate() {
            let (key, sealed) = entry?;
            if at == EXPIRED_AT_ONCE || bytes > WRITE_BYTES {
                next = Some(key);
                break;
            }
            let saved = piece::open_small(&key, &sealed).and_then(CursorEntry::decode);
            if saved.is_ok_and(|saved| saved.when < before) {
                bytes += sealed.len();
                batch.delete(key);
            }
        }
        self.store.write(&batch)?;
        Ok(next)
    }
}

/// How often expired publishers and cursors are looked for, by the paced clock.
const EXPIRY_INTERVAL: std::time::Duration = std::time::Duration::from_secs(3600);

/// So many of them are looked at in one step.
const EXPIRED_AT_ONCE: usize = 256;

pub(super) fn put_clock(work: &WriterState, batch: &mut WriteBatch) {
    piece::put_small(batch, key::meta(Meta::Clock), &encode_clock(work.clock.saved()));
}
