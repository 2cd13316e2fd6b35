//! Writing: requests become commits, are applied, and are published once they are durable. Nothing becomes visible
//! before its sync has returned.

use redeliver_protocol::history::Cursor;
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::PublisherId;
use redeliver_protocol::time::{Instant, Timestamp};

use super::decide::Decision;
use super::draft::{DraftCommit, Drafter};
use super::{Committed, Log, Staged, WriteOutcome, WriteRequest};
use crate::clock::event_time;
use crate::error::LogError;
use crate::index::TailRef;
use crate::kv::{BATCH_BYTES_MAX, WriteBatch};
use crate::layout::value::CursorEntry;
use crate::layout::{key, piece};
use crate::publishers::PublisherDraft;

/// A commit that is applied, with what it changes once it is durable.
#[derive(Debug, Default)]
pub(super) struct Pending {
    outcomes: Vec<WriteOutcome>,
    commits: Vec<DraftCommit>,
    publishers: Vec<(PublisherId, PublisherDraft)>,
    clock: Timestamp,
    /// Whether something waits for a sync.
    is_unsynced: bool,
}

/// How far applying came before the disk was full.
struct Applied {
    commits: usize,
    riders: bool,
    is_unsynced: bool,
}

impl Log {
    pub(super) fn stage_requests(
        &self,
        requests: &[WriteRequest],
        now: Timestamp,
        monotonic: Instant,
    ) -> Result<Staged, LogError> {
        let mut work = self.work.lock();
        if work.is_staged {
            return Err(LogError::Failed("a commit was staged before the last one was published".to_owned()));
        }
        self.tick(&mut work, now, monotonic);
        self.finish_opening(&mut work)?;
        let clock = work.clock.stamp();
        let mut decision = self.decide(requests, usize::MAX)?;
        let mut commits = self.draft(&decision, now, clock);
        let riders = self.riders(&decision, clock)?;
        let applied = self.apply_all(&commits, &riders)?;
        if applied.commits < commits.len() {
            // Undone is simply not done: decide again what the disk had no room for.
            commits.truncate(applied.commits);
            let stored = commits.iter().map(|commit| commit.events).sum();
            decision = self.decide(requests, stored)?;
        }
        if !applied.riders {
            for outcome in &mut decision.outcomes {
                match outcome {
                    WriteOutcome::CursorSaved => *outcome = WriteOutcome::CursorNotSaved,
                    WriteOutcome::StateSaved => *outcome = WriteOutcome::StateNotSaved,
                    WriteOutcome::Emitted(_) | WriteOutcome::CursorNotSaved | WriteOutcome::StateNotSaved => {}
                }
            }
        }
        work.is_staged = true;
        Ok(Staged(Pending {
            outcomes: decision.outcomes,
            commits,
            publishers: decision.publishers,
            clock,
            is_unsynced: applied.is_unsynced,
        }))
    }

    pub(super) fn publish_staged(&self, staged: Staged) -> Result<Committed, LogError> {
        let pending = staged.0;
        if pending.is_unsynced {
            self.store.sync()?;
        }
        let grown = self.show(pending.commits);
        let mut publishers = self.publishers.lock();
        for (id, draft) in pending.publishers {
            publishers.apply(id, draft, pending.clock);
        }
        drop(publishers);
        self.work.lock().is_staged = false;
        Ok(Committed { outcomes: pending.outcomes, grown })
    }

    fn draft(&self, decision: &Decision<'_>, now: Timestamp, clock: Timestamp) -> Vec<DraftCommit> {
        if decision.stored.is_empty() {
            return Vec::new();
        }
        let publishers = self.publishers.lock();
        let shared = self.shared.read();
        let times = (event_time(now, shared.last_time), clock);
        Drafter::new(&shared.topics, &publishers, &decision.publishers, times, shared.head).commits(&decision.stored)
    }

    /// What goes with the events: each change of a cursor or a state.
    fn riders(&self, decision: &Decision<'_>, clock: Timestamp) -> Result<Vec<WriteBatch>, LogError> {
        let mut riders = cursor_puts(decision, clock);
        for (name, state) in &decision.states {
            riders.push(self.state_change(name, *state)?);
        }
        Ok(riders)
    }

    /// Applies commits and their riders, the last batch without its sync.
    fn apply_all(&self, commits: &[DraftCommit], riders: &[WriteBatch]) -> Result<Applied, LogError> {
        let rider_bytes: usize = riders.iter().map(WriteBatch::bytes).sum();
        let mut applied = Applied { commits: 0, riders: false, is_unsynced: false };
        for (at, commit) in commits.iter().enumerate() {
            let is_last = at + 1 == commits.len();
            if is_last && !riders.is_empty() && commit.batch.bytes() + rider_bytes <= BATCH_BYTES_MAX {
                let mut batch = commit.batch.clone();
                riders.iter().for_each(|rider| batch.append(rider));
                if self.apply_next(&batch, &mut applied)? {
                    applied.commits += 1;
                    applied.riders = true;
                    return Ok(applied);
                }
                break;
            }
            if !self.apply_next(&commit.batch, &mut applied)? {
                break;
            }
            applied.commits += 1;
        }
        applied.riders = true;
        let mut batch = WriteBatch::default();
        for (at, rider) in riders.iter().enumerate() {
            batch.append(rider);
            let next = riders.get(at + 1);
            if next.is_none_or(|next| batch.bytes() + next.bytes() > RIDERS_BYTES_MAX) {
                applied.riders &= self.apply_next(&batch, &mut applied)?;
                batch = WriteBatch::default();
            }
        }
        Ok(applied)
    }

    /// Applies a batch behind the one before it. Says whether there was room for it.
    fn apply_next(&self, batch: &WriteBatch, applied: &mut Applied) -> Result<bool, LogError> {
        if applied.is_unsynced {
            self.store.sync()?;
            applied.is_unsynced = false;
        }
        match self.store.apply(batch) {
            Ok(()) => {
                applied.is_unsynced = true;
                Ok(true)
            }
            Err(LogError::StorageFull) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes durable commits visible.
    fn show(&self, commits: Vec<DraftCommit>) -> Vec<TopicName> {
        let mut names = Vec::with_capacity(commits.iter().map(|commit| commit.grown.len()).sum());
        if commits.is_empty() {
            return names;
        }
        let mut guard = self.shared.write();
        let shared = &mut *guard;
        for DraftCommit { commit, grown, excepts, .. } in commits {
            for (id, name, chunk) in grown {
                shared.topics.name(id, &name);
                let topic = shared.topics.at(id);
                let count = u32::try_from(chunk.count()).unwrap_or(u32::MAX);
                let tail_ref = TailRef { commit: commit.first, first_nth: chunk.first_nth(), count };
                let before = topic.grow(tail_ref, chunk.last_seq());
                shared.recent.push(id, &mut topic.recent, chunk, before);
                if names.last() != Some(&name) {
                    names.push(name);
                }
            }
            for (seq, list) in excepts {
                shared.excepts.push(seq, list);
            }
            shared.head = commit.last;
            shared.last_time = commit.time;
            shared.tail_bytes += commit.value_bytes;
            shared.retained_bytes += commit.event_bytes;
            shared.tail.push_back(commit);
        }
        shared.evict();
        shared.retain(&self.config.retention);
        names
    }
}

/// Most bytes of cursors and states in a batch of their own.
const RIDERS_BYTES_MAX: usize = BATCH_BYTES_MAX - 128 * 1024;

fn cursor_puts(decision: &Decision<'_>, clock: Timestamp) -> Vec<WriteBatch> {
    let put = |((subscriber, topic), cursor): (&(&SubscriberName, &TopicName), &&Cursor)| {
        let mut batch = WriteBatch::default();
        piece::put_small(&mut batch, key::cursor(subscriber, topic), &CursorEntry::encode(cursor, clock));
        batch
    };
    decision.cursors.iter().map(put).collect()
}
