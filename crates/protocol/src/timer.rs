//! Deadlines of a session by kind: set, clear, take what is due, know the next.
//!
//! It reads no clock. Each operation costs a lookup, also when there are as many kinds as subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// A session's deadlines. At most one per kind.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    due: BTreeMap<K, Instant>,
    // Invariant: holds exactly the entries of `due`, ordered by time.
    order: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers { due: BTreeMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets the deadline of a kind, replacing an earlier one.
    pub fn set(&mut self, kind: K, at: Instant) {
        self.clear(kind);
        self.due.insert(kind, at);
        self.order.insert((at, kind));
    }

    /// Sets the deadline of a kind unless one is set.
    pub fn set_if_clear(&mut self, kind: K, at: Instant) {
        if !self.due.contains_key(&kind) {
            self.set(kind, at);
        }
    }

    /// Forgets the deadline of a kind.
    pub fn clear(&mut self, kind: K) {
        if let Some(at) = self.due.remove(&kind) {
            self.order.remove(&(at, kind));
        }
    }

    /// Forgets all deadlines.
    pub fn clear_all(&mut self) {
        self.due.clear();
        self.order.clear();
    }

    /// The next deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes one kind whose deadline has come, the earliest first.
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        let (at, kind) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(kind);
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(ms)
    }

    #[test]
    fn deadlines_come_due_in_the_order_of_their_times() {
        let mut timers = Timers::default();
        timers.set('b', at(20));
        timers.set('a', at(30));
        timers.set('c', at(10));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.take_due(at(9)), None);
        assert_eq!(timers.take_due(at(25)), Some('c'));
        assert_eq!(timers.take_due(at(25)), Some('b'));
        assert_eq!(timers.take_due(at(25)), None);
        assert_eq!(timers.next(), Some(at(30)));
    }

    #[test]
    fn setting_a_deadline_anew_replaces_it_and_clearing_forgets_it() {
        let mut timers = Timers::default();
        timers.set('a', at(10));
        timers.set('a', at(40));
        timers.set_if_clear('a', at(5));
        assert_eq!((timers.next(), timers.take_due(at(39))), (Some(at(40)), None));
        timers.clear('a');
        assert_eq!((timers.next(), timers.take_due(at(99))), (None, None));
        timers.set_if_clear('a', at(5));
        timers.clear_all();
        assert_eq!(timers.next(), None);
    }
}
