//! Who is not to get an event: finding its list, and removing the lists of events that are gone.

use std::sync::Arc;

use redeliver_protocol::history::{Gap, GapCause, ReadOutcome};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::Seq;

use super::folding::DELETED_KEYS_MAX;
use super::{Log, Maintenance, WriterState};
use crate::error::LogError;
use crate::excepts;
use crate::kv::{Direction, WriteBatch};
use crate::layout::key;
use crate::layout::piece::{self, StoredValue};
use crate::state::{Published, ReadPoint};

impl Log {
    /// Names those who are not to get an event that was read alone. Without the list nobody may be given the event: that is
    /// told as a gap.
    pub(super) fn with_except(&self, outcome: ReadOutcome, place: &ReadPoint) -> Result<ReadOutcome, LogError> {
        let ReadOutcome::Batch(mut batch) = outcome else { return Ok(outcome) };
        if batch.except.is_none() {
            return Ok(ReadOutcome::Batch(batch));
        }
        batch.except = self.except(batch.last_seq)?;
        if batch.except.is_some() {
            return Ok(ReadOutcome::Batch(batch));
        }
        Ok(ReadOutcome::Gap(Gap {
            after: place.lineage.position(place.after),
            through: place.lineage.position(batch.last_seq),
            nth_through: batch.last_nth(),
            count: u64::from(batch.count),
            count_is_exact: true,
            cause: GapCause::LogDamaged,
        }))
    }

    /// The list of an event that has one; none if it is damaged, or gone with its event.
    pub(super) fn except(&self, seq: Seq) -> Result<Option<Arc<[TopicName]>>, LogError> {
        if let Some(list) = self.shared.read().excepts.find(seq) {
            return Ok(Some(Arc::clone(list)));
        }
        Ok(match piece::read(self.store.kv(), &key::except(seq))? {
            StoredValue::Whole(list) => excepts::decode(&list).ok(),
            StoredValue::Nothing | StoredValue::Beginning(_) | StoredValue::Incomplete | StoredValue::Damaged(_) => {
                None
            }
        })
    }

    /// Deletes some lists of events below the floor.
    pub(super) fn trim_excepts(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let through = work.saved_floor;
        if work.excepts_trimmed >= through {
            return Ok(Maintenance::Idle);
        }
        let mut batch = WriteBatch::default();
        let (from, to) = (key::except(Seq::ZERO), key::except(through.next()));
        for entry in self.store.kv().range(&from, &to, Direction::Up).take(DELETED_KEYS_MAX) {
            batch.delete(entry?.0);
        }
        if batch.is_empty() {
            work.excepts_trimmed = through;
            return Ok(Maintenance::Idle);
        }
        // A reader that has read such an event but not yet its list begins anew.
        self.shared.write().generation += 1;
        self.store.write(&batch)?;
        Ok(Maintenance::More)
    }
}

/// The same as [`Log::with_except`] from memory alone; nothing if it is not there.
pub(super) fn with_except_in_memory(shared: &Published, outcome: ReadOutcome) -> Option<ReadOutcome> {
    let ReadOutcome::Batch(mut batch) = outcome else { return Some(outcome) };
    if batch.except.is_some() {
        batch.except = Some(Arc::clone(shared.excepts.find(batch.last_seq)?));
    }
    Some(ReadOutcome::Batch(batch))
}
