//! What a subscription has handed over and the app has not acknowledged: nothing more comes once that fills the window. An
//! app that forgets to acknowledge is told so, once. Decides nothing: the session keeps the window.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use redeliver_protocol::frame::Window;
use redeliver_protocol::seq::SubscriptionId;
use tokio::time::Instant;

/// The unacknowledged deliveries of one subscription, oldest first.
#[derive(Debug)]
pub(super) struct Unacked {
    window: Window,
    deliveries: VecDeque<(SubscriptionId, u64)>,
    /// How many deliveries, and how many bytes, of each topic.
    topics: BTreeMap<SubscriptionId, (u32, u64)>,
    largest: u64,
    acked: u64,
    full_since: Option<Instant>,
    is_told: bool,
}

impl Unacked {
    pub(super) fn new(window: Window) -> Unacked {
        Unacked {
            window,
            deliveries: VecDeque::new(),
            topics: BTreeMap::new(),
            largest: 0,
            acked: 0,
            full_since: None,
            is_told: false,
        }
    }

    /// An event or a gap is handed over.
    pub(super) fn delivered(&mut self, topic: SubscriptionId, bytes: usize, now: Instant) {
        let bytes = bytes as u64;
        self.deliveries.push_back((topic, bytes));
        self.largest = self.largest.max(bytes);
        let (events, bytes_of_topic) = self.topics.entry(topic).or_default();
        *events += 1;
        *bytes_of_topic += bytes;
        let is_full = *events >= self.window.events || *bytes_of_topic + self.largest > u64::from(self.window.bytes);
        if is_full && self.full_since.is_none() {
            self.full_since = Some(now);
        }
    }

    /// So many deliveries, of all that there ever were, are acknowledged.
    pub(super) fn acked(&mut self, order: u64) {
        for _ in self.acked..order {
            let Some((topic, bytes)) = self.deliveries.pop_front() else { break };
            if let Some((events, bytes_of_topic)) = self.topics.get_mut(&topic) {
                *events -= 1;
                *bytes_of_topic -= bytes;
            }
        }
        if order > self.acked {
            self.acked = order;
            self.full_since = None;
        }
    }

    /// When to tell the app, if nothing is acknowledged until then.
    pub(super) fn next_stall(&self) -> Option<Instant> {
        self.full_since.filter(|_| !self.is_told).map(|since| since + STALLED_AFTER)
    }

    /// The app is told: once is enough.
    pub(super) fn told(&mut self) {
        self.is_told = true;
    }
}

/// How long a window may be full before that is said.
const STALLED_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: SubscriptionId = SubscriptionId(1);

    #[tokio::test(start_paused = true)]
    async fn a_window_that_stays_full_is_told_once_after_10_s() {
        let start = Instant::now();
        let mut unacked = Unacked::new(Window::from((2, 1000)));
        unacked.delivered(TOPIC, 10, start);
        assert_eq!(unacked.next_stall(), None);
        unacked.delivered(TOPIC, 10, start);
        assert_eq!(unacked.next_stall(), Some(start + STALLED_AFTER));
        unacked.told();
        assert_eq!(unacked.next_stall(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ack_in_time_leaves_nothing_to_tell() {
        let start = Instant::now();
        let mut unacked = Unacked::new(Window::from((100, 100)));
        unacked.delivered(TOPIC, 60, start);
        assert!(unacked.next_stall().is_some(), "another one of this size has no room");
        unacked.acked(1);
        assert_eq!(unacked.next_stall(), None);
        unacked.delivered(TOPIC, 10, start);
        assert_eq!(unacked.next_stall(), None);
    }
}
