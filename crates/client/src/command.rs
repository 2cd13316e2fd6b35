//! What the handles (client, subscriptions, receipts) ask of the driver.
//!
//! Invariant: the channel that carries these has no bound of its own, because each command is paid for elsewhere: an
//! emit by room in the outbox, its cancellation by the emit, a volatile one by room of its own, the others by a caller that waits or a handle that exists.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use redeliver_protocol::client::{EmitTicket, StreamItem, SubscribeRequest, SubscriptionEnd};
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::frame::Window;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::request::{Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::{Nth, Position, SubscriptionId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::cursor_store::KeyClaim;
use crate::error::{NotConfirmed, ShutdownError};
use crate::outbox_room::{Room, VolatileRoom};

/// One request to the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Emit { ticket: EmitTicket, event: NewEvent, answer: oneshot::Sender<Result<Receipt, EmitError>>, room: Room },
    CancelEmit { ticket: EmitTicket },
    EmitVolatile { event: NewEvent, room: VolatileRoom },
    Request { ticket: RequestTicket, request: Request, answer: oneshot::Sender<Result<Response, RequestError>> },
    CancelRequest { ticket: RequestTicket },
    Subscribe { id: SubscriptionId, request: SubscribeRequest, outlet: Outlet },
    SubscribeMerged { id: SubscriptionId, members: Vec<(SubscriptionId, SubscribeRequest)>, outlet: Outlet },
    Unsubscribe { id: SubscriptionId },
    Flush { id: SubscriptionId, answer: oneshot::Sender<Result<(), NotConfirmed>> },
    RetirePublisher,
    Shutdown { deadline: Instant, answer: oneshot::Sender<Result<(), ShutdownError>> },
}

/// Where the driver puts what belongs to one subscription.
#[derive(Debug)]
pub(crate) struct Outlet {
    /// Invariant: holds at most a window of events, since the session hands over no more than that unacknowledged; gaps,
    /// of which one stands for many events; and a bounded number of asides.
    /// Each with the number of its topic, or with that of the subscription if it concerns all of them.
    pub(crate) deliveries: mpsc::UnboundedSender<(SubscriptionId, StreamItem)>,
    /// How many deliveries that are neither event nor gap wait in `deliveries`: an app that takes nothing for weeks must
    /// not pile up the news of each reconnect.
    pub(crate) asides: Arc<AtomicUsize>,
    /// The bytes of volatile events that wait in `deliveries`.
    pub(crate) volatile_bytes: Arc<AtomicUsize>,
    /// The session is told that the app asks for a delivery if no more than this is left.
    pub(crate) ask_at: Arc<AtomicUsize>,
    /// Its topic; the first of several.
    pub(crate) topic: TopicName,
    /// How much may be handed over without being acknowledged.
    pub(crate) window: Window,
    /// Where it started: sent once, at the first `Subscribed`.
    pub(crate) opened: Option<oneshot::Sender<Opened>>,
    /// Set before `deliveries` closes.
    pub(crate) end: Arc<OnceLock<SubscriptionEnd>>,
    /// The keys of its topics' cursors in the client's store, held as long as the subscription lives.
    pub(crate) keys: BTreeMap<SubscriptionId, Arc<KeyClaim>>,
}

/// Where a subscription started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opened {
    pub(crate) after: Position,
    pub(crate) nth: Nth,
    pub(crate) pending: u64,
}
