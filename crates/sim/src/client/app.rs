//! What a simulated app does by itself: it emits, handles events, acknowledges, and changes its mind now and then.

use std::time::Duration;

use redeliver_protocol::client::{EmitTicket, Input};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::SubscriptionId;

use super::rows::Row;
use crate::history::{EmitKey, Entry, Process, Run};
use crate::mutants::Mutant;
use crate::plan::{FollowPlan, KeeperPlan};
use crate::world::{Due, World};

impl World {
    pub(crate) fn plan_emit(&mut self, id: Process) {
        let Some(client) = self.client_of(id) else { return };
        let Some(mean) = self.clients[client].plan.emit_pause else { return };
        let micros = u64::try_from(mean.as_micros()).unwrap_or(0);
        let pause = Duration::from_micros(self.rng.between(0, micros * 2));
        self.queue.after(pause, Due::Emit(id));
    }

    /// A burst of emits.
    pub(crate) fn emit(&mut self, id: Process) {
        let Some(client) = self.client_of(id) else { return };
        if self.calm || self.running(id).is_none_or(|running| running.ending) {
            return;
        }
        let burst = self.rng.between(1, self.clients[client].plan.burst_max);
        for _ in 0..burst {
            let Some(running) = self.running(id) else { return };
            if running.tickets.len() >= OUTSTANDING_MAX || running.emitted >= EMITS_MAX {
                break;
            }
            running.emitted += 1;
            let emitted = running.emitted;
            let key = EmitKey { publisher: running.publisher, index: running.emitted };
            let ticket = EmitTicket(running.emitted);
            running.tickets.insert(ticket, key);
            let event = self.plan.event(key);
            self.clients[client].emitted = self.clients[client].emitted.max(emitted);
            self.record(Entry::Emitting { process: id, key, event: event.clone() });
            self.tell(id, Input::Emit { ticket, event });
        }
        self.plan_emit(id);
    }

    /// Handlers take one event at a time.
    pub(super) fn handle_next(&mut self, id: Process, subscription: SubscriptionId) {
        let Some(client) = self.client_of(id) else { return };
        let most = self.clients[client].plan.handler_micros_max;
        let time = Duration::from_micros(self.rng.between(0, if self.calm { most.min(10_000) } else { most }));
        let Some(reader) = self.running(id).and_then(|running| running.readers.get_mut(&subscription)) else { return };
        if !reader.busy && !reader.waiting.is_empty() {
            reader.busy = true;
            self.queue.after(time, Due::HandlerDone(id, subscription));
        }
    }

    pub(crate) fn handler_done(&mut self, id: Process, subscription: SubscriptionId) {
        let hasty = self.plan.mutant == Some(Mutant::CursorBeforeHandler);
        let Some(reader) = self.running(id).and_then(|running| running.readers.get_mut(&subscription)) else { return };
        reader.busy = false;
        let Some((position, nth)) = reader.waiting.pop_front() else { return };
        let run = reader.run;
        reader.unacked = Some((position, nth));
        reader.unacked_count += 1;
        reader.taken += 1;
        let ack_now = reader.unacked_count >= reader.follow.ack_every || reader.waiting.is_empty();
        let ack = reader.unacked.filter(|_| ack_now && !hasty);
        if ack.is_some() {
            reader.unacked_count = 0;
        }
        self.record(Entry::Handled { run, position });
        if let Some((position, nth)) = ack {
            self.record(Entry::Acked { run, position });
            self.tell(id, Input::Ack { id: subscription, position, nth });
        }
        self.handle_next(id, subscription);
        self.want(id, subscription);
    }

    /// Where an app moves a subscription to that it makes now, if it does.
    pub(super) fn rewind_of(&mut self, client: usize, follow: &FollowPlan, permille: u64) -> Option<Start> {
        if !self.plan.extras.rewinds || self.calm || follow.keeper == KeeperPlan::Nobody {
            return None;
        }
        let place = self.clients[client].places.get(&follow.topic).filter(|_| !self.plan.store_faults).cloned();
        let (is_drawn, last) = (self.extra_rng.chance(permille), self.extra_rng.between(0, 20));
        is_drawn.then(|| match (self.extra_rng.below(5), place) {
            (0, _) => Start::Latest,
            (1, _) => Start::Last(last),
            (2 | 3, Some(place)) => Start::After(place),
            _ => Start::Earliest,
        })
    }

    /// A reader that has handled everything tells its session that it wants more.
    pub(super) fn want(&mut self, id: Process, subscription: SubscriptionId) {
        let Some(reader) = self.running(id).and_then(|running| running.readers.get(&subscription)) else { return };
        if !reader.busy && reader.waiting.is_empty() && !reader.over {
            let taken = reader.taken;
            self.tell(id, Input::Wanted { id: subscription, taken });
        }
    }

    /// Now and then an app gives a subscription up; it takes another one in its place when that has ended.
    pub(crate) fn whim(&mut self, id: Process) {
        let again = Duration::from_millis(self.rng.between(200, 4_000));
        let (lucky, pick) = (self.rng.chance(150), self.rng.draw());
        let calm = self.calm;
        let Some(running) = self.running(id) else { return };
        if !calm && lucky && !running.ending {
            let ready: Vec<SubscriptionId> =
                running.readers.iter().filter(|(_, r)| !r.over && !r.asked_to_end).map(|(id, _)| *id).collect();
            if let Some(chosen) = ready.get(usize::try_from(pick).unwrap_or(0) % ready.len().max(1)).copied() {
                if let Some(reader) = running.readers.get_mut(&chosen) {
                    reader.asked_to_end = true;
                }
                let run = running.readers.get(&chosen).map(|reader| reader.run);
                self.record(Entry::Unsubscribing { run: run.unwrap_or_default() });
                self.tell(id, Input::Unsubscribe { id: chosen });
            }
        }
        self.queue.after(again, Due::Whim(id));
    }

    /// The runs that must reach the head: those that live, and of a durable subscriber's topic its owner. If nobody owns
    /// a topic that somebody wants, then whoever wants it, so that it is noticed.
    pub(crate) fn live_runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for client in &self.clients {
            let Some(running) = &client.process else { continue };
            for (subscription, reader) in running.readers.iter().filter(|(_, reader)| !reader.over) {
                let subscriber = client.plan.subscriber.as_ref().filter(|_| reader.follow.keeper == KeeperPlan::Server);
                let owner = subscriber.map(|subscriber| {
                    let server = self.server.as_ref()?;
                    server.owners.owner_of(subscriber, &reader.follow.topic)
                });
                let is_live = match owner {
                    None | Some(None) => true,
                    Some(Some((connection, id))) => running.connection == Some(connection) && id == *subscription,
                };
                if is_live {
                    runs.push(reader.run);
                }
            }
        }
        runs
    }

    /// Whether everything that is alive has come to rest: a cheap look, the checker judges.
    pub(crate) fn is_settled(&self) -> bool {
        let Some(server) = &self.server else { return false };
        let head = server.log.head();
        let _ = head;
        let quiet = self.clients.iter().filter_map(|client| client.process.as_ref()).all(|running| {
            running.connection.is_some()
                && running.tickets.is_empty()
                && running.saves.is_empty()
                && running.readers.values().all(|reader| reader.over || reader.waiting.is_empty())
                && running.rows.values().all(Row::is_quiet)
        });
        quiet
            && self
                .history
                .entries
                .iter()
                .rev()
                .take_while(|(at, _)| self.queue.now().since(*at) < QUIET)
                .next()
                .is_none()
    }
}

/// Emits that an app leaves open at once.
const OUTSTANDING_MAX: usize = 100;

/// Emits of one process.
const EMITS_MAX: u64 = 150;

/// When nothing has been written down for so long, nothing more will come.
const QUIET: Duration = Duration::from_millis(4_500);
