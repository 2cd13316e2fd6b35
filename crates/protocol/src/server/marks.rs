//! What the readers of durable subscribers may have been given: by what they named, which says more than the mark on disk.
//!
//! A registry without IO, in memory: what it forgets, the stored mark covers. It must be asked and told under the same lock
//! as [`Owners`](super::owners::Owners), or a reader that is displaced could name what its successor is not told of.

use std::collections::BTreeMap;

use crate::history::Opened;
use crate::name::{SubscriberName, TopicName};
use crate::redelivery::DeliveredThrough;
use crate::seq::InstanceId;

/// Whose place in which topic.
type Key = (SubscriberName, TopicName);

/// Who opens a durable subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The client instance.
    pub instance: InstanceId,
    /// Whether it names what it delivers, before it does.
    pub names: bool,
    /// If it goes on with a subscription of its own: what it, and readers before it, may have been given.
    pub resumes: Option<DeliveredThrough>,
}

/// The marks of all durable subscriptions that were opened since the server began, the newest
/// [`MARKS_MAX`] of them.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    entries: BTreeMap<Key, Entry>,
    /// The keys of the marks, by when the subscriptions were opened.
    by_age: BTreeMap<u64, Key>,
    next_age: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Who opened it last.
    instance: InstanceId,
    mark: DeliveredThrough,
    age: u64,
}

impl Marks {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Marks {
        Marks::default()
    }

    /// Says in `opened` what this reader may not know to have been delivered. A reader that names nothing leaves the stored
    /// mark alone to count for the next one.
    pub fn open(&mut self, subscriber: &SubscriberName, topic: &TopicName, reader: Reader, opened: &mut Opened) {
        let key = (subscriber.clone(), topic.clone());
        let named = self.remove(&key);
        let stored = opened.delivered_through;
        let resumes = reader.resumes.filter(|_| !opened.breaks());
        // Nobody has come in between: then the reader itself knows best.
        let is_own = match named {
            Some(entry) => entry.instance == reader.instance,
            None => opened.reader == Some(reader.instance),
        };
        opened.delivered_through = match named {
            _ if is_own && resumes.is_some() => DeliveredThrough::NOTHING,
            Some(entry) => entry.mark.min(stored),
            None => stored,
        };
        if reader.names {
            let mark = opened.delivered_through.raised(resumes.unwrap_or_default());
            self.insert(key, reader.instance, mark);
        }
    }

    /// Notes that the owner's reader may have been given everything up to here, readers before it included.
    pub fn raise(&mut self, subscriber: SubscriberName, topic: TopicName, by: InstanceId, mark: DeliveredThrough) {
        let key = (subscriber, topic);
        match self.entries.get_mut(&key) {
            Some(entry) => entry.mark.raise(mark),
            None => self.insert(key, by, mark),
        }
    }

    fn insert(&mut self, key: Key, instance: InstanceId, mark: DeliveredThrough) {
        self.next_age += 1;
        self.by_age.insert(self.next_age, key.clone());
        self.entries.insert(key, Entry { instance, mark, age: self.next_age });
        while self.entries.len() > MARKS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.by_age.remove(&entry.age);
        Some(entry)
    }
}

/// Most marks that are kept: a name, a topic and about 200 bytes each. For those opened longest ago the stored one counts
/// again.
pub const MARKS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Gap, GapCause};
    use crate::seq::{Nth, Position};

    const A: InstanceId = InstanceId([1; 16]);
    const B: InstanceId = InstanceId([2; 16]);

    struct World {
        marks: Marks,
        /// The stored mark and whose it is.
        stored: (u64, Option<InstanceId>),
    }

    impl World {
        fn new(stored: u64, by: Option<InstanceId>) -> World {
            World { marks: Marks::new(), stored: (stored, by) }
        }

        fn names() -> (SubscriberName, TopicName) {
            (SubscriberName::new("billing").unwrap(), TopicName::new("orders").unwrap())
        }

        fn opened(&self) -> Opened {
            Opened {
                after: Position::default(),
                nth: Nth::ZERO,
                head: Position::default(),
                pending: 0,
                gap: None,
                delivered_through: DeliveredThrough(Nth(self.stored.0)),
                stored_through: DeliveredThrough(Nth(self.stored.0)),
                reader: self.stored.1,
                stored: None,
                epochs: Vec::new(),
            }
        }

        fn open(&mut self, instance: InstanceId, names: bool, resumes: Option<u64>) -> u64 {
            let (subscriber, topic) = World::names();
            let mut opened = self.opened();
            let resumes = resumes.map(|nth| DeliveredThrough(Nth(nth)));
            self.marks.open(&subscriber, &topic, Reader { instance, names, resumes }, &mut opened);
            opened.delivered_through.0.0
        }

        fn raise(&mut self, by: InstanceId, nth: u64) {
            let (subscriber, topic) = World::names();
            self.marks.raise(subscriber, topic, by, DeliveredThrough(Nth(nth)));
        }
    }

    #[test]
    fn the_next_reader_is_told_what_was_named_and_not_the_window_around_it() {
        let mut world = World::new(3000, Some(A));
        assert_eq!(world.open(A, true, None), 3000, "nobody knows what was named before the server began");
        world.marks = Marks::new();
        world.stored = (0, None);
        world.open(A, true, None);
        world.raise(A, 7);
        world.stored = (3000, Some(A));
        assert_eq!(world.open(B, true, None), 7);
        assert_eq!(world.open(A, true, None), 7, "a reader that named nothing yet adds nothing");
    }

    #[test]
    fn a_reader_that_goes_on_is_told_nothing_unless_another_came_between() {
        let mut world = World::new(0, None);
        world.open(A, true, None);
        world.raise(A, 7);
        world.stored = (3000, Some(A));
        assert_eq!(world.open(A, true, Some(5)), 0);
        assert_eq!(world.open(B, true, None), 5, "what it was not given of what it named is not marked");
        world.raise(B, 9);
        assert_eq!(world.open(A, true, Some(5)), 9);
    }

    #[test]
    fn after_a_restart_who_read_last_is_known_from_the_store() {
        let mut world = World::new(3000, Some(A));
        assert_eq!(world.open(A, true, Some(5)), 0);
        assert_eq!(world.open(B, true, None), 5);
        let mut world = World::new(3000, Some(B));
        assert_eq!(world.open(A, true, Some(5)), 3000);
        let mut world = World::new(3000, Some(A));
        assert_eq!(world.open(A, true, None), 3000, "a new subscription of the same client goes on with nothing");
    }

    #[test]
    fn a_reader_that_names_nothing_leaves_the_stored_mark() {
        let mut world = World::new(0, None);
        world.open(A, true, None);
        world.raise(A, 7);
        world.stored = (3000, Some(A));
        assert_eq!(world.open(B, false, None), 7);
        world.stored = (4000, Some(B));
        assert_eq!(world.open(A, true, Some(5)), 4000);
    }

    #[test]
    fn what_a_reader_says_of_another_history_counts_for_nothing() {
        let mut world = World::new(30, Some(A));
        let (subscriber, topic) = World::names();
        let mut opened = world.opened();
        opened.gap = Some(Gap {
            after: Position::default(),
            through: Position::default(),
            nth_through: Nth::ZERO,
            count: 0,
            count_is_exact: true,
            cause: GapCause::EpochChanged,
        });
        let reader = Reader { instance: A, names: true, resumes: Some(DeliveredThrough(Nth(5))) };
        world.marks.open(&subscriber, &topic, reader, &mut opened);
        assert_eq!(opened.delivered_through.0.0, 30);
    }

    #[test]
    fn the_oldest_mark_goes_when_there_are_too_many() {
        let mut world = World::new(0, None);
        world.open(A, true, None);
        world.raise(A, 7);
        for number in 0..MARKS_MAX {
            let topic = TopicName::new(format!("t{number}")).unwrap();
            world.marks.raise(World::names().0, topic, A, DeliveredThrough(Nth(1)));
        }
        assert_eq!((world.marks.entries.len(), world.marks.by_age.len()), (MARKS_MAX, MARKS_MAX));
        world.stored = (3000, Some(A));
        assert_eq!(world.open(B, true, None), 3000);
    }
}
