//! The client session. Skeleton of the interface.

use bytes::Bytes;

use super::{Input, Output};
use crate::backoff::Jitter;
use crate::config::ClientConfig;
use crate::name::SubscriberName;
use crate::seq::{InstanceId, PublisherId};
use crate::time::Instant;

/// Who a client is, for as long as it lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// This running client.
    pub instance: InstanceId,
    /// Under which identity it emits; numbers start from 1.
    pub publisher: PublisherId,
    /// The durable subscriber whose cursors it uses.
    pub subscriber: Option<SubscriberName>,
    /// Credentials.
    pub auth: Option<Bytes>,
    /// What it calls itself.
    pub client_name: String,
}

/// The client's end, across its connections.
#[derive(Debug)]
pub struct ClientSession {}

impl ClientSession {
    /// A client that wants to connect.
    #[must_use]
    pub fn new(_config: ClientConfig, _identity: Identity, _jitter: Jitter, _now: Instant) -> ClientSession {
        ClientSession {}
    }

    /// Takes what happened.
    pub fn handle(&mut self, _input: Input, _now: Instant) {
        unimplemented!()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }
}
