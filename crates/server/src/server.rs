//! The server's handle: what an app holds and calls.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use redeliver_log::LogStats;
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::name::EventName;
use redeliver_protocol::payload::{Payload, PayloadKind};
use redeliver_protocol::request::{self, RequestError};
use redeliver_protocol::seq::{Position, PublisherId};
use redeliver_protocol::server::ConnectionId;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::builder::ServerBuilder;
use crate::emit;
use crate::gateway::Gateway;
use crate::handle::Handle;
use crate::local::LocalSubscribe;
use crate::publisher::PublisherClaim;
use crate::registry::{self, ConnectionInfo};
use crate::routes::{NoRoutes, Routes};
use crate::shared::{Phase, Shared};
use crate::stats::ServerStats;
use crate::tls::Tls;
use crate::{admin, http as http_answers, listener, volatile, writer};

/// A running server. Clones are handles to the same one; when the last is dropped, its clients are sent away and its
/// writer ends after what it has in hand. [`Server::shutdown`] does that and waits for it.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) handle: Arc<Handle>,
}

impl Server {
    /// Starts to put a server together.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(crate) fn start(shared: Shared, opened: std::time::Instant) -> std::io::Result<Server> {
        let shared = Arc::new(shared);
        let writer = writer::start(Arc::clone(&shared), opened)?;
        Ok(Server { handle: Arc::new(Handle { shared, writer }) })
    }

    /// Stores an event of one topic durably. It is fsynced when this returns, and on its way to its readers. Text and bytes
    /// are taken as they are, and moved.
    ///
    /// # Errors
    ///
    /// [`EmitError`]. Only after `Unknown` may the event be stored all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, the event may be stored.
    pub async fn emit(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        payload: impl Into<Payload>,
    ) -> Result<Receipt, EmitError> {
        self.emit_event(NewEvent::to(topic, name)?.payload(payload)).await
    }

    /// Stores a value durably as a JSON event of one topic. See [`Server::emit`].
    ///
    /// # Errors
    ///
    /// [`EmitError`]; `Encode` if the value has no JSON form.
    ///
    /// # Cancel safety
    ///
    /// As [`Server::emit`].
    pub async fn emit_json<T: Serialize + ?Sized>(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        value: &T,
    ) -> Result<Receipt, EmitError> {
        self.emit_event(NewEvent::to(topic, name)?.json(value)?).await
    }

    /// Stores an event durably that may belong to several topics. See [`Server::emit`].
    ///
    /// # Errors
    ///
    /// [`EmitError`].
    ///
    /// # Cancel safety
    ///
    /// As [`Server::emit`].
    pub async fn emit_event(&self, event: NewEvent) -> Result<Receipt, EmitError> {
        emit::emit(&self.handle.shared, event).await
    }

    /// Stores several events durably, all of them or none: in one commit and under consecutive seqs, so that no crash and
    /// no full disk parts them, and nothing else comes between. Returns a receipt for each, in their order.
    ///
    /// One commit holds [`TOGETHER_EVENTS_MAX`](crate::TOGETHER_EVENTS_MAX) events (4,096) and
    /// [`TOGETHER_BYTES_MAX`](crate::TOGETHER_BYTES_MAX) bytes (1,040,000) of names, topics and payloads and about 90
    /// bytes more for each event.
    ///
    /// ```
    /// # use redeliver_server::{EmitError, NewEvent, Server};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::builder().in_memory().open().await?;
    /// let paid = NewEvent::to("orders", "paid")?.payload("7");
    /// let booked = NewEvent::to("ledger", "booked")?.payload("7: 12.50");
    /// let receipts = server.emit_all([paid, booked]).await?;
    /// assert_eq!(receipts[0].seq().map(|seq| seq.next()), receipts[1].seq());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`EmitError`], for all of them; `TooManyTogether` if one commit does not hold them.
    ///
    /// # Cancel safety
    ///
    /// As [`Server::emit`]: all are stored, or none.
    pub async fn emit_all(&self, events: impl IntoIterator<Item = NewEvent>) -> Result<Vec<Receipt>, EmitError> {
        emit::emit_all(&self.handle.shared, events.into_iter().collect()).await
    }

    /// Claims a publisher for an app that numbers its events itself, such as the relay of an outbox table: what is repeated
    /// under its number is stored once. The rules are those of the wire: numbers follow each other, the newest claim fences
    /// an older one, and a publisher belongs to the identity that emitted as it first.
    ///
    /// ```
    /// # use redeliver_server::{NewEvent, Server};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::builder().in_memory().open().await?;
    /// # let (relay, done) = (uuid::Uuid::from_u128(7), 41);
    /// // `relay` is always the same UUID; all rows up to `done` are known to be stored.
    /// let publisher = server.publisher(relay).after(done).claim()?;
    /// let event = NewEvent::to("orders", "created")?.payload("a book");
    /// let receipt = publisher.emit(42, event.clone()).await?;
    /// // The row was stored, but the process ended before it could note that.
    /// let again = publisher.emit(42, event).await?;
    /// assert!(again.duplicate);
    /// assert_eq!(again.position, receipt.position);
    /// # Ok(())
    /// # }
    /// ```
    pub fn publisher(&self, id: impl Into<PublisherId>) -> PublisherClaim {
        PublisherClaim::new(&self.handle, id.into())
    }

    /// Gives an event to whoever follows the topic now, remote or in the process, without storing it: it has no seq,
    /// arrives at most once, and is lost for whoever does not keep up. Never waits.
    ///
    /// # Errors
    ///
    /// [`EmitError`]; `Refused` while the server is shutting down.
    pub fn emit_volatile(
        &self,
        topic: impl AsRef<str>,
        name: impl AsRef<str>,
        payload: impl Into<Payload>,
    ) -> Result<(), EmitError> {
        self.emit_volatile_event(NewEvent::to(topic, name)?.payload(payload))
    }

    /// Gives an event that may belong to several topics to whoever follows one of them now. See
    /// [`Server::emit_volatile`].
    ///
    /// # Errors
    ///
    /// [`EmitError`].
    pub fn emit_volatile_event(&self, event: NewEvent) -> Result<(), EmitError> {
        volatile::emit(&self.handle.shared, event)
    }

    /// Follows a topic from within the process, by the same rules and cursors as a client. Await what is returned.
    ///
    /// ```
    /// # use redeliver_server::{Delivery, Server, Start};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::builder().in_memory().open().await?;
    /// # server.emit("orders", "created", "a book").await?;
    /// let mut orders = server.subscribe("orders").start(Start::Earliest).await?;
    /// while let Some(delivery) = orders.next().await {
    ///     if let Delivery::Event(event) = delivery {
    ///         assert_eq!(event.text()?, "a book");
    ///         event.ack();
    ///         break;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe(&self, topic: impl AsRef<str>) -> LocalSubscribe {
        LocalSubscribe::new(&self.handle, topic.as_ref())
    }

    /// Returns what a gateway needs of the server: whatever serves clients that speak another protocol than redeliver's own.
    #[must_use]
    pub fn gateway(&self) -> Gateway {
        Gateway::new(&self.handle)
    }

    /// Who is connected and authenticated now, over any protocol, in-process subscriptions included.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.handle.shared.registry.connections()
    }

    /// Sends a connection away, for this reason, which its client is told. It does not come back by itself. Says whether
    /// there is such a connection.
    pub fn disconnect(&self, connection: ConnectionId, reason: impl Into<String>) -> bool {
        self.handle.shared.hub.end(connection, registry::sent_away(reason.into()))
    }

    /// Sends all connections of an identity away, over any protocol. Returns how many there were. As
    /// [`Server::disconnect`], it does not keep them from coming back: [`Access`](crate::Access) does.
    pub fn disconnect_identity(&self, name: &str, reason: impl Into<String>) -> usize {
        let reason = reason.into();
        let connections = self.connections().into_iter().filter(|connection| connection.identity.name() == name);
        connections.filter(|connection| self.disconnect(connection.id, reason.clone())).count()
    }

    /// Has every connection, over any protocol, judged again: for an [`Access`](crate::Access) whose answers have changed.
    /// Whose credentials no longer hold ([`Access::review`](crate::Access::review)), or who may no longer use its durable
    /// subscriber's name, is sent away; a subscription that is no longer allowed ends with a refusal; who may no longer
    /// emit as its publisher has its emits refused. Returns at once; each connection does it when it runs next.
    pub fn reauthorize(&self) {
        self.handle.shared.hub.review_all();
    }

    /// Asks a connected client, which answers with its `on_request`. Asked at most once: when the connection ends, the
    /// request ends with it. `timeout` is at most an hour.
    ///
    /// # Errors
    ///
    /// [`RequestError`], which says whether the client may have handled it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nobody waits for the answer; the client may have handled the request.
    pub async fn request(
        &self,
        connection: ConnectionId,
        name: &str,
        kind: PayloadKind,
        payload: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<request::Response, RequestError> {
        let name = EventName::new(name).map_err(|error| RequestError::Invalid(error.to_string()))?;
        let request = request::Request::new(name, kind, payload.into(), timeout);
        let shared = &self.handle.shared;
        shared.asking.ask(&shared.hub, connection, request).await
    }

    /// The newest durable position.
    #[must_use]
    pub fn head(&self) -> Position {
        self.handle.shared.log.head()
    }

    /// What the server has done and holds.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        let shared = &self.handle.shared;
        let connections = *shared.present().borrow();
        shared.counters.read(connections, shared.storage.is_full())
    }

    /// Returns what the log holds and does: its size, floor, tail and damage.
    #[must_use]
    pub fn log_stats(&self) -> LogStats {
        self.handle.shared.log.stats()
    }

    /// Whether the server takes connections and events: its log is usable and it is not shutting down.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.handle.shared.is_ready()
    }

    /// Waits until the log has failed, for good. The process should then end: only a restart, which reads the log anew, can
    /// tell what is durable. Never returns if the log does not fail.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once failed, each call returns at once.
    pub async fn failed(&self) -> LogFailure {
        let mut phase = self.handle.shared.phase();
        loop {
            if let Phase::Failed(reason) = &*phase.borrow_and_update() {
                return LogFailure { reason: Arc::clone(reason) };
            }
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Serves HTTP on a listener: the WebSocket endpoint at `/`, `/healthz`, `/readyz`. Meanwhile the server lives, also
    /// without another handle. The future ends when [`Server::shutdown`] does: until then, who comes late is told to come
    /// back. Dropping it stops listening, and what is connected stays.
    pub fn serve(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + 'static {
        self.serve_with(listener, NoRoutes)
    }

    /// Serves HTTP on a listener as [`Server::serve`] does, with routes that answer paths of their own, such as a gateway's.
    pub fn serve_with<R: Routes>(&self, listener: TcpListener, routes: R) -> impl Future<Output = ()> + Send + 'static {
        self.listen(listener, routes, None)
    }

    /// Serves a listener as [`Server::serve`] does, over TLS: `wss` and `https`. Handshakes are held to the strangers' bounds.
    pub fn serve_tls(&self, listener: TcpListener, tls: Tls) -> impl Future<Output = ()> + Send + 'static {
        self.listen(listener, NoRoutes, Some(tls))
    }

    /// Serves a listener as [`Server::serve_with`] does, over TLS.
    pub fn serve_tls_with<R: Routes>(
        &self,
        listener: TcpListener,
        routes: R,
        tls: Tls,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.listen(listener, routes, Some(tls))
    }

    fn listen<R: Routes>(
        &self,
        listener: TcpListener,
        routes: R,
        tls: Option<Tls>,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Holds a handle, so that a server which is only served does not end.
        let server = self.clone();
        async move {
            // In a task of its own, so that a shutdown never waits for somebody who does not poll this.
            let mut listening = JoinSet::new();
            listening.spawn(async move {
                let helping = server.handle.shared.help();
                listener::serve(Arc::clone(&server.handle.shared), listener, routes, tls).await;
                drop(server);
                drop(helping);
            });
            // The set ends the task when it is dropped.
            listening.join_next().await;
        }
    }

    /// Answers `/healthz` and `/readyz` on a listener of its own, until the server's shutdown is over: strangers who fill the
    /// public one do not stand in the way there. To be reached by operators alone.
    pub fn serve_admin(&self, listener: TcpListener) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.handle.shared);
        async move {
            let helping = shared.help();
            admin::serve(shared, listener).await;
            drop(helping);
        }
    }

    /// Answers a WebSocket handshake that came to the app's own HTTP server, whatever its path, and serves the connection in
    /// a task of its own. `peer` is where it came from, if that is known. Works with any server on hyper 1, such as axum's.
    /// Must be called within a tokio runtime.
    pub fn handle_upgrade<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
        http_answers::upgrade(&self.handle.shared, request, peer)
    }

    /// Ends the server: takes nothing more, sends every client away with the advice to come back after a moment
    /// ([`ServerBuilder::drain_within`]), finishes what the writer has in hand. A data directory is free once it returned
    /// `Ok` and the handles are dropped.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] if not all of it was done within `timeout`. What is left goes on by itself.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on if the future is dropped; calling it again waits for the same.
    pub async fn shutdown(&self, timeout: Duration) -> Result<(), ShutdownError> {
        self.handle.drain();
        let deadline = tokio::time::Instant::now() + timeout;
        let shared = &self.handle.shared;
        let mut present = shared.present();
        // Their last appends are still written and answered: the queue closes after them.
        let _ = tokio::time::timeout_at(deadline, present.wait_for(|present| *present == 0)).await;
        let connections = *shared.present().borrow();
        shared.queue.close();
        let mut writer = self.handle.writer.clone();
        let writer_ended =
            tokio::time::timeout_at(deadline, async { while writer.changed().await.is_ok() {} }).await.is_ok();
        shared.stop();
        let mut helping = shared.helping();
        let none_help = tokio::time::timeout_at(deadline, helping.wait_for(|helping| *helping == 0)).await.is_ok();
        if connections == 0 && writer_ended && none_help {
            return Ok(());
        }
        Err(ShutdownError::Timeout { connections, writer_ended })
    }
}

/// Why the log of a server can no longer be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log has failed: {reason}")]
pub struct LogFailure {
    reason: Arc<str>,
}

impl LogFailure {
    /// Returns the reason. It may name paths: it is for the operator, not for peers.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Why a shutdown was not clean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The time was over first.
    #[error("the time was over with {connections} connections left{}", if *.writer_ended { "" } else { " and a commit under way" })]
    #[non_exhaustive]
    Timeout {
        /// How many connections had not ended.
        connections: usize,
        /// Whether the writer had ended, so that everything that was accepted is durable.
        writer_ended: bool,
    },
}
