//! What a session is before its client is authenticated: a stranger of the server, with little time and small messages.
//! Never decides who is authenticated.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use redeliver_server::{Farewell, Gateway, Stranger, StrangerWatch};

/// How a session stands.
#[derive(Debug)]
pub(super) struct Standing(Option<Box<Unknown>>);

/// A session whose client is not authenticated.
#[derive(Debug)]
struct Unknown {
    /// All that is to be admitted with the client: the session's own place, or that of its connection, and connections
    /// that it tries out.
    strangers: Vec<Stranger>,
    /// Over the session's own place. A connection is watched over by whoever has accepted it.
    watch: Option<StrangerWatch>,
}

impl Standing {
    /// A session of nobody's strangers.
    pub(super) fn known() -> Standing {
        Standing(None)
    }

    /// A session of a stranger, which has a place already if its connection has one. `None` if there is no room.
    pub(super) fn of_stranger(
        gateway: &Gateway,
        peer: Option<SocketAddr>,
        of_connection: Option<Stranger>,
    ) -> Option<Standing> {
        let (stranger, watch) = match of_connection {
            Some(stranger) => (stranger, None),
            None => {
                let stranger = gateway.stranger(peer)?;
                (stranger.clone(), Some(StrangerWatch::over(stranger)))
            }
        };
        Some(Standing(Some(Box::new(Unknown { strangers: vec![stranger], watch }))))
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_none()
    }

    /// The client tries out one more connection.
    pub(super) fn beside(&mut self, stranger: Option<Stranger>) {
        if let (Some(unknown), Some(stranger)) = (&mut self.0, stranger) {
            // The one before it was given up.
            unknown.strangers.truncate(1);
            unknown.strangers.push(stranger);
        }
    }

    /// The client is authenticated. Returns whether it may stay: not if it was sent away before.
    pub(super) fn admit(&mut self) -> bool {
        let Some(unknown) = self.0.take() else { return true };
        // A connection beside that finds no room stays among the strangers.
        let mut admitted = unknown.strangers.iter().map(Stranger::admit);
        let is_admitted = admitted.next().unwrap_or(true);
        admitted.for_each(drop);
        is_admitted
    }

    /// Ready when the session has to go.
    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<Farewell> {
        match self.0.as_mut().and_then(|unknown| unknown.watch.as_mut()) {
            Some(watch) => watch.poll_farewell(cx),
            None => Poll::Pending,
        }
    }
}

/// Largest message, and largest body of a POST, of a client that is not authenticated, in bytes: 8 KiB of credentials and
/// the packet around them.
pub(super) const STRANGER_MESSAGE_BYTES_MAX: usize = 9 * 1024;
