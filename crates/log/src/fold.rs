//! Folding: the oldest commits of the tail become values by topic, which replay reads without touching other topics.
//! Pure: commits in, entries out, and the same commits always give the same entries, so that a fold that was cut is done
//! again over what it left.

pub(crate) mod manifest;

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use redeliver_protocol::codec::{encode_record, record_bytes};
use redeliver_protocol::seq::{EmitNumber, Nth, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;
use smallvec::SmallVec;

use self::manifest::{RunKey, SPANS_MAX};
use crate::commit::Commit;
use crate::layout::piece::{self, PIECE_BYTES};
use crate::layout::value::{self, EMIT_BYTES, FoldPlan, PublisherEntry, StoredEmit};
use crate::layout::{Damaged, key};
use crate::publishers::refusal;
use crate::state::{FloorStep, Run, TailCommit};

/// A topic with fewer events in a run shares its value with others, so that there are several events to a key.
const OWN_VALUE_EVENTS_MIN: usize = 8;

/// The content of a run, while its commits are read.
#[derive(Debug)]
pub(crate) struct RunContent {
    plan: FoldPlan,
    pub(crate) topics: BTreeMap<u32, TopicContent>,
    pub(crate) publishers: BTreeMap<PublisherId, PublisherContent>,
    spans: Vec<FloorStep>,
    last_time: Timestamp,
}

/// One topic's events in a run.
#[derive(Debug, Default)]
pub(crate) struct TopicContent {
    pub(crate) last_seq: Seq,
    pub(crate) last_nth: Nth,
    events: usize,
    /// Its records in as many values as they need, each with its first seq. Most topics need one.
    values: SmallVec<[(Seq, Vec<u8>); 1]>,
}

/// One publisher's emits in a run.
#[derive(Debug, Default)]
pub(crate) struct PublisherContent {
    last: EmitNumber,
    when: Timestamp,
    emits: Vec<StoredEmit>,
}

/// A value that a fold writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoldEntry {
    pub(crate) prefix: Vec<u8>,
    pub(crate) value: Bytes,
    /// Whether it stands in pieces.
    pub(crate) in_pieces: bool,
}

impl RunContent {
    pub(crate) fn new(plan: FoldPlan) -> RunContent {
        RunContent {
            plan,
            topics: BTreeMap::new(),
            publishers: BTreeMap::new(),
            spans: Vec::new(),
            last_time: Timestamp::default(),
        }
    }

    /// Takes note of the next commit, whether or not its value can be read.
    pub(crate) fn pass(&mut self, commit: &TailCommit) {
        self.last_time = self.last_time.max(commit.time);
        self.spans.push(FloorStep { last: commit.last, stored: commit.stored, event_bytes: commit.event_bytes });
    }

    /// Takes a commit's content.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let commit = Commit::decode(bytes)?;
        // A commit counts whole or not at all.
        for event in commit.events() {
            let event = event?;
            let is_known = event.emitter.is_none_or(|by| (by.publisher as usize) < commit.publishers.len());
            if !is_known || event.topics().any(|index| index >= commit.topics.len()) {
                return Err(Damaged);
            }
        }
        self.add_refused(&commit);
        let mut nths: Vec<Nth> = commit.topics.iter().map(|entry| entry.first_nth).collect();
        for event in commit.events() {
            let event = event?;
            for index in event.topics() {
                let nth = nths[index];
                nths[index] = nth.next();
                let topic = self.topics.entry(commit.topics[index].id).or_default();
                (topic.last_seq, topic.last_nth) = (topic.last_seq.max(event.seq), topic.last_nth.max(nth));
                if self.plan.is_trimmed {
                    continue;
                }
                let at = (event.seq, nth, commit.time);
                let records = topic.room_for(event.seq, record_bytes(event.name, event.payload));
                encode_record(records, at, event.kind, event.name, event.payload);
            }
            if let Some(by) = event.emitter {
                let publisher = self.publishers.entry(commit.publishers[by.publisher as usize].id).or_default();
                publisher.last = publisher.last.max(by.number);
                publisher.emits.push(StoredEmit { number: by.number, seq: event.seq, content: by.hash });
            }
        }
        for entry in &commit.publishers {
            let publisher = self.publishers.entry(entry.id).or_default();
            publisher.when = publisher.when.max(commit.clock);
        }
        Ok(())
    }

    /// Takes what a damaged commit's tables still tell.
    pub(crate) fn add_beginning(&mut self, bytes: &[u8]) {
        let Ok(commit) = Commit::decode(bytes) else { return };
        self.add_refused(&commit);
        for entry in commit.topics.iter().filter(|entry| entry.count > 0) {
            let topic = self.topics.entry(entry.id).or_default();
            topic.last_seq = topic.last_seq.max(commit.last());
            topic.last_nth = topic.last_nth.max(Nth(entry.first_nth.0 + u64::from(entry.count) - 1));
        }
    }

    fn add_refused(&mut self, commit: &Commit<'_>) {
        for entry in &commit.publishers {
            let publisher = self.publishers.entry(entry.id).or_default();
            for refused in &entry.refused {
                publisher.last = publisher.last.max(refused.0);
                publisher.emits.push(refusal(*refused));
            }
        }
    }

    /// The run as it is held in memory.
    pub(crate) fn run(&self) -> Run {
        Run { first: self.plan.first, last: self.plan.last, last_time: self.last_time, spans: self.merged_spans() }
    }

    /// All that is to be written, in order; the manifest comes last. The names and last events of topics are not here.
    pub(crate) fn entries(&mut self) -> Vec<FoldEntry> {
        let mut entries = Vec::new();
        if !self.plan.is_trimmed {
            self.group_entries(&mut entries);
            // Takes the records away, by which a topic is told to be small.
            self.topic_entries(&mut entries);
            self.emit_entries(&mut entries);
            let keys: Vec<_> = entries.iter().map(FoldEntry::run_key).collect();
            let value = manifest::encode(&self.run(), &keys);
            entries.push(FoldEntry { prefix: key::run(self.plan.first), value: value.into(), in_pieces: true });
        }
        for (id, publisher) in &self.publishers {
            let value = PublisherEntry { last: publisher.last, when: publisher.when }.encode().into();
            entries.push(FoldEntry { prefix: key::publisher(*id), value, in_pieces: false });
        }
        entries
    }

    /// Topics with values of their own.
    fn topic_entries(&mut self, entries: &mut Vec<FoldEntry>) {
        for (id, topic) in self.topics.iter_mut().filter(|(_, topic)| !topic.is_small()) {
            for (first, records) in topic.values.drain(..) {
                let prefix = key::topic_records(*id, first);
                entries.push(FoldEntry { prefix, value: records.into(), in_pieces: true });
            }
        }
    }

    /// Small topics, as many to a value as fit.
    fn group_entries(&self, entries: &mut Vec<FoldEntry>) {
        let mut members: Vec<(u32, &TopicContent)> = Vec::new();
        let mut bytes = 2;
        for (id, topic) in self.topics.iter().filter(|(_, topic)| topic.is_small() && topic.events > 0) {
            let more = 8 + topic.records().len();
            if bytes + more > PIECE_BYTES {
                entries.extend(self.group(&members));
                members.clear();
                bytes = 2;
            }
            members.push((*id, topic));
            bytes += more;
        }
        entries.extend(self.group(&members));
    }

    fn group(&self, members: &[(u32, &TopicContent)]) -> Option<FoldEntry> {
        let (first, _) = members.first()?;
        let mut value = Vec::with_capacity(PIECE_BYTES);
        value.put_u16_le(u16::try_from(members.len()).unwrap_or(u16::MAX));
        for (id, topic) in members {
            value.put_u32_le(*id);
            value.put_u32_le(u32::try_from(topic.records().len()).unwrap_or(u32::MAX));
        }
        for (_, topic) in members {
            value.put_slice(topic.records());
        }
        Some(FoldEntry { prefix: key::group_records(self.plan.first, *first), value: value.into(), in_pieces: true })
    }

    fn emit_entries(&mut self, entries: &mut Vec<FoldEntry>) {
        for (id, publisher) in &mut self.publishers {
            publisher.emits.sort_by_key(|emit| (emit.number, emit.seq));
            for emits in publisher.emits.chunks(PIECE_BYTES / EMIT_BYTES) {
                let prefix = key::emits(*id, emits[0].number);
                let value = value::encode_emits(emits).into();
                entries.push(FoldEntry { prefix, value, in_pieces: false });
            }
        }
    }

    fn merged_spans(&self) -> Box<[FloorStep]> {
        let total: u64 = self.spans.iter().map(|span| span.event_bytes).sum();
        let (share, mut passed) = ((total / SPANS_MAX as u64).max(1), 0);
        let mut merged: Vec<FloorStep> = Vec::with_capacity(SPANS_MAX);
        for span in &self.spans {
            // A span begins where a share of the bytes ends, so that there are never more than the most.
            let begins = passed / share >= merged.len() as u64 && merged.len() < SPANS_MAX;
            passed += span.event_bytes;
            match merged.last_mut() {
                Some(last) if !begins => {
                    (last.last, last.stored) = (span.last, span.stored);
                    last.event_bytes += span.event_bytes;
                }
                Some(_) | None => merged.push(*span),
            }
        }
        merged.into_boxed_slice()
    }
}

impl TopicContent {
    /// Where the next record goes, of so many bytes.
    fn room_for(&mut self, seq: Seq, bytes: usize) -> &mut Vec<u8> {
        self.events += 1;
        let fits = self.values.last().is_some_and(|(_, records)| records.len() + bytes <= PIECE_BYTES);
        if !fits {
            // What has filled one value will fill the next.
            let capacity = if self.values.is_empty() { bytes } else { PIECE_BYTES.max(bytes) };
            self.values.push((seq, Vec::with_capacity(capacity)));
        }
        let last = self.values.len() - 1;
        let records = &mut self.values[last].1;
        records.reserve(bytes);
        records
    }

    /// The records of a small topic.
    fn records(&self) -> &[u8] {
        self.values.first().map_or(&[], |(_, records)| records)
    }

    fn is_small(&self) -> bool {
        self.events < OWN_VALUE_EVENTS_MIN && self.values.len() <= 1 && 2 + 8 + self.records().len() <= PIECE_BYTES
    }
}

impl FoldEntry {
    /// How many bytes it adds to a batch, at most.
    pub(crate) fn batch_bytes(&self) -> usize {
        piece::batch_bytes(self.prefix.len(), self.value.len())
    }

    fn run_key(&self) -> RunKey {
        let pieces = if self.in_pieces { piece::count(self.value.len()) } else { 0 };
        RunKey { prefix: self.prefix.clone(), pieces }
    }
}
