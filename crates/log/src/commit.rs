//! A commit: events in seq order with all that must change together with them, as one value. No store, no index.
//!
//! ```text
//! first_seq:u64 | count:u32 | time:u64 | clock:u64
//! topics:u32     × { id:u32 | first_nth:u64 | count:u32 | name (empty once the topic has its own key) }
//! publishers:u32 × { id:16 | refused:u16 × { number:u64 | code:u16 } }
//! count × { kind:u8 | topics:u8 × index:varint | publisher+1:varint [ number:varint | hash:u64 ] | name | payload }
//! ```
//!
//! The tables stand first, so that a commit whose rear is damaged still tells which topics lost how many events.

use bytes::BufMut;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::{EmitOptions, NewEvent, RecordKind};
use redeliver_protocol::seq::{EmitNumber, Nth, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;

use crate::layout::Damaged;
use crate::layout::reader::{ByteReader, put_name, put_varint};

/// Most events in one commit: what a commit that cannot be read at all may have held.
pub(crate) const COMMIT_EVENTS_MAX: usize = 4096;

/// Most bytes of one commit's value, so that it fits into a batch with its keys and checksums.
pub(crate) const COMMIT_BYTES_MAX: usize = 1_040_000;

/// Most pieces of one commit's value.
pub(crate) const COMMIT_PIECES_MAX: u16 = 160;

const _: () = assert!(COMMIT_BYTES_MAX / crate::layout::piece::PIECE_BYTES < COMMIT_PIECES_MAX as usize);

/// A commit, with its events still encoded.
#[derive(Clone, Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) first: Seq,
    pub(crate) count: u32,
    /// When its events were taken.
    pub(crate) time: Timestamp,
    /// The paced clock then.
    pub(crate) clock: Timestamp,
    pub(crate) topics: Vec<CommitTopic<'a>>,
    pub(crate) publishers: Vec<CommitPublisher>,
    events: ByteReader<'a>,
}

/// A topic that grew with a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitTopic<'a> {
    pub(crate) id: u32,
    pub(crate) first_nth: Nth,
    pub(crate) count: u32,
    /// Its name, until it has a key of its own.
    pub(crate) name: Option<&'a str>,
}

/// A publisher with events in a commit, and what was refused to it for good since its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitPublisher {
    pub(crate) id: PublisherId,
    pub(crate) refused: Vec<(EmitNumber, RefusalCode)>,
}

/// Who emitted an event of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emitter {
    /// Index into the commit's publishers.
    pub(crate) publisher: u32,
    pub(crate) number: EmitNumber,
    pub(crate) hash: u64,
}

/// One event of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitEvent<'a> {
    pub(crate) seq: Seq,
    pub(crate) kind: RecordKind,
    pub(crate) name: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) emitter: Option<Emitter>,
    topics: (u8, ByteReader<'a>),
}

impl<'a> Commit<'a> {
    /// Reads the head and the tables. The events are read by [`Commit::events`].
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Commit<'a>, Damaged> {
        let mut reader = ByteReader::new(bytes);
        let (first, count) = (Seq(reader.u64()?), reader.u32()?);
        let (time, clock) = (Timestamp(reader.u64()?), Timestamp(reader.u64()?));
        let mut topics = Vec::new();
        for _ in 0..reader.u32()? {
            let (id, first_nth, count) = (reader.u32()?, Nth(reader.u64()?), reader.u32()?);
            let name = Some(reader.name()?).filter(|name| !name.is_empty());
            topics.push(CommitTopic { id, first_nth, count, name });
        }
        let mut publishers = Vec::new();
        for _ in 0..reader.u32()? {
            let id = PublisherId(reader.array()?);
            let count = reader.u16()?;
            let refused = (0..count)
                .map(|_| Ok((EmitNumber(reader.u64()?), RefusalCode(reader.u16()?))))
                .collect::<Result<_, Damaged>>()?;
            publishers.push(CommitPublisher { id, refused });
        }
        if count == 0 || first == Seq::ZERO || first.0.checked_add(u64::from(count)).is_none() {
            return Err(Damaged);
        }
        Ok(Commit { first, count, time, clock, topics, publishers, events: reader })
    }

    /// The seq of the last event.
    pub(crate) fn last(&self) -> Seq {
        Seq(self.first.0 + u64::from(self.count) - 1)
    }

    /// The events in order. Ends after an error.
    pub(crate) fn events(&self) -> impl Iterator<Item = Result<CommitEvent<'a>, Damaged>> + use<'a> {
        let (mut reader, mut next, end) = (self.events, self.first, self.last());
        let mut failed = false;
        std::iter::from_fn(move || {
            if failed || next > end {
                return None;
            }
            let event = read_event(&mut reader, next);
            next = next.next();
            failed = event.is_err();
            Some(event)
        })
    }
}

impl<'a> CommitEvent<'a> {
    /// The event's topics, as indexes into the commit's topics.
    pub(crate) fn topics(&self) -> impl Iterator<Item = usize> + use<'a> {
        let (count, mut reader) = self.topics;
        // They were walked over once already, so none of them is damaged.
        (0..count).map_while(move |_| reader.varint().ok().and_then(|index| usize::try_from(index).ok()))
    }

    /// What limits and retention by bytes count, but for the topics' names.
    pub(crate) fn own_bytes(&self) -> usize {
        self.name.len() + self.payload.len()
    }
}

/// What is to be written as one commit.
#[derive(Debug)]
pub(crate) struct NewCommit<'a> {
    pub(crate) first: Seq,
    pub(crate) time: Timestamp,
    pub(crate) clock: Timestamp,
    pub(crate) topics: &'a [CommitTopic<'a>],
    pub(crate) publishers: &'a [CommitPublisher],
    pub(crate) events: &'a [NewCommitEvent<'a>],
    /// The events' topics one after another, as indexes into `topics`.
    pub(crate) event_topics: &'a [u32],
}

/// One event to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewCommitEvent<'a> {
    pub(crate) event: &'a NewEvent,
    pub(crate) emitter: Option<Emitter>,
}

impl NewCommit<'_> {
    /// The commit's value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let bytes: usize = self.events.iter().map(|event| encoded_bytes_max(event.event)).sum();
        let mut out = Vec::with_capacity(40 + bytes);
        out.put_u64_le(self.first.0);
        out.put_u32_le(length(self.events.len()));
        out.put_u64_le(self.time.0);
        out.put_u64_le(self.clock.0);
        out.put_u32_le(length(self.topics.len()));
        for topic in self.topics {
            out.put_u32_le(topic.id);
            out.put_u64_le(topic.first_nth.0);
            out.put_u32_le(topic.count);
            put_name(&mut out, topic.name.unwrap_or_default());
        }
        out.put_u32_le(length(self.publishers.len()));
        for publisher in self.publishers {
            out.put_slice(&publisher.id.0);
            let count = u16::try_from(publisher.refused.len()).unwrap_or(u16::MAX);
            out.put_u16_le(count);
            for (number, code) in publisher.refused.iter().take(usize::from(count)) {
                out.put_u64_le(number.0);
                out.put_u16_le(code.0);
            }
        }
        let mut topics = self.event_topics;
        for event in self.events {
            let (own, rest) = topics.split_at(event.event.topics.len());
            topics = rest;
            put_event(&mut out, event, own);
        }
        out
    }
}

/// How many bytes an event adds to a commit's batch, at most, with its topics' and its publisher's entries in the tables
/// and its except list.
pub(crate) fn encoded_bytes_max(event: &NewEvent) -> usize {
    let except = if event.except.is_empty() { 0 } else { 64 + 2 * event.except.len() };
    event.size_bytes() + event.topics.len() * 22 + 64 + except
}

/// The kind byte of an event's records.
pub(crate) fn record_kind(event: &NewEvent) -> RecordKind {
    RecordKind { payload: event.kind, asks: event.options.has(EmitOptions::ASKS), has_except: !event.except.is_empty() }
}

fn put_event(out: &mut Vec<u8>, event: &NewCommitEvent<'_>, topics: &[u32]) {
    out.put_u8(record_kind(event.event).to_byte());
    out.put_u8(u8::try_from(topics.len()).unwrap_or(u8::MAX));
    for index in topics {
        put_varint(out, u64::from(*index));
    }
    match event.emitter {
        None => put_varint(out, 0),
        Some(emitter) => {
            put_varint(out, u64::from(emitter.publisher) + 1);
            put_varint(out, emitter.number.0);
            out.put_u64_le(emitter.hash);
        }
    }
    put_name(out, event.event.name.as_str());
    put_varint(out, event.event.payload.len() as u64);
    out.put_slice(&event.event.payload);
}

fn read_event<'a>(reader: &mut ByteReader<'a>, seq: Seq) -> Result<CommitEvent<'a>, Damaged> {
    let kind = RecordKind::from_byte(reader.u8()?).ok_or(Damaged)?;
    let topics = (reader.u8()?, *reader);
    for _ in 0..topics.0 {
        reader.varint()?;
    }
    let emitter = match reader.varint()?.checked_sub(1) {
        None => None,
        Some(index) => Some(Emitter {
            publisher: u32::try_from(index).map_err(|_| Damaged)?,
            number: EmitNumber(reader.varint()?),
            hash: reader.u64()?,
        }),
    };
    let name = reader.name()?;
    let length = reader.length()?;
    Ok(CommitEvent { seq, kind, name, payload: reader.take(length)?, emitter, topics })
}

fn length(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use redeliver_protocol::event::PayloadKind;
    use redeliver_protocol::name::{EventName, TopicName};

    use super::*;

    fn event(topics: &[&str], payload: &str) -> NewEvent {
        let mut event = NewEvent::new(
            TopicName::new(topics[0]).unwrap(),
            EventName::new("named").unwrap(),
            PayloadKind::Text,
            payload.to_owned(),
        );
        event.topics = topics.iter().map(|topic| TopicName::new(topic).unwrap()).collect();
        event
    }

    fn encoded() -> Vec<u8> {
        let events = [event(&["a"], "one"), event(&["b", "a"], "two")];
        let emitter = Emitter { publisher: 0, number: EmitNumber(8), hash: 99 };
        NewCommit {
            first: Seq(5),
            time: Timestamp(1000),
            clock: Timestamp(900),
            topics: &[
                CommitTopic { id: 3, first_nth: Nth(7), count: 2, name: None },
                CommitTopic { id: 4, first_nth: Nth(1), count: 1, name: Some("b") },
            ],
            publishers: &[CommitPublisher {
                id: PublisherId([9; 16]),
                refused: vec![(EmitNumber(7), RefusalCode::INVALID)],
            }],
            events: &[
                NewCommitEvent { event: &events[0], emitter: None },
                NewCommitEvent { event: &events[1], emitter: Some(emitter) },
            ],
            event_topics: &[0, 1, 0],
        }
        .encode()
    }

    #[test]
    fn a_commit_comes_back_as_it_was_written() {
        let bytes = encoded();
        let commit = Commit::decode(&bytes).unwrap();
        assert_eq!(
            (commit.first, commit.last(), commit.time, commit.clock),
            (Seq(5), Seq(6), Timestamp(1000), Timestamp(900))
        );
        assert_eq!(commit.topics[1], CommitTopic { id: 4, first_nth: Nth(1), count: 1, name: Some("b") });
        assert_eq!(commit.publishers[0].refused, [(EmitNumber(7), RefusalCode::INVALID)]);
        let events: Vec<_> = commit.events().collect::<Result<_, _>>().unwrap();
        assert_eq!((events[0].seq, events[0].payload, events[0].emitter), (Seq(5), &b"one"[..], None));
        assert_eq!(events[1].topics().collect::<Vec<_>>(), [1, 0]);
        assert_eq!(events[1].emitter.unwrap().number, EmitNumber(8));
    }

    #[test]
    fn a_commit_cut_anywhere_is_damage_and_no_panic() {
        let bytes = encoded();
        for end in 0..bytes.len() {
            if let Ok(commit) = Commit::decode(&bytes[..end]) {
                assert!(commit.events().any(|event| event.is_err()), "cut at {end}");
            }
        }
    }
}
