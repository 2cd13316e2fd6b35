//! A simulated client: an app with its own disk, and its processes one after another, each with one client session. It
//! handles events one at a time per subscription, acknowledges what it has handled, and writes everything down.

mod app;
mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::{
    ClientSession, CursorKeeper, EmitOutcome, EmitTicket, Identity, Input, Output, StreamItem, SubscribeRequest,
    SubscriptionEnd,
};
use redeliver_protocol::codec;
use redeliver_protocol::frame::Ownership;
use redeliver_protocol::history::{Cursor, Place};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, InstanceId, Nth, Position, PublisherId, SubscriptionId};
use redeliver_protocol::server::ConnectionId;
use redeliver_protocol::time::Instant;

use self::rows::Row;
use crate::history::{EmitKey, Entry, Keeper, Process, Run};
use crate::link::{Link, Way};
use crate::mutants::Mutant;
use crate::plan::{ClientPlan, FollowPlan, KeeperPlan};
use crate::world::{Due, World};

/// A client: what outlives its processes, and the one that runs.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) plan: ClientPlan,
    disk: BTreeMap<TopicName, Cursor>,
    /// A place of each topic that the app has kept by itself.
    places: BTreeMap<TopicName, Place>,
    publisher: Option<u32>,
    /// The last emit of that publisher, by any process.
    emitted: u64,
    pub(crate) process: Option<Running>,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) id: Process,
    session: ClientSession,
    pub(crate) connection: Option<ConnectionId>,
    attempt: u64,
    ticks: BTreeSet<Instant>,
    pub(crate) readers: BTreeMap<SubscriptionId, Reader>,
    pub(crate) rows: BTreeMap<SubscriptionId, Row>,
    next_subscription: u32,
    publisher: u32,
    emitted: u64,
    tickets: BTreeMap<EmitTicket, EmitKey>,
    saves: VecDeque<(SubscriptionId, Cursor)>,
    ending: bool,
}

/// An app's side of a subscription.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) run: Run,
    pub(crate) follow: FollowPlan,
    waiting: VecDeque<(Position, Nth)>,
    busy: bool,
    unacked: Option<(Position, Nth)>,
    unacked_count: usize,
    /// How many events and gaps it is done with.
    taken: u64,
    pub(crate) over: bool,
    asked_to_end: bool,
}

impl Client {
    pub(crate) fn new(plan: ClientPlan) -> Client {
        Client { plan, disk: BTreeMap::new(), places: BTreeMap::new(), publisher: None, emitted: 0, process: None }
    }
}

impl World {
    /// Starts a client's next process.
    pub(crate) fn start_process(&mut self, client: usize) {
        if self.clients[client].process.is_some() {
            return;
        }
        let is_thief = self.clients[client].plan.is_thief;
        if is_thief {
            // Until the publisher is known to be somebody's, it is anybody's.
            let Some(victims) = self.clients[0].publisher.filter(|publisher| self.has_stored(*publisher)) else {
                if !self.calm {
                    self.queue.after(Duration::from_secs(1), Due::StartProcess(client));
                }
                return;
            };
            self.clients[client].publisher = Some(victims);
        }
        let id = Process(self.given.processes);
        self.given.processes += 1;
        self.record(Entry::Started(id));
        let replays = self.clients[client].plan.replays;
        let publisher = match self.clients[client].publisher.filter(|_| replays) {
            Some(publisher) => publisher,
            None => {
                self.given.publishers += 1;
                self.clients[client].publisher = Some(self.given.publishers);
                self.clients[client].emitted = 0;
                self.given.publishers
            }
        };
        let identity = Identity {
            instance: InstanceId(self.rng.identity()),
            publisher: PublisherId(publisher_bytes(publisher)),
            subscriber: self.clients[client].plan.subscriber.clone(),
            auth: is_thief.then(|| THIEF.into()),
            client_name: format!("{id:?}"),
        };
        let jitter = Jitter::new(self.rng.draw());
        let settled = self.claimed_settled(client, publisher);
        let session = ClientSession::new(self.plan.client.clone(), identity, jitter, self.queue.now())
            .emitting_after(EmitNumber(settled));
        self.clients[client].process = Some(Running {
            id,
            session,
            connection: None,
            attempt: 0,
            ticks: BTreeSet::new(),
            readers: BTreeMap::new(),
            rows: BTreeMap::new(),
            next_subscription: 1,
            publisher,
            emitted: settled,
            tickets: BTreeMap::new(),
            saves: VecDeque::new(),
            ending: false,
        });
        for mut follow in self.clients[client].plan.follows.clone() {
            follow.rewind = self.rewind_of(client, &follow, 200);
            self.follow(id, follow);
        }
        if self.plan.rows.contains(&client) {
            self.follow_row(id);
        }
        self.carry_out_client(id);
        self.plan_emit(id);
        self.plan_aside(id);
        self.queue.after(Duration::from_millis(500), Due::Whim(id));
    }

    /// Which number a process claims to be settled: now and then one that lies beyond all that were emitted.
    fn claimed_settled(&mut self, client: usize, publisher: u32) -> u64 {
        let emitted = self.clients[client].emitted;
        let may = self.plan.extras.claims && !self.clients[client].plan.is_thief && self.has_stored(publisher);
        if !may || !self.extra_rng.chance(500) {
            return 0;
        }
        emitted + self.extra_rng.between(1, 5)
    }

    /// Whether an emit of this publisher was acknowledged.
    fn has_stored(&self, publisher: u32) -> bool {
        let is_stored = |entry: &Entry| matches!(entry, Entry::EmitDone { key, outcome: EmitOutcome::Stored { .. }, .. } if key.publisher == publisher);
        self.history.entries.iter().any(|(_, entry)| is_stored(entry))
    }

    /// A process ends at once, without a goodbye.
    pub(crate) fn crash_process(&mut self, id: Process) {
        let Some(client) = self.client_of(id) else { return };
        let Some(gone) = self.clients[client].process.take() else { return };
        self.record(Entry::Crashed(id));
        if let Some(connection) = gone.connection {
            let noticed = self.rng.chance(700).then(|| Duration::from_micros(self.rng.between(0, 50_000)));
            self.cut_link(connection, None, noticed);
        }
        let pause = Duration::from_millis(self.rng.between(0, 4_000));
        self.queue.after(pause, Due::StartProcess(client));
    }

    /// A subscription begins: a reader's run.
    pub(crate) fn follow(&mut self, id: Process, follow: FollowPlan) {
        let Some(client) = self.client_of(id) else { return };
        let run = Run(self.given.runs);
        self.given.runs += 1;
        let leaves_lineage_out = self.plan.mutant == Some(Mutant::LineageLeftOut);
        let found = &mut self.clients[client];
        let stored = found.disk.get(&follow.topic).cloned();
        let rewinds = follow.rewind.is_some();
        let number = u32::try_from(client).unwrap_or(u32::MAX);
        let (keeper, session_keeper, stored) = match (follow.keeper, &found.plan.subscriber) {
            (KeeperPlan::Server, Some(name)) => (Keeper::Server(name.clone()), CursorKeeper::Server, None),
            (KeeperPlan::Client, _) if rewinds => {
                let keeper =
                    stored.map_or(CursorKeeper::Client { stored: None }, |from| CursorKeeper::Rewound { from });
                (Keeper::Client(number), keeper, None)
            }
            (KeeperPlan::Client, _) => {
                let mut shown = stored.clone();
                if let Some(cursor) = shown.as_mut().filter(|_| leaves_lineage_out) {
                    cursor.place = Place::new(cursor.place.position, cursor.place.nth);
                }
                (Keeper::Client(number), CursorKeeper::Client { stored: shown }, stored)
            }
            (KeeperPlan::Server | KeeperPlan::Nobody, _) => (Keeper::Nobody, CursorKeeper::Nobody, None),
        };
        let Some(running) = &mut found.process else { return };
        let subscription = SubscriptionId(running.next_subscription);
        running.next_subscription += 1;
        let start = follow.rewind.as_ref().unwrap_or(&follow.start).clone();
        let request = SubscribeRequest {
            topic: follow.topic.clone(),
            start: start.clone(),
            window: follow.window,
            ownership: follow.ownership,
            keeper: session_keeper,
        };
        let entry = Entry::Subscribing {
            process: id,
            run,
            topic: follow.topic.clone(),
            start,
            window: follow.window,
            keeper,
            stored,
            rewinds,
        };
        let reader = Reader {
            run,
            follow,
            waiting: VecDeque::new(),
            busy: false,
            unacked: None,
            unacked_count: 0,
            taken: 0,
            over: false,
            asked_to_end: false,
        };
        running.readers.insert(subscription, reader);
        self.record(entry);
        self.tell(id, Input::Subscribe { id: subscription, request });
        self.want(id, subscription);
    }

    /// Gives a session an input, and carries out what it wants.
    pub(crate) fn tell(&mut self, id: Process, input: Input) {
        let now = self.queue.now();
        let Some(running) = self.running(id) else { return };
        running.ending |= matches!(input, Input::Shutdown);
        running.session.handle(input, now);
        self.carry_out_client(id);
    }

    /// A session's timeout may be due.
    pub(crate) fn client_tick(&mut self, id: Process) {
        let now = self.queue.now();
        let Some(running) = self.running(id) else { return };
        running.ticks.retain(|at| *at > now);
        if running.session.poll_timeout().is_some_and(|due| due <= now) {
            running.session.handle(Input::Tick, now);
        }
        self.carry_out_client(id);
    }

    /// A try to connect comes to its end.
    pub(crate) fn connecting(&mut self, id: Process, attempt: u64) {
        let Some(client) = self.client_of(id) else { return };
        let is_current = self.running(id).is_some_and(|running| running.attempt == attempt);
        if !is_current {
            return;
        }
        if self.parted.contains(&client) || (!self.calm && self.rng.chance(100)) {
            if self.rng.chance(500) {
                self.tell(id, Input::Disconnected(Cause::of_words("the connection could not be made")));
            }
            // Otherwise nobody ever answers, and the session gives up by itself.
            return;
        }
        self.given.connections += 1;
        let connection = ConnectionId(self.given.connections);
        let link = Link::new(&mut self.rng, self.queue.now());
        self.links.insert(connection, link);
        self.ends.insert(connection, id);
        let Some(opening) = self.accept(connection) else {
            self.links.remove(&connection);
            return self.tell(id, Input::Disconnected(Cause::of_words("nobody listens")));
        };
        if let Some(running) = self.running(id) {
            running.connection = Some(connection);
        }
        self.record(Entry::Connected { process: id, opening, connection: connection.0 });
        self.tell(id, Input::Connected);
    }

    pub(crate) fn client_sees_end(&mut self, connection: ConnectionId) {
        if let Some(id) = self.reader_of(connection) {
            if let Some(running) = self.running(id) {
                running.connection = None;
            }
            self.end_way(connection, Way::Up);
            self.tell(id, Input::Disconnected(Cause::of_words("the connection has ended")));
        }
    }

    /// The next cursor is on the disk now; the session hears of it a moment later, if the process lives.
    pub(crate) fn store_written(&mut self, id: Process) {
        let Some(client) = self.client_of(id) else { return };
        let saved = self.running(id).and_then(|running| running.saves.pop_front());
        let Some((subscription, cursor)) = saved else { return };
        let topic =
            self.running(id).and_then(|running| running.readers.get(&subscription)).map(|r| r.follow.topic.clone());
        let seq = cursor.place.position.seq;
        if let Some(topic) = topic {
            let client_number = u32::try_from(client).unwrap_or(u32::MAX);
            self.record(Entry::CursorStored { client: client_number, topic: topic.clone(), cursor: cursor.clone() });
            self.clients[client].disk.insert(topic, cursor);
        }
        self.queue.after(Duration::from_micros(200), Due::Tell(id, Input::CursorSaved { id: subscription, seq }));
        self.plan_save(id);
    }

    fn plan_save(&mut self, id: Process) {
        let delay = Duration::from_micros(self.rng.between(10, self.plan.sync_micros_max));
        if self.running(id).is_some_and(|running| !running.saves.is_empty()) {
            self.queue.after(delay, Due::StoreWritten(id));
        }
    }

    fn carry_out_client(&mut self, id: Process) {
        while let Some(output) = self.running(id).and_then(|running| running.session.poll_output()) {
            self.carry_out_one(id, output);
        }
        let Some(running) = self.running(id) else { return };
        let due = running.session.poll_timeout();
        if let Some(at) = due.filter(|due| running.ticks.insert(*due)) {
            self.queue.at(at, Due::ClientTick(id));
        }
    }

    fn carry_out_one(&mut self, id: Process, output: Output) {
        match output {
            Output::Connect => {
                let delay = Duration::from_micros(self.rng.between(200, 60_000));
                let Some(running) = self.running(id) else { return };
                running.attempt += 1;
                let attempt = running.attempt;
                self.queue.after(delay, Due::Connecting(id, attempt));
            }
            Output::SendHello(hello) => self.write_up(id, codec::encode_hello(&hello)),
            Output::Send(frame) => self.write_up(id, codec::encode_client(&frame)),
            Output::Disconnect(close) => self.disconnect(id, &close),
            Output::Deliver { id: subscription, delivery } => self.deliver(id, subscription, delivery),
            Output::SaveCursor { id: subscription, cursor } => {
                let Some(running) = self.running(id) else { return };
                running.saves.push_back((subscription, cursor));
                if running.saves.len() == 1 {
                    self.plan_save(id);
                }
            }
            Output::AckConfirmed { id: subscription, seq } => {
                if let Some(run) = self.run_of(id, subscription) {
                    self.record(Entry::Confirmed { run, seq });
                }
            }
            Output::Unsubscribed { id: subscription, why } => self.run_over(id, subscription, why),
            Output::EmitDone { ticket, fate } => {
                if let Some(key) = self.running(id).and_then(|running| running.tickets.remove(&ticket)) {
                    self.record(Entry::EmitDone { process: id, key, outcome: fate });
                }
            }
            // The app asks when it has nothing left, however much earlier it may.
            Output::EmitsHeld { .. } | Output::AskAt { .. } => {}
            Output::EmitsLost { from, through } => {
                if let Some(publisher) = self.running(id).map(|running| running.publisher) {
                    self.record(Entry::EmitsLost { process: id, publisher, from: from.0, through: through.0 });
                }
            }
            Output::Requested { key, request } => {
                let (pause, result) = self.asked(&request);
                self.queue.after(pause, Due::Tell(id, Input::Respond { key, result }));
            }
            Output::RequestDone { ticket, result } => self.ask_done(ticket, &result),
            Output::State(state) => self.fault(format!("{id:?} is {state:?}")),
            Output::Ended => self.process_ended(id),
        }
    }

    fn write_up(&mut self, id: Process, message: bytes::Bytes) {
        if let Some(connection) = self.running(id).and_then(|running| running.connection) {
            self.send(connection, Way::Up, message);
        }
    }

    fn disconnect(&mut self, id: Process, close: &redeliver_protocol::error::Close) {
        let Some(running) = self.running(id) else { return };
        running.attempt += 1;
        if let Some(connection) = running.connection.take() {
            self.send(connection, Way::Up, codec::encode_close(close));
            self.end_way(connection, Way::Up);
        }
    }

    fn deliver(&mut self, id: Process, subscription: SubscriptionId, delivery: StreamItem) {
        if self.deliver_to_row(id, subscription, &delivery) {
            return;
        }
        let item = match &delivery {
            StreamItem::Event { epoch, record, .. } => Some((Position::new(*epoch, record.seq), record.nth)),
            StreamItem::Gap { gap, .. } => Some((gap.through, gap.nth_through)),
            StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => None,
        };
        let hasty = self.plan.mutant == Some(Mutant::CursorBeforeHandler);
        let Some(reader) = self.running(id).and_then(|running| running.readers.get_mut(&subscription)) else { return };
        let run = reader.run;
        if let Some(item) = item {
            reader.waiting.push_back(item);
        }
        let topic = reader.follow.topic.clone();
        let place = delivery.place().map(|step| step.after);
        self.record(Entry::Delivered { run, delivery });
        if self.plan.extras.rewinds
            && let (Some(client), Some(place)) = (self.client_of(id), place)
            && self.extra_rng.chance(100)
        {
            self.clients[client].places.insert(topic, place);
        }
        if let (true, Some((position, nth))) = (hasty, item) {
            self.record(Entry::Acked { run, position });
            self.queue.after(Duration::ZERO, Due::Tell(id, Input::Ack { id: subscription, position, nth }));
        }
        self.handle_next(id, subscription);
    }

    fn run_over(&mut self, id: Process, subscription: SubscriptionId, why: SubscriptionEnd) {
        if self.row_over(id, subscription) {
            return;
        }
        let Some(reader) = self.running(id).and_then(|running| running.readers.get_mut(&subscription)) else { return };
        reader.over = true;
        reader.waiting.clear();
        let (run, mut follow) = (reader.run, reader.follow.clone());
        let again = match why {
            SubscriptionEnd::Asked => true,
            // A person may decide to take it back, some time later.
            SubscriptionEnd::TakenOver => self.rng.chance(500),
            SubscriptionEnd::Refused(..) | SubscriptionEnd::ClientEnded | _ => false,
        };
        self.record(Entry::Ended { run, why });
        let ending = self.running(id).is_none_or(|running| running.ending);
        if again && !ending && !self.calm {
            if self.rng.chance(500) {
                follow.ownership = Ownership::Standby;
            }
            follow.rewind = self.client_of(id).and_then(|client| self.rewind_of(client, &follow, 500));
            self.follow(id, follow);
        }
    }

    fn process_ended(&mut self, id: Process) {
        let Some(client) = self.client_of(id) else { return };
        if let Some(connection) = self.clients[client].process.take().and_then(|gone| gone.connection) {
            self.end_way(connection, Way::Up);
        }
        self.fault(format!("{id:?} has ended"));
        if !self.calm {
            let pause = Duration::from_millis(self.rng.between(0, 2_000));
            self.queue.after(pause, Due::StartProcess(client));
        }
    }

    fn run_of(&mut self, id: Process, subscription: SubscriptionId) -> Option<Run> {
        Some(self.running(id)?.readers.get(&subscription)?.run)
    }

    pub(crate) fn client_of(&self, id: Process) -> Option<usize> {
        self.clients.iter().position(|client| client.process.as_ref().is_some_and(|process| process.id == id))
    }

    pub(crate) fn process(&self, id: Process) -> Option<&Running> {
        self.clients.iter().filter_map(|client| client.process.as_ref()).find(|process| process.id == id)
    }

    fn running(&mut self, id: Process) -> Option<&mut Running> {
        self.clients.iter_mut().filter_map(|client| client.process.as_mut()).find(|process| process.id == id)
    }

    pub(crate) fn living(&self) -> Vec<Process> {
        self.clients.iter().filter_map(|client| client.process.as_ref().map(|process| process.id)).collect()
    }
}

/// What another identity than that of all others shows.
const THIEF: &[u8] = b"thief";

fn publisher_bytes(publisher: u32) -> [u8; 16] {
    let mut bytes = [0xAB; 16];
    bytes[..4].copy_from_slice(&publisher.to_be_bytes());
    bytes
}
