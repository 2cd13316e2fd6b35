//! The server session. Skeleton of the interface.

use std::sync::Arc;

use super::{Input, Output};
use crate::config::ServerConfig;
use crate::time::Instant;

/// The server's end of one connection.
#[derive(Debug)]
pub struct ServerSession {}

impl ServerSession {
    /// A session for a connection that was accepted `now`.
    #[must_use]
    pub fn new(_config: Arc<ServerConfig>, _now: Instant) -> ServerSession {
        ServerSession {}
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

    /// Whether the session takes a message now. While it does not, the shell leaves the socket alone.
    #[must_use]
    pub fn wants_message(&self) -> bool {
        unimplemented!()
    }
}
