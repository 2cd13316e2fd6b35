//! Addressing many: rooms, who is left out, and what is emitted to them. Each is one event in the log, whoever gets it.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redeliver_server::{EmitError, EmitOptions, EventName, NewEvent, Receipt, Seq, TopicName};

use crate::acks::AckReply;
use crate::args::{Args, IntoArgs};
use crate::error::{AckError, RoomError, SendError};
use crate::namespace::NamespaceCore;
use crate::packet::RESERVED_NAMES;
use crate::rooms::room_topic;
use crate::socket::Socket;

/// Whom an event is for. Begun by [`Namespace::to`](crate::Namespace::to), [`Socket::to`], [`Socket::broadcast`] …
#[derive(Clone, Debug)]
#[must_use]
pub struct Broadcast {
    namespace: Arc<NamespaceCore>,
    rooms: Vec<String>,
    except: Vec<String>,
}

impl Broadcast {
    pub(crate) fn new(namespace: Arc<NamespaceCore>) -> Broadcast {
        Broadcast { namespace, rooms: Vec::new(), except: Vec::new() }
    }

    /// Adds a room. Whoever is in several gets the event once.
    pub fn to(mut self, room: impl Into<String>) -> Broadcast {
        let room = room.into();
        if !self.rooms.contains(&room) {
            self.rooms.push(room);
        }
        self
    }

    /// Leaves out whoever is in this room when the event is emitted.
    pub fn except(mut self, room: impl Into<String>) -> Broadcast {
        let room = room.into();
        if !self.except.contains(&room) {
            self.except.push(room);
        }
        self
    }

    /// Makes the event volatile: not stored, and only for who is connected and keeps up, at most once.
    pub fn volatile(self) -> Volatile {
        Volatile(self)
    }

    /// Addresses only this server's sockets. There is one server, so this changes nothing.
    pub fn local(self) -> Broadcast {
        self
    }

    /// Emits. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, it may be stored.
    pub async fn emit(&self, name: &str, args: impl IntoArgs) -> Result<Receipt, SendError> {
        let event = self.event(name, &args.into_args()?, false)?;
        Ok(self.namespace.server.emit_event(event).await?)
    }

    /// Begins to emit, and does not wait for the log: what is begun before is stored before, and all that is begun
    /// together is stored together. For handlers that emit a lot.
    ///
    /// ```
    /// # use redeliver_socketio::{Broadcast, Incoming, SendError};
    /// # fn handle(room: &Broadcast, incoming: Incoming) -> Result<(), SendError> {
    /// let receipt = room.start_emit("said", "hello")?;
    /// // The client's next event is handled meanwhile.
    /// tokio::spawn(async move {
    ///     let is_stored = receipt.await.is_ok();
    ///     let _ = incoming.answer(is_stored);
    /// });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`SendError`], but none of the log's: the receipt tells of those.
    pub fn start_emit(&self, name: &str, args: impl IntoArgs) -> Result<PendingReceipt, SendError> {
        let event = self.event(name, &args.into_args()?, false)?;
        let server = self.namespace.server.clone();
        Ok(PendingReceipt { receipt: begun(async move { server.emit_event(event).await }) })
    }

    /// Emits and waits for the answers of those that are connected now. One that is cut off meanwhile gets the event
    /// again, and may still answer.
    ///
    /// # Errors
    ///
    /// [`AckError`]; `TimedOut` holds the answers that did come.
    ///
    /// # Cancel safety
    ///
    /// As [`Broadcast::emit`]; answers that come later are dropped.
    pub async fn emit_with_ack(
        &self,
        name: &str,
        args: impl IntoArgs,
        timeout: Duration,
    ) -> Result<Vec<AckReply>, AckError> {
        let event = self.event(name, &args.into_args().map_err(SendError::from)?, true)?;
        let asking = self.namespace.collectors.ask();
        let receipt = self.namespace.server.emit_event(event).await.map_err(SendError::from)?;
        // What has no publisher is no duplicate, and so has a position.
        let seq = receipt.seq().unwrap_or_default();
        let receivers = self.receivers_at(seq)?;
        let (answers, missing) = self.namespace.collectors.collect(asking, seq, receivers, timeout).await;
        if missing > 0 {
            return Err(AckError::TimedOut { missing, after: timeout, answers });
        }
        Ok(answers)
    }

    /// The sockets that an event would reach now.
    ///
    /// # Errors
    ///
    /// [`RoomError`] if a room's name is too long.
    pub fn sockets(&self) -> Result<Vec<Socket>, RoomError> {
        let (topics, except) = (self.topics()?, self.excepted()?);
        let reaches = |socket: &Socket| socket.is_in_any(&topics) && !socket.is_in_any(&except);
        Ok(self.namespace.members.all().into_iter().filter(reaches).collect())
    }

    /// Lets these sockets join a room. Durable when it returns.
    ///
    /// # Errors
    ///
    /// The first [`RoomError`] of one of them; the others have joined all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave only some of them in the room.
    pub async fn sockets_join(&self, room: &str) -> Result<(), RoomError> {
        let joins = self.sockets()?.into_iter().map(|socket| async move { socket.join(room).await });
        first_error(futures_util::future::join_all(joins).await)
    }

    /// Lets these sockets leave a room. Durable when it returns.
    ///
    /// # Errors
    ///
    /// The first [`RoomError`] of one of them; the others have left all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave some of them in the room.
    pub async fn sockets_leave(&self, room: &str) -> Result<(), RoomError> {
        let leaves = self.sockets()?.into_iter().map(|socket| async move { socket.leave(room).await });
        first_error(futures_util::future::join_all(leaves).await)
    }

    /// Disconnects these sockets from the namespace: [`Socket::disconnect`].
    ///
    /// # Errors
    ///
    /// [`RoomError`] if a room's name is too long.
    pub fn disconnect_sockets(&self) -> Result<(), RoomError> {
        self.sockets()?.iter().for_each(Socket::disconnect);
        Ok(())
    }

    /// Disconnects these sockets and closes their connections: [`Socket::close_connection`].
    ///
    /// # Errors
    ///
    /// [`RoomError`] if a room's name is too long.
    pub fn close_connections(&self) -> Result<(), RoomError> {
        self.sockets()?.iter().for_each(Socket::close_connection);
        Ok(())
    }

    fn event(&self, name: &str, args: &Args, asks: bool) -> Result<NewEvent, SendError> {
        args.check()?;
        let (kind, payload) = args.to_payload();
        let mut topics = self.topics()?;
        let first = topics.remove(0);
        let mut event = NewEvent::new(first, event_name(name)?, kind, payload);
        event.topics.append(&mut topics);
        event.except = self.excepted()?;
        if asks {
            event.options = EmitOptions::ASKS;
        }
        Ok(event)
    }

    fn topics(&self) -> Result<Vec<TopicName>, RoomError> {
        if self.rooms.is_empty() {
            return Ok(vec![self.namespace.topic.clone()]);
        }
        self.rooms.iter().map(|room| room_topic(self.namespace.name.as_str(), room)).collect()
    }

    fn excepted(&self) -> Result<Vec<TopicName>, RoomError> {
        self.except.iter().map(|room| room_topic(self.namespace.name.as_str(), room)).collect()
    }

    fn receivers_at(&self, seq: Seq) -> Result<HashSet<String>, SendError> {
        let (topics, except) = (self.topics()?, self.excepted()?);
        let got = |socket: &Socket| socket.was_in_any(&topics, seq) && !socket.was_in_any(&except, seq);
        let sockets = self.namespace.members.all();
        Ok(sockets.iter().filter(|socket| got(socket)).map(|socket| socket.id().to_owned()).collect())
    }
}

/// Begins an emit: looked at once, its event is in the server's queue. What it comes to is to be waited for.
pub(crate) fn begun<T: Send + 'static>(emitting: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    let mut emitting = emitting.boxed();
    match (&mut emitting).now_or_never() {
        Some(done) => std::future::ready(done).boxed(),
        None => emitting,
    }
}

/// An emit that has begun: resolves when the event is durable. Begun by [`Broadcast::start_emit`]. Dropped, it may be
/// stored all the same.
#[must_use]
pub struct PendingReceipt {
    receipt: BoxFuture<'static, Result<Receipt, EmitError>>,
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.receipt.poll_unpin(cx).map_err(SendError::from)
    }
}

impl std::fmt::Debug for PendingReceipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingReceipt").finish_non_exhaustive()
    }
}

/// Whom a volatile event is for. Begun by [`Broadcast::volatile`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Volatile(Broadcast);

impl Volatile {
    /// Hands an event over to those who are connected now and keep up. Nobody else gets it, also not later.
    ///
    /// # Errors
    ///
    /// [`SendError`].
    pub fn emit(&self, name: &str, args: impl IntoArgs) -> Result<(), SendError> {
        let event = self.0.event(name, &args.into_args()?, false)?;
        Ok(self.0.namespace.server.emit_volatile_event(event)?)
    }
}

/// A name that clients can take for an event's.
pub(crate) fn event_name(name: &str) -> Result<EventName, SendError> {
    if RESERVED_NAMES.contains(&name) {
        return Err(SendError::Name(format!("`{name}` is one of Socket.IO's own")));
    }
    EventName::new(name).map_err(|error| SendError::Name(error.to_string()))
}

fn first_error(results: Vec<Result<(), RoomError>>) -> Result<(), RoomError> {
    results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}
