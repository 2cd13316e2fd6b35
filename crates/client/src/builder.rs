//! Builds clients: who they are, how they behave, how they reach their server.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::{ClientSession, ConnectionState, Identity};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::features::Features;
use redeliver_protocol::name::{NameError, SubscriberName};
use redeliver_protocol::request::{Refusal, Request, Response};
use redeliver_protocol::seq::{EmitNumber, InstanceId, PublisherId};
use redeliver_protocol::time;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::acks::AckBoard;
use crate::auth::{self, Provider};
use crate::client::{Client, Shared};
use crate::connector::{Connector, TcpConnector};
use crate::cursor_store::CursorStore;
use crate::driver::{Driver, Wiring};
use crate::endpoint::Endpoint;
use crate::error::ConnectError;
use crate::outbox_room::OutboxRoom;
use crate::request::{self, Handler};
use crate::transport::Transport;

/// Under which identity a client emits.
#[derive(Clone, Copy, Debug)]
enum Publisher {
    New,
    Replay(PublisherId),
    After(PublisherId, EmitNumber),
}

/// Builds a [`Client`].
#[must_use = "a client is made by `connect` or `connect_lazy`"]
pub struct ClientBuilder<C = TcpConnector> {
    url: String,
    connector: C,
    config: ClientConfig,
    subscriber: Option<Result<SubscriberName, NameError>>,
    publisher: Publisher,
    auth: Option<Bytes>,
    credentials: Option<Provider>,
    name: Option<String>,
    store: Option<Arc<dyn CursorStore>>,
    connect_within: Option<Duration>,
    exact_marks: bool,
    handler: Option<Handler>,
}

impl<C> std::fmt::Debug for ClientBuilder<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the credentials.
        f.debug_struct("ClientBuilder").field("url", &self.url).field("config", &self.config).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(crate) fn new(url: &str) -> ClientBuilder {
        ClientBuilder {
            url: url.to_owned(),
            connector: TcpConnector::default(),
            config: ClientConfig::default(),
            subscriber: None,
            publisher: Publisher::New,
            auth: None,
            credentials: None,
            name: None,
            store: None,
            connect_within: None,
            exact_marks: true,
            handler: None,
        }
    }

    /// Sets how TLS is spoken with a `wss://` server: whose certificates are trusted, and which one of its own the client shows.
    /// Unless set, the client trusts what this machine trusts.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: crate::tls::TlsConfig) -> Self {
        self.connector = TcpConnector::with_tls(config);
        self
    }
}

impl<C: Connector> ClientBuilder<C> {
    /// Whether the server is told which events of a durable subscription the app takes, before it gets them. On by
    /// default: after this process dies, only what it had taken is marked `redelivered` to the next one, and what an app
    /// that takes an event in less than four round trips would have taken within about four of them.
    ///
    /// Off, up to three windows of events are marked that were never delivered. An app that takes longer than four round
    /// trips for an event then gets each of them a round trip earlier.
    pub fn exact_marks(mut self, is_on: bool) -> Self {
        self.exact_marks = is_on;
        self
    }

    /// Names the durable subscriber whose cursors the server keeps, for durable subscriptions.
    pub fn subscriber(mut self, name: impl AsRef<str>) -> Self {
        self.subscriber = Some(SubscriberName::new(name));
        self
    }

    /// Emits under this identity, and replays from the beginning: the client numbers its emits from 1, and emits the
    /// same events in the same order as each time before. What is there already is answered as a duplicate, however long
    /// ago it was stored.
    ///
    /// For input that can be read again from its beginning, such as a file. Two clients must not run under one identity
    /// at once: the newer one ends the older one.
    pub fn replay_as(mut self, id: impl Into<PublisherId>) -> Self {
        self.publisher = Publisher::Replay(id.into());
        self
    }

    /// Emits under this identity, and goes on behind the emit number `settled`, the last one whose receipt (or final
    /// refusal) the app has stored; 0 if there is none. The first emit of this client has the number `settled` + 1, and
    /// each later one the next.
    ///
    /// For an outbox table: its rows are numbered 1, 2, 3 … without a gap, and emitted in that order from the first one
    /// that is not settled. A row whose receipt was lost is answered as a duplicate. One that the server can no longer
    /// compare with what it stored under that number fails with [`EmitError::Forgotten`](crate::EmitError::Forgotten).
    /// Two clients must not run under one identity at once: the newer one ends the older one.
    pub fn publisher_after(mut self, id: impl Into<PublisherId>, settled: impl Into<EmitNumber>) -> Self {
        self.publisher = Publisher::After(id.into(), settled.into());
        self
    }

    /// Sets fixed credentials for the server's authenticator. Those that expire are asked for with
    /// [`auth_with`](ClientBuilder::auth_with).
    pub fn auth(mut self, credentials: impl AsRef<[u8]>) -> Self {
        self.auth = Some(Bytes::copy_from_slice(credentials.as_ref()));
        self
    }

    /// Asks the app for credentials at each connection, so that they may expire. Instead of [`auth`](ClientBuilder::auth).
    ///
    /// When the server says that the credentials have expired or are not valid, the client asks for others at once and goes
    /// on where it was: nothing is lost and nothing comes twice. Only if those that were just given are called invalid too,
    /// twice in a row, the client ends, as it does with fixed ones.
    ///
    /// The future has to be done within [`connect_timeout`](ClientBuilder::connect_timeout), together with the connection,
    /// and is dropped if it is not. An error or a panic counts as a failed try to connect: it is logged, shown as the
    /// reason in [`ConnectionState::Waiting`] (a [`CredentialsError`](crate::CredentialsError)), and tried again after the
    /// usual pause.
    ///
    /// ```
    /// # use redeliver_client::Client;
    /// # async fn token_of_the_day() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// let builder = Client::builder("wss://events.example").auth_with(|| async { Ok(token_of_the_day().await?) });
    /// ```
    pub fn auth_with<F, A, T>(mut self, provider: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<T, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
        T: AsRef<[u8]>,
    {
        self.credentials = Some(auth::provider(provider));
        self
    }

    /// Sets what the client calls itself, for the server's operator.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets where the cursors of stored subscriptions are kept.
    pub fn cursor_store(mut self, store: impl CursorStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Sets all settings at once.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets how many emits without a receipt the client holds at most, in events and in bytes. Who emits more waits.
    pub fn outbox(mut self, events_max: usize, bytes_max: usize) -> Self {
        self.config.outbox_events_max = events_max;
        self.config.outbox_bytes_max = bytes_max;
        self
    }

    /// Bounds the pause between two tries to connect. Each pause is drawn between zero and a bound that doubles from
    /// `first` to `max`.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.config.backoff_first = first;
        self.config.backoff_max = max;
        self
    }

    /// Sets how long one try to connect may take, the handshakes included.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Lets [`connect`](ClientBuilder::connect) give up after this time. Without it, it tries for ever.
    pub fn connect_within(mut self, limit: Duration) -> Self {
        self.connect_within = Some(limit);
        self
    }

    /// Answers the requests of the server's app ([`Server::request`]). Called in a task for each, many at once, and stopped
    /// when the server's time is over. Without a handler the server is told that there is none.
    ///
    /// [`Server::request`]: https://docs.rs/redeliver-server/latest/redeliver_server/struct.Server.html#method.request
    pub fn on_request<F, A>(mut self, handler: F) -> Self
    where
        F: Fn(Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        self.handler = Some(request::handler(handler));
        self
    }

    /// Reaches the server in another way than by TCP.
    pub fn connector<D: Connector>(self, connector: D) -> ClientBuilder<D> {
        ClientBuilder {
            connector,
            url: self.url,
            config: self.config,
            subscriber: self.subscriber,
            publisher: self.publisher,
            auth: self.auth,
            credentials: self.credentials,
            name: self.name,
            store: self.store,
            connect_within: self.connect_within,
            exact_marks: self.exact_marks,
            handler: self.handler,
        }
    }

    /// Makes the client and waits until it is connected. A server that cannot be reached is tried again and again,
    /// for ever unless [`connect_within`](ClientBuilder::connect_within) was set.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: what was set is not valid, the server refuses this client for good, or the time is over.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the client ends.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let limit = self.connect_within;
        let client = self.connect_lazy()?;
        let mut state = client.shared.state.clone();
        let connected = connected(&mut state);
        let Some(limit) = limit else {
            return connected.await.map(|()| client);
        };
        match tokio::time::timeout(limit, connected).await {
            Ok(result) => result.map(|()| client),
            Err(_) => Err(ConnectError::Unreachable { source: reason(&client.shared.state), waited: limit }),
        }
    }

    /// Makes the client and returns at once; it connects in the background. Emits wait in the outbox, and a refusal
    /// shows in [`state`](Client::state).
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if what was set is not valid.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connect_lazy(self) -> Result<Client, ConnectError> {
        let endpoint = Endpoint::parse(&self.url)?;
        self.connector.check(&endpoint)?;
        if (self.auth.is_some() || self.credentials.is_some()) && self.connector.is_readable_by_others(&endpoint) {
            tracing::warn!(
                host = endpoint.host(),
                "credentials are sent unencrypted (ws://): use wss:// beyond this machine"
            );
        }
        let subscriber = self.subscriber.transpose()?;
        let is_new = matches!(self.publisher, Publisher::New);
        let (publisher, settled, replays) = match self.publisher {
            Publisher::New => (Uuid::new_v4().into(), EmitNumber::ZERO, false),
            Publisher::Replay(id) => (id, EmitNumber::ZERO, true),
            Publisher::After(id, settled) => (id, settled, false),
        };
        let identity = Identity {
            instance: InstanceId::from(Uuid::new_v4()),
            publisher,
            subscriber: subscriber.clone(),
            auth: self.auth.filter(|_| self.credentials.is_none()),
            client_name: self.name.unwrap_or_else(|| CLIENT_NAME.to_owned()),
        };
        let (commands, commands_of_driver) = mpsc::unbounded_channel();
        let (state_of_driver, state) = watch::channel(ConnectionState::default());
        let (notices_of_driver, notices) = broadcast::channel(NOTICES_MAX);
        let shared = Shared {
            commands,
            acks: Arc::new(AckBoard::default()),
            room: OutboxRoom::new(&self.config),
            publisher,
            subscriber,
            store: self.store,
            keys: Arc::default(),
            state,
            notices,
            next_ticket: AtomicU64::new(1),
            next_request: AtomicU64::new(1),
            volatile_room: Arc::new(Semaphore::new(VOLATILE_BYTES_MAX)),
            next_subscription: AtomicU64::new(1),
        };
        let wiring = Wiring {
            commands: commands_of_driver,
            acks: Arc::clone(&shared.acks),
            room: shared.room.clone(),
            state: state_of_driver,
            notices: notices_of_driver,
            store: shared.store.clone(),
            handler: self.handler,
            replays,
        };
        let (jitter_seed, _) = Uuid::new_v4().as_u64_pair();
        let mut config = self.config;
        // The driver says when the app wants more.
        if self.exact_marks {
            config.features = config.features.or(Features::TAKING);
        }
        let mut session = ClientSession::new(config, identity, Jitter::new(jitter_seed), time::Instant::ORIGIN)
            .emitting_after(settled);
        if is_new {
            session.retire_publisher();
        }
        let session = if self.credentials.is_some() { session.renewing_credentials() } else { session };
        let transport = Transport::new(self.connector, endpoint, self.credentials);
        let driver = Driver::new(session, Instant::now(), transport, wiring);
        tokio::spawn(driver.run());
        Ok(Client { shared: Arc::new(shared) })
    }
}

async fn connected(state: &mut watch::Receiver<ConnectionState>) -> Result<(), ConnectError> {
    loop {
        match &*state.borrow_and_update() {
            ConnectionState::Connected { .. } => return Ok(()),
            ConnectionState::Ended { close: Some(close) } => return Err(ConnectError::Refused(close.clone())),
            ConnectionState::Ended { close: None } => return Err(ConnectError::Ended),
            ConnectionState::Connecting | ConnectionState::Waiting { .. } | _ => {}
        }
        if state.changed().await.is_err() {
            return Err(ConnectError::Ended);
        }
    }
}

fn reason(state: &watch::Receiver<ConnectionState>) -> Cause {
    match &*state.borrow() {
        ConnectionState::Waiting { reason, .. } => reason.clone(),
        ConnectionState::Connecting | ConnectionState::Connected { .. } | ConnectionState::Ended { .. } | _ => {
            Cause::of_words("the server does not answer")
        }
    }
}

const CLIENT_NAME: &str = concat!("redeliver-client/", env!("CARGO_PKG_VERSION"));

/// Most bytes of volatile events on their way to the driver.
const VOLATILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most notices that wait for somebody to take them. They are rare; who is later than this learns how many.
const NOTICES_MAX: usize = 64;
