//! The steps of a fold: plan it durably, read the run's commits, write what they become, pass the fold point, and only
//! then delete the commits. A crash anywhere leaves the same run to be done again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use redeliver_protocol::seq::{PublisherId, Seq};

use super::{Log, Tended, Work};
use crate::error::LogError;
use crate::fold::{FoldEntry, RunContent};
use crate::kv::{Batch, Direction};
use crate::layout::key::{self, Meta};
use crate::layout::piece::{self, Found};
use crate::layout::value::{self, Plan, TopicEntry};
use crate::state::{Run, TailCommit};

/// A fold that is under way.
#[derive(Debug)]
pub(super) enum Fold {
    /// The commits are being read.
    Reading { plan: Plan, left: VecDeque<TailCommit>, content: Box<RunContent> },
    /// What they became is being written.
    Writing { plan: Plan, left: VecDeque<FoldEntry>, run: Run, topics: Vec<u32>, publishers: BTreeSet<PublisherId> },
}

impl Log {
    /// Plans a fold if the tail is large enough.
    pub(super) fn begin_fold(&self, work: &mut Work) -> Result<Tended, LogError> {
        let plan = {
            let shared = self.shared.read();
            let (tail, floor) = (&shared.tail, shared.floor.seq);
            let trimmed_bytes: usize =
                tail.iter().take_while(|commit| commit.last <= floor).map(|commit| commit.value_bytes).sum();
            let is_trimmed = trimmed_bytes > 0 && trimmed_bytes >= self.config.fold_bytes / TRIMMED_SHARE;
            if !is_trimmed && shared.tail_bytes < self.config.fold_bytes {
                return Ok(Tended::Idle);
            }
            let is_trimmed = tail.front().is_some_and(|commit| commit.last <= floor);
            let mut bytes = 0;
            let run = tail.iter().take_while(|commit| {
                let is_first = bytes == 0;
                bytes += commit.value_bytes.max(commit.record_bytes / 2).max(1);
                is_first || (bytes <= self.config.fold_bytes && (!is_trimmed || commit.last <= floor))
            });
            match (tail.front(), run.last()) {
                (Some(first), Some(last)) => Plan { first: first.first, last: last.last, is_trimmed },
                (_, _) => return Ok(Tended::Idle),
            }
        };
        let mut batch = Batch::default();
        piece::put_small(&mut batch, key::meta(Meta::Plan), &plan.encode());
        self.store.write(&batch)?;
        work.fold = Some(self.reading(plan));
        Ok(Tended::More)
    }

    /// A fold of this plan, from its beginning.
    pub(super) fn reading(&self, plan: Plan) -> Fold {
        let shared = self.shared.read();
        let left = shared.tail.iter().take_while(|commit| commit.last <= plan.last).copied().collect();
        Fold::Reading { plan, left, content: Box::new(RunContent::new(plan)) }
    }

    /// One step of the fold under way.
    pub(super) fn fold_step(&self, work: &mut Work, fold: Fold) -> Result<Tended, LogError> {
        match fold {
            Fold::Reading { plan, mut left, mut content } => {
                let mut bytes = 0;
                while bytes < READ_BYTES {
                    let Some(commit) = left.pop_front() else {
                        work.fold = Some(self.writing(plan, *content));
                        return Ok(Tended::More);
                    };
                    bytes += commit.value_bytes.max(1);
                    self.read_commit(&commit, &mut content)?;
                }
                work.fold = Some(Fold::Reading { plan, left, content });
            }
            Fold::Writing { plan, mut left, run, topics, publishers } => {
                let mut batch = Batch::default();
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
                if is_last {
                    self.put_fold_point(work, plan, &mut batch);
                }
                if let Err(error) = self.store.write(&batch) {
                    work.fold = Some(Fold::Writing { plan, left, run, topics, publishers });
                    return Err(error);
                }
                if is_last {
                    self.pass_fold_point(work, plan, run, &topics, &publishers);
                } else {
                    left.drain(..count);
                    work.fold = Some(Fold::Writing { plan, left, run, topics, publishers });
                }
            }
        }
        Ok(Tended::More)
    }

    /// Deletes some of the commits that are folded.
    pub(super) fn delete_folded(&self, work: &mut Work) -> Result<Tended, LogError> {
        if !work.folded_commits.is_empty() {
            let mut batch = Batch::default();
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
            return Ok(Tended::More);
        }
        // Whatever an earlier opening left.
        let end = key::commit(work.folded_through.next());
        let mut batch = Batch::default();
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
        Ok(Tended::More)
    }

    fn read_commit(&self, commit: &TailCommit, content: &mut RunContent) -> Result<(), LogError> {
        content.pass(commit);
        let prefix = key::commit(commit.first);
        match piece::read(self.store.kv(), &prefix)? {
            Found::Whole(bytes) => {
                if content.add(&bytes).is_err() {
                    self.note_damage(vec![prefix]);
                }
            }
            Found::Damaged(bytes) | Found::Beginning(bytes) => {
                content.add_beginning(&bytes);
                self.note_damage(vec![prefix]);
            }
            Found::Nothing | Found::Incomplete => self.note_damage(vec![prefix]),
        }
        Ok(())
    }

    fn writing(&self, plan: Plan, mut content: RunContent) -> Fold {
        let mut left: VecDeque<FoldEntry> = content.entries().into();
        let shared = self.shared.read();
        for (id, topic) in &content.topics {
            let Some(name) = shared.topics.topic(*id).and_then(|topic| topic.name.as_ref()) else { continue };
            let entry = TopicEntry { name: name.as_str(), last_seq: topic.last_seq, last_nth: topic.last_nth };
            left.push_back(FoldEntry { prefix: key::topic(*id), value: entry.encode().into(), in_pieces: false });
        }
        Fold::Writing {
            plan,
            left,
            run: content.run(),
            topics: content.topics.keys().copied().collect(),
            publishers: content.publishers.keys().copied().collect(),
        }
    }

    fn put_fold_point(&self, work: &Work, plan: Plan, batch: &mut Batch) {
        piece::put_small(batch, key::meta(Meta::FoldPoint), &value::encode_seq(plan.last));
        batch.delete(key::meta(Meta::Plan));
        self.put_floor(work, batch);
    }

    /// Makes readers look at the run instead of its commits.
    fn pass_fold_point(
        &self,
        work: &mut Work,
        plan: Plan,
        run: Run,
        topics: &[u32],
        publishers: &BTreeSet<PublisherId>,
    ) {
        let mut all = self.publishers.lock();
        for id in publishers {
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
        for id in topics {
            let topic = shared.topics.at(*id);
            topic.folded_through(plan.last);
            topic.has_key |= topic.name.is_some();
        }
        let folded = shared.tail.partition_point(|commit| commit.last <= plan.last);
        for commit in shared.tail.drain(..folded) {
            shared.tail_bytes -= commit.value_bytes.min(shared.tail_bytes);
            work.folded_commits.push_back((commit.first, piece::count(commit.value_bytes)));
        }
        shared.recount();
        drop(guard);
        work.fold = None;
        work.folded_through = plan.last;
    }
}

/// So many bytes of commits are read in one step of a fold.
const READ_BYTES: usize = 512 * 1024;

/// So many bytes are written or deleted in one step: commits wait for it.
pub(super) const WRITE_BYTES: usize = 512 * 1024;

/// So many keys, about, are deleted in one step.
pub(super) const DELETED_KEYS_MAX: usize = 1024;

/// Commits below the floor are cleared away when they are this share of what is folded at once.
const TRIMMED_SHARE: usize = 8;

impl Work {
    /// A fold that was begun before the log was opened.
    pub(super) fn resume_fold(&mut self, fold: Option<Fold>, fold_point: Seq) {
        self.fold = fold;
        self.folded_through = fold_point;
        // The commits of the last fold may not all have been deleted.
        self.may_have_older_commits = true;
    }
}
