//! What concerns a client as a whole, told to whoever listens. Nobody has to: what is told here is also logged.

use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::seq::EmitNumber;
use tokio::sync::broadcast;

use crate::error::CursorStoreError;

/// Something that concerns the client as a whole, and that an app should not miss.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Emits that had a receipt are no longer in the server's log: it was restored from an older copy, or wiped.
    EmitsLost {
        /// The number of the first (the publisher's first emit has number 1).
        from: EmitNumber,
        /// The last.
        through: EmitNumber,
    },
    /// The server takes no emits now, for a reason that may pass: they wait in the outbox and are tried again. Told every ten
    /// seconds at most.
    EmitsWaiting {
        /// Why: `StorageFull`, `Overloaded`, `Draining`, …
        code: RefusalCode,
    },
    /// The server takes emits again.
    EmitsResumed,
    /// The cursor store fails. Saving is tried again, and nothing is confirmed until it works.
    CursorsNotSaved {
        /// Why.
        error: CursorStoreError,
    },
    /// So many notices were dropped, because nobody took them in time.
    Missed(u64),
}

/// The notices of a client.
#[derive(Debug)]
pub struct Notices(broadcast::Receiver<Notice>);

impl Notices {
    pub(crate) fn new(notices: broadcast::Receiver<Notice>) -> Notices {
        Notices(notices)
    }

    /// Returns the next notice, or `None` once the client has ended.
    ///
    /// # Cancel safety
    ///
    /// No notice is lost.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.recv().await {
            Ok(notice) => Some(notice),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Notice::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
