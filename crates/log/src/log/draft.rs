//! Making commits of decided events: ids and nths for their topics, the value for the store, and the wire records for
//! the readers, all in one pass.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use redeliver_protocol::codec::{encode_record, record_bytes};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{EmitNumber, IdentityTag, Nth, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;

use super::decide::StoredEvent;
use super::together_bytes;
use crate::commit::{
    COMMIT_BYTES_MAX, COMMIT_EVENTS_MAX, CommitPublisher, CommitTopic, Emitter, NewCommit, NewCommitEvent,
    encoded_bytes_max, record_kind,
};
use crate::excepts;
use crate::index::Topics;
use crate::kv::WriteBatch;
use crate::layout::{key, piece};
use crate::publishers::{PublisherDraft, Publishers, refusal_code};
use crate::state::TailCommit;
use crate::tail::{Chunk, RecordEnd, RecordEnds};

/// A commit that is ready to be applied, and what is to be published once it is durable.
#[derive(Debug)]
pub(super) struct DraftCommit {
    pub(super) batch: WriteBatch,
    pub(super) events: usize,
    pub(super) commit: TailCommit,
    /// The topics that grow: id, name, and the new records. A topic stands here several times in a row where some of
    /// its events are not for everybody.
    pub(super) grown: Vec<(u32, TopicName, Chunk)>,
    /// Who is not to get which event.
    pub(super) excepts: Vec<(Seq, Arc<[TopicName]>)>,
}

/// Makes commits one after another.
pub(super) struct Drafter<'a> {
    topics: &'a Topics,
    publishers: &'a Publishers,
    drafts: &'a [(PublisherId, PublisherDraft)],
    time: Timestamp,
    clock: Timestamp,
    next: Seq,
    new_topics: HashMap<&'a TopicName, u32>,
    /// Topics that earlier commits of the same row have grown.
    nths: HashMap<u32, Nth>,
    /// Which publishers' owners stand in commits of the same row, or are stored.
    owned: Vec<bool>,
    /// How much of each publisher's draft stands in commits of the same row, once one of its events does.
    written: Vec<Option<usize>>,
    /// What stands before the first event of the next commit: it was looked up when that did not fit into the last one.
    carried: Option<Vec<(EmitNumber, RefusalCode)>>,
}

struct LocalTopic<'a> {
    id: u32,
    name: &'a TopicName,
    has_key: bool,
    first_nth: Nth,
    first_seq: Seq,
    record_bytes: usize,
    marks: RecordEnds,
}

/// The tables of one commit, while it grows.
#[derive(Default)]
struct CommitTables<'a> {
    index: HashMap<u32, u32, BuildHasherDefault<IdHasher>>,
    topics: Vec<LocalTopic<'a>>,
    event_topics: Vec<u32>,
    /// Each draft's index in `publishers`.
    publisher_index: Vec<Option<u32>>,
    publishers: Vec<CommitPublisher>,
    /// Publishers that belong to somebody from this commit on.
    owners: Vec<(PublisherId, IdentityTag)>,
    events: Vec<NewCommitEvent<'a>>,
    event_bytes: u64,
    excepts: Vec<(Seq, Arc<[TopicName]>)>,
}

impl<'a> Drafter<'a> {
    pub(super) fn new(
        topics: &'a Topics,
        publishers: &'a Publishers,
        drafts: &'a [(PublisherId, PublisherDraft)],
        (time, clock): (Timestamp, Timestamp),
        head: Seq,
    ) -> Drafter<'a> {
        Drafter {
            topics,
            publishers,
            drafts,
            time,
            clock,
            next: head.next(),
            new_topics: HashMap::new(),
            nths: HashMap::new(),
            owned: drafts.iter().map(|(id, _)| publishers.owner(*id).is_some()).collect(),
            written: vec![None; drafts.len()],
            carried: None,
        }
    }

    /// All commits that these events need.
    pub(super) fn commits(&mut self, events: &[StoredEvent<'a>]) -> Vec<DraftCommit> {
        let mut commits = Vec::new();
        let mut rest = events;
        while !rest.is_empty() {
            let (commit, taken) = self.commit(rest);
            commits.push(commit);
            rest = &rest[taken..];
        }
        commits
    }

    /// One commit of as many events as fit.
    fn commit(&mut self, events: &[StoredEvent<'a>]) -> (DraftCommit, usize) {
        let mut tables = CommitTables { publisher_index: vec![None; self.drafts.len()], ..CommitTables::default() };
        tables.events.reserve(events.len().min(COMMIT_EVENTS_MAX));
        let mut bytes = 0;
        let first = self.next;
        for (at, event) in events.iter().enumerate().take(COMMIT_EVENTS_MAX) {
            if at > 0 && !event.is_joined && !fits_with_joined(&events[at..], at, bytes) {
                break;
            }
            let refused = match (self.carried.take(), event.emitter) {
                (Some(carried), _) => carried,
                (None, Some((draft, number, _))) => self.refused_before(draft, number),
                (None, None) => Vec::new(),
            };
            bytes += encoded_bytes_max(event.event) + refused.len() * REFUSED_BYTES;
            bytes += event.emitter.map_or(0, |(draft, _, _)| if self.owned[draft] { 0 } else { OWNER_BYTES });
            if bytes > COMMIT_BYTES_MAX && !tables.events.is_empty() {
                self.carried = Some(refused);
                break;
            }
            self.add(&mut tables, event, refused);
            self.next = self.next.next();
        }
        let taken = tables.events.len();
        if taken < events.len() {
            // For the next commit of the row.
            let last_nth = |topic: &LocalTopic<'_>| Nth(topic.first_nth.0 + topic.marks.len() as u64 - 1);
            self.nths.extend(tables.topics.iter().map(|topic| (topic.id, last_nth(topic))));
        }
        (self.finish(tables, first), taken)
    }

    fn add(
        &mut self,
        tables: &mut CommitTables<'a>,
        stored: &StoredEvent<'a>,
        refused: Vec<(EmitNumber, RefusalCode)>,
    ) {
        let event = stored.event;
        let bytes = record_bytes(event.name.as_str(), &event.payload);
        for name in &event.topics {
            let index = self.local(tables, name);
            let topic = &mut tables.topics[index as usize];
            topic.record_bytes += bytes;
            // Both are bounded by what one commit holds.
            let seq_offset = u32::try_from(self.next.0 - topic.first_seq.0).unwrap_or(u32::MAX);
            let end = u32::try_from(topic.record_bytes).unwrap_or(u32::MAX);
            topic.marks.push(RecordEnd { seq_offset, end });
            tables.event_topics.push(index);
        }
        let emitter = stored.emitter.map(|(draft, number, hash)| {
            let publisher = *tables.publisher_index[draft].get_or_insert_with(|| {
                let (id, PublisherDraft { owner, .. }) = &self.drafts[draft];
                if !std::mem::replace(&mut self.owned[draft], true) {
                    tables.owners.push((*id, *owner));
                }
                tables.publishers.push(CommitPublisher { id: *id, refused: Vec::new() });
                u32::try_from(tables.publishers.len() - 1).unwrap_or(u32::MAX)
            });
            tables.publishers[publisher as usize].refused.extend(refused);
            Emitter { publisher, number, hash }
        });
        let except_bytes: usize = event.except.iter().map(|topic| topic.as_str().len()).sum();
        tables.event_bytes += (event.size_bytes() - except_bytes) as u64;
        if !event.except.is_empty() {
            tables.excepts.push((self.next, event.except.as_slice().into()));
        }
        tables.events.push(NewCommitEvent { event, emitter });
    }

    /// The topic's index in the commit's table.
    fn local(&mut self, tables: &mut CommitTables<'a>, name: &'a TopicName) -> u32 {
        // Events in a row are often of one topic.
        if let Some(index) = tables.event_topics.last()
            && tables.topics[*index as usize].name == name
        {
            return *index;
        }
        let found = self.topics.find(name.as_str());
        let id = match found {
            Some((id, _)) => id,
            None => {
                let next = self.topics.next_id() + u32::try_from(self.new_topics.len()).unwrap_or(0);
                *self.new_topics.entry(name).or_insert(next)
            }
        };
        if let Some(index) = tables.index.get(&id) {
            return *index;
        }
        let last_nth = self.nths.get(&id).copied().or(found.map(|(_, topic)| topic.last_nth));
        let index = u32::try_from(tables.topics.len()).unwrap_or(u32::MAX);
        tables.index.insert(id, index);
        tables.topics.push(LocalTopic {
            id,
            name,
            has_key: found.is_some_and(|(_, topic)| topic.has_key),
            first_nth: last_nth.unwrap_or(Nth::ZERO).next(),
            first_seq: self.next,
            record_bytes: 0,
            marks: RecordEnds::new(),
        });
        index
    }

    /// What was refused to a publisher for good between its event before and this one.
    fn refused_before(&mut self, draft: usize, number: EmitNumber) -> Vec<(EmitNumber, RefusalCode)> {
        let mut refused = Vec::new();
        let (id, draft, written) = (self.drafts[draft].0, &self.drafts[draft].1, &mut self.written[draft]);
        if written.is_none()
            && let Some(publisher) = self.publishers.find(id)
        {
            refused.extend(publisher.refused());
        }
        let written = written.get_or_insert(0);
        while let Some(emit) = draft.emits.get(*written).filter(|emit| emit.number <= number) {
            if let Some(code) = refusal_code(emit) {
                refused.push((emit.number, code));
            }
            *written += 1;
        }
        refused
    }

    fn finish(&self, mut tables: CommitTables<'a>, first: Seq) -> DraftCommit {
        let topics: Vec<_> = tables.topics.iter().map(LocalTopic::entry).collect();
        let value = NewCommit {
            first,
            time: self.time,
            clock: self.clock,
            topics: &topics,
            publishers: &tables.publishers,
            events: &tables.events,
            event_topics: &tables.event_topics,
        }
        .encode();
        let mut batch = WriteBatch::default();
        piece::put(&mut batch, &key::commit(first), &value);
        for (id, owner) in &tables.owners {
            piece::put_small(&mut batch, key::owner(*id), &owner.0);
        }
        for (seq, list) in &tables.excepts {
            piece::put(&mut batch, &key::except(*seq), &excepts::encode(list));
        }
        let commit = TailCommit {
            first,
            last: Seq(first.0 + tables.events.len() as u64 - 1),
            time: self.time,
            stored: self.clock,
            event_bytes: tables.event_bytes,
            value_bytes: value.len(),
            record_bytes: tables.topics.iter().map(|topic| topic.record_bytes).sum(),
        };
        let excepts = std::mem::take(&mut tables.excepts);
        let events = tables.events.len();
        let is_plain = !tables.events.iter().any(|event| record_kind(event.event).is_marked());
        let grown = records(tables, (first, self.time), is_plain);
        DraftCommit { batch, events, commit, grown, excepts }
    }
}

/// Whether the first of these events finds room in a commit of so many events and bytes, with all that are joined to it.
/// Always for an event by itself, which is weighed with what stands before it.
fn fits_with_joined(events: &[StoredEvent<'_>], taken: usize, bytes: usize) -> bool {
    let joined = events.iter().skip(1).take_while(|event| event.is_joined).count();
    let together = || together_bytes(events[..=joined].iter().map(|stored| stored.event));
    joined == 0 || (taken + joined < COMMIT_EVENTS_MAX && bytes + together() <= COMMIT_BYTES_MAX)
}

/// For topics' ids, which the log gives away itself, one after the other: nobody can choose them so that they meet.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        // The golden ratio in 64 bits: what is close lies far apart then, in the high bits and in the low ones.
        let spread = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// Bytes of an owner in a batch, at most.
const OWNER_BYTES: usize = 64;

/// Bytes of a refused number in a commit's table.
const REFUSED_BYTES: usize = 10;

impl<'a> LocalTopic<'a> {
    fn entry(&self) -> CommitTopic<'a> {
        CommitTopic {
            id: self.id,
            first_nth: self.first_nth,
            count: u32::try_from(self.marks.len()).unwrap_or(u32::MAX),
            name: (!self.has_key).then_some(self.name.as_str()),
        }
    }
}

/// The wire records of a commit, those of one topic next to each other, all in one piece of memory. `is_plain` if none is
/// marked.
fn records(tables: CommitTables<'_>, (first, time): (Seq, Timestamp), is_plain: bool) -> Vec<(u32, TopicName, Chunk)> {
    let mut starts = Vec::with_capacity(tables.topics.len());
    let mut total = 0;
    for topic in &tables.topics {
        starts.push(total);
        total += topic.record_bytes;
    }
    let mut buffer = vec![0_u8; total];
    let mut cursors = starts.clone();
    let mut nths: Vec<Nth> = tables.topics.iter().map(|topic| topic.first_nth).collect();
    let (mut seq, mut rest) = (first, &tables.event_topics[..]);
    for NewCommitEvent { event, .. } in &tables.events {
        let (own, others) = rest.split_at(event.topics.len());
        let bytes = record_bytes(event.name.as_str(), &event.payload);
        for index in own {
            let index = *index as usize;
            let mut slot = &mut buffer[cursors[index]..cursors[index] + bytes];
            encode_record(&mut slot, (seq, nths[index], time), record_kind(event), event.name.as_str(), &event.payload);
            cursors[index] += bytes;
            nths[index] = nths[index].next();
        }
        seq = seq.next();
        rest = others;
    }
    let buffer = Bytes::from(buffer);
    let mut chunks = Vec::with_capacity(tables.topics.len());
    for (topic, start) in tables.topics.into_iter().zip(starts) {
        let records = buffer.slice(start..start + topic.record_bytes);
        let chunk = Chunk::new(records, topic.first_nth, topic.first_seq, topic.marks);
        if is_plain {
            chunks.push((topic.id, topic.name.clone(), chunk));
        } else {
            chunk.split(|chunk| chunks.push((topic.id, topic.name.clone(), chunk)));
        }
    }
    chunks
}
