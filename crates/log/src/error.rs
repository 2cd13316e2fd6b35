//! What a log can fail with.

use crate::kv::KvError;

/// Why a log cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process has the data directory.
    #[error("the data directory {path} is in use by {}: stop it first, or name another directory", holder(*process))]
    InUse {
        /// The directory.
        path: String,
        /// The process that has it, if it is known.
        process: Option<u32>,
    },
    /// The data directory cannot be read or written.
    #[error("the data directory {path} cannot be used: {reason}")]
    Unusable {
        /// The directory.
        path: String,
        /// Why, in words.
        reason: String,
    },
    /// The data directory was written by a newer version.
    #[error("the data directory has format {found}, this version reads up to {known}: use a newer redeliver")]
    NewerFormat {
        /// The directory's format.
        found: u32,
        /// The newest that this version knows.
        known: u32,
    },
    /// The directory is marked as holding a log, but the log is not there.
    #[error(
        "the data directory {0} is marked as holding a log, but its store is missing, empty or incomplete. Nothing was \
         changed. If it is a copy, copy it again while no server runs on the original; else restore it from a backup. To start \
         without its events, name another directory and keep this one"
    )]
    Lost(String),
    /// The disk is full: nothing was written; reads go on.
    #[error("the disk is full: free some space")]
    StorageFull,
    /// The store has failed. The log must not be used any more.
    #[error("the log's store has failed: {0}")]
    Failed(String),
}

impl LogError {
    /// Whether the log can go on, and the same may work later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, LogError::StorageFull)
    }
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

impl From<KvError> for LogError {
    fn from(error: KvError) -> LogError {
        match error {
            KvError::Full => LogError::StorageFull,
            KvError::TooLarge(words) | KvError::Failed(words) => LogError::Failed(words),
        }
    }
}
