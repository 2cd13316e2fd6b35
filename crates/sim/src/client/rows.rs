//! A simulated app's merged subscription, its *row*: several topics read as one. Everything about it is drawn from a
//! generator of its own, so that a seed without rows is the seed that it always was.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, Input, StreamItem, SubscribeRequest};
use redeliver_protocol::frame::{Ownership, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Position, SubscriptionId};

use crate::history::{Entry, Process, Run};
use crate::mutants::Mutant;
use crate::rng::Rng;
use crate::world::{Due, World};

/// An app's side of a merged subscription.
#[derive(Debug)]
pub(crate) struct Row {
    run: Run,
    /// Each topic's number.
    members: BTreeMap<SubscriptionId, TopicName>,
    /// What was delivered and is not handled, with the number of the topic by which it came.
    waiting: VecDeque<(SubscriptionId, Position, Nth)>,
    is_busy: bool,
    unacked: usize,
    ack_every: usize,
    rng: Rng,
}

impl Row {
    pub(crate) fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl World {
    /// A process follows all topics as one row, from the earliest event on.
    pub(crate) fn follow_row(&mut self, id: Process) {
        let run = Run(self.given.runs);
        self.given.runs += 1;
        let topics = self.plan.topics.clone();
        let mut rng = Rng::new(self.plan.seed ^ u64::from(run.0).wrapping_mul(0x9FB2_1C65_1E98_DF25));
        let skips_one = self.plan.mutant == Some(Mutant::MergedMemberSkipped);
        let Some(running) = self.running(id) else { return };
        let mut number = || {
            running.next_subscription += 1;
            SubscriptionId(running.next_subscription - 1)
        };
        let whole = number();
        let members: Vec<(SubscriptionId, SubscribeRequest)> = topics
            .iter()
            .map(|topic| {
                let request = SubscribeRequest {
                    topic: topic.clone(),
                    start: Start::Earliest,
                    window: Window::new(*rng.pick(&[1, 3, 10, 100]), *rng.pick(&[1, 3_000, 1_000_000])),
                    ownership: Ownership::Takeover,
                    keeper: CursorKeeper::Nobody,
                };
                (number(), request)
            })
            .collect();
        let row = Row {
            run,
            members: members.iter().map(|(member, request)| (*member, request.topic.clone())).collect(),
            waiting: VecDeque::new(),
            is_busy: false,
            unacked: 0,
            ack_every: *rng.pick(&[1, 4, 50]),
            rng,
        };
        running.rows.insert(whole, row);
        self.record(Entry::RowSubscribing { process: id, run, topics });
        let named = members.len() - usize::from(skips_one);
        let members = members.into_iter().take(named).collect();
        self.tell(id, Input::SubscribeMerged { id: whole, members });
    }

    /// Takes what the session delivers, if it is for a row.
    pub(super) fn deliver_to_row(&mut self, id: Process, subscription: SubscriptionId, delivery: &StreamItem) -> bool {
        let Some(running) = self.running(id) else { return false };
        let found = running
            .rows
            .iter_mut()
            .find(|(whole, row)| **whole == subscription || row.members.contains_key(&subscription));
        let Some((whole, row)) = found else { return false };
        let (whole, run, topic) = (*whole, row.run, row.members.get(&subscription).cloned());
        if let Some(step) = delivery.place() {
            row.waiting.push_back((subscription, step.after.position, step.after.nth));
        }
        self.record(Entry::RowDelivered { run, topic, delivery: delivery.clone() });
        self.handle_next_of_row(id, whole);
        true
    }

    /// A row ended, if it is one.
    pub(super) fn row_over(&mut self, id: Process, subscription: SubscriptionId) -> bool {
        let row = self.running(id).and_then(|running| running.rows.remove(&subscription));
        if let Some(row) = &row {
            self.record(Entry::RowEnded { run: row.run });
        }
        row.is_some()
    }

    fn handle_next_of_row(&mut self, id: Process, whole: SubscriptionId) {
        let Some(row) = self.running(id).and_then(|running| running.rows.get_mut(&whole)) else { return };
        if !row.is_busy && !row.waiting.is_empty() {
            row.is_busy = true;
            let time = Duration::from_micros(row.rng.between(0, 5_000));
            self.queue.after(time, Due::RowHandled(id, whole));
        }
    }

    pub(crate) fn row_handled(&mut self, id: Process, whole: SubscriptionId) {
        let Some(row) = self.running(id).and_then(|running| running.rows.get_mut(&whole)) else { return };
        row.is_busy = false;
        let Some((member, position, nth)) = row.waiting.pop_front() else { return };
        row.unacked += 1;
        if row.unacked >= row.ack_every || row.waiting.is_empty() {
            row.unacked = 0;
            self.tell(id, Input::Ack { id: member, position, nth });
        }
        self.handle_next_of_row(id, whole);
    }
}
