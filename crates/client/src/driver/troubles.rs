//! What goes wrong with the connection, said once: a client that cannot connect must not try in silence, nor fill a log
//! with the same line.

use redeliver_protocol::client::ConnectionState;

/// The last trouble that was told.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    was_connected: bool,
    told: Option<String>,
}

impl Troubles {
    /// Tells what has changed.
    pub(super) fn note(&mut self, state: &ConnectionState) {
        match state {
            ConnectionState::Connected { epoch } => {
                if self.told.take().is_some() {
                    tracing::info!(%epoch, "connected again");
                } else {
                    tracing::debug!(%epoch, "connected");
                }
                self.was_connected = true;
            }
            ConnectionState::Waiting { reason, retry_in } => {
                let reason = reason.in_full();
                if self.told.as_ref() == Some(&reason) {
                    tracing::debug!(reason, ?retry_in, "still no connection");
                } else if self.was_connected && self.told.is_none() {
                    tracing::info!(reason, ?retry_in, "the connection is lost: trying again");
                    self.told = Some(reason);
                } else {
                    tracing::warn!(reason, ?retry_in, "cannot connect: trying again");
                    self.told = Some(reason);
                }
            }
            ConnectionState::Ended { close: Some(close) } => {
                tracing::warn!(code = %close.code, reason = %close.reason, "the client has ended");
            }
            ConnectionState::Connecting | ConnectionState::Ended { close: None } | _ => {
                tracing::debug!(?state, "connection");
            }
        }
    }
}
