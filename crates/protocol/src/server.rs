//! The server's end of the conversation: one [`ServerSession`] per connection, a machine without IO.
//!
//! Feed it inputs and the time, drain its outputs, wake it at its timeout:
//! `handle` never fails and never blocks (a misbehaving peer becomes [`Output::Close`]); `poll_output` gives what is to be
//! done, in order; `poll_timeout` says when [`Input::Tick`] is due. The session decides which range goes to whom; it
//! never looks into an event's bytes.
//!
//! What is between connections is here too, as registries without IO: who owns a durable subscriber's topic
//! ([`owners`]), which connection speaks for a publisher ([`publishers`]), who is to be woken ([`watchers`]).
//!
//! # What a shell owes a session
//!
//! - After every input (or a few), it drains `poll_output` to the end. Answers to outputs come as inputs, when they are
//!   there; a session that has closed ignores them.
//! - It takes a message from the socket only while `wants_message` is true.
//! - It gives [`Input::Drained`] whenever all that it was given to write has left; more is read and sent only then.
//! - When the connection ends, for whatever reason, it forgets it everywhere by itself: the claims (`release_all`), the
//!   publisher, the watches. The session does not ask for it one by one.
//!
//! # Emits, seen from the client
//!
//! Every number of an [`Output::Append`] is answered once, in order ([`ServerFrame::Emitted`]). After a retryable refusal
//! of number `n` the server needs `n` next: what was appended behind it is refused in order, and what comes later with a
//! higher number is dropped and answered with [`ServerFrame::OutOfOrder`]. So a client's rule is one: after a retryable
//! refusal of `n`, or `OutOfOrder { expected: n }`, send again from `n` on, after a pause if it was a refusal. Sending
//! too much again does no harm, since the log answers duplicates with their old seqs.

mod deliveries;
mod durable_cursor;
mod emits;
mod fault;
mod heartbeat;
mod in_flight;
pub mod marks;
mod outputs;
pub mod owners;
pub mod publishers;
mod requests;
mod session;
mod subscription;
pub mod watchers;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use self::marks::Reader;
pub use self::session::ServerSession;
use crate::error::{Close, RefusalCode};
use crate::event::{NewEvent, VolatileEmit};
use crate::frame::{Hello, Ownership, ServerFrame};
use crate::history::{Cursor, EmitRun, Opened, PublisherState, ReadOutcome, Start};
use crate::name::{SubscriberName, TopicName};
use crate::redelivery::DeliveredThrough;
use crate::request::{Refusal, Request, RequestError, RequestTicket, Response};
use crate::seq::{EmitNumber, Epoch, InstanceId, Nth, RequestId, Seq, SubscriptionId};

/// The shell's own number for a connection, never used twice in a server's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What happens to a server session.
#[expect(clippy::large_enum_variant, reason = "an opening is rare, and a box would cost every other reply a look")]
#[derive(Clone, Debug)]
pub enum Input {
    /// A whole binary message came from the peer.
    Message(Bytes),
    /// Something that is not a binary message came, in words.
    NotBinary(&'static str),
    /// The answer to [`Output::Authenticate`].
    Authenticated(Result<Admitted, Close>),
    /// The rest of the server has something for the conversation. Before it is admitted and after it has closed a session
    /// ignores this, but answers a [`Reply::Request`].
    Reply(Reply),
    /// The same client instance, or the same publisher, has a newer connection: this one ends with this close.
    Displaced(Close),
    /// Everything that was handed to the socket has left.
    Drained,
    /// The socket has taken no byte for [`crate::config::ServerConfig::write_timeout`] although bytes wait.
    Stuck,
    /// The session is to end with this close (shutdown, a failed log, expired credentials).
    End(Close),
    /// The timeout is due.
    Tick,
}

/// What the rest of the server has for a conversation: the answers to its outputs, and news of what others did.
#[derive(Clone, Debug)]
pub enum Reply {
    /// The answer to [`Output::Claim`]: this connection owns the subscriber's topic now (at once, or after a standby).
    Claimed {
        /// The subscription.
        id: SubscriptionId,
    },
    /// Another client took the subscription's topic over. Its acks count no more.
    TakenOver {
        /// The subscription.
        id: SubscriptionId,
    },
    /// The answer to [`Output::Open`], or, if it is a refusal, to [`Output::Claim`] instead of the claim: nothing is
    /// claimed then.
    Opened {
        /// The subscription.
        id: SubscriptionId,
        /// Where it starts, or why it may not.
        result: Result<Opened, (RefusalCode, String)>,
    },
    /// The peer may follow this topic no longer. Its subscription ends with a refusal; what was acknowledged and is not
    /// saved yet is not saved.
    Revoked {
        /// The subscription.
        id: SubscriptionId,
        /// Why, in words.
        reason: String,
    },
    /// A topic may have grown. May come too often, and may be merged or lost: every heartbeat looks again.
    Grew {
        /// The subscription that follows it.
        id: SubscriptionId,
    },
    /// An event that is not logged. It may be lost, and is if the reader does not keep up.
    Volatile {
        /// The subscriptions that follow one of its topics.
        ids: Vec<SubscriptionId>,
        /// The event.
        event: Arc<VolatileEmit>,
    },
    /// The answer to [`Output::Read`].
    Read {
        /// The subscription.
        id: SubscriptionId,
        /// What was found.
        outcome: ReadOutcome,
    },
    /// The answer to [`Output::FindGrown`].
    Grown {
        /// The log's newest durable seq when it looked.
        through: Seq,
        /// The subscriptions whose topics had an event behind `after`, each with the seq of its topic's last event up to
        /// `through`.
        grown: Vec<(SubscriptionId, Seq)>,
    },
    /// What became of appended emits, in their order: durable, or refused. Answers [`Output::Append`], in as many parts
    /// as the shell likes.
    Appended(Vec<EmitRun>),
    /// The answer to [`Output::Taking`]: it is noted.
    Taken {
        /// The subscription.
        id: SubscriptionId,
        /// What the output gave for the answer.
        nth: Nth,
    },
    /// The answer to [`Output::Taking`] if another connection owns the topic now.
    NotOwner {
        /// The subscription.
        id: SubscriptionId,
    },
    /// The answer to [`Output::SaveCursor`]: this cursor, and all saved before it, is durable.
    CursorSaved {
        /// The subscription.
        id: SubscriptionId,
        /// Its seq.
        seq: Seq,
    },
    /// The app asks this client. Answered by [`Output::RequestDone`].
    Request {
        /// The shell's number for it, never used before on this connection.
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
        /// The client's number for it.
        id: RequestId,
        /// What the app says.
        result: Result<Response, Refusal>,
    },
}

/// What the shell found out about a connecting client, with the current end of the log.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// The log's current epoch.
    pub epoch: Epoch,
    /// Its newest durable seq.
    pub head: Seq,
    /// What the log knows of the publisher that Hello names.
    pub publisher: PublisherState,
}

/// What a server session wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write this frame.
    Send(ServerFrame),
    /// Write a batch: [`crate::codec::events_head`] of these, then the records as they are.
    SendEvents {
        /// The subscription.
        id: SubscriptionId,
        /// The epoch of the records.
        epoch: Epoch,
        /// How many there are.
        count: u32,
        /// The records.
        records: Bytes,
    },
    /// Judge the client, register it (fencing older connections of its publisher), and answer
    /// [`Input::Authenticated`]. Until then the session takes no message.
    Authenticate(Hello),
    /// Make this connection the owner of the subscriber's topic and answer [`Reply::Claimed`], at once or, with
    /// `Standby`, when the owner has gone.
    Claim {
        /// The subscription.
        id: SubscriptionId,
        /// The durable subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The client, which does not take over from itself.
        instance: InstanceId,
        /// What to do with a present owner.
        ownership: Ownership,
    },
    /// Give up a claim, granted or waiting. Whoever stands by is next.
    Release {
        /// The subscription.
        id: SubscriptionId,
    },
    /// Ask for permission and find out where this subscription starts; then answer [`Reply::Opened`], for a durable one
    /// after [`Marks::open`](marks::Marks::open).
    Open {
        /// The subscription.
        id: SubscriptionId,
        /// The topic.
        topic: TopicName,
        /// Where the client wants to start.
        start: Start,
        /// The durable subscriber whose stored cursor `Start::Resume` means.
        subscriber: Option<SubscriberName>,
        /// Who opens it: what may have been delivered depends on it, if the subscription is durable.
        reader: Reader,
    },
    /// From now on, give [`Reply::Grew`] for this subscription whenever the topic has grown durably.
    Watch {
        /// The subscription.
        id: SubscriptionId,
        /// The topic.
        topic: TopicName,
    },
    /// Stop that.
    Unwatch {
        /// The subscription.
        id: SubscriptionId,
    },
    /// Read this topic and answer [`Reply::Read`]. At most one read is under way per session.
    Read {
        /// The subscription.
        id: SubscriptionId,
        /// The topic.
        topic: TopicName,
        /// Events after this seq.
        after: Seq,
        /// The nth at `after`.
        nth: Nth,
        /// At most so many events.
        events_max: u32,
        /// At most so many bytes of records; one event always fits.
        bytes_max: usize,
    },
    /// Find out which of these topics have an event behind this seq and answer [`Reply::Grown`]. This is a look at the
    /// topics' ends, not a read: it costs little for a topic that has nothing. Counts as the session's one read.
    FindGrown {
        /// Topics, each with the subscription that follows it.
        topics: Arc<[(SubscriptionId, TopicName)]>,
        /// Events behind this seq count.
        after: Seq,
    },
    /// Append these events, after asking for permission for each, and answer [`Reply::Appended`]. Appends of one
    /// session must be taken in order.
    Append {
        /// The number of the first event.
        first: EmitNumber,
        /// The events, numbered upwards. An `Err` is a number that the session itself refuses finally: it must be
        /// consumed in its place.
        events: Vec<Result<NewEvent, RefusalCode>>,
    },
    /// Give this event to whoever follows one of its topics now, after asking for permission for each of them. There is no
    /// answer.
    EmitVolatile(NewEvent),
    /// Note, in memory and if this connection still owns the topic, that its reader delivers up to here; then
    /// [`Reply::Taken`] if `nth` is there, or [`Reply::NotOwner`]. The answer must come before any output behind this one
    /// is carried out. It is noted in [`Marks`](marks::Marks).
    Taking {
        /// The subscription.
        id: SubscriptionId,
        /// The subscriber.
        subscriber: SubscriberName,
        /// The topic.
        topic: TopicName,
        /// What may have been delivered, now and before.
        mark: DeliveredThrough,
        /// The nth for the answer, if the reader waits for one.
        nth: Option<Nth>,
    },
    /// Save this durable cursor if this connection still owns it, and answer [`Reply::CursorSaved`] once it is durable.
    SaveCursor {
        /// The subscription.
        id: SubscriptionId,
        /// The durable subscriber.
        subscriber: SubscriberName,
        /// Its topic.
        topic: TopicName,
        /// The cursor.
        cursor: Cursor,
        /// Whether someone waits for it now (an initial cursor, an unsubscribe), so that it should not wait for company.
        urgent: bool,
    },
    /// The client asks the app: have it answered with [`Reply::Respond`], once, in the request's time. Bounded by
    /// [`crate::limits::REQUESTS_IN_FLIGHT_MAX`] and its bytes until then.
    Requested {
        /// The client's number for it.
        id: RequestId,
        /// What is asked.
        request: Request,
    },
    /// What became of an [`Reply::Request`]. None comes for those that are open when the connection ends: they are gone.
    RequestDone {
        /// The request.
        ticket: RequestTicket,
        /// The answer, or why there is none.
        result: Result<Response, RequestError>,
    },
    /// Write this close, then end the connection. Nothing comes after it.
    Close(Close),
}
