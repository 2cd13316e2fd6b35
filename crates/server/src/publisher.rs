//! Publishers within the process: an app that numbers its events itself and may repeat them. Held to the rules of the
//! wire: the newest claim fences an older one, and nobody emits as another identity's publisher. Never asks for
//! permissions: the process may do everything.

use std::sync::Arc;

use redeliver_log::EmitSource;
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, PublisherState};
use redeliver_protocol::seq::{EmitNumber, InstanceId, PublisherId};
use redeliver_protocol::server::ConnectionId;
use uuid::Uuid;

use crate::access::Identity;
use crate::emit::{first_run, receipt};
use crate::handle::Handle;
use crate::in_process;

/// A publisher that is to be claimed: set what is needed, then call [`PublisherClaim::claim`]. Made by
/// [`Server::publisher`](crate::Server::publisher).
#[derive(Debug)]
#[must_use = "a publisher is claimed by `claim`"]
pub struct PublisherClaim {
    handle: Arc<Handle>,
    id: PublisherId,
    settled: EmitNumber,
    identity: Identity,
}

impl PublisherClaim {
    pub(crate) fn new(handle: &Arc<Handle>, id: PublisherId) -> PublisherClaim {
        let identity = Identity::new(in_process::IDENTITY);
        PublisherClaim { handle: Arc::clone(handle), id, settled: EmitNumber::ZERO, identity }
    }

    /// Says up to which number all is settled, so that the next number is at least the one after it. Zero by default: the
    /// numbers begin at 1.
    ///
    /// A claim, not a proof: the server remembers numbers that it was told to pass over, and refuses them later as
    /// [`RefusalCode::NUMBER_SKIPPED`](crate::RefusalCode::NUMBER_SKIPPED).
    pub fn after(mut self, settled: impl Into<EmitNumber>) -> PublisherClaim {
        self.settled = settled.into();
        self
    }

    /// Sets the identity that the publisher belongs to: `in-process` by default. To be given if clients of this identity
    /// emit as the same publisher.
    pub fn identity(mut self, identity: Identity) -> PublisherClaim {
        self.identity = identity;
        self
    }

    /// Makes this the newest claim of the publisher. A client or an earlier claim that emits as it is fenced.
    ///
    /// # Errors
    ///
    /// [`PublisherError`]; nobody is fenced then.
    pub fn claim(self) -> Result<LocalPublisher, PublisherError> {
        let PublisherClaim { handle, id, settled, identity } = self;
        let source = EmitSource { publisher: id, owner: identity.tag(), settled };
        let shared = &handle.shared;
        if !shared.log.may_publish(id, source.owner) {
            return Err(PublisherError::NotYours);
        }
        // Its inbox stays unread: whether it is fenced is asked at each emit.
        let (connection, _) = shared.hub.join();
        let instance = InstanceId::from(Uuid::new_v4());
        if shared.hub.enter(connection, instance, Some(source)).is_err() {
            shared.hub.leave(connection);
            return Err(PublisherError::NotYours);
        }
        // Read after the older claim was fenced, so that nothing is added behind it.
        let state = shared.log.publisher(id, settled);
        let mut publisher = LocalPublisher { handle, connection, source, state: PublisherState::New };
        match state {
            Ok(state) => {
                publisher.state = state;
                Ok(publisher)
            }
            Err(error) => {
                publisher.handle.shared.fail(&error.to_string());
                Err(PublisherError::LogFailed)
            }
        }
    }
}

/// A claimed publisher: stores events under the numbers that the app gives them. A handle of the server, which lives as long
/// as this does. Dropping it gives the claim up.
#[derive(Debug)]
pub struct LocalPublisher {
    handle: Arc<Handle>,
    connection: ConnectionId,
    source: EmitSource,
    state: PublisherState,
}

impl LocalPublisher {
    /// Returns what the server knew of the publisher when it was claimed.
    ///
    /// `Reached(n)`: every number up to n is decided, and n + 1 is next if it is greater than what [`PublisherClaim::after`]
    /// said. If n is less than that, the log has gone back behind what was acknowledged once: the numbers after n are lost.
    /// `Forgotten`: the server knows nothing of the numbers that are said to be settled.
    #[must_use]
    pub fn state(&self) -> PublisherState {
        self.state
    }

    /// Stores an event durably under this number, or says what became of it earlier. Several may be under way at once; they
    /// are taken in the order in which they are polled first.
    ///
    /// # Errors
    ///
    /// [`EmitError`]. A final refusal, and an event that breaks a limit of the server (`Invalid`), consume the number. After
    /// a retryable one, this number is tried again before any later one: those are refused as
    /// [`OutOfOrder`](crate::RefusalCode::OUT_OF_ORDER) until then. `Forgotten` for a number whose content the server no
    /// longer knows. [`Fenced`](crate::RefusalCode::FENCED) once there is a newer claim: this one is of no more use.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the event back: if it was polled once, the event may be stored. Emitting it again
    /// under its number tells.
    pub async fn emit(&self, number: impl Into<EmitNumber>, event: NewEvent) -> Result<Receipt, EmitError> {
        let shared = &self.handle.shared;
        let checked = event.check(&shared.config.limits);
        // The log must see the number also if it refuses the event: the next one follows it.
        let event = checked.as_ref().map(|()| event).map_err(|error| error.code());
        let runs = shared.hub.append_one(&shared.queue, self.connection, self.source, number.into(), event);
        match (first_run(shared, runs).await?.fate, checked) {
            (EmitFate::Refused(code), Err(error)) if code == error.code() => Err(error.into()),
            (fate, _) => receipt(fate),
        }
    }
}

impl Drop for LocalPublisher {
    fn drop(&mut self) {
        self.handle.shared.hub.leave(self.connection);
    }
}

/// Why a publisher cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublisherError {
    /// Another identity has emitted, or emits, as this publisher.
    #[error("another identity emits as this publisher: use a new UUID, or give that identity")]
    NotYours,
    /// The server's log has failed.
    #[error("the server's log has failed")]
    LogFailed,
}
