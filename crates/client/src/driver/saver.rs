//! Saves cursors in the client's store: one save at a time, all that have gathered in one, the newest of each
//! subscription. A save that fails is tried again for ever; until then nothing is confirmed.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redeliver_protocol::history::Cursor;
use redeliver_protocol::seq::{Seq, SubscriptionId};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cursor_store::{CursorKey, CursorStore, KeyClaim};
use crate::error::CursorStoreError;
use crate::notice::Notice;

pub(super) struct Saver {
    store: Option<Arc<dyn CursorStore>>,
    notices: broadcast::Sender<Notice>,
    /// What is to be saved next.
    gathered: Batch,
    running: Option<Running>,
    /// Not before this, after a save that failed.
    not_before: Option<Instant>,
}

/// The claim on the key goes along, so that nobody loads a cursor while a newer one is about to be saved.
type Batch = BTreeMap<SubscriptionId, (Arc<KeyClaim>, Cursor)>;

struct Running {
    batch: Batch,
    save: JoinHandle<Result<(), CursorStoreError>>,
}

impl Saver {
    pub(super) fn new(store: Option<Arc<dyn CursorStore>>, notices: broadcast::Sender<Notice>) -> Saver {
        Saver { store, notices, gathered: Batch::new(), running: None, not_before: None }
    }

    /// Takes a cursor to save; it replaces an older one of the same subscription.
    pub(super) fn save(&mut self, id: SubscriptionId, key: Option<Arc<KeyClaim>>, cursor: Cursor) {
        // Invariant: the session saves cursors only of subscriptions whose keeper is the client, and those have a key.
        debug_assert!(key.is_some(), "a cursor without a key");
        if let Some(key) = key {
            self.gathered.insert(id, (key, cursor));
        }
    }

    /// Saves what has gathered; resolves with what is saved. Cancel safe.
    pub(super) async fn saved(&mut self) -> Vec<(SubscriptionId, Seq)> {
        loop {
            if self.running.is_none() {
                if let Some(not_before) = self.not_before {
                    tokio::time::sleep_until(not_before).await;
                    self.not_before = None;
                }
                self.start();
            }
            let Some(running) = &mut self.running else { return pending().await };
            let result = (&mut running.save).await;
            if let Some(saved) = self.finished(result) {
                return saved;
            }
        }
    }

    /// Saves what is left, once.
    pub(super) async fn finish(&mut self) {
        if let Some(running) = &mut self.running {
            let result = (&mut running.save).await;
            self.finished(result);
        }
        self.start();
        if let Some(running) = &mut self.running {
            let result = (&mut running.save).await;
            self.finished(result);
        }
    }

    fn start(&mut self) {
        let Some(store) = self.store.clone().filter(|_| !self.gathered.is_empty()) else { return };
        let batch = std::mem::take(&mut self.gathered);
        let cursors: Vec<(CursorKey, Cursor)> =
            batch.values().map(|(claim, cursor)| (claim.key().clone(), cursor.clone())).collect();
        let save = tokio::task::spawn_blocking(move || store.save(&cursors));
        self.running = Some(Running { batch, save });
    }

    fn finished(
        &mut self,
        result: Result<Result<(), CursorStoreError>, tokio::task::JoinError>,
    ) -> Option<Vec<(SubscriptionId, Seq)>> {
        let Running { batch, .. } = self.running.take()?;
        let panicked = |_| Err(CursorStoreError::other_in_words("saving panicked"));
        let Err(error) = result.unwrap_or_else(panicked) else {
            return Some(batch.into_iter().map(|(id, (_, cursor))| (id, cursor.place.position.seq)).collect());
        };
        tracing::error!(%error, "cursors could not be saved");
        // Nobody may be listening.
        let _ = self.notices.send(Notice::CursorsNotSaved { error });
        for (id, older) in batch {
            self.gathered.entry(id).or_insert(older);
        }
        self.not_before = Some(Instant::now() + RETRY_PAUSE);
        None
    }
}

/// How long to wait before a failed save is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
