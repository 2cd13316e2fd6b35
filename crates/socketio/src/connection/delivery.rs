//! What one socket is given: reads the merged row of its topics as the client takes it, hands events to the engine, and
//! knows which of them have arrived. Never stores anything.

use std::collections::VecDeque;

use redeliver_server::{Feed, FeedError, FeedEvent, FeedItem, GapCause, GapRange, NewEvent, Position, Seq, TopicName};
use tokio::time::Instant;

use crate::acks::{AckWindow, Again, Asked, Due};
use crate::args::{Args, IntoArgs};
use crate::config::{ROW_BYTES_MAX, ROW_EVENTS_MAX};
use crate::engine::EngineConnection;
use crate::error::ChangeError;
use crate::frames::Form;
use crate::offset::Offset;
use crate::packet::AckId;
use crate::recovery::{SocketSession, most_missing};
use crate::refusals::RefusalLog;
use crate::rooms::Enveloped;
use crate::socket::Socket;

/// The way of events to one socket.
pub(super) struct EventDelivery {
    socket: Socket,
    feed: Feed,
    /// A row that was read before the socket was connected.
    backlog: Option<Vec<FeedItem>>,
    /// Whether events go out with offsets.
    offsets: bool,
    /// In ack mode, what is not answered.
    window: Option<AckWindow>,
    asked: Asked,
    /// Up to where everything was handed to the engine.
    given: Offset,
    /// The offset of the last event that was handed to the engine, or where it all began: unlike `given`, also in the
    /// middle of a row.
    told: Offset,
    /// What was given before each ping that is not answered.
    pings: VecDeque<(u64, Offset)>,
}

/// Where a socket's events come from when it begins.
pub(super) struct Source {
    pub(super) feed: Feed,
    pub(super) backlog: Option<Vec<FeedItem>>,
    /// Up to where everything was given before.
    pub(super) given: Offset,
}

/// What a delivery waits for.
pub(super) enum DeliveryWake {
    /// The next row of its topics.
    Row(Result<Vec<FeedItem>, FeedError>),
    /// An event was not answered in time.
    AckDue,
}

impl EventDelivery {
    pub(super) fn new(socket: Socket, source: Source, offsets: bool, window: Option<AckWindow>) -> EventDelivery {
        let Source { feed, backlog, given } = source;
        let (asked, pings) = (Asked::default(), VecDeque::new());
        EventDelivery { socket, feed, backlog, offsets, window, asked, given, told: given, pings }
    }

    /// What was read before the socket was connected, once.
    pub(super) fn take_backlog(&mut self) -> Option<Vec<FeedItem>> {
        self.backlog.take()
    }

    /// Waits for the next row, or until an event is to be sent again. Cancel safe.
    pub(super) async fn next(&mut self) -> DeliveryWake {
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
            () = ack_due => DeliveryWake::AckDue,
            row = self.feed.next(room, ROW_BYTES_MAX), if room > 0 => DeliveryWake::Row(row),
        }
    }

    /// Hands a row to the engine. Returns whether the client was given an event of the log.
    pub(super) fn give(&mut self, row: Vec<FeedItem>, engine: &mut EngineConnection) -> bool {
        let mut has_given = false;
        for item in row {
            match item {
                FeedItem::Event(event) => has_given |= self.give_event(&event, engine),
                FeedItem::Gap { topic, gap } => self.give_gap(&topic, &gap, engine),
                FeedItem::Volatile(event) => self.give_volatile(&event.event, engine),
                _ => {}
            }
        }
        self.given.position = self.feed.place();
        if let Some(window) = &mut self.window {
            window.passed(self.given);
        }
        has_given
    }

    fn give_event(&mut self, event: &FeedEvent, engine: &mut EngineConnection) -> bool {
        let seq = event.position.seq;
        let Some((envelope, turn)) = self.wanted(&event.topics, &event.except, Some(seq)) else { return false };
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
        true
    }

    fn give_gap(&mut self, topic: &TopicName, gap: &GapRange, engine: &mut EngineConnection) {
        let told = (topic.as_str(), gap.after.seq.0, gap.through.seq.0, most_missing(gap), cause_word(gap.cause));
        self.told = Offset::new(gap.through, self.given.turn);
        let offset = self.offsets.then_some(self.told);
        self.tell(GAP, told, offset, engine);
    }

    /// By the rooms of now. With the offset of what was given before it, if the client takes offsets: the event's own
    /// last argument may be a string, which the client would take for one.
    fn give_volatile(&mut self, event: &NewEvent, engine: &mut EngineConnection) {
        if self.wanted(&event.topics, &event.except, None).is_none() {
            return;
        }
        let args = Args::from_payload(event.kind, &event.payload);
        let offset = self.offsets.then_some(self.told);
        engine.send_shared(self.socket.core().frames.unlogged(event.name.as_str(), &args, offset));
    }

    /// Whether an event of these topics is this socket's, and how it comes: in an envelope that names its topic or not,
    /// in which turn. Without a seq, by the rooms of now.
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

    /// Sends again what was not answered in time. Returns up to where everything is handled, if that has moved.
    pub(super) fn resend(&mut self, engine: &mut EngineConnection) -> Option<Offset> {
        let now = Instant::now();
        let mut handled = None;
        while let Some(window) = &mut self.window
            && let Some(due) = window.take_due(now, || self.asked.next_id())
        {
            match due {
                Due::Resend(again, id) => {
                    let frames = &self.socket.core().frames;
                    engine.send_shared(frames.asking(&again.event, again.envelope.as_ref(), id));
                }
                Due::GivenUp(offset) => {
                    handled = Some(window.cursor());
                    let (socket, event) = (&self.socket, format!("seq {}", offset.position.seq));
                    let remedy = "it counts as handled; the client in ack mode is to answer every event";
                    UNANSWERED_LOG.refused("an event was never answered", socket.handshake().peer, &event, remedy);
                    self.tell(UNANSWERED, (offset.position.seq.0,), None, engine);
                }
            }
        }
        handled
    }

    /// Tells the client that another one has taken its place.
    pub(super) fn tell_replaced(&self, engine: &mut EngineConnection) {
        self.tell(REPLACED, (), None, engine);
    }

    /// Takes the socket out of a topic that it may follow no longer, and tells the client: nothing more of it is given.
    pub(super) fn revoke(&mut self, topic: &TopicName, engine: &mut EngineConnection) {
        self.socket.session().lock().rooms.remove(topic);
        self.feed.unfollow(topic);
        self.tell(REVOKED, (topic.as_str(), "forbidden"), None, engine);
    }

    /// Tells the client which device it is, if it wants to be the same one after its page was loaded again.
    pub(super) fn tell_device(&self, device: &str, engine: &mut EngineConnection) {
        let offset = self.offsets.then_some(self.told);
        self.tell(DEVICE, (device,), offset, engine);
    }

    /// Tells the client something that is not in the log.
    fn tell(&self, name: &str, args: impl IntoArgs, offset: Option<Offset>, engine: &mut EngineConnection) {
        if let Ok(args) = args.into_args() {
            engine.send_shared(self.socket.core().frames.unlogged(name, &args, offset));
        }
    }

    /// Whether the client has been asked something that it has not answered.
    pub(super) fn is_asking(&self) -> bool {
        self.asked.is_open()
    }

    /// The client has answered. Returns which question of the app it answers, if it does.
    pub(super) fn answered(&mut self, id: AckId) -> Option<Seq> {
        self.asked.answered(id)
    }

    /// In ack mode, the client has handled an event. Returns up to where everything is handled, if the id was one of
    /// these.
    pub(super) fn acked(&mut self, id: AckId) -> Option<Offset> {
        let window = self.window.as_mut()?;
        window.answer(id).then(|| window.cursor())
    }

    /// A ping went out behind everything that was given.
    pub(super) fn pinged(&mut self, ping: u64) {
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

    /// A ping was answered. Returns up to where everything has arrived, if that is what counts.
    pub(super) fn ponged(&mut self, ping: u64) -> Option<Offset> {
        let mut arrived = None;
        while let Some((_, offset)) = self.pings.front().filter(|(number, _)| *number <= ping) {
            arrived = Some(*offset);
            self.pings.pop_front();
        }
        arrived.filter(|_| self.window.is_none())
    }

    /// Joins a topic; with `history`, from there on, else from now on. Returns whether that is news.
    pub(super) fn join(
        &mut self,
        topic: &TopicName,
        envelope: bool,
        history: Option<Position>,
    ) -> Result<bool, ChangeError> {
        let server = &self.socket.core().server;
        let head = server.head().seq;
        let mut session = self.socket.session().lock();
        if let Some(from) = history.filter(|from| from.seq < self.feed.place().seq) {
            if session.rooms.gives_after(topic, from.seq, envelope) {
                return Ok(false);
            }
            // What was read before the socket was connected may not be given yet: then it is read again.
            let given = if self.backlog.take().is_some() { self.given.position } else { self.feed.place() };
            session.rooms.turn_back(topic, from.seq, envelope, given.seq)?;
            let from = if given.seq < from.seq { given } else { from };
            self.feed = self.socket.core().gateway.feed(from);
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

    /// Leaves a topic: what comes from now on is not given. Returns whether the socket was in it.
    pub(super) fn leave(&mut self, topic: &TopicName) -> bool {
        let head = self.socket.core().server.head().seq;
        let was_in = self.socket.session().lock().rooms.leave(topic, head);
        if was_in {
            self.feed.unfollow_after(topic, head);
        }
        was_in
    }
}

/// Lets a feed follow what a session wants.
pub(super) fn follow(feed: &mut Feed, session: &SocketSession) {
    for follow in session.rooms.follows() {
        feed.follow(follow.topic, follow.after, follow.until);
    }
}

fn cause_word(cause: GapCause) -> &'static str {
    match cause {
        GapCause::RetentionAge => "retention_age",
        GapCause::RetentionSize => "retention_size",
        GapCause::Purged => "purged",
        GapCause::LogDamaged => "log_damaged",
        GapCause::EpochChanged => "epoch_changed",
        _ => "other",
    }
}

/// Tells a client that another one has taken its place: it is disconnected next.
const REPLACED: &str = "redeliver:replaced";

/// Tells a client that it may follow a topic no longer: the topic, and a code as in the answers of the built-in events.
const REVOKED: &str = "redeliver:revoked";

/// Tells a client of a subscriber that it was not alone, and under which name it has a place of its own.
const DEVICE: &str = "redeliver:device";

/// Tells a client that events of a topic are gone.
const GAP: &str = "redeliver:gap";

/// Tells a client in ack mode that it never answered an event, which now counts as handled.
const UNANSWERED: &str = "redeliver:unanswered";

/// Pings that are not answered: the engine gives up a client long before.
const PINGS_MAX: usize = 8;

/// What clients do not answer, in the server's log: a line at the will of a client, so not many of them.
static UNANSWERED_LOG: RefusalLog = RefusalLog::new();
