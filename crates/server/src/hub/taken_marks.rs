//! How far the readers of durable subscribers said that they hand events over, since they were opened last. Pure, and
//! bounded: a mark that is missing only means that the wider, stored one counts.

use std::collections::BTreeMap;

use redeliver_protocol::redelivery::DeliveredThrough;

use crate::queue::CursorKey;

/// The marks, of which the ones that were begun first are forgotten first.
#[derive(Debug, Default)]
pub(super) struct TakenMarks {
    marks: BTreeMap<CursorKey, Mark>,
    by_age: BTreeMap<u64, CursorKey>,
    next: u64,
}

#[derive(Debug)]
struct Mark {
    through: DeliveredThrough,
    begun: u64,
}

impl TakenMarks {
    /// Notes that a reader hands over up to here.
    pub(super) fn raise(&mut self, key: CursorKey, through: DeliveredThrough) {
        if let Some(mark) = self.marks.get_mut(&key) {
            return mark.through.raise(through);
        }
        if self.marks.len() >= MARKS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.marks.remove(&oldest);
        }
        self.by_age.insert(self.next, key.clone());
        self.marks.insert(key, Mark { through, begun: self.next });
        self.next += 1;
    }

    /// Forgets a mark and returns it.
    pub(super) fn take(&mut self, key: &CursorKey) -> Option<DeliveredThrough> {
        let mark = self.marks.remove(key)?;
        self.by_age.remove(&mark.begun);
        Some(mark.through)
    }
}

/// Most marks: a name and a topic and about 150 bytes each.
const MARKS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use redeliver_protocol::name::{SubscriberName, TopicName};
    use redeliver_protocol::seq::Nth;

    use super::*;

    fn key(number: usize) -> CursorKey {
        (SubscriberName::new(format!("reader-{number}")).unwrap(), TopicName::new("t").unwrap())
    }

    fn through(nth: u64) -> DeliveredThrough {
        DeliveredThrough(Nth(nth))
    }

    #[test]
    fn a_mark_rises_until_it_is_taken() {
        let mut marks = TakenMarks::default();
        marks.raise(key(1), through(5));
        marks.raise(key(1), through(3));
        assert_eq!(marks.take(&key(1)), Some(through(5)));
        assert_eq!(marks.take(&key(1)), None);
        assert!(marks.by_age.is_empty());
    }

    #[test]
    fn however_many_names_are_used_only_so_many_marks_are_kept() {
        let mut marks = TakenMarks::default();
        for number in 0..MARKS_MAX + 10 {
            marks.raise(key(number), through(1));
        }
        assert_eq!((marks.marks.len(), marks.by_age.len()), (MARKS_MAX, MARKS_MAX));
        assert_eq!(marks.take(&key(9)), None, "the oldest are forgotten");
        assert_eq!(marks.take(&key(10)), Some(through(1)));
    }
}
