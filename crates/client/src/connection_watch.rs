//! The connection's state, to watch. Keeps no client alive.

use redeliver_protocol::client::ConnectionState;
use tokio::sync::watch;

/// Watches the state of a client's connection. Clones watch independently.
#[derive(Clone, Debug)]
pub struct ConnectionWatch(watch::Receiver<ConnectionState>);

impl ConnectionWatch {
    pub(crate) fn new(mut states: watch::Receiver<ConnectionState>) -> ConnectionWatch {
        states.mark_unchanged();
        ConnectionWatch(states)
    }

    /// Returns the present state.
    #[must_use]
    pub fn current(&self) -> ConnectionState {
        self.0.borrow().clone()
    }

    /// Waits for another state than the one that was returned last (at first: than the present one), and returns it.
    /// Returns `None` once the client has ended. States that last for a moment only may be passed over.
    ///
    /// # Cancel safety
    ///
    /// No change is lost.
    pub async fn changed(&mut self) -> Option<ConnectionState> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }

    /// Waits for a state of which `is_wanted` is true, and returns it; at once, if the present state is one. Returns
    /// `None` if the client ends without.
    ///
    /// # Cancel safety
    ///
    /// Only the waiting ends.
    pub async fn wait_for(&mut self, is_wanted: impl FnMut(&ConnectionState) -> bool) -> Option<ConnectionState> {
        self.0.wait_for(is_wanted).await.ok().map(|state| state.clone())
    }
}
