//! What every connection of a server shares: the log, the way to its writer, the hub, the settings, the phase of life.

use std::sync::Arc;
use std::time::Duration;

use redeliver_log::Log;
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use tokio::sync::{Semaphore, watch};

use crate::access::denial::DenialLog;
use crate::access::{AnyAccess, Denied, Identity, Native};
use crate::clock::{Clock, wall_clock};
use crate::guesses::Guesses;
use crate::hub::Hub;
use crate::queue::Queue;
use crate::registry::Registry;
use crate::requests::{Asking, Handler};
use crate::stats::{Counters, add};
use crate::storage::Storage;
use crate::strangers::Strangers;

pub(crate) struct Shared {
    pub(crate) log: Log,
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) queue: Queue,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) access: Arc<dyn AnyAccess>,
    /// Judges clients that speak redeliver's own protocol.
    pub(crate) native_access: Arc<dyn AnyAccess>,
    pub(crate) allowed_origins: Vec<String>,
    /// Who is connected and not authenticated; also how many connections there may be.
    pub(crate) strangers: Strangers,
    pub(crate) guesses: Guesses,
    /// Within this time clients are told to come back to a server that shuts down.
    pub(crate) drain_within: Duration,
    pub(crate) clock: Clock,
    pub(crate) counters: Counters,
    pub(crate) storage: Storage,
    /// The app's handler of clients' requests.
    pub(crate) handler: Option<Handler>,
    pub(crate) asking: Asking,
    pub(crate) denials: DenialLog,
    /// Bounds the threads that wait for the disk.
    pub(crate) cold_reads: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
    /// Whether the shutdown is over, so that nobody is to be answered any more.
    stopped: watch::Sender<bool>,
    /// How many connections there are, until their last byte.
    present: Arc<watch::Sender<usize>>,
    /// How many of them are authenticated.
    members: Arc<watch::Sender<usize>>,
    /// How many others hold what is shared: listeners, handshakes, reads. The log is let go only after them.
    helping: Arc<watch::Sender<usize>>,
}

/// Something that counts, for as long as this is held: to be dropped after all that it holds of the server. Apart from
/// [`Shared`], so that it holds nothing itself.
#[derive(Debug)]
pub(crate) struct Presence {
    counted: Arc<watch::Sender<usize>>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.counted.send_modify(|present| *present -= 1);
    }
}

/// Where a server is in its life. Only ever moves down this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It serves.
    Ready,
    /// It sends its clients away.
    Draining,
    /// Its log has failed, for this reason.
    Failed(Arc<str>),
}

/// What a builder has settled.
pub(crate) struct Settings {
    pub(crate) config: ServerConfig,
    pub(crate) access: Arc<dyn AnyAccess>,
    /// Whether native clients reach the topics of gateways as any others.
    pub(crate) gateway_topics_open: bool,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) strangers: Strangers,
    pub(crate) drain_within: Duration,
    pub(crate) queue_bytes_max: usize,
    /// Whether the writer is a task instead of a thread.
    pub(crate) commits_inline: bool,
    pub(crate) handler: Option<Handler>,
}

impl Shared {
    pub(crate) fn new(log: Log, settings: Settings) -> Shared {
        let queue = if settings.commits_inline { Queue::for_task } else { Queue::new };
        let native_access: Arc<dyn AnyAccess> = if settings.gateway_topics_open {
            Arc::clone(&settings.access)
        } else {
            Arc::new(Native(Arc::clone(&settings.access)))
        };
        Shared {
            log,
            hub: Arc::default(),
            registry: Arc::default(),
            queue: queue(settings.queue_bytes_max),
            config: Arc::new(settings.config),
            native_access,
            access: settings.access,
            allowed_origins: settings.allowed_origins,
            strangers: settings.strangers,
            guesses: Guesses::default(),
            drain_within: settings.drain_within,
            clock: Clock::new(),
            counters: Counters::default(),
            storage: Storage::default(),
            handler: settings.handler,
            asking: Asking::default(),
            denials: DenialLog::default(),
            cold_reads: Arc::new(Semaphore::new(COLD_READS_MAX)),
            phase: watch::Sender::new(Phase::Ready),
            stopped: watch::Sender::new(false),
            present: Arc::new(watch::Sender::new(0)),
            members: Arc::new(watch::Sender::new(0)),
            helping: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Whether an identity's credentials hold now.
    pub(crate) fn credentials_hold(&self, access: &dyn AnyAccess, identity: &Identity) -> Result<(), Denied> {
        if identity.has_expired(wall_clock()) {
            return Err(Denied::expired(CloseCode::EXPIRED.description()));
        }
        access.review(identity)
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.phase.borrow() == Phase::Ready
    }

    /// Whether there is room for one more connection that is authenticated.
    pub(crate) fn has_room(&self) -> bool {
        *self.members.borrow() < self.strangers.budget().connections_max
    }

    /// Counts a connection that is authenticated, unless there are as many as there may be.
    pub(crate) fn join_if_room(&self) -> Option<Presence> {
        let joined = self.members.send_if_modified(|members| {
            let has_room = *members < self.strangers.budget().connections_max;
            *members += usize::from(has_room);
            has_room
        });
        joined.then(|| Presence { counted: Arc::clone(&self.members) })
    }

    /// Counts a connection, until its last byte.
    pub(crate) fn enter(&self) -> Presence {
        add(&self.counters.connections_total, 1);
        self.present.send_modify(|present| *present += 1);
        Presence { counted: Arc::clone(&self.present) }
    }

    /// Counts something that is no connection.
    pub(crate) fn help(&self) -> Presence {
        self.helping.send_modify(|helping| *helping += 1);
        Presence { counted: Arc::clone(&self.helping) }
    }

    /// How many of those there are.
    pub(crate) fn helping(&self) -> watch::Receiver<usize> {
        self.helping.subscribe()
    }

    /// How many connections there are.
    pub(crate) fn present(&self) -> watch::Receiver<usize> {
        self.present.subscribe()
    }

    /// Takes nobody more, and sends everybody away with a close made for each.
    pub(crate) fn drain(&self, close: impl FnMut() -> Close) {
        self.phase.send_if_modified(|phase| {
            let ready = *phase == Phase::Ready;
            if ready {
                *phase = Phase::Draining;
            }
            ready
        });
        self.hub.end_all(close);
    }

    /// The log can no longer be used: nothing more is taken or answered, and everybody is told.
    pub(crate) fn fail(&self, reason: &str) {
        self.queue.fail();
        let is_first = self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Failed(_));
            if first {
                *phase = Phase::Failed(reason.into());
            }
            first
        });
        if !is_first {
            // Everybody has been told: each of a thousand reads that fail would else tell each of a thousand peers.
            return;
        }
        // The reason may name paths: it is for the operator, not for peers.
        let (code, retry) = (CloseCode::LOG_FAILED, RetryAdvice::After(FAILED_RETRY));
        self.hub.end_all(|| Close::of(code, retry));
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

/// Threads that may wait for the disk at once. More than this only makes a disk's queue longer.
const COLD_READS_MAX: usize = 16;

/// When clients come back to a server whose log has failed: it must be restarted first.
const FAILED_RETRY: Duration = Duration::from_secs(2);
