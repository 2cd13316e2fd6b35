//! The log's limits and retention, each with unit and reason.

use std::time::Duration;

/// How a log behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogConfig {
    /// What is kept.
    pub retention: Retention,
    /// How large the unfolded tail may grow before emits wait for the fold, in bytes. It is also what is read at open.
    pub tail_bytes_max: usize,
    /// From which size on the oldest of the tail is folded, in bytes.
    pub fold_bytes: usize,
    /// How much of the newest events is kept in memory as wire records for readers near the head, in bytes.
    pub recent_bytes_max: usize,
    /// How much of what was read from the store is kept for a few seconds, in bytes: many who come back at once share it.
    pub read_cache_bytes_max: usize,
    /// How long a publisher's state is kept after its last emit.
    pub publisher_idle: Duration,
    /// How long a durable subscriber's cursor is kept after its last change.
    pub cursor_idle: Duration,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            retention: Retention::default(),
            tail_bytes_max: 64 * 1024 * 1024,
            fold_bytes: 8 * 1024 * 1024,
            recent_bytes_max: 64 * 1024 * 1024,
            read_cache_bytes_max: 32 * 1024 * 1024,
            publisher_idle: Duration::from_secs(30 * 24 * 3600),
            cursor_idle: Duration::from_secs(90 * 24 * 3600),
        }
    }
}

/// What of the history is kept. An event goes when any of the bounds says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// Events older than this go.
    pub age: Option<Duration>,
    /// The oldest go while the log holds more bytes of events (payloads, names and topics) than this.
    pub bytes: Option<u64>,
    /// The oldest go while the log holds more events than this.
    pub count: Option<u64>,
}
