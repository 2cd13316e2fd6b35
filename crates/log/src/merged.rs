//! Several topics as one row, in the order of the log. Pure: what each topic has is read elsewhere; here it becomes one
//! row that ends where not all of them are known. Never gives an event twice, never one of a topic after a later one of
//! another.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;
use redeliver_protocol::codec::{Records, peek_record, record_bytes};
use redeliver_protocol::event::Record;
use redeliver_protocol::history::{Gap, GapCause, ReadOutcome};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Position, Seq};

use crate::error::LogError;
use crate::lineage::Lineage;

/// A reader of several topics at once: a place in the log, and the members that it follows from there on.
/// Made by [`Log::merged_reader`](crate::Log::merged_reader).
#[derive(Clone, Debug)]
pub struct MergedReader {
    pub(crate) place: Position,
    /// Where it was to begin, if that is no place in this log's history, until it has read.
    pub(crate) foreign: Option<Position>,
    pub(crate) members: Vec<Member>,
}

/// One followed range of one topic.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) topic: TopicName,
    /// The topic's id once it has one, and else how many topics there were when it had none.
    pub(crate) id: Result<u32, usize>,
    /// Events above this belong to it. Where it is at or below the reader's place, that counts.
    pub(crate) after: Seq,
    /// Events up to this belong to it.
    pub(crate) until: Seq,
    /// The nth of the topic's last event up to where it was read. Unknown before its first read.
    pub(crate) nth: Option<Nth>,
    /// What is missing at its beginning, and after which seq that stands, until it is told.
    pub(crate) gap: Option<(Seq, Gap)>,
    /// No event of it lies between the reader's place and this, exclusive. So it need not be read for what comes before.
    pub(crate) next: Seq,
}

/// What comes next in the topics of a reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MergedRow {
    /// In the order of their seqs.
    pub items: Vec<MergedItem>,
    /// The topics of which a followed range has ended with this row.
    pub ended: Vec<TopicName>,
    /// Whether a limit has cut the row, so that more is there already.
    pub is_cut: bool,
}

/// One item of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergedItem {
    /// An event.
    Event(MergedEvent),
    /// Events of a topic that are gone. It stands where it begins.
    Gap {
        /// Of which topic.
        topic: TopicName,
        /// What is missing. Its count is an upper bound where the followed range ends within it.
        gap: Gap,
    },
}

/// An event in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedEvent {
    /// Where it is.
    pub position: Position,
    /// What it is. Its nth is that of the first of its `topics`.
    pub record: Record,
    /// The followed topics that it belongs to: at least one.
    pub topics: Vec<TopicName>,
    /// Who is not to get it: whoever follows one of these topics. Empty for most events.
    pub except: Arc<[TopicName]>,
}

impl MergedReader {
    /// Everything of the followed topics up to here has been given.
    #[must_use]
    pub fn place(&self) -> Position {
        self.place
    }

    /// From now on, the events of a topic above both `after` and the place belong to the row, up to `until` if it is set,
    /// inclusive. Ranges of a topic may overlap: no event comes twice.
    pub fn follow(&mut self, topic: TopicName, after: Seq, until: Option<Seq>) {
        let until = until.unwrap_or(Seq(u64::MAX));
        if until <= self.place.seq {
            return;
        }
        // What it was told before it has read is about the history in which it was.
        let after = if self.foreign.is_some() { self.place.seq } else { after.max(self.place.seq) };
        self.members.push(Member { topic, id: Err(0), after, until, nth: None, gap: None, next: Seq::ZERO });
    }

    /// From now on, no event of a topic belongs to the row.
    pub fn unfollow(&mut self, topic: &TopicName) {
        self.members.retain(|member| member.topic != *topic);
    }

    /// No event of a topic above `until` belongs to the row. Its ranges end there.
    pub fn unfollow_after(&mut self, topic: &TopicName, until: Seq) {
        let place = self.place.seq;
        self.members.retain_mut(|member| {
            if member.topic == *topic {
                member.until = member.until.min(until);
            }
            member.until > place
        });
    }

    /// Whether any range of a topic is followed.
    #[must_use]
    pub fn follows(&self, topic: &TopicName) -> bool {
        self.members.iter().any(|member| member.topic == *topic)
    }

    /// Where a member is to be read from.
    pub(crate) fn start(&self, member: &Member) -> Seq {
        member.after.max(self.place.seq)
    }
}

/// What a read of one member found.
#[derive(Debug)]
pub(crate) struct MemberRead {
    /// Index of the member.
    pub(crate) member: usize,
    pub(crate) outcome: ReadOutcome,
    /// The topic's newest seq, looked at after the head and before the read.
    pub(crate) last_seq: Seq,
}

impl MemberRead {
    /// Up to where the member is known by this read; nothing if it is known to its end or to the head.
    pub(crate) fn known(&self, until: Seq) -> Option<Seq> {
        let known = match &self.outcome {
            ReadOutcome::Batch(batch) => batch.last_seq,
            ReadOutcome::Gap(gap) => gap.through.seq,
            ReadOutcome::End => return None,
        };
        (known < self.last_seq && known < until).then_some(known)
    }
}

/// Most that a row takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowLimits {
    pub(crate) events_max: usize,
    pub(crate) bytes_max: usize,
}

impl MergedReader {
    /// Makes the next row of what was found in its members, and moves on to its end. All of them were read up to `head`
    /// at least, unless a find says otherwise; members that were not read have nothing before `unread`.
    pub(crate) fn merge(
        &mut self,
        found: Vec<MemberRead>,
        unread: Option<Seq>,
        head: Position,
        lineage: &Lineage,
        limits: RowLimits,
    ) -> Result<MergedRow, LogError> {
        let unread = unread.map_or(head.seq, |unread| Seq(unread.0.saturating_sub(1)).min(head.seq));
        let bound = self.note_known(&found, head.seq).min(unread);
        let mut row = MergedRow::default();
        if let [MemberRead { member, outcome: ReadOutcome::Batch(batch), .. }] = &found[..]
            && self.members.iter().all(|member| member.gap.is_none())
        {
            let through = self.take_member(*member, batch.records.clone(), bound, lineage, limits, &mut row)?;
            row.is_cut |= through < head.seq;
            self.pass(through, head, lineage, &mut row.ended);
            return Ok(row);
        }
        let mut merge = Merge::new(self, found)?;
        let mut through = bound;
        let mut bytes = 0;
        while let Some(seq) = merge.peek().filter(|seq| *seq <= bound) {
            let size = merge.size();
            if !row.items.is_empty() && (row.items.len() >= limits.events_max || bytes + size > limits.bytes_max) {
                row.is_cut = true;
                through = Seq(seq.0.saturating_sub(1));
                break;
            }
            bytes += size;
            merge.take(self, lineage, &mut row.items)?;
        }
        merge.note_next(self);
        row.is_cut |= through < head.seq;
        self.pass(through, head, lineage, &mut row.ended);
        Ok(row)
    }

    /// Takes what the only member has that has anything, which is what most rows are. Returns where the row ends.
    fn take_member(
        &mut self,
        at: usize,
        records: Bytes,
        bound: Seq,
        lineage: &Lineage,
        limits: RowLimits,
        row: &mut MergedRow,
    ) -> Result<Seq, LogError> {
        let member = &mut self.members[at];
        let last = bound.min(member.until);
        let mut bytes = 0;
        for record in Records::new(records) {
            let record = record.map_err(unreadable)?;
            if record.seq > last {
                member.next = record.seq;
                break;
            }
            let size = record_bytes(record.name.as_str(), &record.payload);
            if !row.items.is_empty() && (row.items.len() >= limits.events_max || bytes + size > limits.bytes_max) {
                row.is_cut = true;
                member.next = record.seq;
                return Ok(Seq(record.seq.0.saturating_sub(1)));
            }
            bytes += size;
            member.nth = Some(record.nth);
            row.items.push(MergedItem::Event(event(record, member.topic.clone(), lineage)));
        }
        Ok(bound)
    }

    /// Notes up to where each member is known now, and returns up to where all of them are.
    fn note_known(&mut self, found: &[MemberRead], head: Seq) -> Seq {
        let mut bound = head;
        for one in found {
            let member = &mut self.members[one.member];
            let known = one.known(member.until).unwrap_or(head);
            bound = bound.min(known);
            member.next = Seq(known.0.saturating_add(1));
        }
        bound
    }

    /// Moves on to the end of a row.
    fn pass(&mut self, through: Seq, head: Position, lineage: &Lineage, ended: &mut Vec<TopicName>) {
        self.foreign = None;
        if through > self.place.seq {
            self.place = if through == head.seq { head } else { lineage.position(through) };
        }
        let place = self.place.seq;
        self.members.retain(|member| {
            let is_over = member.until <= place && member.gap.is_none();
            if is_over {
                ended.push(member.topic.clone());
            }
            !is_over
        });
    }
}

/// A merge under way: the rest of what each member has, the one with the lowest seq first.
struct Merge {
    heap: BinaryHeap<Reverse<(Seq, usize)>>,
    rests: Vec<MemberRest>,
}

/// What one member still has.
struct MemberRest {
    member: usize,
    next: Option<NextItem>,
}

enum NextItem {
    Gap(Gap),
    Records {
        nth: Nth,
        /// Of the first record, in bytes.
        size: usize,
        records: Bytes,
    },
}

impl Merge {
    fn new(reader: &MergedReader, found: Vec<MemberRead>) -> Result<Merge, LogError> {
        let mut merge = Merge { heap: BinaryHeap::new(), rests: Vec::with_capacity(found.len()) };
        // A gap stands where it begins, so that the place never comes to lie within one that is not told.
        for (at, member) in reader.members.iter().enumerate() {
            if let Some((after, gap)) = &member.gap {
                merge.push(*after, at, NextItem::Gap(gap.clone()));
            }
        }
        for MemberRead { member, outcome, .. } in found {
            match outcome {
                ReadOutcome::Batch(batch) => merge.push_records(member, batch.records, reader.members[member].until)?,
                ReadOutcome::Gap(gap) => merge.push(gap.after.seq, member, NextItem::Gap(gap)),
                ReadOutcome::End => {}
            }
        }
        Ok(merge)
    }

    fn push(&mut self, seq: Seq, member: usize, next: NextItem) {
        self.heap.push(Reverse((seq, self.rests.len())));
        self.rests.push(MemberRest { member, next: Some(next) });
    }

    fn push_records(&mut self, member: usize, records: Bytes, until: Seq) -> Result<(), LogError> {
        if let Some((seq, next)) = first_of(records, until)? {
            self.push(seq, member, next);
        }
        Ok(())
    }

    /// Notes where the rest of each member begins. A gap that was not told is found again by the next read.
    fn note_next(&self, reader: &mut MergedReader) {
        for Reverse((seq, at)) in &self.heap {
            let MemberRest { member, next } = &self.rests[*at];
            reader.members[*member].next = match next {
                Some(NextItem::Records { .. }) => *seq,
                Some(NextItem::Gap(_)) | None => Seq::ZERO,
            };
        }
    }

    /// The seq of the next item.
    fn peek(&self) -> Option<Seq> {
        self.heap.peek().map(|Reverse((seq, _))| *seq)
    }

    /// Its size in bytes.
    fn size(&self) -> usize {
        let next = self.heap.peek().and_then(|Reverse((_, at))| self.rests[*at].next.as_ref());
        match next {
            Some(NextItem::Records { size, .. }) => *size,
            Some(NextItem::Gap(_)) | None => 0,
        }
    }

    /// Takes what stands next, from every member that has it.
    fn take(
        &mut self,
        reader: &mut MergedReader,
        lineage: &Lineage,
        items: &mut Vec<MergedItem>,
    ) -> Result<(), LogError> {
        let Some(seq) = self.peek() else { return Ok(()) };
        let mut event: Option<MergedEvent> = None;
        while let Some(Reverse((_, at))) = self.heap.pop_if_first(seq) {
            let rest = &mut self.rests[at];
            let member = &mut reader.members[rest.member];
            match rest.next.take() {
                Some(NextItem::Gap(gap)) => {
                    member.gap = None;
                    member.nth = Some(gap.nth_through);
                    member.after = gap.through.seq;
                    items.push(MergedItem::Gap {
                        topic: member.topic.clone(),
                        gap: clipped(gap, member.until, lineage),
                    });
                }
                Some(NextItem::Records { nth, size, mut records }) => {
                    member.nth = Some(nth);
                    let record = records.split_to(size);
                    match &mut event {
                        Some(event) if event.topics.contains(&member.topic) => {}
                        Some(event) => event.topics.push(member.topic.clone()),
                        None => event = Some(decoded(record, member.topic.clone(), lineage)?),
                    }
                    if let Some((seq, next)) = first_of(records, member.until)? {
                        rest.next = Some(next);
                        self.heap.push(Reverse((seq, at)));
                    }
                }
                None => {}
            }
        }
        items.extend(event.map(MergedItem::Event));
        Ok(())
    }
}

trait PopIfFirst {
    /// Takes the first entry if it has this seq.
    fn pop_if_first(&mut self, seq: Seq) -> Option<Reverse<(Seq, usize)>>;
}

impl PopIfFirst for BinaryHeap<Reverse<(Seq, usize)>> {
    fn pop_if_first(&mut self, seq: Seq) -> Option<Reverse<(Seq, usize)>> {
        if self.peek().is_some_and(|Reverse((first, _))| *first == seq) { self.pop() } else { None }
    }
}

/// The first of a member's records, unless it lies beyond the member's end.
fn first_of(records: Bytes, until: Seq) -> Result<Option<(Seq, NextItem)>, LogError> {
    if records.is_empty() {
        return Ok(None);
    }
    let (seq, nth, _, size) = peek_record(&records).map_err(unreadable)?;
    Ok((seq <= until).then_some((seq, NextItem::Records { nth, size, records })))
}

fn decoded(record: Bytes, topic: TopicName, lineage: &Lineage) -> Result<MergedEvent, LogError> {
    let Some(record) = Records::new(record).next() else {
        return Err(LogError::Failed("a record was empty".to_owned()));
    };
    Ok(event(record.map_err(unreadable)?, topic, lineage))
}

fn event(record: Record, topic: TopicName, lineage: &Lineage) -> MergedEvent {
    MergedEvent { position: lineage.position(record.seq), record, topics: vec![topic], except: Arc::default() }
}

/// Records were made by this process or checked when they were read: they are whole.
#[allow(clippy::needless_pass_by_value, reason = "as map_err gives it")]
pub(crate) fn unreadable(error: redeliver_protocol::error::DecodeError) -> LogError {
    LogError::Failed(format!("a record cannot be read: {error}"))
}

/// a gap as far as it concerns a range that ends at `until`.
fn clipped(mut gap: Gap, until: Seq, lineage: &Lineage) -> Gap {
    if gap.through.seq > until {
        gap.through = lineage.position(until);
        gap.count_is_exact = false;
        // A place of another history compares with nothing here.
        if gap.cause != GapCause::EpochChanged {
            gap.count = gap.count.min(until.since(gap.after.seq));
        }
    }
    gap
}
