//! What the simulated server answers its sessions, and what a separate reader sees of its log: the log and the hub as they
//! are at that moment.

use std::sync::Arc;
use std::time::Duration;

use redeliver_log::kv::faulty::FaultyKv;
use redeliver_log::{EmitSource, Log, LogConfig};
use redeliver_protocol::codec;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::Hello;
use redeliver_protocol::history::{PublisherState, ReadOutcome, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{Epoch, IdentityTag, Nth, Position, Seq, SubscriptionId};
use redeliver_protocol::server::marks::Reader;
use redeliver_protocol::server::{Admitted, ConnectionId, Input, Reply};
use redeliver_protocol::time::Timestamp;

use super::Ask;
use crate::history::{Dumped, DumpedTopic, Entry};
use crate::mutants::Mutant;
use crate::world::{Due, World};

impl World {
    /// Answers what a session waits for, as the log and the hub are now; the answer arrives a little later.
    pub(crate) fn answer(&mut self, connection: ConnectionId, ask: Ask) {
        if self.plan.mutant == Some(Mutant::AckBeforeSync)
            && matches!(ask, Ask::Read { .. } | Ask::FindGrown { .. })
            && self.is_unsynced()
        {
            // Only acks are to be early in this broken server.
            return self.queue.after(Duration::from_millis(1), Due::Answer(connection, ask));
        }
        let input = match ask {
            Ask::Authenticate(hello) => self.admit(connection, &hello),
            Ask::Open { id, topic, start, subscriber, reader } => {
                self.open(id, &topic, &start, subscriber.as_ref(), reader)
            }
            Ask::FindGrown { topics, after } => {
                let found = self.server.as_ref().map(|server| server.log.find_grown(&topics, after));
                found.map(|(through, grown)| Input::Reply(Reply::Grown { through, grown }))
            }
            Ask::Read { id, topic, after, nth, events_max, bytes_max } => {
                self.read(id, &topic, (after, nth), (events_max, bytes_max))
            }
        };
        let delay = self.small_delay();
        if let Some(input) = input {
            self.queue.after(delay, Due::Serve(connection, input));
        }
    }

    fn admit(&mut self, connection: ConnectionId, hello: &Hello) -> Option<Input> {
        let server = self.server.as_mut()?;
        let found = server.connections.get_mut(&connection)?;
        let shown = hello.auth.clone();
        found.shown.clone_from(&shown);
        found.instance = Some(hello.instance);
        let checks = self.plan.mutant != Some(Mutant::IdentityNotChecked);
        let owner = IdentityTag([u8::from(checks && shown.is_some()); 16]);
        found.publisher = hello.publisher.map(|publisher| EmitSource { publisher, owner, settled: hello.settled });
        let is_anothers = hello.publisher.is_some_and(|publisher| !server.log.may_publish(publisher, owner));
        let claimed = hello.publisher.filter(|_| !is_anothers);
        let claimed = claimed.map(|publisher| server.publishers.claim(publisher, owner, connection)).transpose();
        let Ok(fenced) = claimed.map(Option::flatten) else { return Some(Input::Authenticated(Err(not_yours()))) };
        if is_anothers {
            return Some(Input::Authenticated(Err(not_yours())));
        }
        let publisher = match hello.publisher.map(|publisher| server.log.publisher(publisher, hello.settled)) {
            None => PublisherState::New,
            Some(Ok(state)) => state,
            Some(Err(error)) => {
                self.fail(format!("a publisher cannot be read: {error}"));
                return None;
            }
        };
        let head = server.log.head();
        if let Some(fenced) = fenced {
            let reason = CloseCode::PUBLISHER_FENCED.description().to_owned();
            let close = Close::new(CloseCode::PUBLISHER_FENCED, reason, RetryAdvice::Never);
            let older = self.connection(fenced).and_then(|found| found.shown.clone());
            self.record(Entry::Fenced { older, newer: shown });
            self.queue.after(Duration::ZERO, Due::Serve(fenced, Input::Displaced(close)));
        }
        Some(Input::Authenticated(Ok(Admitted { epoch: head.epoch, head: head.seq, publisher })))
    }

    fn open(
        &mut self,
        id: SubscriptionId,
        topic: &TopicName,
        start: &Start,
        subscriber: Option<&SubscriberName>,
        reader: Reader,
    ) -> Option<Input> {
        let wall = self.wall();
        let server = self.server.as_mut()?;
        let stored = subscriber.map(|subscriber| server.log.cursor(subscriber, topic)).transpose();
        let opened =
            stored.and_then(|stored| server.log.open_subscription(topic, start, stored.flatten().as_ref(), wall));
        match opened {
            Ok(mut opened) => {
                if let Some(subscriber) = subscriber {
                    server.marks.open(subscriber, topic, reader, &mut opened);
                }
                Some(Input::Reply(Reply::Opened { id, result: Ok(opened) }))
            }
            Err(error) => {
                self.fail(format!("a subscription to {topic} from {start:?} cannot be opened: {error}"));
                None
            }
        }
    }

    fn read(
        &mut self,
        id: SubscriptionId,
        topic: &TopicName,
        (after, nth): (Seq, Nth),
        (events_max, bytes_max): (u32, usize),
    ) -> Option<Input> {
        let try_recent = self.rng.chance(700);
        let ignores_excepts = self.plan.mutant == Some(Mutant::ExceptIgnored);
        let server = self.server.as_ref()?;
        let recent = try_recent.then(|| server.log.read_recent(topic, after, nth, events_max, bytes_max)).flatten();
        let outcome = match recent {
            Some(outcome) => Ok(outcome),
            None => server.log.read(topic, after, nth, events_max, bytes_max),
        };
        match outcome {
            Ok(mut outcome) => {
                if let (ReadOutcome::Batch(batch), true) = (&mut outcome, ignores_excepts) {
                    batch.except = None;
                }
                Some(Input::Reply(Reply::Read { id, outcome }))
            }
            Err(error) => {
                self.fail(format!("{topic} cannot be read after {after}: {error}"));
                None
            }
        }
    }

    /// Whether nothing of any connection is left in the hub.
    pub(crate) fn hub_is_empty(&self) -> bool {
        self.server
            .as_ref()
            .is_none_or(|server| server.owners.is_empty() && server.publishers.is_empty() && server.watchers.is_empty())
    }

    /// Writes down what has been trimmed since the last time.
    pub(crate) fn record_floors(&mut self) {
        let wall = self.wall();
        for topic in self.plan.topics.clone() {
            let Some(server) = &mut self.server else { return };
            let Ok(opened) = server.log.open_subscription(&topic, &Start::Earliest, None, wall) else { return };
            let floor = server.floors.entry(topic.clone()).or_default();
            if *floor < opened.nth {
                *floor = opened.nth;
                self.record(Entry::Floor { topic, nth: opened.nth });
            }
        }
    }

    /// Reads the whole log as a separate reader does: from a copy of what is durable, which trims nothing.
    pub(crate) fn dump(&mut self) -> (Seq, Vec<DumpedTopic>) {
        let (wall, now) = (self.wall(), self.queue.now());
        let Some(server) = &self.server else { return (Seq::ZERO, Vec::new()) };
        let copy = Arc::new(FaultyKv::from_image(&server.kv.durable()));
        let log = match Log::open(copy, LogConfig::default(), COPY_EPOCH, wall, now) {
            Ok(log) => log,
            Err(error) => {
                self.fail(format!("a copy of the log does not open: {error}"));
                return (Seq::ZERO, Vec::new());
            }
        };
        let dump = self.plan.topics.iter().map(|topic| dump_topic(&log, topic, wall)).collect();
        (log.head().seq, dump)
    }
}

fn not_yours() -> Close {
    let code = CloseCode::NOT_YOUR_PUBLISHER;
    Close::of(code, RetryAdvice::Never)
}

fn dump_topic(log: &Log, topic: &TopicName, wall: Timestamp) -> DumpedTopic {
    let mut dumped = DumpedTopic { topic: topic.clone(), floor: Nth::ZERO, events: Vec::new() };
    let Ok(opened) = log.open_subscription(topic, &Start::Earliest, None, wall) else { return dumped };
    dumped.floor = opened.nth;
    let (mut after, mut nth) = (opened.after.seq, opened.nth);
    while let Ok(ReadOutcome::Batch(batch)) = log.read(topic, after, nth, 64, 16 * 1024) {
        for record in codec::Records::new(batch.records.clone()).flatten() {
            dumped.events.push(Dumped {
                position: Position::new(batch.epoch, record.seq),
                nth: record.nth,
                time: record.time,
                name: record.name,
                payload: record.payload,
            });
        }
        (after, nth) = (batch.last_seq, batch.last_nth());
    }
    dumped
}

/// The epoch of copies that are opened to be read.
const COPY_EPOCH: Epoch = Epoch([0xCC; 16]);
