//! The wall clock, for how old stored sessions are. Nothing is ordered by it.

use std::time::SystemTime;

use redeliver_protocol::time::Timestamp;

pub(crate) fn wall_clock() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}
