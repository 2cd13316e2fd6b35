//! Counts what is still going on, so that an end can wait for it.

use std::sync::Arc;

use tokio::sync::watch;

/// How many are present.
#[derive(Clone, Debug)]
pub(crate) struct Presence {
    count: Arc<watch::Sender<usize>>,
}

/// One of them, for as long as this is held.
#[derive(Debug)]
pub(crate) struct Present {
    count: Arc<watch::Sender<usize>>,
}

impl Presence {
    pub(crate) fn new() -> Presence {
        Presence { count: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn enter(&self) -> Present {
        self.count.send_modify(|count| *count += 1);
        Present { count: Arc::clone(&self.count) }
    }

    /// Waits until there is none.
    pub(crate) async fn none(&self) {
        // The sender is held here: this cannot fail.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
