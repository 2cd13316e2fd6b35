//! The client's handle: emit, subscribe, watch, shut down. It only sends commands to the driver and waits for answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redeliver_protocol::client::{ConnectionState, EmitTicket};
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::name::{EventName, SubscriberName, TopicName};
use redeliver_protocol::payload::Payload;
use redeliver_protocol::request::{Request, RequestError, RequestTicket, Response};
use redeliver_protocol::seq::PublisherId;
use serde::Serialize;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::acks::AckBoard;
use crate::builder::ClientBuilder;
use crate::command::Command;
use crate::connection_watch::ConnectionWatch;
use crate::cursor_store::{CursorStore, KeyRegistry};
use crate::emit::{self, PendingReceipt};
use crate::error::ShutdownError;
use crate::notice::{Notice, Notices};
use crate::outbox_room::{OutboxRoom, VolatileRoom};
use crate::request::Forget;
use crate::subscribe::SubscribeBuilder;

/// A redeliver client. Cheap to clone; all clones are the same client.
///
/// A client lives as long as any of its handles: clones, subscriptions, pending receipts. When the last one is dropped, it
/// goes on in the background for up to five seconds to send what is in the outbox and to have its acks confirmed;
/// [`shutdown`](Client::shutdown) waits for that and says how it went.
#[derive(Clone, Debug)]
#[must_use = "a client that is dropped ends"]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles of a client share.
pub(crate) struct Shared {
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) acks: Arc<AckBoard>,
    pub(crate) room: OutboxRoom,
    pub(crate) publisher: PublisherId,
    pub(crate) subscriber: Option<SubscriberName>,
    pub(crate) store: Option<Arc<dyn CursorStore>>,
    pub(crate) keys: Arc<KeyRegistry>,
    pub(crate) state: watch::Receiver<ConnectionState>,
    /// Never read: new receivers are made from it, without keeping the channel open.
    pub(crate) notices: broadcast::Receiver<Notice>,
    pub(crate) next_ticket: AtomicU64,
    pub(crate) next_subscription: AtomicU64,
    pub(crate) next_request: AtomicU64,
    pub(crate) volatile_room: Arc<Semaphore>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("publisher", &self.publisher)
            .field("subscriber", &self.subscriber)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Starts to build a client of the server at `ws://HOST:PORT[/path]`.
    pub fn builder(url: impl AsRef<str>) -> ClientBuilder {
        ClientBuilder::new(url.as_ref())
    }

    /// Emits an event and waits until it is durable on the server, through reconnects and restarts, however long that
    /// takes.
    ///
    /// Waits for room in the outbox first. Text and bytes are taken as they are.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; its `outcome` says whether the event may have been stored all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the event was sent, nothing is sent. Dropped later, the emit goes on and only its receipt is
    /// lost.
    pub async fn emit(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        payload: impl Into<Payload>,
    ) -> Result<Receipt, EmitError> {
        self.emit_event(new_event(topic.as_ref(), name.as_ref(), payload.into())?).await
    }

    /// Emits a value as a JSON document, and waits until it is durable on the server, as [`emit`](Client::emit) does.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; `Encode` if the value has no JSON form.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the event was sent, nothing is sent. Dropped later, the emit goes on and only its receipt is
    /// lost.
    pub async fn emit_json<T: Serialize + ?Sized>(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        value: &T,
    ) -> Result<Receipt, EmitError> {
        let event = new_event(topic.as_ref(), name.as_ref(), Payload::json(value)?)?;
        self.emit_event(event).await
    }

    /// Emits an event that may belong to several topics, and waits until it is durable on the server, as
    /// [`emit`](Client::emit) does.
    ///
    /// # Errors
    ///
    /// [`EmitError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before the event was sent, nothing is sent. Dropped later, the emit goes on and only its receipt is
    /// lost.
    pub async fn emit_event(&self, event: NewEvent) -> Result<Receipt, EmitError> {
        self.queue(event).await?.await
    }

    /// Puts an event into the outbox and returns its receipt to come, so that many can be under way at once. Waits only
    /// for room. Events queued one after another are stored in that order.
    ///
    /// # Errors
    ///
    /// [`EmitError`] if no server would take the event, or the client has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, nothing is queued.
    pub async fn queue(&self, event: NewEvent) -> Result<PendingReceipt, EmitError> {
        emit::check(&event)?;
        let room = self.shared.room.take(event.size_bytes()).await?;
        let ticket = EmitTicket(self.shared.next_ticket.fetch_add(1, Ordering::Relaxed));
        let (answer, receipt) = oneshot::channel();
        let command = Command::Emit { ticket, event, answer, room };
        self.shared.commands.send(command).map_err(|_| EmitError::ClientEnded)?;
        Ok(PendingReceipt::new(ticket, receipt, self.shared.commands.clone()))
    }

    /// Gives an event to whoever follows its topic now. It is not logged: at most once, no order, no receipt. Dropped
    /// if this client is not connected, or the server does not take it fast enough, or knows no such events.
    ///
    /// # Errors
    ///
    /// [`EmitError`] if no server would take the event, or the client has ended.
    pub fn emit_volatile(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        payload: impl Into<Payload>,
    ) -> Result<(), EmitError> {
        self.emit_volatile_event(new_event(topic.as_ref(), name.as_ref(), payload.into())?)
    }

    /// Gives an event to whoever follows one of its topics now, and none of its except list. The event is not logged, as
    /// with [`emit_volatile`](Client::emit_volatile).
    ///
    /// # Errors
    ///
    /// [`EmitError`].
    pub fn emit_volatile_event(&self, event: NewEvent) -> Result<(), EmitError> {
        emit::check(&event)?;
        let Some(room) = VolatileRoom::take(&self.shared.volatile_room, event.size_bytes()) else { return Ok(()) };
        let command = Command::EmitVolatile { event, room };
        self.shared.commands.send(command).map_err(|_| EmitError::ClientEnded)
    }

    /// Asks the server's app and waits for its answer, at most `timeout` (an hour at most). Asked at most once: a
    /// connection that breaks takes the request with it. Without a connection it waits for one, as long as there is time.
    ///
    /// # Errors
    ///
    /// [`RequestError`], which says whether the request may have been handled.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nobody waits for the answer; the request may have been handled.
    pub async fn request(
        &self,
        name: impl AsRef<str>,
        payload: impl Into<Payload>,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        let name = EventName::new(name).map_err(|error| RequestError::Invalid(error.to_string()))?;
        let Payload { kind, bytes: payload, .. } = payload.into();
        let ticket = RequestTicket(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        let request = Request::new(name, kind, payload, timeout);
        let command = Command::Request { ticket, request, answer: sender };
        self.shared.commands.send(command).map_err(|_| RequestError::NotSent)?;
        let mut guard = Forget { ticket, commands: self.shared.commands.clone(), is_asked: true };
        let answer = answer.await.unwrap_or(Err(RequestError::Gone));
        guard.is_asked = false;
        answer
    }

    /// Starts to follow a topic: set what is needed, then await it.
    pub fn subscribe(&self, topic: impl AsRef<str>) -> SubscribeBuilder {
        SubscribeBuilder::new(self.clone(), TopicName::new(topic))
    }

    /// Starts to follow several topics as one: their events come in the order of the log, and one that belongs to several of
    /// them comes once. An ack counts for all that came before, by whichever topic. Set what is needed, then await it; it
    /// goes for each of the topics.
    ///
    /// A server that cannot do this refuses it as `Unsupported`.
    pub fn subscribe_merged<T: AsRef<str>>(&self, topics: impl IntoIterator<Item = T>) -> SubscribeBuilder {
        SubscribeBuilder::merged(self.clone(), topics.into_iter().map(TopicName::new).collect())
    }

    /// Returns the connection's state, to watch.
    #[must_use]
    pub fn state(&self) -> ConnectionWatch {
        ConnectionWatch::new(self.shared.state.clone())
    }

    /// Returns the notices of what concerns the client as a whole, from now on.
    #[must_use]
    pub fn notices(&self) -> Notices {
        Notices::new(self.shared.notices.resubscribe())
    }

    /// Says that nobody will emit under this client's identity after it. Once it has ended cleanly and all that it emitted is
    /// stored, the server forgets the identity within about an hour instead of after 30 days. Servers from before keep it.
    ///
    /// A client whose builder names no identity does that by itself.
    pub fn retire_publisher(&self) {
        // One that has ended has nothing more to say.
        let _ = self.shared.commands.send(Command::RetirePublisher);
    }

    /// Returns the identity under which this client emits. One that the builder did not name is of no use after the client: see
    /// [`Client::retire_publisher`].
    #[must_use]
    pub fn publisher(&self) -> PublisherId {
        self.shared.publisher
    }

    /// Ends the client cleanly: what is in the outbox is sent and its receipts awaited, the acks made so far are
    /// confirmed, and the server is told goodbye. Subscriptions end.
    ///
    /// Items that were handed over by an automatically acknowledging subscription but not followed by a request for the
    /// next one are not acknowledged by this.
    ///
    /// # Errors
    ///
    /// [`ShutdownError::TimedOut`] if `timeout` was over first; the client has ended all the same.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on once this was polled.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        let (answer, done) = oneshot::channel();
        let deadline = Instant::now() + timeout;
        if self.shared.commands.send(Command::Shutdown { deadline, answer }).is_ok()
            && let Ok(result) = done.await
        {
            return result;
        }
        // It had ended before.
        match &*self.shared.state.borrow() {
            ConnectionState::Ended { close: Some(close) } => Err(ShutdownError::Refused(close.clone())),
            ConnectionState::Ended { close: None }
            | ConnectionState::Connecting
            | ConnectionState::Connected { .. }
            | ConnectionState::Waiting { .. }
            | _ => Ok(()),
        }
    }
}

fn new_event(topic: &str, name: &str, payload: Payload) -> Result<NewEvent, EmitError> {
    let (topic, name) = (TopicName::new(topic)?, EventName::new(name)?);
    let Payload { kind, bytes, .. } = payload;
    Ok(NewEvent::new(topic, name, kind, bytes))
}
