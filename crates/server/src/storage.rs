//! Whether the disk is full: said once when it begins and once when it ends, and told to whoever asks meanwhile.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use redeliver_log::LogError;
use tracing::warn;

/// What the writer last found of the disk.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    is_full: AtomicBool,
}

impl Storage {
    /// Something could not be written for want of room.
    pub(crate) fn found_full(&self, error: &LogError) {
        if !self.is_full.swap(true, Relaxed) {
            warn!(%error, "the disk is full: emits and saved cursors wait until there is room, reads go on");
        }
    }

    /// Something was written.
    pub(crate) fn found_room(&self) {
        if self.is_full.load(Relaxed) && self.is_full.swap(false, Relaxed) {
            warn!("there is room on the disk again: what waited is stored");
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Relaxed)
    }
}
