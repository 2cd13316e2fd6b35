//! One connected socket at its connection: reads its row as the client takes it, keeps its stored session, pairs answers,
//! runs the app's handlers in order. Decides nothing about who may what.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redeliver_protocol::time::Timestamp;
use redeliver_server::{Feed, FeedError, FeedEvent, FeedItem, NewEvent, Position, Registration, Seq, TopicName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::acks::{AckWindow, Again, Answer, Asked, Due};
use crate::args::Args;
use crate::clock::wall_clock;
use crate::config::{ROW_BYTES_MAX, ROW_EVENTS_MAX};
use crate::connection::jobs::{Job, Jobs};
use crate::connection::tell;
use crate::engine::EngineConnection;
use crate::error::RoomError;
use crate::frames::Form;
use crate::namespace::Claim;
use crate::offset::Offset;
use crate::packet::{self, AckId};
use crate::rooms::Enveloped;
use crate::socket::{Command, DisconnectReason, Done, Incoming, Socket};

/// A connected socket.
pub(crate) struct Live {
    pub(crate) socket: Socket,
    commands: mpsc::UnboundedReceiver<Command>,
    feed: Feed,
    /// A row that was read before the socket was connected.
    backlog: Option<Vec<FeedItem>>,
    /// Whether events go out with offsets.
    offsets: bool,
    /// In ack mode, what is not answered.
    window: Option<AckWindow>,
    asked: Asked,
    jobs: Jobs,
    /// Up to where everything was handed to the engine.
    given: Offset,
    /// The offset of the last event that was handed to the engine, or where it all began: unlike `given`, also in the middle
    /// of a row.
    told: Offset,
    /// What was given before each ping that is not answered.
    pings: VecDeque<(u64, Offset)>,
    saver: Option<Saver>,
    /// Its place among the server's connections, which is kept until its last write.
    registration: Registration,
}

/// What a live socket is made of.
pub(crate) struct Parts {
    pub(crate) socket: Socket,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) feed: Feed,
    pub(crate) backlog: Option<Vec<FeedItem>>,
    pub(crate) offsets: bool,
    pub(crate) window: Option<AckWindow>,
    pub(crate) given: Offset,
    pub(crate) claim: Option<Claim>,
    /// Whether the session has changed since it was stored.
    pub(crate) is_changed: bool,
    pub(crate) registration: Registration,
}

/// Keeps the stored session: one write at a time, and only when something has changed.
struct Saver {
    claim: Claim,
    writing: Option<(BoxFuture<'static, bool>, Vec<Done>)>,
    /// Who waits for the next write.
    waiting: Vec<Done>,
    is_changed: bool,
    /// Whether the client was given an event since its place was stored.
    has_given: bool,
    saved: Timestamp,
}

/// What a live socket waits for.
pub(crate) enum Wake {
    Command(Option<Command>),
    Row(Result<Vec<FeedItem>, FeedError>),
    JobDone,
    Saved(bool),
    AckDue,
    /// The server sends it away.
    SentAway,
}

/// How a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It goes on.
    No,
    /// Only it.
    Socket(DisconnectReason),
    /// And the connection.
    Connection(DisconnectReason),
}

impl Live {
    pub(crate) fn new(parts: Parts) -> Live {
        let Parts { socket, commands, feed, backlog, offsets, window, given, claim, is_changed, registration } = parts;
        let saved = socket.session().lock().saved();
        let saver =
            claim.map(|claim| Saver { claim, writing: None, waiting: Vec::new(), is_changed, has_given: false, saved });
        let mut jobs = Jobs::default();
        let handlers = socket.core().connection_handlers.read().clone();
        if !handlers.is_empty() {
            jobs.push(Job::Connection(socket.clone(), handlers));
        }
        let (asked, pings) = (Asked::default(), VecDeque::new());
        Live {
            socket,
            commands,
            feed,
            backlog,
            offsets,
            window,
            asked,
            jobs,
            given,
            told: given,
            pings,
            saver,
            registration,
        }
    }

    /// What the client is told when it is connected.
    pub(crate) fn connect_answer(&self) -> String {
        let session = self.socket.session().lock();
        // Both are hex.
        match &self.saver {
            Some(_) => format!(r#"{{"sid":"{}","pid":"{}"}}"#, session.sid, session.pid),
            None => format!(r#"{{"sid":"{}"}}"#, session.sid),
        }
    }

    /// Waits for what comes next. Cancel safe.
    pub(crate) async fn next(&mut self, is_drained: bool) -> Wake {
        if is_drained {
            // Not before, so that the answers of a client that does not read are bounded.
            self.jobs.start();
            if let Some(backlog) = self.backlog.take() {
                return Wake::Row(Ok(backlog));
            }
        }
        let due = self.window.as_ref().and_then(AckWindow::due);
        let room = self.window.as_ref().map_or(ROW_EVENTS_MAX, |window| window.room().min(ROW_EVENTS_MAX));
        let ack_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => Wake::Command(command),
            stored = Saver::written(&mut self.saver) => Wake::Saved(stored),
            () = self.jobs.done() => Wake::JobDone,
            () = ack_due, if is_drained => Wake::AckDue,
            _ = self.registration.ended() => Wake::SentAway,
            row = self.feed.next(room, ROW_BYTES_MAX), if is_drained && room > 0 => Wake::Row(row),
        }
    }

    /// Does what there is to do.
    pub(crate) fn handle(&mut self, wake: Wake, engine: &mut EngineConnection) -> Leaving {
        match wake {
            Wake::Command(Some(command)) => return self.command(command, engine),
            // The socket itself holds a sender.
            Wake::Command(None) | Wake::JobDone => {}
            Wake::Row(Ok(row)) => self.give(row, engine),
            Wake::Row(Err(FeedError::Ended(_)) | Err(_)) => {
                return Leaving::Connection(DisconnectReason::ServerShuttingDown);
            }
            Wake::Saved(stored) => {
                if let Some(saver) = &mut self.saver {
                    saver.finish(stored);
                }
            }
            Wake::AckDue => self.resend(engine),
            Wake::SentAway => return Leaving::Connection(self.sent_away()),
        }
        self.save_if_changed();
        Leaving::No
    }

    fn sent_away(&self) -> DisconnectReason {
        let is_over = !self.socket.core().server.is_ready();
        if is_over { DisconnectReason::ServerShuttingDown } else { DisconnectReason::ForcedServerClose }
    }

    /// The client has emitted an event.
    pub(crate) fn event(&mut self, id: Option<AckId>, name: String, args: Args) {
        let ack = id.map(|id| self.socket.ack(id));
        self.jobs.push(Job::Event(Incoming { socket: self.socket.clone(), name, args, ack }));
    }

    /// How many events wait for the app.
    pub(crate) fn waiting_events(&self) -> usize {
        self.jobs.waiting()
    }

    /// The client has answered.
    pub(crate) fn answered(&mut self, id: AckId, args: Args) {
        if let Some(seq) = self.asked.answered(id) {
            let answer = Answer { sid: self.socket.id().to_owned(), args };
            self.socket.core().collectors.answer(seq, answer);
        }
        if let Some(window) = &mut self.window
            && window.answer(id)
        {
            let cursor = window.cursor();
            self.confirm(cursor);
        }
    }

    /// A ping went out behind everything that was given.
    pub(crate) fn pinged(&mut self, ping: u64) {
        if self.backlog.is_none() {
            // A socket that gets few events would else fall behind what is retained.
            self.given.position = self.feed.refresh();
            if let Some(window) = &mut self.window {
                window.passed(self.given);
            }
        }
        self.pings.push_back((ping, self.given));
        if self.pings.len() > PINGS_MAX {
            self.pings.pop_front();
        }
    }

    /// A ping was answered: what was given before it has arrived.
    pub(crate) fn ponged(&mut self, ping: u64) {
        let mut arrived = None;
        while let Some((_, offset)) = self.pings.front().filter(|(number, _)| *number <= ping) {
            arrived = Some(*offset);
            self.pings.pop_front();
        }
        if let (None, Some(offset)) = (&self.window, arrived) {
            self.confirm(offset);
        }
        self.save_if_changed();
    }

    /// The socket is disconnected: what is left to do goes on without the connection.
    pub(crate) fn end(mut self, reason: DisconnectReason) {
        self.socket.set_gone();
        self.commands.close();
        let last = self.saver.take().map(|saver| saver.last(&self.socket, reason.is_recoverable()));
        self.jobs.push(Job::Disconnect(self.socket.clone(), reason));
        debug!(sid = self.socket.id(), %reason, "a socket is disconnected");
        let presence = self.socket.core().presence.enter();
        let Live { jobs, feed, registration, .. } = self;
        drop(feed);
        tokio::spawn(async move {
            if let Some(last) = last {
                last.await;
            }
            jobs.finish().await;
            drop((presence, registration));
        });
    }

    fn give(&mut self, row: Vec<FeedItem>, engine: &mut EngineConnection) {
        for item in row {
            match item {
                FeedItem::Event(event) => self.give_event(&event, engine),
                FeedItem::Gap { topic, gap } => {
                    let told = (topic.as_str(), gap.after.seq.0, gap.through.seq.0, gap.count, cause(&gap));
                    self.told = Offset::new(gap.through, self.given.turn);
                    let offset = self.offsets.then_some(self.told);
                    tell(&self.socket, engine, GAP, &told, offset);
                }
                FeedItem::Volatile(event) => self.give_volatile(&event.event, engine),
                _ => {}
            }
        }
        self.given.position = self.feed.place();
        if let Some(window) = &mut self.window {
            window.passed(self.given);
        }
    }

    fn give_event(&mut self, event: &FeedEvent, engine: &mut EngineConnection) {
        let seq = event.position.seq;
        let Some((envelope, turn)) = self.wanted(&event.topics, &event.except, Some(seq)) else { return };
        let frames = &self.socket.core().frames;
        let frame = if let Some(window) = &mut self.window {
            let id = if event.asks { self.asked.ask(seq) } else { self.asked.next_id() };
            let again = Again { event: event.clone(), envelope: envelope.clone() };
            window.send(Offset::new(event.position, turn), id, again, Instant::now());
            frames.asking(event, envelope.as_ref(), id)
        } else if event.asks {
            frames.asking(event, envelope.as_ref(), self.asked.ask(seq))
        } else {
            let form = match (envelope, self.offsets) {
                (Some(topic), offsets) => Form::Envelope { topic, turn: offsets.then_some(turn) },
                (None, true) => Form::WithOffset(turn),
                (None, false) => Form::Plain,
            };
            frames.shared(event, form)
        };
        engine.send_shared(frame);
        self.told = Offset::new(event.position, turn);
        if let Some(saver) = &mut self.saver {
            saver.has_given = true;
        }
    }

    /// By the rooms of now. With the offset of what was given before it, if it takes offsets: its own last argument may be a
    /// string, which the client would take for one.
    fn give_volatile(&mut self, event: &NewEvent, engine: &mut EngineConnection) {
        if self.wanted(&event.topics, &event.except, None).is_none() {
            return;
        }
        let args = Args::from_payload(event.kind, &event.payload);
        let offset = self.offsets.then_some(self.told);
        engine.send_shared(self.socket.core().frames.unlogged(event.name.as_str(), &args, offset));
    }

    /// Whether an event of these topics is this socket's, and how it comes: in an envelope that names its topic or not, in
    /// which turn. Without a seq, by the rooms of now.
    fn wanted(&self, topics: &[TopicName], except: &[TopicName], seq: Option<Seq>) -> Option<(Option<TopicName>, u32)> {
        let session = self.socket.session().lock();
        let rooms = &session.rooms;
        let was_in = |topic: &TopicName| seq.map_or_else(|| rooms.is_in(topic), |seq| rooms.was_in(topic, seq));
        if except.iter().any(was_in) {
            return None;
        }
        let mut by = topics.iter().filter_map(|topic| Some((topic, rooms.gives(topic, seq)?)));
        let (first, enveloped) = by.next()?;
        let is_plain = enveloped == Enveloped(false) || by.any(|(_, enveloped)| enveloped == Enveloped(false));
        Some(((!is_plain).then(|| first.clone()), rooms.turn()))
    }

    fn resend(&mut self, engine: &mut EngineConnection) {
        let now = Instant::now();
        while let Some(window) = &mut self.window
            && let Some(due) = window.take_due(now, || self.asked.next_id())
        {
            match due {
                Due::Resend(again, id) => {
                    let frames = &self.socket.core().frames;
                    engine.send_shared(frames.asking(&again.event, again.envelope.as_ref(), id));
                }
                Due::GivenUp(offset) => {
                    let cursor = window.cursor();
                    warn!(sid = self.socket.id(), seq = %offset.position.seq, "an event was never answered");
                    tell(&self.socket, engine, UNANSWERED, &(offset.position.seq.0,), None);
                    self.confirm(cursor);
                }
            }
        }
    }

    fn command(&mut self, command: Command, engine: &mut EngineConnection) -> Leaving {
        match command {
            Command::Join { topic, envelope, history, done } => {
                let joined = self.join(&topic, envelope, history);
                self.changed(joined, done);
            }
            Command::Leave { topic, done } => {
                let head = self.socket.core().server.head().seq;
                let was_in = self.socket.session().lock().rooms.leave(&topic, head);
                if was_in {
                    self.feed.unfollow_after(&topic, head);
                }
                self.changed(Ok(was_in), done);
            }
            Command::Save { done } => self.changed(Ok(true), done),
            Command::Answer { id, args } => engine.send_shared(self.socket.core().frames.ack(id, &args)),
            Command::Fence => return Leaving::Socket(DisconnectReason::ForcedServerClose),
            Command::Disconnect { whole } => {
                engine.send_text(packet::encode_disconnect(&self.socket.core().name));
                let reason = DisconnectReason::ServerNamespaceDisconnect;
                return if whole { Leaving::Connection(reason) } else { Leaving::Socket(reason) };
            }
        }
        self.registration.follows(self.socket.session().lock().rooms.current().count() as u64);
        self.save_if_changed();
        Leaving::No
    }

    fn join(&mut self, topic: &TopicName, envelope: bool, history: Option<Position>) -> Result<bool, RoomError> {
        let server = &self.socket.core().server;
        let head = server.head().seq;
        let mut session = self.socket.session().lock();
        if let Some(from) = history.filter(|from| from.seq < self.feed.place().seq) {
            session.rooms.turn_back(topic, from.seq, envelope, self.feed.place().seq)?;
            self.feed = server.feed(from);
            follow(&mut self.feed, &session);
            self.given = Offset::new(from, session.rooms.turn());
            self.told = self.given;
            return Ok(true);
        }
        let after = history.map_or(head, |from| from.seq);
        let is_new = session.rooms.join(topic, after, envelope)?;
        if is_new {
            self.feed.follow(topic.clone(), after, None);
        }
        Ok(is_new)
    }

    /// The session has changed, or was to: answers when it is stored.
    fn changed(&mut self, changed: Result<bool, RoomError>, done: Done) {
        match (changed, &mut self.saver) {
            (Ok(true), Some(saver)) => {
                saver.is_changed = true;
                saver.waiting.push(done);
            }
            // What was so before may not be stored yet: behind it then.
            (Ok(false), Some(saver)) if saver.is_changed => saver.waiting.push(done),
            (Ok(false), Some(Saver { writing: Some((_, waiting)), .. })) => waiting.push(done),
            (Ok(_), _) => answer(vec![done], Ok(())),
            (Err(error), _) => answer(vec![done], Err(error)),
        }
    }

    fn confirm(&mut self, offset: Offset) {
        let Some(saver) = &mut self.saver else { return };
        let has_moved = self.socket.session().lock().confirm(offset);
        // The place of a client that gets nothing moves with the log, which need not be stored each time: between the stored
        // place and this one, nothing is the client's.
        if has_moved && (saver.has_given || saver.is_old(&self.socket)) {
            saver.has_given = false;
            saver.is_changed = true;
        }
    }

    fn save_if_changed(&mut self) {
        if let Some(saver) = &mut self.saver
            && saver.writing.is_none()
            && saver.is_changed
            && (!saver.waiting.is_empty() || wall_clock().0.saturating_sub(saver.saved.0) >= SAVE_PAUSE_MS)
        {
            saver.write(&self.socket);
        }
    }
}

impl Saver {
    fn write(&mut self, socket: &Socket) {
        let waiting = std::mem::take(&mut self.waiting);
        self.is_changed = false;
        self.saved = wall_clock();
        match socket.session().lock().encode(self.saved) {
            Ok(value) => {
                self.writing = Some((store(socket, self.claim.key.clone(), Some(value)).boxed(), waiting));
            }
            Err(error) => answer(waiting, Err(error)),
        }
    }

    /// Whether it was stored so long ago that it might soon be taken for one that nobody uses.
    fn is_old(&self, socket: &Socket) -> bool {
        let age = Duration::from_millis(wall_clock().0.saturating_sub(self.saved.0));
        age > socket.core().config.session_idle_max / 8
    }

    /// Waits for the write that is under way; for ever if there is none. Cancel safe.
    async fn written(saver: &mut Option<Saver>) -> bool {
        match saver.as_mut().and_then(|saver| saver.writing.as_mut()) {
            Some((writing, _)) => writing.await,
            None => std::future::pending().await,
        }
    }

    fn finish(&mut self, stored: bool) {
        if let Some((_, waiting)) = self.writing.take() {
            let result = if stored { Ok(()) } else { Err(RoomError::NotStored) };
            answer(waiting, result);
        }
        // Tried again with the next change.
        self.is_changed |= !stored;
    }

    /// The last write, behind the one under way: what is known now, or that there is nothing any more. Holds the claim until
    /// it is done.
    fn last(mut self, socket: &Socket, is_kept: bool) -> BoxFuture<'static, ()> {
        let value = if is_kept { socket.session().lock().encode(wall_clock()).ok() } else { None };
        // An old one is written anew also if nothing has changed, so that it is not taken for one that nobody uses.
        let is_due = !is_kept || self.is_changed || self.is_old(socket);
        let socket = socket.clone();
        async move {
            if let Some((writing, waiting)) = self.writing.take() {
                let result = if writing.await { Ok(()) } else { Err(RoomError::NotStored) };
                answer(waiting, result);
            }
            if is_due {
                let stored = store(&socket, self.claim.key.clone(), value).await;
                let result = if stored { Ok(()) } else { Err(RoomError::NotStored) };
                answer(self.waiting, result);
            }
            drop(self.claim);
        }
        .boxed()
    }
}

/// Tells who waited. Whoever does not wait any more is not told.
fn answer(waiting: Vec<Done>, result: Result<(), RoomError>) {
    for done in waiting {
        let _ = done.send(result);
    }
}

/// Lets a feed follow what a session wants.
pub(crate) fn follow(feed: &mut Feed, session: &crate::recovery::Session) {
    for follow in session.rooms.follows() {
        feed.follow(follow.topic, follow.after, follow.until);
    }
}

/// Stores a session, or removes it. Returns whether that is durable.
pub(crate) fn store(socket: &Socket, key: Bytes, value: Option<Bytes>) -> impl Future<Output = bool> + Send + use<> {
    let server = socket.core().server.clone();
    async move {
        let stored = server.save_state(key, value).await;
        if let Err(error) = &stored {
            warn!(%error, "a socket could not be stored");
        }
        stored.is_ok()
    }
}

fn cause(gap: &redeliver_server::Gap) -> &'static str {
    use redeliver_server::GapCause;
    match gap.cause {
        GapCause::RetentionAge => "retention_age",
        GapCause::RetentionSize => "retention_size",
        GapCause::Purged => "purged",
        GapCause::LogDamaged => "log_damaged",
        GapCause::EpochChanged => "epoch_changed",
        _ => "other",
    }
}

/// Tells a client that events of a topic are gone.
const GAP: &str = "redeliver:gap";

/// Tells a client in ack mode that it never answered an event, which now counts as handled.
const UNANSWERED: &str = "redeliver:unanswered";

/// Pings that are not answered: the engine gives up a client long before.
const PINGS_MAX: usize = 8;

/// How long a change for which nobody waits stays unwritten, at most until the next one.
const SAVE_PAUSE_MS: u64 = 1000;
