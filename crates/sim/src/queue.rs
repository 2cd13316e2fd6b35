//! Virtual time: a clock that only moves to the next thing that is due. Things due at the same moment happen in the
//! order in which they were planned.

use std::collections::BTreeMap;
use std::time::Duration;

use redeliver_protocol::time::Instant;

/// What is going to happen, by time.
#[derive(Debug)]
pub struct Queue<E> {
    now: Instant,
    planned: BTreeMap<(Instant, u64), E>,
    order: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Queue<E> {
        Queue { now: Instant::ORIGIN, planned: BTreeMap::new(), order: 0 }
    }
}

impl<E> Queue<E> {
    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Plans something `delay` from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Plans something for this time, or for now if it has passed.
    pub fn at(&mut self, when: Instant, event: E) {
        self.order += 1;
        self.planned.insert((when.max(self.now), self.order), event);
    }

    /// Moves the clock on to this time, at which nothing is due.
    pub fn advance(&mut self, to: Instant) {
        debug_assert!(self.planned.first_key_value().is_none_or(|((when, _), _)| *when > to), "something is due");
        self.now = self.now.max(to);
    }

    /// Moves the clock to the next thing that is due not after `end`, and takes it.
    pub fn pop_until(&mut self, end: Instant) -> Option<E> {
        let (&(when, order), _) = self.planned.first_key_value()?;
        if when > end {
            return None;
        }
        self.now = when;
        self.planned.remove(&(when, order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_one_moment_happens_in_the_order_of_planning() {
        let mut queue = Queue::default();
        queue.after(Duration::from_secs(2), 'c');
        queue.after(Duration::from_secs(1), 'a');
        queue.after(Duration::from_secs(1), 'b');
        let end = Instant::from_origin(Duration::from_secs(9));
        let order: Vec<char> = std::iter::from_fn(|| queue.pop_until(end)).collect();
        assert_eq!(order, ['a', 'b', 'c']);
        assert_eq!(queue.now(), Instant::from_origin(Duration::from_secs(2)));
    }
}
