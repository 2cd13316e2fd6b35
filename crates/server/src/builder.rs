//! How a server is put together and opened.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redeliver_log::kv::Kv;
use redeliver_log::kv::memory::MemoryKv;
use redeliver_log::{Log, LogConfig, LogError};
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::limits::Limits;
use redeliver_protocol::request::{Refusal, Response};
use redeliver_protocol::seq::Epoch;
use redeliver_protocol::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::access::{Access, AnyAccess, Identity, OpenAccess};
use crate::clock::wall_clock;
use crate::handle::DRAIN_WITHIN;
use crate::requests::{self, ClientRequest, Handler};
use crate::server::Server;
use crate::shared::{Settings, Shared};
use crate::strangers::Strangers;
use crate::strangers::budget::{Budget, StrangerLimits, descriptors};

/// Builds a [`Server`]. Made by [`Server::builder`]; a log must be chosen, everything else has a default.
#[derive(Default)]
pub struct ServerBuilder {
    source: Source,
    config: ServerConfig,
    limits: Option<Limits>,
    log_config: LogConfig,
    access: Option<Arc<dyn AnyAccess>>,
    gateway_topics_open: bool,
    allowed_origins: Vec<String>,
    connections_max: Option<usize>,
    strangers: StrangerLimits,
    drain_within: Option<Duration>,
    queue_bytes_max: Option<usize>,
    commits_inline: bool,
    handler: Option<Handler>,
}

#[derive(Default)]
enum Source {
    #[default]
    Unset,
    DataDir(PathBuf),
    InMemory(MemoryStore),
    Opened(Box<Log>),
}

/// A store in memory that outlives its server, so that another server can be opened over it, as after a restart. For tests.
/// One server at a time may have it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<MemoryKv>);

impl ServerBuilder {
    /// The default of [`ServerBuilder::connections_max`], in connections.
    pub const CONNECTIONS_MAX: usize = 65_536;

    /// The default of [`ServerBuilder::queue_bytes_max`], in bytes.
    pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

    /// Keeps the log in this directory, which is made if it does not exist. One process at a time may have it.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> ServerBuilder {
        self.source = Source::DataDir(path.into());
        self
    }

    /// Keeps the log in memory. **It is not durable**: all is lost with the process, whatever receipts say. For tests and
    /// demonstrations.
    #[must_use]
    pub fn in_memory(self) -> ServerBuilder {
        self.memory_store(&MemoryStore::default())
    }

    /// Keeps the log in a store in memory, with all that earlier servers left in it. See [`ServerBuilder::in_memory`].
    #[must_use]
    pub fn memory_store(mut self, store: &MemoryStore) -> ServerBuilder {
        self.source = Source::InMemory(store.clone());
        self
    }

    /// Commits in a task of the runtime that opens the server, instead of in a thread of its own. Then a test whose clock is
    /// paused (`#[tokio::test(start_paused = true)]`) does not see a timeout pass while an event is stored. For tests, in
    /// memory: a data directory's fsyncs would block the runtime.
    #[must_use]
    pub fn commits_inline(mut self) -> ServerBuilder {
        self.commits_inline = true;
        self
    }

    /// Takes a log that is open already, over a store of the app's own: made with the crate `redeliver-log`, whose
    /// monotonic time begins when the log is opened. [`ServerBuilder::log_config`] is not looked at then.
    #[must_use]
    pub fn log(mut self, log: Log) -> ServerBuilder {
        self.source = Source::Opened(Box::new(log));
        self
    }

    /// Sets what clients are told and held to; also what in-process emits are held to.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> ServerBuilder {
        self.limits = Some(limits);
        self
    }

    /// Sets how sessions behave: heartbeat, timeouts, batches. Its limits count unless [`ServerBuilder::limits`] is called
    /// too, before or after.
    #[must_use]
    pub fn session_config(mut self, config: ServerConfig) -> ServerBuilder {
        self.config = config;
        self
    }

    /// Sets how the log behaves: retention above all.
    #[must_use]
    pub fn log_config(mut self, config: LogConfig) -> ServerBuilder {
        self.log_config = config;
        self
    }

    /// Sets who may connect and do what: [`OpenAccess`] unless set. It does not judge the process itself: in-process emits and
    /// subscriptions may do everything.
    #[must_use]
    pub fn access(mut self, access: impl Access) -> ServerBuilder {
        self.access = Some(Arc::new(access));
        self
    }

    /// Lets native clients reach the topics of gateways, whose names begin with `/`, as any other topics. Unless set,
    /// [`Action::EmitToGateway`](crate::Action::EmitToGateway) and
    /// [`Action::SubscribeToGateway`](crate::Action::SubscribeToGateway) are asked for them, which [`OpenAccess`] refuses:
    /// neither a namespace's middlewares nor the membership of rooms would be asked.
    #[must_use]
    pub fn gateway_topics_open(mut self, open: bool) -> ServerBuilder {
        self.gateway_topics_open = open;
        self
    }

    /// Origins (`https://app.example.com`) whose pages may connect from a browser, besides pages of the very host that
    /// they connect to if that is an address or `localhost` (a page of another name could have had it pointed here). `*`
    /// stands for all that have a name; a page of none (`null`) must be listed, and pages that only `*` lets in send no
    /// cookies. Clients that are no browsers send no origin, and are not asked for one.
    #[must_use]
    pub fn allowed_origins<I>(mut self, origins: I) -> ServerBuilder
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.allowed_origins = origins.into_iter().map(Into::into).collect();
        self
    }

    /// Most connections at once that are authenticated; more are answered 503, or told to come back. 65,536 unless set;
    /// fewer if the process may not have so many file descriptors, which the server says in its log when it is opened.
    #[must_use]
    pub fn connections_max(mut self, connections: usize) -> ServerBuilder {
        self.connections_max = Some(connections);
        self
    }

    /// Sets what peers may take before they are authenticated.
    #[must_use]
    pub fn strangers(mut self, limits: StrangerLimits) -> ServerBuilder {
        self.strangers = limits;
        self
    }

    /// Within this time clients come back that are sent away by [`Server::shutdown`]: each is told a moment of its own, so
    /// that they do not come at once. 2 s unless set.
    #[must_use]
    pub fn drain_within(mut self, time: Duration) -> ServerBuilder {
        self.drain_within = Some(time);
        self
    }

    /// Most bytes of events that may wait for the disk; more emits are refused as `Overloaded`, which clients try again.
    /// 64 MiB unless set.
    #[must_use]
    pub fn queue_bytes_max(mut self, bytes: usize) -> ServerBuilder {
        self.queue_bytes_max = Some(bytes);
        self
    }

    /// Answers the requests of clients ([`Client::request`]). Called in a task for each, many at once (at most 256 for each
    /// connection), and dropped when the client's time is over or its connection ends. Without a handler clients are told
    /// that there is none. Whether an identity may ask is for the handler to say.
    ///
    /// [`Client::request`]: https://docs.rs/redeliver-client/latest/redeliver_client/struct.Client.html#method.request
    #[must_use]
    pub fn on_request<F, A>(mut self, handler: F) -> ServerBuilder
    where
        F: Fn(Identity, ClientRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        self.handler = Some(requests::handler(handler));
        self
    }

    /// Opens the log and starts its writer. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if no log was chosen or it cannot be opened.
    ///
    /// # Cancel safety
    ///
    /// An open that is under way when the future is dropped goes on and is undone when it ends: the data directory is free
    /// again a little later.
    pub async fn open(mut self) -> Result<Server, OpenError> {
        if let Some(limits) = self.limits {
            self.config.limits = limits;
        }
        let opened = std::time::Instant::now();
        let log = match self.source {
            Source::Unset => return Err(OpenError::NoLog),
            Source::Opened(log) => *log,
            Source::InMemory(MemoryStore(kv)) => open_log(kv, self.log_config)?,
            Source::DataDir(path) => {
                let log_config = self.log_config;
                let opening = tokio::task::spawn_blocking(move || open_data_dir(&path, log_config));
                opening.await.unwrap_or_else(|panic| Err(LogError::Failed(format!("opening it panicked: {panic}"))))?
            }
        };
        let shared = Shared::new(
            log,
            Settings {
                config: self.config,
                access: self.access.unwrap_or_else(|| Arc::new(OpenAccess)),
                gateway_topics_open: self.gateway_topics_open,
                allowed_origins: self.allowed_origins,
                strangers: strangers(self.connections_max, self.strangers),
                drain_within: self.drain_within.unwrap_or(DRAIN_WITHIN),
                queue_bytes_max: self.queue_bytes_max.unwrap_or(ServerBuilder::QUEUE_BYTES_MAX),
                commits_inline: self.commits_inline,
                handler: self.handler,
            },
        );
        Server::start(shared, opened).map_err(|error| OpenError::NoThread(error.to_string()))
    }
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why a server cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The builder was not told where the log is.
    #[error("no log was chosen: name a data directory, or say in_memory")]
    NoLog,
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The writer's thread cannot be started.
    #[error("the writer's thread cannot be started: {0}")]
    NoThread(String),
}

/// The pool of strangers, in a budget that the process can keep to. What is less than was wanted is told.
fn strangers(connections_max: Option<usize>, limits: StrangerLimits) -> Strangers {
    let (wanted, descriptors) = (connections_max.unwrap_or(ServerBuilder::CONNECTIONS_MAX), descriptors());
    let budget = Budget::new(wanted, limits.strangers_max, descriptors);
    let (connections, strangers) = (budget.connections_max, budget.strangers_max);
    if connections < wanted {
        warn!(connections, wanted, strangers, descriptors, "the limit of file descriptors allows fewer connections");
    } else {
        info!(
            connections,
            strangers, descriptors, "connections at most, and strangers among them that are not authenticated"
        );
    }
    Strangers::new(budget, limits)
}

fn open_data_dir(path: &Path, config: LogConfig) -> Result<Log, LogError> {
    redeliver_log::open_dir(path, config, Epoch::from(Uuid::new_v4()), wall_clock(), Instant::ORIGIN)
}

fn open_log(kv: Arc<dyn Kv>, config: LogConfig) -> Result<Log, LogError> {
    Log::open(kv, config, Epoch::from(Uuid::new_v4()), wall_clock(), Instant::ORIGIN)
}
