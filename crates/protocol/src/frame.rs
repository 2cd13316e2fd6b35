//! The messages of the conversation. Types only: how they become bytes is `codec`'s business.
//!
//! Variants and fields are never changed; new ones stand behind a feature bit (docs/protocol.md).

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::RefusalCode;
use crate::event::{NewEvent, PayloadKind};
use crate::features::Features;
use crate::history::{EmitRun, Gap, PublisherState, Start};
use crate::limits::Limits;
use crate::name::{EventName, SubscriberName, TopicName};
use crate::redelivery::DeliveredThrough;
use crate::seq::{EmitNumber, Epoch, InstanceId, Nth, Position, PublisherId, RequestId, Seq, SubscriptionId};
use crate::time::Timestamp;

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// The WebSocket subprotocol that names this protocol.
pub const SUBPROTOCOL: &str = "redeliver.v1";

/// A client's first message. Subscribes and emits may follow it at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The running client.
    pub instance: InstanceId,
    /// Under which identity it emits, if it does.
    pub publisher: Option<PublisherId>,
    /// Every emit up to this number is decided for the client: acknowledged, refused or given up. It sends none of them
    /// again.
    pub settled: EmitNumber,
    /// The durable subscriber whose cursors this client uses.
    pub subscriber: Option<SubscriberName>,
    /// Credentials, for the server's authenticator.
    #[serde(with = "crate::bytes_serde::optional")]
    pub auth: Option<Bytes>,
    /// What the client calls itself, for the operator.
    pub client_name: String,
    /// What the client has of the features. Stands in the fixed bytes before the message.
    #[serde(skip)]
    pub features: Features,
}

/// What a client sends after [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientFrame {
    /// Follow a topic.
    Subscribe(Subscribe),
    /// Everything in this subscription up to and including this event (or gap end) is handled.
    ///
    /// It may lie at or before [`Subscribed::after`]: a client that resumes after what it has handed to its app
    /// (`Resume { at_least }`) acknowledges the part that was still unhandled then on the new connection. Such an ack is as
    /// good as any other for the durable cursor, which never goes back; it frees nothing of the window. Whether it is
    /// new or not, it is answered by Acked.
    Ack {
        /// The subscription.
        id: SubscriptionId,
        /// The last handled seq.
        seq: Seq,
        /// Its nth.
        nth: Nth,
    },
    /// Follow a topic no longer. Acks before it count; answered by [`ServerFrame::Unsubscribed`].
    Unsubscribe {
        /// The subscription.
        id: SubscriptionId,
    },
    /// Emit events, numbered upwards from `first`.
    Emit {
        /// The number of the first event.
        first: EmitNumber,
        /// At least one, at most [`crate::limits::EMITS_PER_FRAME_MAX`].
        events: Vec<NewEvent>,
    },
    /// Are you there?
    Ping {
        /// Comes back in the pong.
        token: u64,
    },
    /// Yes.
    Pong {
        /// The ping's.
        token: u64,
    },
    /// Follow a topic as one of several that are read as one ([`Features::MERGED`]). [`ClientFrame::BeginMerged`] follows
    /// the last of them.
    SubscribeMerged(SubscribeMerged),
    /// As Emit, for events that some are not to get ([`Features::EXCEPT`]): each carries its except list.
    EmitExcept {
        /// The number of the first event.
        first: EmitNumber,
        /// At least one, at most [`crate::limits::EMITS_PER_FRAME_MAX`].
        #[serde(with = "crate::event::with_except::list")]
        events: Vec<NewEvent>,
    },
    /// Give this event to whoever is connected now ([`Features::VOLATILE`]). It has no number and no answer.
    Volatile {
        /// The event, with its except list.
        #[serde(with = "crate::event::with_except")]
        event: NewEvent,
    },
    /// Asks the server's app ([`Features::REQUESTS`]).
    Request(RequestFrame),
    /// Answers [`ServerFrame::Request`].
    Reply(ReplyFrame),
    /// All subscriptions of a group are named ([`Features::MERGED`]): its events come once each of them has its place.
    BeginMerged {
        /// The group.
        group: u32,
    },
    /// The reader of this durable subscription is about to hand over its events up to here ([`Features::TAKING`]). It hands
    /// none of them over before [`ServerFrame::Taken`].
    Taking {
        /// The subscription.
        id: SubscriptionId,
        /// The nth of the last of them.
        nth: Nth,
    },
    /// The Subscribe (or SubscribeMerged) that follows at once, with this id, goes on with a durable subscription that this
    /// client instance has had on an earlier connection ([`Features::RESUMING`]). Then `Subscribed` names only marks that
    /// another reader left meanwhile.
    Resuming {
        /// The subscription's number on this connection.
        id: SubscriptionId,
        /// What it, and readers before it, may have been given of the present history.
        nth: Nth,
    },
}

/// A request that wants one answer. It is asked at most once, on one connection, and never again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFrame {
    /// The requester's number for it on this connection: upwards, never used twice.
    pub id: RequestId,
    /// What is asked.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    #[serde(with = "crate::bytes_serde")]
    pub payload: Bytes,
    /// How long the requester waits, in milliseconds. Whoever answers may give up after that: nobody listens.
    pub timeout_ms: u32,
}

/// The answer to a [`RequestFrame`]. One that nobody waits for any more is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyFrame {
    /// The request's.
    pub id: RequestId,
    /// What became of it.
    pub outcome: ReplyOutcome,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplyOutcome {
    /// It was answered.
    Answered {
        /// What the payload's bytes are.
        kind: PayloadKind,
        /// The payload.
        #[serde(with = "crate::bytes_serde")]
        payload: Bytes,
    },
    /// It was not.
    Refused {
        /// Why.
        code: RefusalCode,
        /// Why, for a person. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
        reason: String,
    },
}

/// A request to follow a topic together with others of the same connection.
///
/// Each is a subscription like any other, with a place, a window, acks and a cursor of its own. What is theirs together
/// is the order: events of all of them come in the order of their seqs, and one that belongs to several of the topics comes
/// once, with a Skip just before it on the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscribeMerged {
    /// The client's number for the group, not one that is in use on this connection.
    pub group: u32,
    /// The subscription itself.
    pub request: Subscribe,
}

/// A request to follow a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The client's number for it. Not one that is in use on this connection.
    pub id: SubscriptionId,
    /// The topic. It need not exist yet.
    pub topic: TopicName,
    /// Where to start.
    pub start: Start,
    /// How much may be sent without being acknowledged. The server takes its own limit if that is less.
    pub window: Window,
    /// What happens if the durable subscriber already follows this topic elsewhere. A client that resumes after a lost
    /// connection asks for `Standby`: it is no newcomer, and must not take the topic back from one. Its own older
    /// connection (same instance) gives way in any case.
    pub ownership: Ownership,
    /// Whether the server keeps this subscription's cursor, under the subscriber named in Hello.
    pub durable: bool,
}

/// How much may be sent on a subscription without being acknowledged. One event always fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Window {
    /// In events.
    pub events: u32,
    /// In bytes of records.
    pub bytes: u32,
}

impl Window {
    /// Returns a window of so many events and so many bytes of records.
    #[must_use]
    pub const fn new(events: u32, bytes: u32) -> Window {
        Window { events, bytes }
    }

    /// Returns a window of so many events, with the default bound in bytes.
    #[must_use]
    pub fn of_events(events: u32) -> Window {
        Window { events, ..Window::default() }
    }
}

impl From<(u32, u32)> for Window {
    /// Events first, then bytes.
    fn from((events, bytes): (u32, u32)) -> Window {
        Window { events, bytes }
    }
}

impl Default for Window {
    fn default() -> Window {
        Window { events: 1024, bytes: 1024 * 1024 }
    }
}

/// What happens if a durable subscriber's topic already has a live reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ownership {
    /// The newcomer takes over; the old reader is told, and its acks count no more.
    #[default]
    Takeover,
    /// The newcomer waits until the reader is gone. Its Subscribed comes then.
    Standby,
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerFrame {
    /// The answer to Hello.
    Welcome(Welcome),
    /// The answer to Subscribe: the reader's position, before any event.
    Subscribed(Subscribed),
    /// The other answer to Subscribe.
    SubscribeRefused {
        /// The subscription.
        id: SubscriptionId,
        /// Why.
        code: RefusalCode,
        /// Why, for a person.
        reason: String,
    },
    /// A batch of events.
    Events(Events),
    /// The end that was seen at subscribe time is reached. Sent once, after the event (or Subscribed) that reaches it.
    CaughtUp {
        /// The subscription.
        id: SubscriptionId,
        /// The head at subscribe time.
        seq: Seq,
    },
    /// Events that this reader is not to get, up to and including this one; its nth moves on.
    Skip {
        /// The subscription.
        id: SubscriptionId,
        /// The position of the last one skipped.
        through: Position,
        /// Its nth.
        nth_through: Nth,
    },
    /// Events that are gone.
    Gap {
        /// The subscription.
        id: SubscriptionId,
        /// Which, and why.
        gap: Gap,
    },
    /// An ack is confirmed: for a durable subscriber it is durable on the server.
    Acked {
        /// The subscription.
        id: SubscriptionId,
        /// The confirmed seq; it covers all before.
        seq: Seq,
    },
    /// The answer to Unsubscribe: nothing more comes, and every ack before it is confirmed.
    Unsubscribed {
        /// The subscription.
        id: SubscriptionId,
    },
    /// Another client has taken this subscription's topic over. Do not subscribe again by yourself.
    TakenOver {
        /// The subscription.
        id: SubscriptionId,
    },
    /// What became of emits, in their order, without holes.
    Emitted {
        /// Runs of numbers that share a fate: at least one.
        runs: Vec<EmitRun>,
    },
    /// An emit came whose number does not follow: what lies between is missing here. Send again from `expected`.
    OutOfOrder {
        /// The number that the server needs next.
        expected: EmitNumber,
    },
    /// Are you there?
    Ping {
        /// Comes back in the pong.
        token: u64,
    },
    /// Yes.
    Pong {
        /// The ping's.
        token: u64,
    },
    /// An event that is not logged ([`Features::VOLATILE`]): no seq, no nth, never acknowledged, perhaps lost.
    Volatile(Volatile),
    /// Asks the client's app ([`Features::REQUESTS`]).
    Request(RequestFrame),
    /// Answers [`ClientFrame::Request`].
    Reply(ReplyFrame),
    /// Events up to here may be handed over ([`Features::TAKING`]): whoever follows the topic next under this name is told
    /// that they may have been.
    Taken {
        /// The subscription.
        id: SubscriptionId,
        /// The nth that Taking named.
        nth: Nth,
    },
}

/// An event that is not logged, as a reader of one of its topics gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volatile {
    /// The subscription.
    pub id: SubscriptionId,
    /// When the server took it.
    pub time: Timestamp,
    /// What the event is called.
    pub name: EventName,
    /// What the payload's bytes are.
    pub kind: PayloadKind,
    /// The payload.
    #[serde(with = "crate::bytes_serde")]
    pub payload: Bytes,
}

/// The server's answer to [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The log's current epoch.
    pub epoch: Epoch,
    /// The newest durable event.
    pub head: Seq,
    /// What the server knows of the publisher; `New` if Hello named none.
    pub publisher: PublisherState,
    /// How often this server pings a silent peer. Either side may take a peer for gone that is silent for twice this.
    pub heartbeat: Duration,
    /// What the server allows.
    pub limits: Limits,
    /// What the server calls itself.
    pub server_name: String,
}

/// The server's answer to [`Subscribe`]. See [`crate::history::Opened`] for the fields' meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The subscription.
    pub id: SubscriptionId,
    /// Events after this position follow.
    pub after: Position,
    /// The nth at `after`; the next event has the next nth.
    pub nth: Nth,
    /// The log's head now.
    pub head: Position,
    /// Events of the topic between `after` and `head`.
    pub pending: u64,
    /// The redelivery mark: events up to this nth may have been delivered before.
    pub delivered_through: DeliveredThrough,
    /// What is missing before `after`. Acknowledged by its end, and told again until then.
    pub gap: Option<Gap>,
    /// The window that counts.
    pub window: Window,
}

/// A batch of one topic's events. What depends on the reader is here; the records are the same for everybody.
///
/// `records` stands last, behind its length, so that a server writes this head and then the shared bytes as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The subscription.
    pub id: SubscriptionId,
    /// The epoch in which all of them were written.
    pub epoch: Epoch,
    /// How many: at least 1.
    pub count: u32,
    /// The records.
    #[serde(with = "crate::bytes_serde")]
    pub records: Bytes,
}
