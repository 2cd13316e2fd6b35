//! Deadlines of a session by kind: set, clear, take what is due, know the next.

use std::collections::BTreeMap;

use crate::time::Instant;

/// A session's deadlines. At most one per kind; few kinds.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    due: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Default for Timers<K> {
    fn default() -> Timers<K> {
        Timers { due: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Timers<K> {
    /// Sets the deadline of a kind, replacing an earlier one.
    pub fn set(&mut self, kind: K, at: Instant) {
        self.due.insert(kind, at);
    }

    /// Sets the deadline of a kind unless one is set.
    pub fn set_if_clear(&mut self, kind: K, at: Instant) {
        self.due.entry(kind).or_insert(at);
    }

    /// Forgets the deadline of a kind.
    pub fn clear(&mut self, kind: K) {
        self.due.remove(&kind);
    }

    /// The next deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Takes one kind whose deadline has come, the earliest first.
    pub fn take_due(&mut self, now: Instant) -> Option<K> {
        let (kind, at) = self.due.iter().map(|(kind, at)| (*kind, *at)).min_by_key(|(_, at)| *at)?;
        if at > now {
            return None;
        }
        self.due.remove(&kind);
        Some(kind)
    }
}
