//! A socket as the app sees it: a handle on one client in one namespace. What it asks for is done by the connection's
//! task.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, Uri};
use parking_lot::Mutex;
use redeliver_server::{Identity, Position, Receipt, Seq, TopicName};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::args::{Args, IntoArgs};
use crate::broadcast::{Broadcast, PendingReceipt, Volatile};
use crate::error::{AckError, ArgsError, ChangeError, DataError, RoomError, SendError};
use crate::handlers::{DisconnectHandler, EventHandler, Handlers};
use crate::namespace::{Namespace, NamespaceCore};
use crate::packet::AckId;
use crate::recovery::SocketSession;
use crate::rooms::{room_of, room_topic};

/// One client in one namespace. A handle, cheap to clone; it outlives the connection, and says so.
#[derive(Clone)]
pub struct Socket {
    inner: Arc<Inner>,
}

struct Inner {
    sid: String,
    namespace: Arc<NamespaceCore>,
    handshake: Handshake,
    identity: Identity,
    recovered: bool,
    phase: AtomicU8,
    session: Mutex<SocketSession>,
    handlers: Mutex<Handlers>,
    /// Each entry is something that the app waits for, or an answer to an event that was let in.
    commands: mpsc::UnboundedSender<Command>,
}

/// What an app asks of a socket's connection.
#[derive(Debug)]
pub(crate) enum Command {
    /// Join a topic; with `history`, from there on, else from now on.
    Join {
        topic: TopicName,
        envelope: bool,
        history: Option<Position>,
        done: Done,
    },
    Leave {
        topic: TopicName,
        done: Done,
    },
    /// Store the session as it is.
    Save {
        done: Done,
    },
    Answer {
        id: AckId,
        args: Args,
    },
    /// Leave the namespace.
    Disconnect,
    /// Leave all namespaces.
    CloseConnection,
    /// A newer connection owns the session.
    Fence,
}

pub(crate) type Done = oneshot::Sender<Result<(), ChangeError>>;

/// A client's handshake: where it comes from, and what it showed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Handshake {
    /// Where it comes from, if the listener knows.
    pub peer: Option<SocketAddr>,
    /// The URI of its first request.
    pub uri: Uri,
    /// The headers of its first request.
    pub headers: HeaderMap,
    /// The `auth` of its CONNECT, an object.
    pub auth: Value,
}

/// An event that a client has emitted.
#[derive(Debug)]
#[non_exhaustive]
pub struct Incoming {
    /// The client.
    pub socket: Socket,
    /// What the event is called.
    pub name: String,
    /// The event's arguments.
    pub args: Args,
    /// How to answer, if the client asks for it.
    pub ack: Option<Ack>,
}

impl Incoming {
    /// Answers, if the client asks for it.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if there is no JSON for the answer.
    pub fn answer(self, args: impl IntoArgs) -> Result<(), ArgsError> {
        self.ack.map_or(Ok(()), |ack| ack.send(args))
    }
}

/// Answers one event of a client. Dropped, it answers nothing.
#[derive(Debug)]
pub struct Ack {
    id: AckId,
    commands: mpsc::UnboundedSender<Command>,
}

impl Ack {
    /// Answers. An answer to a client that is gone is lost, as is every answer that a client does not get: it must ask
    /// again.
    ///
    /// # Errors
    ///
    /// [`ArgsError`] if there is no JSON for the answer.
    pub fn send(self, args: impl IntoArgs) -> Result<(), ArgsError> {
        let args = args.into_args()?;
        args.check()?;
        // Nobody is there to be told if the connection is gone.
        let _ = self.commands.send(Command::Answer { id: self.id, args });
        Ok(())
    }
}

/// Why a socket is disconnected, in the words of Socket.IO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The client's connection was closed.
    TransportClose,
    /// The client's connection failed.
    TransportError,
    /// The client did not answer a ping.
    PingTimeout,
    /// The client sent what is no packet.
    ParseError,
    /// The client has left the namespace.
    ClientNamespaceDisconnect,
    /// The app has disconnected the socket.
    ServerNamespaceDisconnect,
    /// The server ends.
    ServerShuttingDown,
    /// The server has closed the connection: a newer one of the same client has taken its place, or it broke the rules.
    ForcedServerClose,
}

impl DisconnectReason {
    /// The reason as Socket.IO names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DisconnectReason::TransportClose => "transport close",
            DisconnectReason::TransportError => "transport error",
            DisconnectReason::PingTimeout => "ping timeout",
            DisconnectReason::ParseError => "parse error",
            DisconnectReason::ClientNamespaceDisconnect => "client namespace disconnect",
            DisconnectReason::ServerNamespaceDisconnect => "server namespace disconnect",
            DisconnectReason::ServerShuttingDown => "server shutting down",
            DisconnectReason::ForcedServerClose => "forced server close",
        }
    }

    /// Whether the client may come back as the same socket.
    #[must_use]
    pub fn is_recoverable(self) -> bool {
        match self {
            DisconnectReason::TransportClose
            | DisconnectReason::TransportError
            | DisconnectReason::PingTimeout
            | DisconnectReason::ParseError
            | DisconnectReason::ServerShuttingDown
            | DisconnectReason::ForcedServerClose => true,
            DisconnectReason::ClientNamespaceDisconnect | DisconnectReason::ServerNamespaceDisconnect => false,
        }
    }
}

impl std::fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A socket's way through life; it only moves down this list.
const CONNECTING: u8 = 0;
const CONNECTED: u8 = 1;
const GONE: u8 = 2;

impl Socket {
    pub(crate) fn new(
        namespace: Arc<NamespaceCore>,
        handshake: Handshake,
        identity: Identity,
        session: SocketSession,
        recovered: bool,
    ) -> (Socket, mpsc::UnboundedReceiver<Command>) {
        let (commands, received) = mpsc::unbounded_channel();
        let inner = Inner {
            sid: session.sid.clone(),
            namespace,
            handshake,
            identity,
            recovered,
            phase: AtomicU8::new(CONNECTING),
            session: Mutex::new(session),
            handlers: Mutex::default(),
            commands,
        };
        (Socket { inner: Arc::new(inner) }, received)
    }

    /// The socket's id, which is also the name of a room of its own. It is public, unlike the pid with which a client
    /// comes back.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.sid
    }

    /// The namespace that the socket is in.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        Namespace { core: Arc::clone(&self.inner.namespace) }
    }

    /// The client's handshake.
    #[must_use]
    pub fn handshake(&self) -> &Handshake {
        &self.inner.handshake
    }

    /// Who the client is, by the server's [`Access`](redeliver_server::Access).
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Whether the socket is one that came back: its id, rooms and data are those of before, and it gets what it
    /// missed.
    #[must_use]
    pub fn recovered(&self) -> bool {
        self.inner.recovered
    }

    /// Whether the socket is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.phase() == CONNECTED
    }

    /// Sets the handler of an event of this name; it replaces an earlier one. Events of one socket are handled one
    /// after another: what comes behind waits until the handler has returned. For handlers that take long, see
    /// [`Socket::on_concurrent`].
    pub fn on<F, R>(&self, name: impl Into<String>, handler: F)
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.handlers.lock().set(name.into(), EventHandler::in_turn(handler));
    }

    /// Sets the handler of an event of this name, of which up to `at_once` (at least 1) may run side by side; it
    /// replaces an earlier one. They begin in the order of the events and end in any. Other events are not held up,
    /// until `at_once` of these run and one more has come.
    pub fn on_concurrent<F, R>(&self, name: impl Into<String>, at_once: usize, handler: F)
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.handlers.lock().set(name.into(), EventHandler::concurrent(at_once, handler));
    }

    /// Sets the handler of the next event of this name; it replaces an earlier handler, and is gone when it begins.
    pub fn once<F, R>(&self, name: impl Into<String>, handler: F)
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.handlers.lock().set(name.into(), EventHandler::once(handler));
    }

    /// Removes the handler of an event of this name. Returns whether there was one.
    pub fn off(&self, name: &str) -> bool {
        self.inner.handlers.lock().remove(name)
    }

    /// Sets the handler of the events that have none of their own.
    pub fn on_any<F, R>(&self, handler: F)
    where
        F: Fn(Incoming) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.inner.handlers.lock().any = Some(EventHandler::in_turn(handler));
    }

    /// Adds a handler that runs when the socket is disconnected, while its rooms are still known.
    pub fn on_disconnecting<F, R>(&self, handler: F)
    where
        F: Fn(Socket, DisconnectReason) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler: DisconnectHandler = Arc::new(move |socket, reason| handler(socket, reason).boxed());
        self.inner.handlers.lock().disconnecting.push(handler);
    }

    /// Adds a handler that runs when the socket is disconnected and gone from the namespace.
    pub fn on_disconnect<F, R>(&self, handler: F)
    where
        F: Fn(Socket, DisconnectReason) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let handler: DisconnectHandler = Arc::new(move |socket, reason| handler(socket, reason).boxed());
        self.inner.handlers.lock().disconnect.push(handler);
    }

    /// Emits to this client: durable when this returns, and delivered also after a cut.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, it may be stored.
    pub async fn emit(&self, name: &str, args: impl IntoArgs) -> Result<Receipt, SendError> {
        self.unicast().emit(name, args).await
    }

    /// Begins to emit to this client, and does not wait for the log: see [`Broadcast::start_emit`].
    ///
    /// # Errors
    ///
    /// [`SendError`], but none of the log's.
    pub fn start_emit(&self, name: &str, args: impl IntoArgs) -> Result<PendingReceipt, SendError> {
        self.unicast().start_emit(name, args)
    }

    /// Emits to this client and waits for its answer. Only a handler of [`Socket::on_concurrent`] may wait for it
    /// without holding up the client's next events.
    ///
    /// # Errors
    ///
    /// [`AckError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Socket::emit`]; an answer that comes later is dropped.
    pub async fn emit_with_ack(&self, name: &str, args: impl IntoArgs, timeout: Duration) -> Result<Args, AckError> {
        let mut answers = self.unicast().emit_with_ack(name, args, timeout).await?;
        let gone = AckError::TimedOut { missing: 1, after: timeout, answers: Vec::new() };
        answers.pop().map(|answer| answer.args).ok_or(gone)
    }

    /// Addresses this client alone, as [`Socket::emit`] does.
    pub fn unicast(&self) -> Broadcast {
        Broadcast::new(Arc::clone(&self.inner.namespace)).to(self.id())
    }

    /// Addresses this client alone, with events that are not stored: it gets them if it is connected and keeps up.
    pub fn volatile(&self) -> Volatile {
        self.unicast().volatile()
    }

    /// Addresses everybody in the namespace but this client.
    pub fn broadcast(&self) -> Broadcast {
        Broadcast::new(Arc::clone(&self.inner.namespace)).except(self.id())
    }

    /// Addresses a room, but not this client.
    pub fn to(&self, room: impl Into<String>) -> Broadcast {
        self.broadcast().to(room)
    }

    /// Joins a room: what is emitted to it from now on reaches the client, also after a cut. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`RoomError`]. After `NotStored` the socket is in the room, but may not be after a cut.
    ///
    /// # Cancel safety
    ///
    /// The socket joins all the same if the future was polled once.
    pub async fn join(&self, room: impl AsRef<str>) -> Result<(), RoomError> {
        let topic = room_topic(self.inner.namespace.name.as_str(), room.as_ref())?;
        self.join_topic(topic, None, false).await
    }

    /// Leaves a room: what is emitted to it from now on does not reach the client, also after a cut. Durable when this
    /// returns.
    ///
    /// # Errors
    ///
    /// [`RoomError`]. After `NotStored` the socket has left, but may be in the room again after a cut.
    ///
    /// # Cancel safety
    ///
    /// The socket leaves all the same if the future was polled once.
    pub async fn leave(&self, room: impl AsRef<str>) -> Result<(), RoomError> {
        let topic = room_topic(self.inner.namespace.name.as_str(), room.as_ref())?;
        self.leave_topic(topic).await
    }

    /// The rooms that the socket is in, its own among them.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        let session = self.inner.session.lock();
        let name = self.inner.namespace.name.as_str();
        session.rooms.current().filter_map(|topic| room_of(name, topic)).map(str::to_owned).collect()
    }

    /// The app's data of the socket, which comes back with it after a cut. Null unless set.
    #[must_use]
    pub fn data(&self) -> Value {
        self.inner.session.lock().data.clone()
    }

    /// Sets the app's data of the socket: a few KiB at most. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`DataError`]. After `NotStored` the socket has the data, but may not have it after a cut.
    ///
    /// # Cancel safety
    ///
    /// The data is set all the same, and stored if the future was polled once.
    pub async fn set_data(&self, data: Value) -> Result<(), DataError> {
        self.inner.session.lock().data = data;
        if self.phase() == CONNECTING {
            return Ok(());
        }
        Ok(self.ask(|done| Command::Save { done }).await?)
    }

    /// Disconnects the client from this namespace. It cannot come back as the same socket.
    pub fn disconnect(&self) {
        // It is gone otherwise.
        let _ = self.inner.commands.send(Command::Disconnect);
    }

    /// Disconnects the client from this namespace and closes its connection, and with it its sockets in other
    /// namespaces. This one cannot come back as the same socket; those can.
    pub fn close_connection(&self) {
        // It is gone otherwise.
        let _ = self.inner.commands.send(Command::CloseConnection);
    }

    /// A newer connection owns its session: it must end.
    pub(crate) fn fence(&self) {
        // It has ended otherwise.
        let _ = self.inner.commands.send(Command::Fence);
    }

    pub(crate) async fn join_topic(
        &self,
        topic: TopicName,
        history: Option<Position>,
        envelope: bool,
    ) -> Result<(), RoomError> {
        if self.phase() == CONNECTING {
            // Stored before it is connected.
            let head = self.inner.namespace.server.head().seq;
            self.inner.session.lock().rooms.join(&topic, head, envelope)?;
            return Ok(());
        }
        Ok(self.ask(|done| Command::Join { topic, envelope, history, done }).await?)
    }

    pub(crate) async fn leave_topic(&self, topic: TopicName) -> Result<(), RoomError> {
        if self.phase() == CONNECTING {
            let head = self.inner.namespace.server.head().seq;
            self.inner.session.lock().rooms.leave(&topic, head);
            return Ok(());
        }
        Ok(self.ask(|done| Command::Leave { topic, done }).await?)
    }

    pub(crate) fn session(&self) -> &Mutex<SocketSession> {
        &self.inner.session
    }

    pub(crate) fn core(&self) -> &Arc<NamespaceCore> {
        &self.inner.namespace
    }

    pub(crate) fn is(&self, other: &Socket) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn is_in_any(&self, topics: &[TopicName]) -> bool {
        let session = self.inner.session.lock();
        topics.iter().any(|topic| session.rooms.is_in(topic))
    }

    pub(crate) fn was_in_any(&self, topics: &[TopicName], seq: Seq) -> bool {
        let session = self.inner.session.lock();
        topics.iter().any(|topic| session.rooms.was_in(topic, seq))
    }

    pub(crate) fn ack(&self, id: AckId) -> Ack {
        Ack { id, commands: self.inner.commands.clone() }
    }

    /// The handler of the next event of this name, which begins now.
    pub(crate) fn handler(&self, name: &str) -> Option<EventHandler> {
        self.inner.handlers.lock().take(name)
    }

    pub(crate) fn disconnecting_handlers(&self) -> Vec<DisconnectHandler> {
        self.inner.handlers.lock().disconnecting.clone()
    }

    pub(crate) fn disconnect_handlers(&self) -> Vec<DisconnectHandler> {
        self.inner.handlers.lock().disconnect.clone()
    }

    /// Lets go of the handlers, which may hold the socket.
    pub(crate) fn forget_handlers(&self) {
        *self.inner.handlers.lock() = Handlers::default();
    }

    pub(crate) fn set_connected(&self) {
        self.inner.phase.store(CONNECTED, Ordering::Release);
    }

    pub(crate) fn set_gone(&self) {
        self.inner.phase.store(GONE, Ordering::Release);
    }

    fn phase(&self) -> u8 {
        self.inner.phase.load(Ordering::Acquire)
    }

    async fn ask(&self, command: impl FnOnce(Done) -> Command) -> Result<(), ChangeError> {
        let (done, answer) = oneshot::channel();
        self.inner.commands.send(command(done)).map_err(|_| ChangeError::NotConnected)?;
        answer.await.unwrap_or(Err(ChangeError::NotConnected))
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("id", &self.inner.sid)
            .field("namespace", &self.inner.namespace.name)
            .finish_non_exhaustive()
    }
}
