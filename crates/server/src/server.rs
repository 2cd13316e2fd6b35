//! The server's handle: what an app holds and calls.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::name::{EventName, TopicName};
use redeliver_protocol::request::{self, RequestError};
use redeliver_protocol::seq::Position;
use redeliver_protocol::server::ConnectionId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::builder::ServerBuilder;
use crate::emit::{self, EmitError, Receipt};
use crate::gateway::Gateway;
use crate::handle::Handle;
use crate::local::{LocalSubscribe, LocalSubscription};
use crate::registry::{self, ConnectionInfo};
use crate::routes::{NoRoutes, Routes};
use crate::shared::{Phase, Shared};
use crate::stats::ServerStats;
use crate::{http as http_answers, listener, volatile, writer};

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

    /// Stores an event durably. It is fsynced when this returns, and on its way to its readers.
    ///
    /// # Errors
    ///
    /// [`EmitError`]. Only after `Unknown` may the event be stored all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, the event may be stored.
    pub async fn emit(&self, event: NewEvent) -> Result<Receipt, EmitError> {
        emit::emit(&self.handle.shared, event).await
    }

    /// Stores a JSON event of one topic durably. See [`Server::emit`].
    ///
    /// # Errors
    ///
    /// [`EmitError`]; `Invalid` also if a name or the value cannot be an event's.
    ///
    /// # Cancel safety
    ///
    /// As [`Server::emit`].
    pub async fn emit_json(
        &self,
        topic: &str,
        name: &str,
        value: &impl serde::Serialize,
    ) -> Result<Receipt, EmitError> {
        let invalid = |error: &dyn std::fmt::Display| EmitError::Invalid(error.to_string());
        let topic = TopicName::new(topic).map_err(|error| invalid(&error))?;
        let name = EventName::new(name).map_err(|error| invalid(&error))?;
        let payload = serde_json::to_vec(value).map_err(|error| invalid(&error))?;
        self.emit(NewEvent::new(topic, name, PayloadKind::Json, payload)).await
    }

    /// Gives an event to whoever follows one of its topics now, remote or in the process, without storing it: it has no seq,
    /// arrives at most once, and is lost for whoever does not keep up. Never waits.
    ///
    /// # Errors
    ///
    /// [`EmitError::Invalid`]; [`EmitError::NotApplied`] while the server is shutting down.
    pub fn emit_volatile(&self, event: NewEvent) -> Result<(), EmitError> {
        volatile::emit(&self.handle.shared, event)
    }

    /// Follows a topic from within the process, by the same rules and cursors as a client: the same two sessions talk to
    /// each other, without a socket between them. Must be called within a tokio runtime.
    pub fn subscribe(&self, request: LocalSubscribe) -> LocalSubscription {
        LocalSubscription::start(&self.handle.shared, request)
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
        let request = request::Request { name, kind, payload: payload.into(), timeout };
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
        let connections = *self.handle.shared.present().borrow();
        self.handle.shared.counters.read(connections)
    }

    /// Whether the server takes connections and events: its log is usable and it is not shutting down.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.handle.shared.is_ready()
    }

    /// Waits until the log has failed, for good, and says why. The process should then end: only a restart, which reads the
    /// log anew, can tell what is durable. Waits for ever if that does not happen.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once failed, it says so again at each call.
    pub async fn failed(&self) -> String {
        let mut phase = self.handle.shared.phase();
        loop {
            if let Phase::Failed(reason) = &*phase.borrow_and_update() {
                return reason.to_string();
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

    /// The same, with routes that answer paths of their own, such as a gateway's.
    pub fn serve_with<R: Routes>(&self, listener: TcpListener, routes: R) -> impl Future<Output = ()> + Send + 'static {
        // Holds a handle, so that a server which is only served does not end.
        let server = self.clone();
        async move {
            // In a task of its own, so that a shutdown never waits for somebody who does not poll this.
            let mut listening = JoinSet::new();
            listening.spawn(async move {
                let helping = server.handle.shared.help();
                listener::serve(Arc::clone(&server.handle.shared), listener, routes).await;
                drop(server);
                drop(helping);
            });
            // The set ends the task when it is dropped.
            listening.join_next().await;
        }
    }

    /// Answers a WebSocket handshake that came to the app's own HTTP server, whatever its path, and serves the connection in
    /// a task of its own. `peer` is where it came from, if that is known. Works with any server on hyper 1, such as axum's.
    /// Must be called within a tokio runtime.
    pub fn handle_upgrade<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
        http_answers::upgrade(&self.handle.shared, request, peer)
    }

    /// Ends the server: takes nothing more, sends every client away with the advice to come back after a moment (a different
    /// one for each, so that they do not come at once), finishes what the writer has in hand. Returns whether all of it was
    /// done within `patience`; what is left goes on by itself. A data directory is free once it returned true and the
    /// handles are dropped.
    ///
    /// # Cancel safety
    ///
    /// The shutdown goes on if the future is dropped; calling it again waits for the same.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.handle.drain();
        let deadline = tokio::time::Instant::now() + patience;
        let mut present = self.handle.shared.present();
        // Their last appends are still written and answered: the queue closes after them.
        let all_left = tokio::time::timeout_at(deadline, present.wait_for(|present| *present == 0)).await.is_ok();
        self.handle.shared.queue.close();
        let mut writer = self.handle.writer.clone();
        let writer_ended =
            tokio::time::timeout_at(deadline, async { while writer.changed().await.is_ok() {} }).await.is_ok();
        self.handle.shared.stop();
        let mut helping = self.handle.shared.helping();
        let none_help = tokio::time::timeout_at(deadline, helping.wait_for(|helping| *helping == 0)).await.is_ok();
        all_left && writer_ended && none_help
    }
}
