//! What is known of each topic in memory: its id, its newest event, and where its unfolded events lie. Lean, because
//! there may be millions: about 90 bytes for a topic at rest, and its name.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Seq};
use smallvec::SmallVec;

use crate::tail::TopicTail;

/// All topics, by id and by name. Holds published events only.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    /// The ids of those that have a name, by its hash. The names themselves stand with the topics alone.
    ids: HashTable<u32>,
    /// Peers choose names: where they fall must not be for them to know.
    hasher: RandomState,
    topics: Vec<Topic>,
}

/// One topic.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    /// Nothing if only its id is known: the commit that named it is damaged.
    pub(crate) name: Option<TopicName>,
    pub(crate) last_seq: Seq,
    pub(crate) last_nth: Nth,
    /// Whether it has a key of its own, so that commits need not name it any more.
    pub(crate) has_key: bool,
    /// Its unfolded events, oldest first. Most topics have none, and most of the others one.
    tail: SmallVec<[TailRef; 1]>,
    /// Its newest events in memory.
    pub(crate) recent: TopicTail,
}

/// A topic's events in one unfolded commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TailRef {
    /// The commit's first seq.
    pub(crate) commit: Seq,
    /// The nth of the topic's first event in it.
    pub(crate) first_nth: Nth,
    pub(crate) count: u32,
}

impl Topics {
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How many topics have a name. Grows with each new one.
    pub(crate) fn named(&self) -> usize {
        self.ids.len()
    }

    /// The id of the next new topic.
    pub(crate) fn next_id(&self) -> u32 {
        u32::try_from(self.topics.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        let is_it = |id: &u32| self.topics.get(*id as usize).is_some_and(|topic| topic.is_called(name));
        self.ids.find(self.hasher.hash_one(name), is_it).copied()
    }

    pub(crate) fn find(&self, name: &str) -> Option<(u32, &Topic)> {
        let id = self.id(name)?;
        Some((id, self.topics.get(id as usize)?))
    }

    pub(crate) fn topic(&self, id: u32) -> Option<&Topic> {
        self.topics.get(id as usize)
    }

    /// A topic to change; ids up to it come into being.
    pub(crate) fn at(&mut self, id: u32) -> &mut Topic {
        let index = id as usize;
        if index >= self.topics.len() {
            self.topics.resize_with(index + 1, Topic::default);
        }
        &mut self.topics[index]
    }

    /// Names a topic.
    pub(crate) fn name(&mut self, id: u32, name: &TopicName) {
        let topic = self.at(id);
        if topic.name.is_some() {
            return;
        }
        topic.name = Some(name.clone());
        let Topics { ids, hasher, topics } = self;
        let hash_of = |id: &u32| topics.get(*id as usize).map_or(0, |topic| topic.hash(hasher));
        let hash = hasher.hash_one(name.as_str());
        // Of two topics of one name, which only damage can make, the newer counts.
        match ids.find_mut(hash, |id| topics.get(*id as usize).is_some_and(|topic| topic.is_called(name.as_str()))) {
            Some(known) => *known = id,
            None => {
                ids.insert_unique(hash, id, hash_of);
            }
        }
    }
}

impl Topic {
    /// Takes note of events in an unfolded commit. Gives the seq of the event before them, if that is known.
    pub(crate) fn grow(&mut self, tail_ref: TailRef, last_seq: Seq) -> Option<Seq> {
        let before = (self.last_nth.next() == tail_ref.first_nth).then_some(self.last_seq);
        // Neither goes back, also where a commit is read again that a half-done fold has counted.
        self.last_seq = self.last_seq.max(last_seq);
        self.last_nth = self.last_nth.max(Nth(tail_ref.first_nth.0 + u64::from(tail_ref.count) - 1));
        match self.tail.last_mut() {
            // Further events in the same commit.
            Some(last) if last.commit == tail_ref.commit => last.count += tail_ref.count,
            Some(_) | None => self.tail.push(tail_ref),
        }
        before
    }

    /// Forgets unfolded commits up to a seq: they have been folded.
    pub(crate) fn folded_through(&mut self, through: Seq) {
        let gone = self.tail.partition_point(|tail_ref| tail_ref.commit <= through);
        self.tail.drain(..gone);
        if self.tail.is_empty() {
            self.tail = SmallVec::new();
        }
    }

    /// The unfolded commits in which an event above `after` may be, oldest first.
    pub(crate) fn commits_after(&self, after: Seq) -> &[TailRef] {
        // The commit that begins at or below `after` may still end above it.
        let at = self.tail.partition_point(|tail_ref| tail_ref.commit <= after).saturating_sub(1);
        &self.tail[at..]
    }

    fn is_called(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.as_str() == name)
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        self.name.as_ref().map_or(0, |name| hasher.hash_one(name.as_str()))
    }
}
