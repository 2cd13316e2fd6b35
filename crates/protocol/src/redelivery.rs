//! The redelivery mark: up to which nth events may have been delivered before. It alone decides whether an event is
//! marked `redelivered`; nothing else may.
//!
//! A mark may be too high, never too low: an event that was delivered before and comes again without a mark breaks the
//! promise, one that is marked in vain costs the app a look-up. Four rules keep that:
//!
//! - **Durable first.** Whoever keeps the cursor (the server for a durable subscriber, the client's store otherwise)
//!   makes a mark durable before an event above it is delivered. Otherwise a crash would deliver the event again without
//!   saying so.
//! - **Named first.** A reader that says beforehand what it delivers (`Taking`) lowers the mark for its successor to what
//!   it named and was sent, as long as the server runs.
//! - **One process never delivers twice.** A client resumes after what it has delivered, so within a process nothing is
//!   delivered a second time. What an *earlier* process may have delivered is known when the first `Subscribed` of this
//!   process comes: from the mark in it, and from the cursor in the client's store. What the store says later is no news,
//!   since only this process writes it. What the server says later may be: another reader of the same name may have
//!   come and gone while this one was away. If it knows that none has, it says nothing (`Resuming`).
//! - **A mark belongs to one history.** When the history breaks (another epoch, a log that went back), nths start anew:
//!   old marks mean nothing. The server's counts, which was made in the new history. If the reader's place may lack an
//!   epoch, the log may hold once more what the reader was shown: of the events that are there already, those up to its
//!   nth are marked.

use serde::{Deserialize, Serialize};

use crate::seq::Nth;

/// Events up to this nth (inclusive) may have been delivered before. An nth alone on the wire and on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveredThrough(pub Nth);

impl DeliveredThrough {
    /// No event was delivered before.
    pub const NOTHING: DeliveredThrough = DeliveredThrough(Nth::ZERO);

    /// Any event may have been delivered before: stands in a saved cursor while the nths of the present history are not
    /// known.
    pub const ANYTHING: DeliveredThrough = DeliveredThrough(Nth(u64::MAX));

    /// Whether the event with this nth may have been delivered before: the one place that decides `redelivered`.
    #[must_use]
    pub fn covers(self, nth: Nth) -> bool {
        nth <= self.0
    }

    /// Moves the mark up to `other`. A mark never goes down within a history.
    pub fn raise(&mut self, other: DeliveredThrough) {
        *self = self.raised(other);
    }

    /// The higher of the two marks.
    #[must_use]
    pub fn raised(self, other: DeliveredThrough) -> DeliveredThrough {
        self.max(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_covers_what_lies_at_or_below_it_and_never_goes_down() {
        let mut mark = DeliveredThrough(Nth(7));
        assert!(mark.covers(Nth(1)) && mark.covers(Nth(7)) && !mark.covers(Nth(8)));
        mark.raise(DeliveredThrough(Nth(3)));
        assert_eq!(mark, DeliveredThrough(Nth(7)));
        mark.raise(DeliveredThrough(Nth(9)));
        assert!(mark.covers(Nth(9)));
        assert!(!DeliveredThrough::NOTHING.covers(Nth(1)) && DeliveredThrough::ANYTHING.covers(Nth(u64::MAX)));
    }
}
