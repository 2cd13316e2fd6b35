//! What keeps a server alive: the last handle sends its clients away and lets the writer end.

use std::sync::Arc;
use std::time::Duration;

use redeliver_protocol::backoff::Jitter;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use tokio::sync::watch;
use uuid::Uuid;

use crate::shared::Shared;

/// Shared by all handles of one server. Dropped, the server ends.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// Closed when the writer has ended.
    pub(crate) writer: watch::Receiver<()>,
}

impl Handle {
    /// Takes nothing more and sends every client away, with the advice to come back after a moment: a different one for
    /// each, so that they do not come at once.
    pub(crate) fn drain(&self) {
        let mut jitter = Jitter::new(Uuid::new_v4().as_u64_pair().0);
        let within = self.shared.drain_within;
        self.shared.drain(|| {
            let code = CloseCode::DRAINING;
            let retry = RetryAdvice::After(jitter.up_to(within));
            Close::of(code, retry)
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.drain();
        self.shared.queue.close();
        self.shared.stop();
    }
}

/// Within this time clients are told to come back to a server that is shutting down, unless the builder says otherwise.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(2);
