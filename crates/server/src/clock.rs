//! Time for the sessions, which never ask: a monotonic origin per server, on tokio's clock so that paused time works in
//! tests, and the wall clock for events.

use std::time::SystemTime;

use redeliver_protocol::time::{Instant, Timestamp};

/// The monotonic clock of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose origin is this moment.
    pub(crate) fn new() -> Clock {
        Clock { origin: tokio::time::Instant::now() }
    }

    /// The moment as the sessions count it.
    pub(crate) fn now(self) -> Instant {
        Instant::from_origin(self.origin.elapsed())
    }

    /// A session's moment as the runtime counts it.
    pub(crate) fn at(self, moment: Instant) -> tokio::time::Instant {
        self.origin + moment.since_origin().min(FAR)
    }
}

/// The wall clock now. One that stands before 1970 counts as 1970.
pub(crate) fn wall_clock() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

/// Farther than any deadline: additions to a runtime's instant must not overflow.
const FAR: std::time::Duration = std::time::Duration::from_secs(50 * 365 * 24 * 3600);
