//! The simulated writer thread: it takes what has queued, stages it as one commit, and publishes it a while later. A
//! crash may hit between the two.

use std::collections::VecDeque;
use std::time::Duration;

use redeliver_log::kv::Kv;
use redeliver_log::kv::faulty::Faults;
use redeliver_log::{Committed, Staged, WriteOutcome, WriteRequest};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{Cursor, EmitFate, EmitRun};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Position, SubscriptionId};
use redeliver_protocol::server::{ConnectionId, Input, Reply};

use super::refused;
use crate::history::{EmitKey, Entry, Opening};
use crate::mutants::Mutant;
use crate::world::{Due, World};

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Work {
    Append {
        connection: ConnectionId,
        first: EmitNumber,
        events: Vec<Result<NewEvent, RefusalCode>>,
    },
    Save {
        connection: ConnectionId,
        id: SubscriptionId,
        subscriber: SubscriberName,
        topic: TopicName,
        cursor: Cursor,
        urgent: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct Writer {
    queue: VecDeque<Work>,
    stage_planned: bool,
    staged: Option<(Staged, Vec<Asked>)>,
    /// A broken server's commit that was published and is not synced.
    unsynced: Option<(Committed, Vec<Asked>)>,
}

/// Who waits for a request of a commit, and what it was.
#[derive(Debug)]
enum Asked {
    Append { connection: ConnectionId, keys: Vec<Option<EmitKey>> },
    Save { connection: ConnectionId, id: SubscriptionId, subscriber: SubscriberName, topic: TopicName, cursor: Cursor },
}

impl World {
    pub(crate) fn queue_work(&mut self, work: Work) {
        let urgent = match &work {
            Work::Append { .. } => true,
            Work::Save { urgent, .. } => *urgent,
        };
        let slow = Duration::from_micros(self.rng.between(0, 100_000));
        let fast = Duration::from_micros(self.rng.between(0, 2_000));
        let Some(server) = &mut self.server else { return };
        server.writer.queue.push_back(work);
        let opening = server.opening;
        if urgent && !server.log.tail_is_full() || !server.writer.stage_planned {
            server.writer.stage_planned = true;
            self.queue.after(if urgent { fast } else { slow }, Due::Stage(opening));
        }
    }

    pub(crate) fn is_unsynced(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.writer.staged.is_some() || server.writer.unsynced.is_some())
    }

    /// Takes what has queued and stages it.
    pub(crate) fn stage(&mut self, opening: Opening) {
        let (wall, now) = (self.wall(), self.monotonic());
        let sync_delay = Duration::from_micros(self.rng.between(200, self.plan.sync_micros_max));
        let take = self.rng.between(1, 20);
        let Some(server) = self.server.as_mut().filter(|server| server.opening == opening) else { return };
        server.writer.stage_planned = false;
        if server.writer.staged.is_some() || server.writer.unsynced.is_some() {
            // The end of that commit looks for more.
            return;
        }
        if server.log.tail_is_full() {
            server.writer.stage_planned = true;
            self.queue.after(Duration::from_millis(5), Due::Stage(opening));
            return;
        }
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..take {
            let Some(work) = self.server.as_mut().and_then(|server| server.writer.queue.pop_front()) else { break };
            if let Some((request, who)) = self.prepare(work) {
                requests.push(request);
                asked.push(who);
            }
        }
        if requests.is_empty() {
            return self.stage_more(opening);
        }
        if self.plan.mutant.is_some_and(Mutant::skips_sync) {
            self.lie(true);
        }
        let Some(server) = &mut self.server else { return };
        match server.log.stage(requests, wall, now) {
            Ok(staged) => server.writer.staged = Some((staged, asked)),
            Err(error) => return self.log_failed("staging", &error),
        }
        if self.plan.mutant.is_some_and(Mutant::skips_sync) {
            self.publish_too_early(sync_delay, opening);
        } else {
            self.queue.after(sync_delay, Due::Publish(opening));
        }
    }

    /// Turns queued work into a request, unless whoever asked may no longer.
    fn prepare(&mut self, work: Work) -> Option<(WriteRequest, Asked)> {
        let mutant = self.plan.mutant;
        let server = self.server.as_mut()?;
        match work {
            Work::Append { connection, first, events } => {
                let publisher = server.connections.get(&connection).and_then(|found| found.publisher);
                let current = publisher.filter(|source| server.publishers.is_current(source.publisher, connection));
                let Some(publisher) = current else {
                    let run = refused(first, events.len(), RefusalCode::FENCED);
                    self.queue.after(Duration::ZERO, Due::Serve(connection, Input::Reply(Reply::Appended(vec![run]))));
                    return None;
                };
                let keys =
                    events.iter().map(|event| event.as_ref().ok().and_then(|event| World::key_of(&event.payload)));
                let keys = keys.collect();
                let request = WriteRequest::Emit { publisher: Some(publisher), first, events };
                Some((request, Asked::Append { connection, keys }))
            }
            Work::Save { connection, id, subscriber, topic, cursor, .. } => {
                if !server.owners.is_owner(connection, id) && mutant != Some(Mutant::NoFencing) {
                    return None;
                }
                let stored = server.log.cursor(&subscriber, &topic).ok().flatten();
                self.record(Entry::CursorStaged {
                    subscriber: subscriber.clone(),
                    topic: topic.clone(),
                    connection: connection.0,
                    cursor: cursor.clone(),
                });
                let asked = Asked::Save {
                    connection,
                    id,
                    subscriber: subscriber.clone(),
                    topic: topic.clone(),
                    cursor: cursor.clone(),
                };
                let is_kept = |stored: &Cursor| stored.place.position.seq > cursor.place.position.seq;
                let kept = stored.filter(|stored| mutant == Some(Mutant::RewindLeavesCursor) && is_kept(stored));
                let place = kept.map_or_else(|| cursor.place.clone(), |stored| stored.place);
                let cursor = Cursor::new(place, cursor.delivered_through);
                Some((WriteRequest::SaveCursor { subscriber, topic, cursor }, asked))
            }
        }
    }

    /// Syncs what is staged, and tells everybody.
    pub(crate) fn publish(&mut self, opening: Opening) {
        let Some(server) = self.server.as_mut().filter(|server| server.opening == opening) else { return };
        if let Some((committed, asked)) = server.writer.unsynced.take() {
            self.lie(false);
            self.announce(&committed, asked, Told::Rest);
        } else if let Some((staged, asked)) = server.writer.staged.take() {
            match server.log.publish(staged) {
                Ok(committed) => {
                    self.record_commit(&committed, &asked);
                    self.announce(&committed, asked, Told::All);
                }
                Err(error) => return self.log_failed("publishing", &error),
            }
        }
        self.record_floors();
        self.stage_more(opening);
    }

    /// What a server does that is broken on purpose: it makes a commit visible, or acknowledges it, before the sync.
    fn publish_too_early(&mut self, sync_delay: Duration, opening: Opening) {
        let Some(server) = &mut self.server else { return };
        let Some((staged, asked)) = server.writer.staged.take() else { return };
        match server.log.publish(staged) {
            Ok(committed) => {
                self.record_commit(&committed, &asked);
                let kept = self.announce(&committed, asked, Told::Early);
                if let Some(server) = &mut self.server {
                    server.writer.unsynced = Some((committed, kept));
                }
                self.record_floors();
                self.queue.after(sync_delay, Due::Publish(opening));
            }
            Err(error) => self.fail(format!("publishing failed: {error}")),
        }
    }

    /// Makes the store lie about its syncs, or sync for real.
    fn lie(&mut self, on: bool) {
        let Some(server) = &self.server else { return };
        server.kv.set_faults(Faults { sync_is_a_lie: on, ..Faults::default() });
        if !on && let Err(error) = server.kv.sync() {
            self.fail(format!("the sync failed: {error}"));
        }
    }

    fn stage_more(&mut self, opening: Opening) {
        let Some(server) = &mut self.server else { return };
        if !server.writer.queue.is_empty() && !server.writer.stage_planned {
            server.writer.stage_planned = true;
            self.queue.after(Duration::ZERO, Due::Stage(opening));
        }
    }

    fn record_commit(&mut self, committed: &Committed, asked: &[Asked]) {
        let mut stored: Vec<(EmitKey, Position)> = Vec::new();
        for (outcome, asked) in committed.outcomes.iter().zip(asked) {
            let (WriteOutcome::Emitted(runs), Asked::Append { keys, .. }) = (outcome, asked) else { continue };
            let fates = runs.iter().flat_map(|run| (0..u64::from(run.count)).map(move |at| fate_at(run, at)));
            for (key, fate) in keys.iter().zip(fates) {
                if let (Some(key), EmitFate::Stored(position)) = (key, fate) {
                    stored.push((*key, position));
                }
            }
        }
        if !stored.is_empty() {
            self.record(Entry::Committed(stored));
        }
    }

    /// Tells who waited, and wakes who watches. Gives back who is not told yet.
    fn announce(&mut self, committed: &Committed, asked: Vec<Asked>, told: Told) -> Vec<Asked> {
        let (acks, wakes) = match (told, self.plan.mutant) {
            (Told::All, _) => (true, true),
            (Told::Early, mutant) => (mutant == Some(Mutant::AckBeforeSync), mutant == Some(Mutant::DeliverBeforeSync)),
            (Told::Rest, mutant) => (mutant != Some(Mutant::AckBeforeSync), mutant != Some(Mutant::DeliverBeforeSync)),
        };
        let kept = if acks {
            let mut later = Vec::new();
            for (outcome, asked) in committed.outcomes.iter().zip(asked) {
                later.extend(self.tell_one(outcome, asked));
            }
            self.put_off(later);
            Vec::new()
        } else {
            asked
        };
        if wakes {
            self.wake(&committed.grown);
        }
        kept
    }

    /// Tells one. Gives back what has to be written later.
    fn tell_one(&mut self, outcome: &WriteOutcome, asked: Asked) -> Option<Work> {
        let (connection, input) = match (outcome, asked) {
            (WriteOutcome::Emitted(runs), Asked::Append { connection, .. }) => {
                let lies = self.plan.mutant == Some(Mutant::HoleTakenForStored);
                let runs = runs.iter().map(|run| if lies { taken_for_stored(*run) } else { *run }).collect();
                (connection, Input::Reply(Reply::Appended(runs)))
            }
            (WriteOutcome::CursorSaved, Asked::Save { connection, id, subscriber, topic, cursor }) => {
                let seq = cursor.place.position.seq;
                self.record(Entry::CursorWritten { subscriber, topic, cursor });
                (connection, Input::Reply(Reply::CursorSaved { id, seq }))
            }
            (WriteOutcome::CursorNotSaved, Asked::Save { connection, id, subscriber, topic, cursor }) => {
                return Some(Work::Save { connection, id, subscriber, topic, cursor, urgent: false });
            }
            (WriteOutcome::Emitted(_), Asked::Save { .. })
            | (WriteOutcome::CursorSaved | WriteOutcome::CursorNotSaved, Asked::Append { .. })
            | (WriteOutcome::StateSaved | WriteOutcome::StateNotSaved, _) => {
                self.fail("an outcome does not belong to its request".to_owned());
                return None;
            }
        };
        self.queue.after(Duration::ZERO, Due::Serve(connection, input));
        None
    }

    /// The disk is full: cursors wait, ahead of those that came after them.
    fn put_off(&mut self, later: Vec<Work>) {
        let pause = Duration::from_millis(self.rng.between(1, 100));
        let Some(server) = self.server.as_mut().filter(|_| !later.is_empty()) else { return };
        for work in later.into_iter().rev() {
            server.writer.queue.push_front(work);
        }
        server.writer.stage_planned = true;
        let opening = server.opening;
        self.queue.after(pause, Due::Stage(opening));
    }

    /// Wakes are hints: some are lost, some come twice, some late.
    fn wake(&mut self, grown: &[TopicName]) {
        for topic in grown {
            let Some(server) = &self.server else { return };
            let watchers = server.watchers.watchers_of(topic, None);
            let woken: Vec<(ConnectionId, SubscriptionId)> =
                watchers.map(|(connection, id, ())| (connection, id)).collect();
            for (connection, id) in woken {
                let times = match self.rng.below(20) {
                    0 => 0,
                    1 => 2,
                    _ => 1,
                };
                for _ in 0..times {
                    let delay = Duration::from_micros(self.rng.between(0, 3_000));
                    self.queue.after(delay, Due::Serve(connection, Input::Reply(Reply::Grew { id })));
                }
            }
        }
    }
}

/// Which part of telling is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    All,
    Early,
    Rest,
}

/// What a broken server says of a number that never came.
fn taken_for_stored(mut run: EmitRun) -> EmitRun {
    if run.fate == EmitFate::Refused(RefusalCode::NUMBER_SKIPPED) {
        run.fate = EmitFate::DuplicateForgotten;
    }
    run
}

fn fate_at(run: &EmitRun, at: u64) -> EmitFate {
    let moved = |position: Position| Position::new(position.epoch, position.seq.saturating_add(at));
    match run.fate {
        EmitFate::Stored(position) => EmitFate::Stored(moved(position)),
        EmitFate::Duplicate(position) => EmitFate::Duplicate(moved(position)),
        EmitFate::DuplicateForgotten | EmitFate::Refused(_) => run.fate,
    }
}
