//! The world of one seed: the clock, the links, the server and its store, the clients. It moves from one due thing to the
//! next; every draw comes from the seed, so that the same seed is the same world.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use redeliver_log::kv::faulty::Image;
use redeliver_protocol::client::Input as ClientInput;
use redeliver_protocol::seq::SubscriptionId;
use redeliver_protocol::server::{ConnectionId, Input as ServerInput};
use redeliver_protocol::time::{Instant, Timestamp};

use crate::client::Client;
use crate::faults::Fault;
use crate::history::{EmitKey, Entry, History, Opening, Origin, Process, Snapshot};
use crate::link::{Link, Packet, Way};
use crate::mutants::Mutant;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::server::{Ask, Server};

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Due {
    Arrive(ConnectionId, Way),
    ServerTick(ConnectionId),
    Serve(ConnectionId, ServerInput),
    Answer(ConnectionId, Ask),
    Drained(ConnectionId),
    StuckCheck(ConnectionId),
    Stage(Opening),
    Publish(Opening),
    Tend(Opening),
    StartServer,
    ServerGone(Opening),
    StartProcess(usize),
    ClientTick(Process),
    Connecting(Process, u64),
    Tell(Process, ClientInput),
    HandlerDone(Process, SubscriptionId),
    RowHandled(Process, SubscriptionId),
    StoreWritten(Process),
    Emit(Process),
    Aside(Process),
    Whim(Process),
    Fault,
    FailSync,
    SetClock,
    Heal(Fault),
}

/// One simulated world.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: Rng,
    pub(crate) queue: crate::queue::Queue<Due>,
    pub(crate) history: History,
    pub(crate) links: BTreeMap<ConnectionId, Link>,
    pub(crate) ends: BTreeMap<ConnectionId, Process>,
    pub(crate) server: Option<Server>,
    pub(crate) disk: Disk,
    pub(crate) clients: Vec<Client>,
    pub(crate) given: Given,
    /// Draws what is not logged, so that it changes nothing of the rest but its course.
    pub(crate) aside_rng: Rng,
    /// Draws rewinds and clocks, for the same reason.
    pub(crate) extra_rng: Rng,
    /// Between which clients and the server nothing goes.
    pub(crate) parted: Vec<usize>,
    pub(crate) wall_offset_millis: i64,
    pub(crate) calm: bool,
    /// What can never be: the simulation stops at it.
    pub(crate) failure: Option<String>,
    steps: u64,
}

/// What outlives the server's process.
#[derive(Debug)]
pub(crate) struct Disk {
    /// What the store durably holds while no server runs.
    pub(crate) store: Image,
    /// How the store came to be what the next server finds.
    pub(crate) origin: Origin,
    pub(crate) snapshots: Vec<(Snapshot, Image)>,
    /// Whether a sync of the running server is to fail.
    pub(crate) fails: bool,
}

/// The last numbers that were given to things of each kind. None is given twice.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) connections: u64,
    pub(crate) openings: u32,
    pub(crate) processes: u32,
    pub(crate) runs: u32,
    pub(crate) publishers: u32,
    pub(crate) asides: u64,
}

/// What came of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// What happened.
    pub history: History,
    /// What can never be and was: a session or the log refused to work.
    pub failure: Option<String>,
    /// How many things happened.
    pub steps: u64,
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    world.live();
    Outcome { history: world.history, failure: world.failure, steps: world.steps }
}

impl World {
    fn new(plan: Plan) -> World {
        let mut rng = Rng::new(plan.seed ^ 0x5EED_0F7E_57AB_1E00);
        let clients = plan.clients.iter().map(|plan| Client::new(plan.clone())).collect();
        World {
            rng: rng.fork(),
            queue: crate::queue::Queue::default(),
            history: History::default(),
            links: BTreeMap::new(),
            ends: BTreeMap::new(),
            server: None,
            disk: Disk { store: Image::default(), origin: Origin::Wiped, snapshots: Vec::new(), fails: false },
            clients,
            given: Given::default(),
            aside_rng: Rng::new(plan.seed ^ 0xA51D_E5A5_1DE5_0002),
            extra_rng: Rng::new(plan.seed ^ 0xE874_A5E8_74A5_0002),
            parted: Vec::new(),
            wall_offset_millis: 0,
            calm: false,
            failure: None,
            steps: 0,
            plan,
        }
    }

    fn live(&mut self) {
        self.record(Entry::Configured(self.plan.kept));
        self.start_server();
        for client in 0..self.clients.len() {
            let delay = Duration::from_millis(self.rng.between(0, 3_000));
            self.queue.after(delay, Due::StartProcess(client));
        }
        self.queue.after(self.plan.fault_pause, Due::Fault);
        if let Some(after) = self.plan.sync_failure {
            self.queue.after(after, Due::FailSync);
        }
        self.plan_clock();
        self.run_for(self.plan.load);
        self.settle();
        self.say_goodbye();
    }

    /// Faults and emits end. Everyone has thirty seconds, and as long as it moves on.
    fn settle(&mut self) {
        self.calm = true;
        self.heal_all();
        self.record(Entry::Calm);
        let begin = self.queue.now();
        loop {
            self.run_for(Duration::from_millis(500));
            let entries = self.history.entries.iter().rev();
            let last = entries
                .into_iter()
                .find(|(_, e)| matches!(e, Entry::Delivered { .. } | Entry::RowDelivered { .. } | Entry::Committed(_)));
            let now = self.queue.now();
            let moves = last.is_some_and(|(at, _)| now.since(*at) < Duration::from_secs(3));
            let over = now.since(begin) >= Duration::from_secs(if moves { 200 } else { 30 });
            if self.failure.is_some() || self.is_settled() || over {
                break;
            }
        }
        if let Some(age) = self.plan.kept.age_micros.filter(|_| self.plan.extras.waits_for_age) {
            self.run_for(Duration::from_micros(age) + AGE_IS_LATE);
        }
        self.record_floors();
        let processes =
            self.clients.iter().filter_map(|client| client.process.as_ref().map(|process| process.id)).collect();
        let runs = self.live_runs();
        self.record(Entry::Settled { runs, processes });
        let (head, dump) = self.dump();
        self.record(Entry::Dumped { head, dump });
    }

    fn say_goodbye(&mut self) {
        self.record(Entry::Shutdown);
        let processes: Vec<Process> = self.living();
        for process in processes {
            self.tell(process, ClientInput::Shutdown);
        }
        for _ in 0..20 {
            self.run_for(Duration::from_millis(500));
            if self.living().is_empty() && self.hub_is_empty() {
                break;
            }
        }
        let mut left: Vec<String> = self.living().iter().map(|process| format!("{process:?}")).collect();
        if !self.hub_is_empty() {
            left.push("the hub, which is not empty".to_owned());
        }
        self.record(Entry::Leftover(left));
        // What was published is there for the next process, too.
        self.crash_server();
        self.start_server();
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.queue.now() + duration;
        while self.failure.is_none() {
            let Some(due) = self.queue.pop_until(end) else { break };
            self.steps += 1;
            if self.steps > STEPS_MAX {
                self.fail(format!("nothing comes to rest after {STEPS_MAX} steps, now: {due:?}"));
                return;
            }
            self.step(due);
        }
        // The clock goes on even if nothing happens.
        if self.failure.is_none() {
            self.queue.advance(end);
        }
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::Arrive(connection, way) => self.arrive(connection, way),
            Due::ServerTick(connection) => self.server_tick(connection),
            Due::Serve(connection, input) => self.serve(connection, input),
            Due::Answer(connection, ask) => self.answer(connection, ask),
            Due::Drained(connection) => self.drained(connection),
            Due::StuckCheck(connection) => self.stuck_check(connection),
            Due::Stage(opening) => self.stage(opening),
            Due::Publish(opening) => self.publish(opening),
            Due::Tend(opening) => self.tend(opening),
            Due::StartServer => self.start_server(),
            Due::ServerGone(opening) => self.server_gone(opening),
            Due::StartProcess(client) => self.start_process(client),
            Due::ClientTick(process) => self.client_tick(process),
            Due::Connecting(process, attempt) => self.connecting(process, attempt),
            Due::Tell(process, input) => self.tell(process, input),
            Due::HandlerDone(process, id) => self.handler_done(process, id),
            Due::RowHandled(process, id) => self.row_handled(process, id),
            Due::FailSync => self.fail_next_sync(),
            Due::SetClock => self.set_clock(),
            Due::StoreWritten(process) => self.store_written(process),
            Due::Emit(process) => self.emit(process),
            Due::Aside(process) => self.aside(process),
            Due::Whim(process) => self.whim(process),
            Due::Fault => self.make_fault(),
            Due::Heal(fault) => self.heal(fault),
        }
    }

    fn arrive(&mut self, connection: ConnectionId, way: Way) {
        let now = self.queue.now();
        let Some(link) = self.links.get_mut(&connection) else { return };
        let (packet, again) = link.pipe(way).arrive(now);
        if let Some(again) = again {
            self.queue.at(again, Due::Arrive(connection, way));
        }
        match (packet, way) {
            (None, _) => {}
            (Some(Packet::Message(_)), Way::Up) => self.pump(connection),
            (Some(Packet::End), Way::Up) => self.server_sees_end(connection),
            (Some(Packet::Message(_)), Way::Down) => {
                if let (Some(message), Some(process)) = (self.take_message(connection, way), self.reader_of(connection))
                {
                    self.tell(process, ClientInput::Message(message));
                }
            }
            (Some(Packet::End), Way::Down) => self.client_sees_end(connection),
        }
    }

    /// Takes the next message that has arrived.
    pub(crate) fn take_message(&mut self, connection: ConnectionId, way: Way) -> Option<Bytes> {
        let now = self.queue.now();
        let (message, arrivals) = self.links.get_mut(&connection)?.pipe(way).take(&mut self.rng, now)?;
        self.plan_arrivals(connection, way, arrivals);
        if way == Way::Down {
            self.room_again(connection);
        }
        Some(message)
    }

    pub(crate) fn send(&mut self, connection: ConnectionId, way: Way, message: Bytes) {
        let now = self.queue.now();
        let Some(link) = self.links.get_mut(&connection) else { return };
        let arrivals = link.pipe(way).send(message, &mut self.rng, now);
        self.plan_arrivals(connection, way, arrivals);
    }

    pub(crate) fn end_way(&mut self, connection: ConnectionId, way: Way) {
        let now = self.queue.now();
        let Some(link) = self.links.get_mut(&connection) else { return };
        let arrivals = link.pipe(way).end(&mut self.rng, now);
        self.plan_arrivals(connection, way, arrivals);
    }

    /// Cuts a link. Each side notices at its own time, or never.
    pub(crate) fn cut_link(&mut self, connection: ConnectionId, client: Option<Duration>, server: Option<Duration>) {
        let now = self.queue.now();
        let Some(link) = self.links.get_mut(&connection) else { return };
        let up = link.up.cut(server, &mut self.rng, now);
        let down = link.down.cut(client, &mut self.rng, now);
        self.plan_arrivals(connection, Way::Up, up);
        self.plan_arrivals(connection, Way::Down, down);
    }

    fn plan_arrivals(&mut self, connection: ConnectionId, way: Way, arrivals: Vec<Instant>) {
        for at in arrivals {
            self.queue.at(at, Due::Arrive(connection, way));
        }
    }

    /// The process at the client's end of a connection, if it still holds it.
    pub(crate) fn reader_of(&self, connection: ConnectionId) -> Option<Process> {
        let process = *self.ends.get(&connection)?;
        self.process(process).filter(|found| found.connection == Some(connection)).map(|found| found.id)
    }

    pub(crate) fn wall(&self) -> Timestamp {
        let millis = i64::try_from(self.queue.now().since_origin().as_millis()).unwrap_or(i64::MAX);
        let wall = WALL_BEGIN_MILLIS + self.wall_offset_millis + millis;
        Timestamp(u64::try_from(wall).unwrap_or(0))
    }

    /// What the server's monotonic clock says.
    pub(crate) fn monotonic(&self) -> Instant {
        let now = self.queue.now();
        let is_raw = self.plan.mutant == Some(Mutant::AgeByRawClock);
        now + Duration::from_millis(u64::try_from(self.wall_offset_millis).unwrap_or(0)) * u32::from(is_raw)
    }

    pub(crate) fn record(&mut self, entry: Entry) {
        self.history.push(self.queue.now(), entry);
    }

    pub(crate) fn fault(&mut self, words: String) {
        self.record(Entry::Fault(words));
    }

    pub(crate) fn fail(&mut self, words: String) {
        self.fault(format!("FAILURE: {words}"));
        self.failure.get_or_insert(words);
    }

    pub(crate) fn key_of(payload: &Bytes) -> Option<EmitKey> {
        Plan::key_of(payload)
    }
}

/// Everything that is older than its age by so much should be gone.
pub(crate) const AGE_IS_LATE: Duration = Duration::from_secs(6);

/// A world that does so much in its minute of virtual time is in a loop.
const STEPS_MAX: u64 = 400_000;

/// Some day in 2026.
pub(crate) const WALL_BEGIN_MILLIS: i64 = 1_790_000_000_000;
