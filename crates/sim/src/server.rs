//! The simulated server: a small deterministic counterpart of the real shell. It carries out what the sessions ask for,
//! over the real hub modules and the real log, with delays wherever the real one may be delayed. No decision of the
//! protocol is taken here.

mod answers;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use redeliver_log::kv::faulty::{FaultyKv, Unsynced};
use redeliver_log::{EmitSource, Log, Maintenance};
use redeliver_protocol::codec;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::Hello;
use redeliver_protocol::history::{EmitFate, EmitRun, Start};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, InstanceId, Nth, Seq, SubscriptionId};
use redeliver_protocol::server::marks::{Marks, Reader};
use redeliver_protocol::server::owners::{Claim, ClaimOutcome, Displaced, Displacement, Owners, Promoted};
use redeliver_protocol::server::publishers::Publishers;
use redeliver_protocol::server::watchers::Watchers;
use redeliver_protocol::server::{ConnectionId, Input, Output, Reply, ServerSession};
use redeliver_protocol::time::Instant;

pub(crate) use self::writer::Work;
use self::writer::Writer;
use crate::history::{Entry, Opening};
use crate::link::Way;
use crate::mutants::Mutant;
use crate::world::{Due, World};

/// A server process that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) opening: Opening,
    pub(crate) log: Log,
    pub(crate) kv: Arc<FaultyKv>,
    config: Arc<ServerConfig>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    pub(crate) owners: Owners,
    pub(crate) marks: Marks,
    publishers: Publishers,
    pub(crate) watchers: Watchers<()>,
    writer: Writer,
    pub(crate) draining: bool,
    floors: BTreeMap<TopicName, Nth>,
}

/// One connection, as the shell has it.
#[derive(Debug)]
pub(crate) struct Connection {
    session: ServerSession,
    ticks: BTreeSet<Instant>,
    publisher: Option<EmitSource>,
    /// The instance that its Hello names.
    instance: Option<InstanceId>,
    /// The credentials of its Hello.
    shown: Option<bytes::Bytes>,
    claims: BTreeMap<SubscriptionId, (SubscriberName, TopicName)>,
    /// Something was written since the session was last told that all has left.
    wrote: bool,
    drain_planned: bool,
    stuck_planned: bool,
    peer_ended: bool,
}

/// What a session waits for.
#[derive(Debug)]
pub(crate) enum Ask {
    Authenticate(Hello),
    Open { id: SubscriptionId, topic: TopicName, start: Start, subscriber: Option<SubscriberName>, reader: Reader },
    Read { id: SubscriptionId, topic: TopicName, after: Seq, nth: Nth, events_max: u32, bytes_max: usize },
    FindGrown { topics: Arc<[(SubscriptionId, TopicName)]>, after: Seq },
}

impl World {
    /// Starts a server process on the store as it is.
    pub(crate) fn start_server(&mut self) {
        if self.server.is_some() {
            return;
        }
        let kv = Arc::new(FaultyKv::from_image(&self.disk.store));
        self.disk.fails = false;
        let opening = Opening(self.given.openings);
        self.given.openings += 1;
        let epoch = Epoch(self.rng.identity());
        let (wall, now) = (self.wall(), self.monotonic());
        let log = match Log::open(kv.clone(), self.plan.log.clone(), epoch, wall, now) {
            Ok(log) => log,
            Err(error) => return self.fail(format!("the log does not open: {error}")),
        };
        let config = Arc::new(self.plan.server.clone());
        let server = Server {
            opening,
            log,
            kv,
            config,
            connections: BTreeMap::new(),
            owners: Owners::new(),
            marks: Marks::new(),
            publishers: Publishers::new(),
            watchers: Watchers::new(),
            writer: Writer::default(),
            draining: false,
            floors: BTreeMap::new(),
        };
        self.server = Some(server);
        let (head, dump) = self.dump();
        let origin = std::mem::replace(&mut self.disk.origin, crate::history::Origin::Continued);
        self.record(Entry::Opened { opening, origin, epoch, head, dump });
        self.queue.after(Duration::from_millis(50), Due::Tend(opening));
    }

    /// Kills the server's process: what was not synced is lost, or not, batch by batch.
    pub(crate) fn crash_server(&mut self) {
        let Some(server) = self.server.take() else { return };
        let unsynced = match self.rng.below(3) {
            0 => Unsynced::Kept,
            1 => Unsynced::First(self.rng.index(3)),
            _ => Unsynced::Lost,
        };
        let unsynced = if self.plan.mutant.is_some() { Unsynced::Lost } else { unsynced };
        self.disk.store = server.kv.crash(unsynced).durable();
        self.fault(format!("{:?} is killed, unsynced batches: {unsynced:?}", server.opening));
        for connection in server.connections.keys() {
            // The system of a killed process ends its connections; that of a machine without power does not.
            let noticed = self.rng.chance(700).then(|| Duration::from_micros(self.rng.between(0, 50_000)));
            self.cut_link(*connection, noticed, None);
        }
    }

    /// Asks every session to end, as a graceful shutdown does. The process ends a little later.
    pub(crate) fn drain_server(&mut self) {
        let retry = Duration::from_millis(self.rng.between(0, 500));
        let Some(server) = &mut self.server else { return };
        server.draining = true;
        let opening = server.opening;
        let connections: Vec<ConnectionId> = server.connections.keys().copied().collect();
        self.fault(format!("{opening:?} is asked to end"));
        let close = Close::new(CloseCode::DRAINING, "", RetryAdvice::After(retry));
        for connection in connections {
            self.serve(connection, Input::End(close.clone()));
        }
        let grace = Duration::from_millis(self.rng.between(0, 1000));
        self.queue.after(grace, Due::ServerGone(opening));
    }

    /// The end of a graceful shutdown.
    pub(crate) fn server_gone(&mut self, opening: Opening) {
        if self.server.as_ref().is_some_and(|server| server.opening == opening) {
            self.crash_server();
        }
    }

    /// A connection arrives. Says whether somebody takes it.
    pub(crate) fn accept(&mut self, connection: ConnectionId) -> Option<Opening> {
        let now = self.queue.now();
        let server = self.server.as_mut().filter(|server| !server.draining)?;
        let session = ServerSession::new(Arc::clone(&server.config), now);
        let accepted = Connection {
            session,
            ticks: BTreeSet::new(),
            publisher: None,
            instance: None,
            shown: None,
            claims: BTreeMap::new(),
            wrote: false,
            drain_planned: false,
            stuck_planned: false,
            peer_ended: false,
        };
        server.connections.insert(connection, accepted);
        let opening = server.opening;
        self.pump(connection);
        Some(opening)
    }

    /// Gives a session an input, and carries out what it wants.
    pub(crate) fn serve(&mut self, connection: ConnectionId, input: Input) {
        let now = self.queue.now();
        let Some(found) = self.connection(connection) else { return };
        found.session.handle(input, now);
        self.pump(connection);
    }

    /// A session's timeout may be due.
    pub(crate) fn server_tick(&mut self, connection: ConnectionId) {
        let now = self.queue.now();
        let Some(found) = self.connection(connection) else { return };
        found.ticks.retain(|at| *at > now);
        if found.session.poll_timeout().is_some_and(|due| due <= now) {
            found.session.handle(Input::Tick, now);
        }
        self.pump(connection);
    }

    /// The peer's direction has ended, or the connection is known to be dead.
    pub(crate) fn server_sees_end(&mut self, connection: ConnectionId) {
        let Some(found) = self.connection(connection) else { return };
        found.peer_ended = true;
        self.pump(connection);
    }

    /// Everything written has left.
    pub(crate) fn drained(&mut self, connection: ConnectionId) {
        let Some(found) = self.connection(connection) else { return };
        found.drain_planned = false;
        if self.links.get(&connection).is_none_or(|link| link.down.is_drained()) {
            if let Some(found) = self.connection(connection) {
                found.wrote = false;
            }
            self.serve(connection, Input::Drained);
        }
    }

    /// The network has taken something: perhaps it was the last of what was written.
    pub(crate) fn room_again(&mut self, connection: ConnectionId) {
        if self.connection(connection).is_some() {
            self.after_pump(connection);
        }
    }

    /// Looks whether a reader takes nothing at all.
    pub(crate) fn stuck_check(&mut self, connection: ConnectionId) {
        let (timeout, now) = (self.plan.server.write_timeout, self.queue.now());
        let Some(found) = self.connection(connection) else { return };
        found.stuck_planned = false;
        let is_stuck = self.links.get(&connection).is_some_and(|link| link.down.is_stuck(timeout, now));
        if is_stuck {
            self.serve(connection, Input::Stuck);
        } else {
            self.after_pump(connection);
        }
    }

    /// Gives a session what has arrived for it, carries out its outputs, and plans its next tick.
    pub(crate) fn pump(&mut self, connection: ConnectionId) {
        loop {
            while let Some(output) = self.connection(connection).and_then(|found| found.session.poll_output()) {
                self.carry_out(connection, output);
            }
            let now = self.queue.now();
            let Some(found) = self.connection(connection) else { return };
            let wants = found.session.wants_message();
            let peer_ended = found.peer_ended;
            let taken = if wants { self.take_message(connection, Way::Up) } else { None };
            let Some(found) = self.connection(connection) else { return };
            match taken {
                Some(message) => found.session.handle(Input::Message(message), now),
                None if peer_ended => return self.end_connection(connection),
                None => break,
            }
        }
        self.after_pump(connection);
    }

    fn after_pump(&mut self, connection: ConnectionId) {
        let (now, timeout) = (self.queue.now(), self.plan.server.write_timeout);
        let delay = Duration::from_micros(self.rng.between(0, 500));
        let drained = self.links.get(&connection).is_none_or(|link| link.down.is_drained());
        let Some(found) = self.connection(connection) else { return };
        let due = found.session.poll_timeout();
        let tick = due.filter(|due| found.ticks.insert(*due));
        let plan_drain = found.wrote && drained && !found.drain_planned;
        found.drain_planned |= plan_drain;
        let plan_stuck = !drained && !found.stuck_planned;
        found.stuck_planned |= plan_stuck;
        if let Some(at) = tick {
            self.queue.at(at.max(now), Due::ServerTick(connection));
        }
        if plan_drain {
            self.queue.after(delay, Due::Drained(connection));
        }
        if plan_stuck {
            self.queue.after(timeout, Due::StuckCheck(connection));
        }
    }

    fn carry_out(&mut self, connection: ConnectionId, output: Output) {
        match output {
            Output::Send(frame) => self.write_down(connection, codec::encode_server(&frame)),
            Output::SendEvents { id, epoch, count, records } => {
                let mut message = codec::events_head(id, epoch, count, records.len()).to_vec();
                message.extend_from_slice(&records);
                self.write_down(connection, message.into());
            }
            Output::Authenticate(hello) => self.ask(connection, Ask::Authenticate(hello)),
            Output::Claim { id, subscriber, topic, instance, ownership } => {
                let claim = Claim { connection, subscription: id, subscriber, topic, instance, ownership };
                self.claim(claim);
            }
            Output::Release { id } => {
                let promoted = self.server.as_mut().and_then(|server| server.owners.release(connection, id));
                self.promote(promoted);
            }
            Output::Open { id, topic, start, subscriber, reader } => {
                self.ask(connection, Ask::Open { id, topic, start, subscriber, reader });
            }
            Output::Watch { id, topic } => {
                if let Some(server) = &mut self.server {
                    server.watchers.watch(connection, id, topic, ());
                }
            }
            Output::Unwatch { id } => {
                if let Some(server) = &mut self.server {
                    server.watchers.unwatch(connection, id);
                }
            }
            Output::Read { id, topic, after, nth, events_max, bytes_max } => {
                self.ask(connection, Ask::Read { id, topic, after, nth, events_max, bytes_max });
            }
            Output::FindGrown { topics, after } => self.ask(connection, Ask::FindGrown { topics, after }),
            Output::EmitVolatile(event) => self.hand_out(event),
            Output::Append { first, events } => self.queue_work(Work::Append { connection, first, events }),
            Output::Taking { id, subscriber, topic, mark, nth } => {
                self.note_taking((connection, id), (subscriber, topic), mark, nth);
            }
            Output::SaveCursor { id, subscriber, topic, cursor, urgent } => {
                self.queue_work(Work::Save { connection, id, subscriber, topic, cursor, urgent });
            }
            Output::Requested { id, request } => {
                let (pause, result) = self.asked(&request);
                self.queue.after(pause, Due::Serve(connection, Input::Reply(Reply::Respond { id, result })));
            }
            Output::RequestDone { ticket, result } => self.ask_done(ticket, &result),
            Output::Close(close) => {
                self.write_down(connection, codec::encode_close(&close));
                self.end_connection(connection);
            }
        }
    }

    /// Notes what a reader names, and answers before anything else is carried out.
    fn note_taking(
        &mut self,
        (connection, id): (ConnectionId, SubscriptionId),
        (subscriber, topic): (SubscriberName, TopicName),
        mark: DeliveredThrough,
        nth: Option<Nth>,
    ) {
        let now = self.queue.now();
        let Some(server) = &mut self.server else { return };
        let is_owner = server.owners.is_owner(connection, id);
        let Some(found) = server.connections.get_mut(&connection) else { return };
        if let Some(instance) = found.instance.filter(|_| is_owner) {
            server.marks.raise(subscriber, topic, instance, mark);
        }
        match nth {
            _ if !is_owner => found.session.handle(Input::Reply(Reply::NotOwner { id }), now),
            Some(nth) => found.session.handle(Input::Reply(Reply::Taken { id, nth }), now),
            None => {}
        }
    }

    fn ask(&mut self, connection: ConnectionId, ask: Ask) {
        let delay = self.small_delay();
        self.queue.after(delay, Due::Answer(connection, ask));
    }

    fn write_down(&mut self, connection: ConnectionId, message: bytes::Bytes) {
        if let Some(found) = self.connection(connection) {
            found.wrote = true;
        }
        self.send(connection, Way::Down, message);
    }

    fn claim(&mut self, claim: Claim) {
        let (connection, id) = (claim.connection, claim.subscription);
        let Some(server) = &mut self.server else { return };
        if let Some(found) = server.connections.get_mut(&connection) {
            found.claims.insert(id, (claim.subscriber.clone(), claim.topic.clone()));
        }
        let (granted, displaced) = match server.owners.claim(claim) {
            ClaimOutcome::Granted { displaced } => (true, displaced),
            ClaimOutcome::Waiting { displaced } => (false, displaced),
        };
        if granted {
            self.grant(connection, id);
        }
        for gone in displaced {
            self.displace(gone);
        }
    }

    fn displace(&mut self, gone: Displaced) {
        if self.plan.mutant == Some(Mutant::NoFencing) {
            return;
        }
        let input = match gone.how {
            Displacement::TakenOver => Input::Reply(Reply::TakenOver { id: gone.subscription }),
            Displacement::SameInstance => {
                let reason = CloseCode::SUPERSEDED.description().to_owned();
                Input::Displaced(Close::new(CloseCode::SUPERSEDED, reason, RetryAdvice::Never))
            }
        };
        let delay = self.small_delay();
        self.queue.after(delay, Due::Serve(gone.connection, input));
    }

    fn promote(&mut self, promoted: impl IntoIterator<Item = Promoted>) {
        for next in promoted {
            self.grant(next.connection, next.subscription);
        }
    }

    fn grant(&mut self, connection: ConnectionId, id: SubscriptionId) {
        let claim = self.connection(connection).and_then(|found| found.claims.get(&id).cloned());
        if let Some((subscriber, topic)) = claim {
            self.record(Entry::Owned { subscriber, topic, connection: connection.0 });
        }
        let delay = self.small_delay();
        self.queue.after(delay, Due::Serve(connection, Input::Reply(Reply::Claimed { id })));
    }

    /// The server is done with a connection: nothing of it stays.
    fn end_connection(&mut self, connection: ConnectionId) {
        let Some(server) = &mut self.server else { return };
        server.connections.remove(&connection);
        server.publishers.release(connection);
        server.watchers.remove_connection(connection);
        let promoted = server.owners.release_all(connection);
        self.promote(promoted);
        self.end_way(connection, Way::Down);
    }

    /// The log is tended, at odd times.
    pub(crate) fn tend(&mut self, opening: Opening) {
        let (wall, now) = (self.wall(), self.monotonic());
        let pause = Duration::from_millis(self.rng.between(5, 200));
        let unsynced = self.is_unsynced();
        let Some(server) = self.server.as_ref().filter(|server| server.opening == opening) else { return };
        let mut pause = pause;
        if !unsynced {
            match server.log.maintain(wall, now) {
                Ok(Maintenance::Idle) => {}
                Ok(Maintenance::More) => pause /= 20,
                Err(error) if error.is_retryable() => {}
                Err(error) => return self.log_failed("maintenance", &error),
            }
        }
        self.record_floors();
        self.queue.after(pause, Due::Tend(opening));
    }

    fn connection(&mut self, connection: ConnectionId) -> Option<&mut Connection> {
        self.server.as_mut()?.connections.get_mut(&connection)
    }

    fn small_delay(&mut self) -> Duration {
        if self.rng.chance(300) {
            return Duration::ZERO;
        }
        let most = *self.rng.pick(&[200, 2_000, 20_000]);
        Duration::from_micros(self.rng.between(0, most))
    }
}

/// A refusal of so many emits.
pub(crate) fn refused(first: EmitNumber, count: usize, code: RefusalCode) -> EmitRun {
    EmitRun { first, count: u32::try_from(count).unwrap_or(u32::MAX), fate: EmitFate::Refused(code) }
}
