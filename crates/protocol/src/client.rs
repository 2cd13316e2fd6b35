//! The client's end of the conversation: one [`ClientSession`] for a client's whole life, across its connections. A
//! machine without IO.
//!
//! The shell calls `handle` with what happened, drains `poll_output`, and gives [`Input::Tick`] when `poll_timeout` is
//! due. The session keeps the cursors, the inbox and the outbox, and decides when to connect.

mod acks;
mod connection;
mod emits;
mod fault;
mod inbox;
mod merged;
mod merged_place;
mod outbox;
mod outputs;
mod pace;
mod requests;
mod session;
mod subscription;
mod subscriptions;
mod wires;

use bytes::Bytes;

pub use self::session::{ClientSession, Identity};
use crate::cause::Cause;
use crate::error::{Close, RefusalCode};
use crate::event::{NewEvent, PayloadKind, Record};
use crate::frame::{ClientFrame, Hello, Ownership, Window};
use crate::history::{Cursor, Gap, Place, PlaceStep, Start};
use crate::name::{EventName, TopicName};
use crate::request::{Refusal, Request, RequestError, RequestTicket, Response};
use crate::seq::{EmitNumber, Epoch, Nth, Position, RequestId, Seq, SubscriptionId};
use crate::time::Timestamp;

/// The shell's own number for an emit, by which its receipt is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EmitTicket(pub u64);

/// A request of the server's: which one, on which of the client's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    connection: u64,
    id: RequestId,
}

/// What happens to a client session.
#[derive(Clone, Debug)]
pub enum Input {
    /// The app follows a topic.
    Subscribe {
        /// The shell's number for it, never used before in this client.
        id: SubscriptionId,
        /// What the app wants.
        request: SubscribeRequest,
    },
    /// The app follows several topics as one row: everything of theirs in the order of the log, each event once. With a
    /// server that lacks the feature the row ends with `Unsupported`.
    SubscribeMerged {
        /// The shell's number for the row, never used before in this client: it stands for the row in [`Input::Unsubscribe`],
        /// [`Output::AckConfirmed`], [`Output::Unsubscribed`], and in the deliveries that concern all of it
        /// (`Subscribed`, `CaughtUp`).
        id: SubscriptionId,
        /// What the app wants of each topic, each under a number of its own, never used before either: it stands for the
        /// topic in all other deliveries, in [`Input::Ack`], and where cursors are saved.
        members: Vec<(SubscriptionId, SubscribeRequest)>,
    },
    /// The app stops following. Acks before it are confirmed first; then [`Output::Unsubscribed`].
    Unsubscribe {
        /// The subscription.
        id: SubscriptionId,
    },
    /// The app has handled everything up to this event (or gap end); in a row, everything of all its topics that was
    /// handed over before it.
    Ack {
        /// The subscription.
        id: SubscriptionId,
        /// The handled position.
        position: Position,
        /// Its nth.
        nth: Nth,
    },
    /// The app asks for the next delivery of this subscription, and no more events and gaps are left for it than
    /// [`Output::AskAt`] said; before that, none. Only needed with
    /// [`Features::TAKING`](crate::features::Features::TAKING), and for durable subscriptions that are read alone.
    Wanted {
        /// The subscription.
        id: SubscriptionId,
        /// How many events and gaps the app has taken since the subscription was made. It is done with all of them.
        taken: u64,
    },
    /// The app emits an event.
    Emit {
        /// The shell's number for it.
        ticket: EmitTicket,
        /// The event.
        event: NewEvent,
    },
    /// The app gives an emit up. One that was never sent is forgotten ([`EmitOutcome::NotSent`]); any other goes on.
    CancelEmit {
        /// The emit.
        ticket: EmitTicket,
    },
    /// The app emits an event that is not logged: it goes to whoever is connected now, if this client is.
    EmitVolatile {
        /// The event.
        event: NewEvent,
    },
    /// The app asks the server's app. Answered by [`Output::RequestDone`].
    Request {
        /// The shell's number for it, never used before in this client.
        ticket: RequestTicket,
        /// What is asked.
        request: Request,
    },
    /// Nobody waits for this answer any more: no [`Output::RequestDone`] is due.
    CancelRequest {
        /// The request.
        ticket: RequestTicket,
    },
    /// The answer to [`Output::Requested`].
    Respond {
        /// Which request.
        key: RequestKey,
        /// What the app says.
        result: Result<Response, Refusal>,
    },
    /// The app is done: confirm acks and emits, say goodbye, then [`Output::Ended`].
    Shutdown,
    /// The connection that [`Output::Connect`] asked for stands.
    Connected,
    /// The credentials for the connection in the making, if they are asked for anew each time
    /// ([`ClientSession::renewing_credentials`]). Before [`Input::Connected`].
    Credentials(Bytes),
    /// It could not be made, or has ended.
    Disconnected(Cause),
    /// The server will never take this client (a refused upgrade, a bad certificate): ends it, in words.
    Rejected(Close),
    /// A whole binary message came from the server.
    Message(Bytes),
    /// The answer to [`Output::SaveCursor`]: this cursor, and all before it, is durable in the client's store.
    CursorSaved {
        /// The subscription.
        id: SubscriptionId,
        /// Its seq.
        seq: Seq,
    },
    /// The timeout is due.
    Tick,
}

/// What an app wants of a subscription.
#[derive(Clone, Debug)]
pub struct SubscribeRequest {
    /// The topic.
    pub topic: TopicName,
    /// Where to start the first time. After a reconnect the session resumes from what it has handed over.
    pub start: Start,
    /// How much may be handed over without being acknowledged.
    pub window: Window,
    /// What happens if the durable subscriber has another reader.
    pub ownership: Ownership,
    /// Who keeps the cursor.
    pub keeper: CursorKeeper,
}

/// Who keeps a subscription's cursor beyond this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CursorKeeper {
    /// Nobody: it lives as long as the client.
    #[default]
    Nobody,
    /// The server, under the client's durable subscriber.
    Server,
    /// The client's own store, which held this when the subscription was made. A stored cursor wins over `start`.
    Client {
        /// What the store held.
        stored: Option<Cursor>,
    },
    /// The client's own store, whose cursor is moved: `start` counts.
    Rewound {
        /// What the store held. What it says to have been delivered is marked when it comes again.
        from: Cursor,
    },
}

/// What a client session wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Make a connection; then [`Input::Connected`] or [`Input::Disconnected`].
    Connect,
    /// Write the first message.
    SendHello(Hello),
    /// Write this frame.
    Send(ClientFrame),
    /// Write this close and end the connection; no [`Input::Disconnected`] is due.
    Disconnect(Close),
    /// Hand this over to the app.
    Deliver {
        /// The subscription.
        id: SubscriptionId,
        /// What.
        delivery: StreamItem,
    },
    /// Give [`Input::Wanted`] when the app asks for a delivery and at most so many events and gaps of this subscription are
    /// left for it, also if that is so already the next time it asks.
    AskAt {
        /// The subscription.
        id: SubscriptionId,
        /// How many.
        left: u64,
    },
    /// Save this cursor durably in the client's store, then answer [`Input::CursorSaved`].
    SaveCursor {
        /// The subscription.
        id: SubscriptionId,
        /// The cursor.
        cursor: Cursor,
    },
    /// Everything up to here is acknowledged, and that is durable with whoever keeps the cursor: the server says so, or
    /// the client's store. Without a keeper it is so at once. Acks of a history that is gone are confirmed at once too,
    /// because there is nothing left that could keep them.
    AckConfirmed {
        /// The subscription.
        id: SubscriptionId,
        /// The confirmed seq.
        seq: Seq,
    },
    /// A subscription has ended: nothing more is delivered.
    Unsubscribed {
        /// The subscription.
        id: SubscriptionId,
        /// Why.
        why: SubscriptionEnd,
    },
    /// What became of an emit. Each ticket gets exactly one, also one that was cancelled (in time: `NotSent`): the shell
    /// gives the room in the outbox free with it.
    EmitDone {
        /// The emit.
        ticket: EmitTicket,
        /// Its fate.
        fate: EmitOutcome,
    },
    /// Emits wait because the server takes none now, or go on. Told when that changes.
    EmitsHeld {
        /// Why they wait: a code that is not final. `None` when they go on.
        why: Option<RefusalCode>,
    },
    /// Emits that were acknowledged are no longer in the server's log: it has gone back.
    EmitsLost {
        /// The first lost number.
        from: EmitNumber,
        /// The last.
        through: EmitNumber,
    },
    /// The server asks the app: have it answered with [`Input::Respond`], once, in the request's time.
    Requested {
        /// Which request.
        key: RequestKey,
        /// What is asked.
        request: Request,
    },
    /// What became of an [`Input::Request`]. Each ticket gets exactly one, unless it is cancelled.
    RequestDone {
        /// The request.
        ticket: RequestTicket,
        /// The answer, or why there is none.
        result: Result<Response, RequestError>,
    },
    /// The connection's state changed.
    State(ConnectionState),
    /// The client has ended; nothing comes after it.
    Ended,
}

/// What a subscription hands to the app, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// The subscription stands (again). Comes before everything else of each connection.
    Subscribed {
        /// It starts after this position; a row, with none of its topics after a later one.
        after: Position,
        /// The nth there. A row has none: zero.
        nth: Nth,
        /// Events still to come until the head of that moment. In a row, events of several of its topics count more than
        /// once.
        pending: u64,
    },
    /// An event.
    Event {
        /// Its position's epoch.
        epoch: Epoch,
        /// The rest.
        record: Record,
        /// Whether it may have been handed over before.
        redelivered: bool,
        /// The place that was shown before it: see [`StreamItem::place`].
        before: Place,
    },
    /// Events that are gone. Acknowledged by `through`, like an event.
    Gap {
        /// Which.
        gap: Gap,
        /// The place that was shown before it: see [`StreamItem::place`].
        before: Place,
    },
    /// An event that is not logged: no place among the others, nothing to acknowledge, perhaps lost. Handed over at once,
    /// whatever the window; the shell may drop it if the app is slow.
    Volatile {
        /// When the server took it.
        time: Timestamp,
        /// What it is called.
        name: EventName,
        /// What the payload's bytes are.
        kind: PayloadKind,
        /// The payload.
        payload: Bytes,
    },
    /// What was missed when the subscription was made is handed over; live begins. Once per subscription and connection.
    CaughtUp {
        /// The head that was reached.
        seq: Seq,
    },
}

impl StreamItem {
    /// Where an event or a gap stands in what its subscription has shown. `None` for everything else.
    #[must_use]
    pub fn place(&self) -> Option<PlaceStep> {
        let (before, position, nth) = match self {
            StreamItem::Event { epoch, record, before, .. } => (before, Position::new(*epoch, record.seq), record.nth),
            StreamItem::Gap { gap, before } => (before, gap.through, gap.nth_through),
            StreamItem::Subscribed { .. } | StreamItem::Volatile { .. } | StreamItem::CaughtUp { .. } => return None,
        };
        Some(PlaceStep::new(before.clone(), before.advanced(position, nth)))
    }
}

/// Why a subscription has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscriptionEnd {
    /// The app asked for it; its acks are confirmed.
    Asked,
    /// Another client took the durable subscriber's topic over.
    TakenOver,
    /// The server refused it.
    Refused(RefusalCode, String),
    /// The client has ended.
    ClientEnded,
}

/// What became of an emit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitOutcome {
    /// Durable at this position. `duplicate` if an earlier try had stored it.
    Stored {
        /// Where.
        position: Position,
        /// Whether it was there already.
        duplicate: bool,
    },
    /// Durable, stored by an earlier try so long ago that its seq is no longer known.
    StoredLongAgo,
    /// Not stored.
    Refused(RefusalCode),
    /// The server cannot tell any more whether it was stored: its knowledge of this publisher is gone.
    Unknown,
    /// It was cancelled, or the client ended, before it was sent: it is not stored.
    NotSent,
}

/// The state of a client's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// A connection is being made.
    #[default]
    Connecting,
    /// It stands, and the server has welcomed us.
    Connected {
        /// The log's epoch.
        epoch: Epoch,
    },
    /// It is gone; another try follows.
    Waiting {
        /// Why it went, or why it could not be made.
        reason: Cause,
        /// Time until the next try.
        retry_in: std::time::Duration,
    },
    /// The client has ended, for good.
    Ended {
        /// Why: the server's close, or none after a shutdown.
        close: Option<Close>,
    },
}
