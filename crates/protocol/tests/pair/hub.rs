//! The server's shell for the stories: sessions, the fake log and the registries, joined as a shell must join them. Every
//! kind of answer can be held back, to look at what happens meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use redeliver_protocol::codec;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::event::{NewEvent, VolatileEmit};
use redeliver_protocol::frame::Hello;
use redeliver_protocol::history::{EmitFate, EmitRun, PublisherState};
use redeliver_protocol::request::Response;
use redeliver_protocol::seq::{EmitNumber, IdentityTag, InstanceId, PublisherId, Seq, SubscriptionId};
use redeliver_protocol::server::marks::Marks;
use redeliver_protocol::server::owners::{Claim, ClaimOutcome, Displaced, Displacement, Owners, Promoted};
use redeliver_protocol::server::publishers::Publishers;
use redeliver_protocol::server::watchers::Watchers;
use redeliver_protocol::server::{Admitted, ConnectionId, Input, Output, Reply, ServerSession};
use redeliver_protocol::time::{Instant, Timestamp};

use crate::fake_log::FakeLog;

/// Kinds of answers that can be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Held {
    Authentication,
    Opens,
    Reads,
    Appends,
    Saves,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) log: FakeLog,
    pub(crate) owners: Owners,
    pub(crate) publishers: Publishers,
    pub(crate) watchers: Watchers<()>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// What the authenticator says, if not yes.
    pub(crate) refusing: Option<Close>,
    /// Wakes are lost.
    pub(crate) loses_wakes: bool,
    /// Everything that the sessions wanted done, but frames.
    pub(crate) trace: Vec<(ConnectionId, Output)>,
    epoch: u8,
    last_connection: u64,
    inputs: VecDeque<(ConnectionId, Input)>,
    holding: BTreeSet<Held>,
    held: Vec<(Held, ConnectionId, Output)>,
    /// What the readers of durable subscribers said that they hand over.
    marks: Marks,
    /// Readers that are displaced are not told, as if that were still on its way.
    pub(crate) tells_late: bool,
}

/// One connection of the hub.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: ServerSession,
    /// Messages for the client that the socket has not taken yet.
    pub(crate) outgoing: VecDeque<Bytes>,
    instance: InstanceId,
    publisher: Option<(PublisherId, EmitNumber)>,
    has_undrained: bool,
}

/// What a session's outputs mean for the link.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    GoesOn,
    Ends,
}

impl Hub {
    pub(crate) fn new(config: ServerConfig) -> Hub {
        Hub {
            config: Arc::new(config),
            log: FakeLog::new(),
            owners: Owners::new(),
            publishers: Publishers::new(),
            watchers: Watchers::new(),
            connections: BTreeMap::new(),
            refusing: None,
            loses_wakes: false,
            trace: Vec::new(),
            epoch: 1,
            last_connection: 0,
            inputs: VecDeque::new(),
            holding: BTreeSet::new(),
            held: Vec::new(),
            marks: Marks::new(),
            tells_late: false,
        }
    }

    pub(crate) fn accept(&mut self, now: Instant) -> ConnectionId {
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let connection = Connection {
            session: ServerSession::new(Arc::clone(&self.config), now),
            outgoing: VecDeque::new(),
            instance: InstanceId::default(),
            publisher: None,
            has_undrained: false,
        };
        self.connections.insert(id, connection);
        id
    }

    /// The connection has ended, whoever ended it: it is forgotten everywhere.
    pub(crate) fn ended(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.publishers.release(id);
        self.watchers.remove_connection(id);
        for Promoted { connection, subscription } in self.owners.release_all(id) {
            self.inputs.push_back((connection, Input::Reply(Reply::Claimed { id: subscription })));
        }
    }

    /// The process dies and starts again: the log is what is left.
    pub(crate) fn restart(&mut self) {
        self.connections.clear();
        self.owners = Owners::new();
        self.publishers = Publishers::new();
        self.watchers = Watchers::new();
        self.inputs.clear();
        self.held.clear();
        self.marks = Marks::new();
        self.holding.clear();
        self.epoch += 1;
        self.log.begin_epoch(self.epoch);
    }

    /// The same with the log as it was at an earlier seq: a backup is restored.
    pub(crate) fn restore(&mut self, seq: Seq) {
        self.restart();
        self.epoch += 1;
        self.log.roll_back(seq, self.epoch);
    }

    /// The same with an empty data directory.
    pub(crate) fn wipe(&mut self) {
        self.restart();
        self.epoch += 1;
        self.log = FakeLog::default();
        self.log.begin_epoch(self.epoch);
    }

    /// Holds a kind of answers back from now on.
    pub(crate) fn hold(&mut self, kind: Held) {
        self.holding.insert(kind);
    }

    /// Gives what was held back, and holds no longer.
    pub(crate) fn release(&mut self, kind: Held, now: Instant) {
        self.holding.remove(&kind);
        let (released, held) = std::mem::take(&mut self.held).into_iter().partition(|(held, _, _)| *held == kind);
        self.held = held;
        let released: Vec<(Held, ConnectionId, Output)> = released;
        for (_, id, output) in released {
            self.answer(id, output, now);
        }
    }

    /// How many answers of a kind are held back.
    pub(crate) fn held(&self, kind: Held) -> usize {
        self.held.iter().filter(|(held, _, _)| *held == kind).count()
    }

    /// Gives an input to a session, as a shell might at any time.
    pub(crate) fn input(&mut self, id: ConnectionId, input: Input) {
        self.inputs.push_back((id, input));
    }

    /// Takes the next thing that is to be told to a session.
    pub(crate) fn next_input(&mut self) -> Option<(ConnectionId, Input)> {
        self.inputs.pop_front()
    }

    /// The socket has taken everything.
    pub(crate) fn drained(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.outgoing.is_empty() && std::mem::take(&mut connection.has_undrained) {
            self.inputs.push_back((id, Input::Drained));
        }
    }

    /// Appends as the process itself does.
    pub(crate) fn append(&mut self, event: NewEvent, now: Instant) {
        let (_, grown) = self.log.append(None, EmitNumber::ZERO, vec![Ok(event)], timestamp(now));
        self.wake(grown);
    }

    /// Hands an input to its session and does what it wants.
    pub(crate) fn run(&mut self, id: ConnectionId, input: Input, now: Instant) -> Turn {
        let Some(connection) = self.connections.get_mut(&id) else { return Turn::GoesOn };
        connection.session.handle(input, now);
        loop {
            let Some(connection) = self.connections.get_mut(&id) else { return Turn::Ends };
            let Some(output) = connection.session.poll_output() else { return Turn::GoesOn };
            match output {
                Output::Send(frame) => connection.write(codec::encode_server(&frame)),
                Output::SendEvents { id, epoch, count, records } => {
                    let mut message = codec::events_head(id, epoch, count, records.len()).to_vec();
                    message.extend_from_slice(&records);
                    connection.write(message.into());
                }
                Output::Close(close) => {
                    connection.write(codec::encode_close(&close));
                    let after = connection.session.poll_output();
                    assert!(after.is_none(), "{after:?} came after a close");
                    return Turn::Ends;
                }
                other => self.execute(id, other, now),
            }
        }
    }

    fn execute(&mut self, id: ConnectionId, output: Output, now: Instant) {
        self.trace.push((id, output.clone()));
        let kind = match &output {
            Output::Authenticate(_) => Some(Held::Authentication),
            Output::Open { .. } => Some(Held::Opens),
            Output::Read { .. } | Output::FindGrown { .. } => Some(Held::Reads),
            Output::Append { .. } => Some(Held::Appends),
            Output::EmitVolatile(_) => None,
            Output::SaveCursor { .. } => Some(Held::Saves),
            Output::Send(_)
            | Output::Taking { .. }
            | Output::SendEvents { .. }
            | Output::Claim { .. }
            | Output::Release { .. }
            | Output::Watch { .. }
            | Output::Unwatch { .. }
            | Output::Requested { .. }
            | Output::RequestDone { .. }
            | Output::Close(_) => None,
        };
        match kind.filter(|kind| self.holding.contains(kind)) {
            Some(kind) => self.held.push((kind, id, output)),
            None => self.answer(id, output, now),
        }
    }

    fn answer(&mut self, id: ConnectionId, output: Output, now: Instant) {
        match output {
            Output::Authenticate(hello) => self.authenticate(id, &hello),
            Output::Claim { id: subscription, subscriber, topic, instance, ownership } => {
                let claim = Claim { connection: id, subscription, subscriber, topic, instance, ownership };
                self.claim(claim);
            }
            Output::Release { id: subscription } => {
                if let Some(Promoted { connection, subscription }) = self.owners.release(id, subscription) {
                    self.inputs.push_back((connection, Input::Reply(Reply::Claimed { id: subscription })));
                }
            }
            Output::Open { id: subscription, topic, start, subscriber, reader } => {
                let mut result = self.log.open(&topic, &start, subscriber.as_ref(), timestamp(now));
                if let (Ok(opened), Some(subscriber)) = (&mut result, subscriber) {
                    self.marks.open(&subscriber, &topic, reader, opened);
                }
                self.inputs.push_back((id, Input::Reply(Reply::Opened { id: subscription, result })));
            }
            Output::Watch { id: subscription, topic } => self.watchers.watch(id, subscription, topic, ()),
            Output::Unwatch { id: subscription } => self.watchers.unwatch(id, subscription),
            Output::Read { id: subscription, topic, after, nth, events_max, bytes_max } => {
                assert_eq!(nth, self.log.nth_at(&topic, after), "a session must know the nth at which it reads");
                let outcome = self.log.read(&topic, after, events_max, bytes_max);
                self.inputs.push_back((id, Input::Reply(Reply::Read { id: subscription, outcome })));
            }
            Output::FindGrown { topics, after } => {
                let ends =
                    topics.iter().filter_map(|(subscription, topic)| Some((*subscription, self.log.end(topic)?)));
                let grown = ends.filter(|(_, end)| *end > after).collect();
                self.inputs.push_back((id, Input::Reply(Reply::Grown { through: self.log.head().seq, grown })));
            }
            Output::Append { first, events } => self.append_emits(id, first, events, now),
            Output::EmitVolatile(event) => self.give_volatile(VolatileEmit { time: timestamp(now), event }),
            Output::Taking { id: subscription, subscriber, topic, mark, nth } => {
                let is_owner = self.owners.is_owner(id, subscription);
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if is_owner {
                    self.marks.raise(subscriber, topic, connection.instance, mark);
                }
                match nth {
                    _ if !is_owner => {
                        connection.session.handle(Input::Reply(Reply::NotOwner { id: subscription }), now);
                    }
                    Some(nth) => connection.session.handle(Input::Reply(Reply::Taken { id: subscription, nth }), now),
                    None => {}
                }
            }
            Output::SaveCursor { id: subscription, subscriber, topic, cursor, .. } => {
                // The fence: whoever lost the topic saves nothing.
                if self.owners.is_owner(id, subscription) {
                    let seq = cursor.place.position.seq;
                    self.log.cursors.insert((subscriber, topic), cursor);
                    self.inputs.push_back((id, Input::Reply(Reply::CursorSaved { id: subscription, seq })));
                }
            }
            Output::Requested { id: asked, request } => {
                let answer = Response::new(request.kind, request.payload);
                self.input(id, Input::Reply(Reply::Respond { id: asked, result: Ok(answer) }));
            }
            Output::Send(_) | Output::SendEvents { .. } | Output::RequestDone { .. } | Output::Close(_) => {}
        }
    }

    /// Gives an event that is not logged to whoever follows one of its topics.
    pub(crate) fn give_volatile(&mut self, event: VolatileEmit) {
        let event = Arc::new(event);
        let mut reached: BTreeMap<ConnectionId, Vec<SubscriptionId>> = BTreeMap::new();
        for topic in &event.event.topics {
            for (connection, id, ()) in self.watchers.watchers_of(topic, None) {
                reached.entry(connection).or_default().push(id);
            }
        }
        for (connection, ids) in reached {
            self.inputs.push_back((connection, Input::Reply(Reply::Volatile { ids, event: Arc::clone(&event) })));
        }
    }

    fn authenticate(&mut self, id: ConnectionId, hello: &Hello) {
        if let Some(close) = self.refusing.clone() {
            self.inputs.push_back((id, Input::Authenticated(Err(close))));
            return;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.instance = hello.instance;
        connection.publisher = hello.publisher.map(|publisher| (publisher, hello.settled));
        let publisher = hello.publisher.map_or(PublisherState::New, |p| self.log.publisher(p, hello.settled));
        let head = self.log.head();
        let admitted = Admitted { epoch: head.epoch, head: head.seq, publisher };
        self.inputs.push_back((id, Input::Authenticated(Ok(admitted))));
        if let Some(fenced) =
            hello.publisher.and_then(|publisher| self.publishers.claim(publisher, IdentityTag::default(), id).unwrap())
        {
            let is_same = self.connections.get(&fenced).is_some_and(|fenced| fenced.instance == hello.instance);
            let code = if is_same { CloseCode::SUPERSEDED } else { CloseCode::PUBLISHER_FENCED };
            self.inputs.push_back((fenced, Input::Displaced(close_with(code))));
        }
    }

    fn claim(&mut self, claim: Claim) {
        let (id, subscription) = (claim.connection, claim.subscription);
        let displaced = match self.owners.claim(claim) {
            ClaimOutcome::Granted { displaced } => {
                self.inputs.push_back((id, Input::Reply(Reply::Claimed { id: subscription })));
                displaced
            }
            ClaimOutcome::Waiting { displaced } => displaced,
        };
        for Displaced { connection, subscription, how } in displaced.into_iter().filter(|_| !self.tells_late) {
            let input = match how {
                Displacement::TakenOver => Input::Reply(Reply::TakenOver { id: subscription }),
                Displacement::SameInstance => Input::Displaced(close_with(CloseCode::SUPERSEDED)),
            };
            self.inputs.push_back((connection, input));
        }
    }

    fn append_emits(
        &mut self,
        id: ConnectionId,
        first: EmitNumber,
        events: Vec<Result<NewEvent, RefusalCode>>,
        now: Instant,
    ) {
        let Some(publisher) = self.connections.get(&id).and_then(|connection| connection.publisher) else { return };
        if !self.publishers.is_current(publisher.0, id) {
            let count = u32::try_from(events.len()).expect("a frame's worth");
            let run = EmitRun { first, count, fate: EmitFate::Refused(RefusalCode::FENCED) };
            self.inputs.push_back((id, Input::Reply(Reply::Appended(vec![run]))));
            return;
        }
        let (runs, grown) = self.log.append(Some(publisher), first, events, timestamp(now));
        self.inputs.push_back((id, Input::Reply(Reply::Appended(runs))));
        self.wake(grown);
    }

    fn wake(&mut self, grown: impl IntoIterator<Item = redeliver_protocol::name::TopicName>) {
        if self.loses_wakes {
            return;
        }
        for topic in grown {
            for (connection, id, ()) in self.watchers.watchers_of(&topic, None) {
                self.inputs.push_back((connection, Input::Reply(Reply::Grew { id })));
            }
        }
    }

    /// The outputs of a connection that concern one subscription's cursor.
    pub(crate) fn saves_of(&self, id: SubscriptionId) -> Vec<redeliver_protocol::history::Cursor> {
        let saves = self.trace.iter().filter_map(|(_, output)| match output {
            Output::SaveCursor { id: saved, cursor, .. } if *saved == id => Some(cursor.clone()),
            _ => None,
        });
        saves.collect()
    }
}

impl Connection {
    fn write(&mut self, message: Bytes) {
        self.outgoing.push_back(message);
        self.has_undrained = true;
    }
}

/// A close as a shell gives it.
pub(crate) fn close_with(code: CloseCode) -> Close {
    Close::of(code, RetryAdvice::Never)
}

/// The wall clock of the stories: it began in 2026.
pub(crate) fn timestamp(now: Instant) -> Timestamp {
    Timestamp(1_767_225_600_000).after(now.since_origin())
}
