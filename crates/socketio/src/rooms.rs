//! Which events are a socket's: rooms and topics, each with the stretches of the log during which the socket was in it.
//! Pure; part of what is stored for a socket that is away.
//!
//! A socket reads the rows of its topics merged by seq, so that one seq says how far it has come. Only when it asks for
//! a topic's history are events older than its place given to it: its row is *turned back*. Each turn has a number,
//! which offsets carry, and each topic remembers up to where it was given before the turn, so that nothing comes twice.

use std::collections::BTreeMap;

use redeliver_server::{Seq, TopicName};
use serde::{Deserialize, Serialize};

use crate::error::{ChangeError, NamespaceError, RoomError};

/// The topic of a whole namespace.
pub(crate) fn namespace_topic(namespace: &str) -> Result<TopicName, NamespaceError> {
    // `#` parts a namespace from a room: with one in its name, it could be another's room.
    if !namespace.starts_with('/') || namespace.contains('#') {
        return Err(NamespaceError::Invalid);
    }
    TopicName::new(namespace).map_err(|_| NamespaceError::TooLong)
}

/// The topic of a room.
pub(crate) fn room_topic(namespace: &str, room: &str) -> Result<TopicName, RoomError> {
    TopicName::new(format!("{namespace}#{room}")).map_err(|_| RoomError::TooLong)
}

/// The room that a topic is, if it is one of this namespace.
pub(crate) fn room_of<'a>(namespace: &str, topic: &'a TopicName) -> Option<&'a str> {
    topic.as_str().strip_prefix(namespace)?.strip_prefix('#')
}

/// A socket's topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memberships {
    topics: BTreeMap<TopicName, Membership>,
    turn: u32,
    /// Earlier turns whose offsets a client may still show: up to where each topic was given before them.
    earlier: BTreeMap<u32, BTreeMap<TopicName, Seq>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Membership {
    /// Ascending and apart; only the last may be open.
    spans: Vec<Stay>,
    /// Up to here events were given before the current turn.
    #[serde(default, skip_serializing_if = "is_zero")]
    given: Seq,
    /// Whether events come as one object that names the topic.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    envelope: bool,
}

/// The events with after < seq ≤ until.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stay {
    after: Seq,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Seq>,
}

/// What a feed is to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Follow {
    pub(crate) topic: TopicName,
    pub(crate) after: Seq,
    pub(crate) until: Option<Seq>,
}

impl Memberships {
    /// Joins a topic: its events after this seq. Returns whether that is news.
    pub(crate) fn join(&mut self, topic: &TopicName, after: Seq, envelope: bool) -> Result<bool, ChangeError> {
        if self.is_in(topic) {
            return Ok(false);
        }
        if self.topics.len() >= TOPICS_MAX && !self.topics.contains_key(topic) {
            return Err(ChangeError::TooManyRooms);
        }
        let membership = self.topics.entry(topic.clone()).or_default();
        membership.envelope = envelope;
        match membership.spans.last_mut() {
            // Left and joined again with nothing between: it never left.
            Some(last) if last.until.is_some_and(|until| after <= until) => last.until = None,
            _ => membership.spans.push(Stay { after, until: None }),
        }
        membership.spans.drain(..membership.spans.len().saturating_sub(SPANS_MAX));
        Ok(true)
    }

    /// Leaves a topic: nothing of it after this seq. Returns whether the socket was in it.
    pub(crate) fn leave(&mut self, topic: &TopicName, at: Seq) -> bool {
        let open = self.topics.get_mut(topic).and_then(|membership| membership.spans.last_mut());
        let Some(open) = open.filter(|span| span.until.is_none()) else { return false };
        open.until = Some(at.max(open.after));
        true
    }

    /// Whether the socket is in a topic, in this form, and each of its events after this seq is given in this turn.
    /// Then the row need not turn back for them: what it is past has been given, and the rest will be.
    pub(crate) fn gives_after(&self, topic: &TopicName, after: Seq, envelope: bool) -> bool {
        let Some(known) = self.topics.get(topic) else { return false };
        let stay = known.spans.last().filter(|stay| stay.until.is_none());
        known.envelope == envelope && known.given <= after && stay.is_some_and(|stay| stay.after <= after)
    }

    /// Takes a topic out as if it had never been joined.
    pub(crate) fn remove(&mut self, topic: &TopicName) {
        self.topics.remove(topic);
    }

    /// Turns the row back, from this place, so that a topic's events after `after` are given although the row is past
    /// them. The topic is joined anew.
    pub(crate) fn turn_back(
        &mut self,
        topic: &TopicName,
        after: Seq,
        envelope: bool,
        place: Seq,
    ) -> Result<(), ChangeError> {
        if self.earlier.len() >= TURNS_MAX {
            return Err(ChangeError::Busy);
        }
        let known = self.topics.contains_key(topic);
        if self.topics.len() >= TOPICS_MAX && !known {
            return Err(ChangeError::TooManyRooms);
        }
        let given = self.topics.iter().map(|(topic, membership)| (topic.clone(), membership.given)).collect();
        self.earlier.insert(self.turn, given);
        self.turn += 1;
        for membership in self.topics.values_mut() {
            membership.given = membership.given.max(place);
        }
        let anew = Membership { spans: vec![Stay { after, until: None }], given: Seq::ZERO, envelope };
        self.topics.insert(topic.clone(), anew);
        Ok(())
    }

    /// Goes on where a client has come to: everything at or before this seq of this turn was handled. Returns false if
    /// nothing is known of the turn.
    pub(crate) fn resume(&mut self, seq: Seq, turn: u32) -> bool {
        if turn == self.turn {
            for membership in self.topics.values_mut() {
                membership.given = membership.given.max(seq);
            }
            return true;
        }
        let Some(given) = self.earlier.get(&turn).cloned() else { return false };
        for (topic, membership) in &mut self.topics {
            // Joined in a later turn: nothing of it has arrived.
            membership.given = given.get(topic).map_or(Seq::ZERO, |given| (*given).max(seq));
        }
        self.earlier.retain(|earlier, _| *earlier <= turn);
        self.turn += 1;
        true
    }

    /// Everything at or before this seq of this turn has arrived: what only served older events is forgotten. Returns
    /// whether there was any.
    pub(crate) fn arrived(&mut self, seq: Seq, turn: u32) -> bool {
        if turn != self.turn {
            return false;
        }
        let turns = self.earlier.len();
        self.earlier.clear();
        let topics = self.topics.len();
        self.topics.retain(|_, membership| {
            membership.spans.retain(|span| span.until.is_none_or(|until| until > seq));
            !membership.spans.is_empty()
        });
        turns > 0 || self.topics.len() < topics
    }

    /// Whether the socket is in a topic now.
    pub(crate) fn is_in(&self, topic: &TopicName) -> bool {
        let membership = self.topics.get(topic);
        membership.and_then(|membership| membership.spans.last()).is_some_and(|span| span.until.is_none())
    }

    /// Whether the socket was in a topic when the event with this seq came.
    pub(crate) fn was_in(&self, topic: &TopicName, seq: Seq) -> bool {
        let membership = self.topics.get(topic);
        membership.is_some_and(|membership| membership.spans.iter().any(|span| span.holds(seq)))
    }

    /// Whether this event of the topic, or with no seq whatever comes now, is to be given in this turn; and then,
    /// whether as one object.
    pub(crate) fn gives(&self, topic: &TopicName, seq: Option<Seq>) -> Option<Enveloped> {
        let known = self.topics.get(topic)?;
        let gives = match seq {
            Some(seq) => known.wants(seq),
            None => known.spans.last().is_some_and(|span| span.until.is_none()),
        };
        gives.then_some(Enveloped(known.envelope))
    }

    /// The topics that the socket is in now.
    pub(crate) fn current(&self) -> impl Iterator<Item = &TopicName> {
        self.topics.keys().filter(|topic| self.is_in(topic))
    }

    /// What a feed must follow to give what is wanted.
    pub(crate) fn follows(&self) -> impl Iterator<Item = Follow> + '_ {
        self.topics.iter().filter_map(|(topic, membership)| {
            let first = membership.spans.first()?.after.max(membership.given);
            let until = membership.spans.last()?.until;
            let over = until.is_some_and(|until| until <= first);
            (!over).then(|| Follow { topic: topic.clone(), after: first, until })
        })
    }

    /// The turn that the row is in.
    pub(crate) fn turn(&self) -> u32 {
        self.turn
    }
}

/// Whether an event comes as one object that names its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Enveloped(pub(crate) bool);

impl Membership {
    fn wants(&self, seq: Seq) -> bool {
        seq > self.given && self.spans.iter().any(|span| span.holds(seq))
    }
}

impl Stay {
    fn holds(self, seq: Seq) -> bool {
        self.after < seq && self.until.is_none_or(|until| seq <= until)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(seq: &Seq) -> bool {
    *seq == Seq::ZERO
}

/// Most topics that one socket is in, so that its stored state stays small.
pub(crate) const TOPICS_MAX: usize = 1024;

/// Most stretches that are remembered of one topic: of a room that is left and joined faster than events arrive, the
/// oldest are forgotten.
const SPANS_MAX: usize = 16;

/// Most turns before the client has confirmed one.
const TURNS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name).unwrap()
    }

    #[test]
    fn no_namespace_can_be_anothers_room() {
        assert_eq!(namespace_topic("/a#b"), Err(NamespaceError::Invalid));
        assert_eq!(namespace_topic("a"), Err(NamespaceError::Invalid));
        assert_eq!(room_topic("/", "b").unwrap().as_str(), "/#b");
        assert_eq!(room_of("/a", &topic("/a#b#c")), Some("b#c"));
        assert_eq!(room_of("/", &topic("/a#b")), None);
        assert!(matches!(room_topic("/", &"x".repeat(254)), Err(RoomError::TooLong)));
    }

    #[test]
    fn a_room_gives_what_came_while_the_socket_was_in_it() {
        let (room, mut rooms) = (topic("/#r"), Memberships::default());
        assert_eq!(rooms.join(&room, Seq(10), false), Ok(true));
        assert_eq!(rooms.join(&room, Seq(12), false), Ok(false));
        assert!(rooms.leave(&room, Seq(20)) && !rooms.leave(&room, Seq(21)));
        assert_eq!(rooms.join(&room, Seq(30), false), Ok(true));
        let wanted: Vec<u64> = (8..34).filter(|seq| rooms.gives(&room, Some(Seq(*seq))).is_some()).collect();
        assert_eq!(wanted, [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 31, 32, 33]);
        assert_eq!(rooms.follows().collect::<Vec<_>>(), [Follow { topic: room.clone(), after: Seq(10), until: None }]);
        assert!(rooms.resume(Seq(15), 0));
        assert!(
            rooms.gives(&room, Some(Seq(15))).is_none()
                && rooms.gives(&room, Some(Seq(16))).is_some()
                && rooms.was_in(&room, Seq(12))
        );
    }

    #[test]
    fn what_has_arrived_is_forgotten_but_where_the_socket_is() {
        let (left, stays, mut rooms) = (topic("/#l"), topic("/#s"), Memberships::default());
        rooms.join(&left, Seq(1), false).unwrap();
        rooms.join(&stays, Seq(1), false).unwrap();
        rooms.leave(&left, Seq(5));
        assert!(!rooms.arrived(Seq(4), 0));
        assert!(rooms.gives(&left, Some(Seq(5))).is_some());
        assert!(rooms.arrived(Seq(5), 0));
        assert_eq!(rooms.follows().count(), 1);
        assert!(rooms.gives(&stays, Some(Seq(2))).is_some());
    }

    #[test]
    fn there_is_a_bound() {
        let mut rooms = Memberships::default();
        for i in 0..TOPICS_MAX {
            rooms.join(&topic(&format!("/#{i}")), Seq(1), false).unwrap();
        }
        assert_eq!(rooms.join(&topic("/#more"), Seq(1), false), Err(ChangeError::TooManyRooms));
        assert_eq!(rooms.turn_back(&topic("/#more"), Seq(1), false, Seq(1)), Err(ChangeError::TooManyRooms));
    }

    /// What a client does: handles events in the order of their coming, and is cut off anywhere.
    #[derive(Clone, Debug)]
    enum Step {
        Emit(usize),
        TurnBack(usize),
        /// Reads so many events, of which only the first so many arrive.
        Cut(usize, usize),
        Read(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0usize..3).prop_map(Step::Emit),
            1 => (0usize..3).prop_map(Step::TurnBack),
            2 => (0usize..6, 0usize..6).prop_map(|(sent, arrived)| Step::Cut(sent, arrived)),
            2 => (0usize..6).prop_map(Step::Read),
        ]
    }

    /// A row over a list of events, as a feed makes it.
    struct Row {
        place: Seq,
    }

    impl Row {
        fn start(rooms: &Memberships, head: Seq) -> Row {
            Row { place: rooms.follows().map(|follow| follow.after).min().unwrap_or(head) }
        }

        fn next(&mut self, rooms: &Memberships, log: &[TopicName]) -> Option<Seq> {
            while self.place.0 < log.len() as u64 {
                self.place = self.place.next();
                if rooms.gives(&log[usize::try_from(self.place.0 - 1).unwrap()], Some(self.place)).is_some() {
                    return Some(self.place);
                }
            }
            None
        }
    }

    proptest! {
        /// A topic is joined once, from the first event or from the head; whatever cuts and turns there are, its events
        /// arrive in order, once, and none is missing.
        #[test]
        fn cuts_and_turns_lose_and_double_nothing(steps in prop::collection::vec(step(), 0..60)) {
            let names = [topic("a"), topic("b"), topic("c")];
            let (mut log, mut rooms) = (Vec::new(), Memberships::default());
            let mut row = Row { place: Seq::ZERO };
            let mut shown = (Seq::ZERO, 0);
            let mut arrived: BTreeMap<TopicName, Vec<u64>> = BTreeMap::new();
            let read = |row: &mut Row, rooms: &Memberships, log: &[TopicName], sent, arrives, shown: &mut (Seq, u32),
                        arrived: &mut BTreeMap<TopicName, Vec<u64>>| {
                for i in 0..sent {
                    let Some(seq) = row.next(rooms, log) else { break };
                    if i < arrives {
                        *shown = (seq, rooms.turn());
                        arrived.entry(log[usize::try_from(seq.0 - 1).unwrap()].clone()).or_default().push(seq.0);
                    }
                }
            };
            let ends = [Step::Cut(0, 0), Step::Read(1000)];
            for step in steps.into_iter().chain(ends) {
                match step {
                    Step::Emit(which) => log.push(names[which].clone()),
                    Step::TurnBack(which) => {
                        if !rooms.is_in(&names[which]) && rooms.turn_back(&names[which], Seq::ZERO, false, row.place).is_ok() {
                            row = Row::start(&rooms, Seq(log.len() as u64));
                        }
                    }
                    Step::Read(count) => read(&mut row, &rooms, &log, count, count, &mut shown, &mut arrived),
                    Step::Cut(sent, arrives) => {
                        read(&mut row, &rooms, &log, sent, arrives, &mut shown, &mut arrived);
                        prop_assert!(rooms.resume(shown.0, shown.1));
                        row = Row::start(&rooms, Seq(log.len() as u64));
                    }
                }
            }
            for name in &names {
                let all = log.iter().enumerate().filter(|(_, topic)| *topic == name).map(|(i, _)| i as u64 + 1);
                let expected: Vec<u64> = if rooms.is_in(name) { all.collect() } else { Vec::new() };
                prop_assert_eq!(arrived.remove(name).unwrap_or_default(), expected);
            }
        }
    }
}
