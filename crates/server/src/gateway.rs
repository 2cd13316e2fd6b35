//! What a gateway needs of a server: registration of its clients, permission, merged reading, states. For code that serves
//! clients of other protocols beside redeliver's own, such as the Socket.IO gateway.

pub(crate) mod feed;
pub(crate) mod registration;
pub(crate) mod states;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use redeliver_protocol::seq::{Position, Seq};
use redeliver_protocol::time::Timestamp;

use self::feed::Feed;
use self::registration::Registration;
use self::states::StateError;
use crate::access::{Action, ConnectRequest, Denied, Identity};
use crate::handle::Handle;
use crate::http::{origin_is_allowed, origin_is_listed};
use crate::strangers::Stranger;

/// A server as its gateways see it. Made by [`Server::gateway`](crate::Server::gateway). A handle: while it is held, the
/// server lives.
#[derive(Clone, Debug)]
pub struct Gateway {
    handle: Arc<Handle>,
}

impl Gateway {
    pub(crate) fn new(handle: &Arc<Handle>) -> Gateway {
        Gateway { handle: Arc::clone(handle) }
    }

    /// Returns a reader of several topics at once, after a position. It follows none yet. If the position is not of this
    /// log's history ([`Gateway::knows`]), the feed begins at the last place that they have in common, or with what is retained, and each
    /// topic that it follows before its first row begins with a gap of cause `EpochChanged`.
    #[must_use]
    pub fn feed(&self, after: Position) -> Feed {
        Feed::new(&self.handle.shared, after)
    }

    /// Returns the position that a seq has in this log, at most the head: for readers that know only a number.
    #[must_use]
    pub fn position_at(&self, seq: Seq) -> Position {
        self.handle.shared.log.position_at(seq)
    }

    /// Returns the paced time that what is stored now is to bear. It may be ahead of [`Gateway::paced_now`], so that nothing
    /// seems older than it is.
    #[must_use]
    pub fn paced_stamp(&self) -> Timestamp {
        self.handle.shared.log.paced_stamp()
    }

    /// Returns the paced time by which the age of what bears a [`Gateway::paced_stamp`] is judged: a wall clock that is set
    /// does not move it, and the time between two runs of the server counts. At most about a second old.
    #[must_use]
    pub fn paced_now(&self) -> Timestamp {
        self.handle.shared.log.paced_now()
    }

    /// Whether a position is of this log's history, so that a reader may go on from it. What followed it may be gone all
    /// the same: a feed tells.
    #[must_use]
    pub fn knows(&self, position: Position) -> bool {
        self.handle.shared.log.knows(position)
    }

    /// Registers a client as one of the server's connections: it counts against `connections_max`, stands among
    /// [`Server::connections`](crate::Server::connections), and is told when it is to go. Returns `None` if the server
    /// accepts no more connections. `protocol` is the gateway's name for what the client speaks.
    #[must_use]
    pub fn register(
        &self,
        identity: Identity,
        peer: Option<SocketAddr>,
        protocol: &'static str,
    ) -> Option<Registration> {
        Registration::new(&self.handle.shared, identity, peer, protocol)
    }

    /// Takes a client among the strangers of the server, which are bounded: one that is not authenticated and has no
    /// [`Stranger`] of a connection of its own, such as a session over many requests. Returns `None` if there are too many.
    /// [`Stranger::admit`] when it is authenticated; dropped, it has left.
    #[must_use]
    pub fn stranger(&self, peer: Option<SocketAddr>) -> Option<Stranger> {
        self.handle.shared.strangers.enter_session(peer)
    }

    /// Saves a small state under a key, or deletes it: what a client needs after a crash. The state is durable when this
    /// returns. Saves share commits with each other and with events. The key is 1 to 200 bytes long, the
    /// state at most 64 KiB. States do not expire: who saves them deletes them.
    ///
    /// # Errors
    ///
    /// [`StateError`]. Only after `Unknown` may the state be saved all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take it back.
    pub async fn save_state(&self, key: Bytes, value: Option<Bytes>) -> Result<(), StateError> {
        states::save(&self.handle.shared, key, value).await
    }

    /// Returns the state under a key, or `None` if there is none. A state that was saved is seen as soon as `save_state` has returned.
    ///
    /// # Errors
    ///
    /// [`StateError::Unknown`] if the log has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn state(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        states::state(&self.handle.shared, key).await
    }

    /// Returns states whose keys begin with `prefix` and come after `after`, in the order of their keys: at most `states_max`,
    /// and about 1 MiB. Empty only if there are no more. For sweeps.
    ///
    /// # Errors
    ///
    /// [`StateError::Unknown`] if the log has failed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn states(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        states_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        states::states(&self.handle.shared, prefix, after, states_max).await
    }

    /// Asks the app's [`Access`](crate::Access) who a client is.
    ///
    /// # Errors
    ///
    /// [`Denied`]; retryable if the answer takes longer than the session's `hello_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the request.
    pub async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let shared = &self.handle.shared;
        let peer = request.peer;
        let judgement = Arc::clone(&shared.access).authenticate(request);
        let judged = match tokio::time::timeout(shared.config.hello_timeout, judgement).await {
            Ok(Ok(identity)) => match shared.credentials_hold(&*shared.access, &identity) {
                Ok(()) => Ok(identity),
                Err(denied) => Err((Some(identity), denied)),
            },
            Ok(Err(denied)) => Err((None, denied)),
            Err(_) => Err((None, Denied::for_now("authentication took too long"))),
        };
        match judged {
            Ok(identity) => Ok(identity),
            Err((identity, denied)) => {
                shared.denials.denied(peer, "gateway", identity.as_ref(), &denied);
                shared.guesses.tell_late(peer, &denied).await;
                Err(denied)
            }
        }
    }

    /// Whether the origin that these headers name is allowed by its name, and not only because all are (`*`): only such a
    /// page may send its user's credentials.
    #[must_use]
    pub fn origin_is_listed(&self, headers: &HeaderMap) -> bool {
        origin_is_listed(&self.handle.shared, headers)
    }

    /// Asks the app's [`Access`](crate::Access) whether an identity may do this.
    #[must_use]
    pub fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        self.handle.shared.access.allow(identity, action)
    }

    /// Whether a page of the origin that these headers name may connect: see
    /// [`ServerBuilder::allowed_origins`](crate::ServerBuilder::allowed_origins). A client that names none is no browser, and
    /// may.
    #[must_use]
    pub fn origin_is_allowed(&self, headers: &HeaderMap) -> bool {
        origin_is_allowed(&self.handle.shared, headers)
    }
}
