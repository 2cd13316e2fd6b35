//! The steps of a fold: plan it durably, read the run's commits, write what they become, pass the fold point, and only
//! then delete the commits. A crash anywhere leaves the same run to be done again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use redeliver_protocol::seq::{PublisherId, Seq};

use super::open::{StoredHeads, Taken};
use super::{Log, Maintenance, WriterState};
use crate::error::LogError;
use crate::fold::{FoldEntry, RunContent, TopicContent};
use crate::index::Topic;
use crate::kv::{Direction, WriteBatch};
use crate::layout::key::{self, Meta};
use crate::layout::piece::{self, StoredValue};
use crate::layout::value::{self, FoldPlan};
use crate::state::{Run, TailCommit};
use crate::topic_table::{TopicHead, encode_heads, encode_names};

/// A fold that is under way.
#[derive(Debug)]
pub(super) enum Fold {
    /// The commits are being read.
    Reading { plan: FoldPlan, left: VecDeque<TailCommit>, content: Box<RunContent> },
    /// What they became is being written.
    Writing { left: VecDeque<FoldEntry>, folded: Box<Folded> },
}

/// What a fold comes to, once it is written.
#[derive(Debug)]
pub(super) struct Folded {
    plan: FoldPlan,
    run: Run,
    topics: Vec<u32>,
    publishers: BTreeSet<PublisherId>,
    heads: StoredHeads,
}

impl Log {
    /// Plans a fold if the tail is large enough.
    pub(super) fn begin_fold(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let plan = {
            let shared = self.shared.read();
            let (tail, floor) = (&shared.tail, shared.floor.seq);
            let trimmed_bytes: usize =
                tail.iter().take_while(|commit| commit.last <= floor).map(|commit| commit.value_bytes).sum();
            let is_trimmed = trimmed_bytes > 0 && trimmed_bytes >= self.config.fold_bytes / TRIMMED_SHARE;
            if !is_trimmed && shared.tail_bytes < self.config.fold_bytes {
                return Ok(Maintenance::Idle);
            }
            let is_trimmed = tail.front().is_some_and(|commit| commit.last <= floor);
            let mut bytes = 0;
            let run = tail.iter().take_while(|commit| {
                let is_first = bytes == 0;
                bytes += commit.value_bytes.max(commit.record_bytes / 2).max(1);
                is_first || (bytes <= self.config.fold_bytes && (!is_trimmed || commit.last <= floor))
            });
            match (tail.front(), run.last()) {
                (Some(first), Some(last)) => FoldPlan { first: first.first, last: last.last, is_trimmed },
                (_, _) => return Ok(Maintenance::Idle),
            }
        };
        let mut batch = WriteBatch::default();
        piece::put_small(&mut batch, key::meta(Meta::Plan), &plan.encode());
        self.store.write(&batch)?;
        work.fold = Some(self.reading(plan));
        Ok(Maintenance::More)
    }

    /// A fold of this plan, from its beginning.
    pub(super) fn reading(&self, plan: FoldPlan) -> Fold {
        let shared = self.shared.read();
        let left = shared.tail.iter().take_while(|commit| commit.last <= plan.last).copied().collect();
        Fold::Reading { plan, left, content: Box::new(RunContent::new(plan)) }
    }

    /// One step of the fold under way.
    pub(super) fn fold_step(&self, work: &mut WriterState, fold: Fold) -> Result<Maintenance, LogError> {
        match fold {
            Fold::Reading { plan, mut left, mut content } => {
                let mut bytes = 0;
                while bytes < READ_BYTES {
                    let Some(commit) = left.pop_front() else {
                        work.fold = Some(self.writing(work, plan, *content));
                        return Ok(Maintenance::More);
                    };
                    bytes += commit.value_bytes.max(1);
                    self.read_commit(&commit, &mut content)?;
                }
                work.fold = Some(Fold::Reading { plan, left, content });
            }
            Fold::Writing { mut left, folded } => {
                // One batch a step, so that emitters wait for no more than that. At least one entry goes, however large.
                let mut batch = WriteBatch::default();
                let mut count = 0;
                for entry in &left {
                    if count > 0 && batch.bytes() + entry.batch_bytes() > WRITE_BYTES {
                        break;
                    }
                    if entry.in_pieces {
                        piece::put(&mut batch, &entry.prefix, &entry.value);
                    } else {
                        piece::put_small(&mut batch, entry.prefix.clone(), &entry.value);
                    }
                    count += 1;
                }
                let is_last = count == left.len();
                // The fold point moves in the batch of the last entry: before, readers and a restart go by the commits,
                // after it by the run, and both are whole.
                if is_last {
                    self.put_fold_point(work, &folded, &mut batch);
                }
                // A full disk is tried again: nothing of the fold is lost.
                if let Err(error) = self.store.write(&batch) {
                    work.fold = Some(Fold::Writing { left, folded });
                    return Err(error);
                }
                if is_last {
                    self.pass_fold_point(work, *folded);
                } else {
                    left.drain(..count);
                    work.fold = Some(Fold::Writing { left, folded });
                }
            }
        }
        Ok(Maintenance::More)
    }

    /// Deletes some of the commits that are folded.
    pub(super) fn delete_folded(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        if !work.folded_commits.is_empty() {
            let mut batch = WriteBatch::default();
            let mut count = 0;
            for (first, pieces) in &work.folded_commits {
                if batch.entries().len() >= DELETED_KEYS_MAX {
                    break;
                }
                piece::delete(&mut batch, &key::commit(*first), *pieces);
                count += 1;
            }
            self.store.write(&batch)?;
            work.folded_commits.drain(..count);
            return Ok(Maintenance::More);
        }
        // Whatever an earlier opening left.
        let end = key::commit(work.folded_through.next());
        let mut batch = WriteBatch::default();
        let mut bytes = 0;
        let mut is_through = true;
        for entry in self.store.kv().range(&key::all(key::COMMIT).0, &end, Direction::Up) {
            let (key, value) = entry?;
            bytes += value.len();
            batch.delete(key);
            if batch.entries().len() >= DELETED_KEYS_MAX || bytes >= WRITE_BYTES {
                is_through = false;
                break;
            }
        }
        self.store.write(&batch)?;
        work.may_have_older_commits = !is_through;
        Ok(Maintenance::More)
    }

    fn read_commit(&self, commit: &TailCommit, content: &mut RunContent) -> Result<(), LogError> {
        content.pass(commit);
        let prefix = key::commit(commit.first);
        match piece::read(self.store.kv(), &prefix)? {
            StoredValue::Whole(bytes) => {
                if content.add(&bytes).is_err() {
                    self.note_damage(vec![prefix]);
                }
            }
            StoredValue::Damaged(bytes) | StoredValue::Beginning(bytes) => {
                content.add_beginning(&bytes);
                self.note_damage(vec![prefix]);
            }
            StoredValue::Nothing | StoredValue::Incomplete => self.note_damage(vec![prefix]),
        }
        Ok(())
    }

    fn writing(&self, work: &WriterState, plan: FoldPlan, mut content: RunContent) -> Fold {
        let mut left: VecDeque<FoldEntry> = content.entries().into();
        let heads = self.put_topic_table(work, plan, &content, &mut left);
        let folded = Folded {
            plan,
            run: content.run(),
            topics: content.topics.keys().copied().collect(),
            publishers: content.publishers.keys().copied().collect(),
            heads,
        };
        Fold::Writing { left, folded: Box::new(folded) }
    }

    /// The names of the topics that have none in the store, and the heads of the fold's topics; of all of them once the
    /// others are as much.
    fn put_topic_table(
        &self,
        work: &WriterState,
        plan: FoldPlan,
        content: &RunContent,
        left: &mut VecDeque<FoldEntry>,
    ) -> StoredHeads {
        let shared = self.shared.read();
        let nameless = content.topics.keys().filter_map(|id| {
            let topic = shared.topics.topic(*id).filter(|topic| !topic.has_key)?;
            Some((*id, topic.name.as_ref()?.as_str()))
        });
        for (first, value) in encode_names(nameless) {
            left.push_back(FoldEntry { prefix: key::names(first), value: value.into(), in_pieces: false });
        }
        let StoredHeads { all_taken, later_taken, .. } = work.heads;
        let is_all = later_taken.bytes >= all_taken.bytes.max(self.config.fold_bytes / HEADS_SHARE)
            || later_taken.values >= HEADS_VALUES_MIN + all_taken.values;
        let heads: Vec<TopicHead> = if is_all {
            // Some are ahead of the fold; what they say is durable all the same.
            let all = (0..shared.topics.next_id()).filter_map(|id| Some((id, shared.topics.topic(id)?)));
            let head =
                |(id, topic): (u32, &Topic)| TopicHead { id, last_seq: topic.last_seq, last_nth: topic.last_nth };
            all.filter(|(_, topic)| topic.last_seq > Seq::ZERO).map(head).collect()
        } else {
            let head = |(id, topic): (&u32, &TopicContent)| TopicHead {
                id: *id,
                last_seq: topic.last_seq,
                last_nth: topic.last_nth,
            };
            content.topics.iter().map(head).collect()
        };
        let mut taken = Taken::default();
        for (part, value) in (0_u32..).zip(encode_heads(shared.topics.next_id(), &heads)) {
            taken.add(value.len());
            left.push_back(FoldEntry { prefix: key::heads(plan.last, part), value: value.into(), in_pieces: false });
        }
        if is_all {
            return StoredHeads { all: plan.last, all_taken: taken, later_taken: Taken::default(), has_earlier: true };
        }
        let later_taken = Taken { values: later_taken.values + taken.values, bytes: later_taken.bytes + taken.bytes };
        StoredHeads { later_taken, ..work.heads }
    }

    fn put_fold_point(&self, work: &WriterState, folded: &Folded, batch: &mut WriteBatch) {
        piece::put_small(batch, key::meta(Meta::FoldPoint), &value::encode_seq(folded.plan.last));
        if folded.heads.all != work.heads.all {
            piece::put_small(batch, key::meta(Meta::AllHeads), &value::encode_seq(folded.heads.all));
        }
        batch.delete(key::meta(Meta::Plan));
        self.put_floor(work, batch);
    }

    /// Makes readers look at the run instead of its commits.
    fn pass_fold_point(&self, work: &mut WriterState, folded: Folded) {
        let Folded { plan, run, topics, publishers, heads } = folded;
        let mut all = self.publishers.lock();
        for id in &publishers {
            all.folded_through(*id, plan.last);
        }
        drop(all);
        let mut guard = self.shared.write();
        let shared = &mut *guard;
        work.saved_floor = work.saved_floor.max(shared.floor.seq);
        shared.generation += 1;
        shared.fold_point = plan.last;
        if !plan.is_trimmed {
            Arc::make_mut(&mut shared.runs).push(run);
        }
        for id in &topics {
            let topic = shared.topics.at(*id);
            topic.folded_through(plan.last);
            topic.has_key |= topic.name.is_some();
        }
        let gone = shared.tail.partition_point(|commit| commit.last <= plan.last);
        for commit in shared.tail.drain(..gone) {
            shared.tail_bytes -= commit.value_bytes.min(shared.tail_bytes);
            work.folded_commits.push_back((commit.first, piece::count(commit.value_bytes)));
        }
        shared.recount();
        drop(guard);
        work.fold = None;
        work.heads = heads;
        work.folded_through = plan.last;
    }

    /// Deletes some of the heads that a later fold has written again.
    pub(super) fn delete_earlier_heads(&self, work: &mut WriterState) -> Result<Maintenance, LogError> {
        let (from, to) = (key::heads(Seq::ZERO, 0), key::heads(work.heads.all, 0));
        let mut batch = WriteBatch::default();
        for entry in self.store.kv().range(&from, &to, Direction::Up).take(DELETED_KEYS_MAX) {
            batch.delete(entry?.0);
        }
        self.store.write(&batch)?;
        work.heads.has_earlier = batch.entries().len() == DELETED_KEYS_MAX;
        Ok(Maintenance::More)
    }
}

/// So many bytes of commits are read in one step of a fold.
const READ_BYTES: usize = 512 * 1024;

/// So many bytes are written or deleted in one step: commits wait for it.
pub(super) const WRITE_BYTES: usize = 512 * 1024;

/// So many keys, about, are deleted in one step.
pub(super) const DELETED_KEYS_MAX: usize = 1024;

/// Heads are written anew once those of the folds since are so small a share of what is folded at once, or as much as all
/// of them: an open reads at most about twice what it must.
const HEADS_SHARE: usize = 8;

/// The same for many folds of few topics.
const HEADS_VALUES_MIN: usize = 128;

/// Commits below the floor are cleared away when they are this share of what is folded at once.
const TRIMMED_SHARE: usize = 8;

impl WriterState {
    /// A fold that was begun before the log was opened.
    pub(super) fn resume_fold(&mut self, fold: Option<Fold>, fold_point: Seq) {
        self.fold = fold;
        self.folded_through = fold_point;
        // The commits of the last fold may not all have been deleted.
        self.may_have_older_commits = true;
    }
}
