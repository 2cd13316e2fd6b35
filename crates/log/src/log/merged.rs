//! Reading several topics as one row: the head first, then what each of them has up to there, from memory or from the
//! store.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use redeliver_protocol::codec::peek_record;
use redeliver_protocol::history::{Gap, GapCause, Place, ReadOutcome, Start};
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_protocol::time::Timestamp;

use super::Log;
use super::read::{from_memory, place};
use crate::error::LogError;
use crate::index::Topic;
use crate::lineage::Lineage;
use crate::merged::{Member, MemberRead, MergedEvent, MergedItem, MergedReader, MergedRow, RowLimits, unreadable};
use crate::state::Published;
use crate::tail::ReadLimits;

impl Log {
    /// A reader of several topics that begins after a position. If that is not of this log's history, it begins at the last
    /// place that they have in common, or with what is retained, and each topic that it follows before it reads begins with a
    /// gap.
    #[must_use]
    pub fn merged_reader(&self, after: Position) -> MergedReader {
        let shared = self.shared.read();
        if self.is_of_history(&shared, after) {
            return MergedReader { place: after, foreign: None, members: Vec::new() };
        }
        let common = shared.lineage.common(after, shared.head).map_or(Seq::ZERO, |common| common.seq);
        let seq = common.max(shared.floor.seq);
        let place = if seq == shared.head { shared.head_position() } else { shared.lineage.position(seq) };
        MergedReader { place, foreign: Some(after), members: Vec::new() }
    }

    /// Whether a position is of this log's history, so that a reader may go on from it. What follows it may be gone all the
    /// same.
    #[must_use]
    pub fn knows(&self, position: Position) -> bool {
        self.is_of_history(&self.shared.read(), position)
    }

    /// The position that a seq has in this history. Beyond the head it is the head.
    #[must_use]
    pub fn position_at(&self, seq: Seq) -> Position {
        let shared = self.shared.read();
        if seq >= shared.head { shared.head_position() } else { shared.lineage.position(seq) }
    }

    /// The next row of a reader, and moves it on to the row's end: at most so many events and bytes of records, at least
    /// one item if there is one. Goes to the store where it must.
    ///
    /// # Errors
    ///
    /// What the store fails with. The reader has not moved then.
    pub fn read_merged(
        &self,
        reader: &mut MergedReader,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<MergedRow, LogError> {
        let limits = RowLimits { events_max: events_max.max(1), bytes_max };
        let (head, lineage, mut order) = {
            let shared = self.shared.read();
            (shared.head_position(), Arc::clone(&shared.lineage), members_with_events(&shared, reader))
        };
        // Members whose next event lies behind this row are not read for it: a reader of very many topics would else read
        // something of all of them for each row.
        let part = part_of(limits, order.len());
        let (mut found, mut reach, mut unread) = (Vec::new(), Reach::new(head.seq, limits.events_max), None);
        while let Some(Reverse((next, at))) = order.pop() {
            if reach.is_beyond(next) {
                unread = Some(next);
                break;
            }
            if let Some(read) = self.read_member(reader, at, part)? {
                reach.add(&read, reader.members[at].until)?;
                found.push(read);
            }
        }
        self.with_excepts(reader.merge(found, unread, head, &lineage, limits)?, &lineage)
    }

    /// The same if it can be answered from memory, without touching the store. If not, the reader has not moved.
    ///
    /// # Errors
    ///
    /// [`LogError::Failed`] if what is in memory cannot be read.
    pub fn read_merged_recent(
        &self,
        reader: &mut MergedReader,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Option<MergedRow>, LogError> {
        let limits = RowLimits { events_max: events_max.max(1), bytes_max };
        let (found, head, lineage) = {
            let shared = self.shared.read();
            let mut found = Vec::new();
            let (place, is_foreign) = (reader.place.seq, reader.foreign.is_some());
            for (at, member) in reader.members.iter_mut().enumerate() {
                if is_foreign && member.nth.is_none() {
                    return Ok(None);
                }
                match in_memory(&shared, member, member.after.max(place), limits) {
                    InMemory::Nothing => {}
                    InMemory::Found(outcome, last_seq) => found.push(MemberRead { member: at, outcome, last_seq }),
                    InMemory::Unknown => return Ok(None),
                }
            }
            (found, shared.head_position(), Arc::clone(&shared.lineage))
        };
        self.with_excepts(reader.merge(found, None, head, &lineage, limits)?, &lineage).map(Some)
    }

    /// Moves a reader on to the head if none of its topics has anything up to there. Says whether it has moved or was there.
    /// Asks nothing but memory.
    pub fn pass_quiet(&self, reader: &mut MergedReader) -> bool {
        if reader.foreign.is_some() || reader.members.iter().any(|member| member.gap.is_some()) {
            return false;
        }
        let place = reader.place.seq;
        let shared = self.shared.read();
        let mut members = reader.members.iter_mut();
        let is_quiet = members.all(|member| {
            let start = member.after.max(place);
            topic_of(&shared, member).is_none_or(|topic| topic.last_seq <= start)
        });
        if is_quiet {
            let limits = RowLimits { events_max: 1, bytes_max: 0 };
            for member in &mut reader.members {
                in_memory(&shared, member, member.after.max(place), limits);
            }
            reader.place = shared.head_position();
        }
        is_quiet
    }

    /// Names those who are not to get the events of a row that have such lists. An event whose list is damaged is not given:
    /// it is told as a gap.
    fn with_excepts(&self, mut row: MergedRow, lineage: &Lineage) -> Result<MergedRow, LogError> {
        let has_except = |item: &MergedItem| matches!(item, MergedItem::Event(event) if event.record.has_except);
        if !row.items.iter().any(has_except) {
            return Ok(row);
        }
        let mut items = Vec::with_capacity(row.items.len());
        for item in row.items {
            match item {
                MergedItem::Event(mut event) if event.record.has_except => match self.except(event.record.seq)? {
                    Some(list) => {
                        event.except = list;
                        items.push(MergedItem::Event(event));
                    }
                    None => items.extend(self.withheld(event, lineage)),
                },
                item @ (MergedItem::Event(_) | MergedItem::Gap { .. }) => items.push(item),
            }
        }
        row.items = items;
        Ok(row)
    }

    /// The gaps that stand for an event which may be given to nobody.
    fn withheld(&self, event: MergedEvent, lineage: &Lineage) -> impl Iterator<Item = MergedItem> + use<> {
        let floor = self.shared.read().floor;
        let cause = if event.record.seq <= floor.seq { floor.cause } else { GapCause::LogDamaged };
        let gap = Gap {
            after: lineage.position(Seq(event.record.seq.0 - 1)),
            through: event.position,
            nth_through: event.record.nth,
            count: 1,
            count_is_exact: true,
            cause,
        };
        event.topics.into_iter().map(move |topic| MergedItem::Gap { topic, gap: gap.clone() })
    }

    /// What a member has after the reader's place.
    fn read_member(
        &self,
        reader: &mut MergedReader,
        at: usize,
        limits: RowLimits,
    ) -> Result<Option<MemberRead>, LogError> {
        let start = reader.start(&reader.members[at]);
        let member = &mut reader.members[at];
        let (last_seq, position) = {
            let shared = self.shared.read();
            let last = topic_of(&shared, member).map(|topic| (topic.last_seq, topic.last_nth));
            let (last_seq, last_nth) = last.unwrap_or((Seq::ZERO, Nth::ZERO));
            if reader.foreign.is_none() && last_seq <= start {
                member.nth = Some(member.nth.unwrap_or(last_nth));
                return Ok(None);
            }
            let position = if start == reader.place.seq { reader.place } else { shared.lineage.position(start) };
            (last_seq, position)
        };
        let nth = match member.nth {
            Some(nth) => nth,
            None => {
                let known = Place::new(reader.foreign.unwrap_or(position), Nth::ZERO);
                let opened = self.open_topic(&member.topic, &Start::After(known), None, Timestamp::default())?;
                member.after = opened.after.seq.max(start);
                // A gap behind another history has no place in this one: it comes first.
                member.gap =
                    opened.gap.map(|gap| (if reader.foreign.is_some() { Seq::ZERO } else { gap.after.seq }, gap));
                *member.nth.insert(opened.nth)
            }
        };
        let start = member.after.max(start);
        if member.until <= start || last_seq <= start {
            return Ok(None);
        }
        let outcome = self.read_topic(&member.topic, (start, nth), reading(limits))?;
        Ok(Some(MemberRead { member: at, outcome, last_seq }))
    }

    fn is_of_history(&self, shared: &Published, position: Position) -> bool {
        shared.lineage.is_valid(position, shared.head)
    }
}

/// The members that may have something, the one whose next event may come first at the top. Of the others it is noted
/// where they stand.
fn members_with_events(shared: &Published, reader: &mut MergedReader) -> BinaryHeap<Reverse<(Seq, usize)>> {
    let (place, is_foreign) = (reader.place.seq, reader.foreign.is_some());
    let mut order = Vec::new();
    for (at, member) in reader.members.iter_mut().enumerate() {
        let start = member.after.max(place);
        let (last_seq, last_nth) =
            topic_of(shared, member).map_or((Seq::ZERO, Nth::ZERO), |topic| (topic.last_seq, topic.last_nth));
        if !is_foreign && last_seq <= start {
            member.nth = Some(member.nth.unwrap_or(last_nth));
            continue;
        }
        // What is not known of a member that was never read may lie anywhere, and a gap is told where it begins.
        let is_known = member.nth.is_some() && member.gap.is_none() && !is_foreign;
        order.push(Reverse((if is_known { member.next } else { Seq::ZERO }, at)));
    }
    BinaryHeap::from(order)
}

/// How much each member is read: together a few times what the row may take.
fn part_of(limits: RowLimits, members: usize) -> RowLimits {
    let part = |of: usize| (of.saturating_mul(READ_AHEAD) / members.max(1)).min(of);
    RowLimits {
        events_max: part(limits.events_max).max(READ_AHEAD.min(limits.events_max)),
        bytes_max: part(limits.bytes_max),
    }
}

/// How far a row can reach with what was found so far.
struct Reach {
    /// Up to where all members that were read are known.
    bound: Seq,
    /// The first seqs that were found, as many as the row may take.
    first: BTreeSet<Seq>,
    events_max: usize,
}

impl Reach {
    fn new(head: Seq, events_max: usize) -> Reach {
        Reach { bound: head, first: BTreeSet::new(), events_max }
    }

    /// Whether the row ends before this seq.
    fn is_beyond(&self, seq: Seq) -> bool {
        seq > self.bound || (self.first.len() == self.events_max && self.first.last().is_some_and(|last| seq > *last))
    }

    fn add(&mut self, read: &MemberRead, until: Seq) -> Result<(), LogError> {
        self.bound = self.bound.min(read.known(until).unwrap_or(self.bound));
        if let ReadOutcome::Batch(batch) = &read.outcome {
            let mut records = batch.records.clone();
            while !records.is_empty() {
                let (seq, _, _, size) = peek_record(&records).map_err(unreadable)?;
                if seq > until || self.is_beyond(seq) {
                    break;
                }
                drop(records.split_to(size));
                self.first.insert(seq);
                if self.first.len() > self.events_max {
                    self.first.pop_last();
                }
            }
        }
        Ok(())
    }
}

/// How many times what a row takes is read for it from all of its topics, and how many events of each at least.
const READ_AHEAD: usize = 4;

enum InMemory {
    /// The topic has not grown.
    Nothing,
    Found(ReadOutcome, Seq),
    /// The store must be asked.
    Unknown,
}

fn in_memory(shared: &Published, member: &mut Member, start: Seq, limits: RowLimits) -> InMemory {
    let (after, until) = (member.after, member.until);
    let Some(topic) = topic_of(shared, member) else {
        member.nth = Some(member.nth.unwrap_or(Nth::ZERO));
        return InMemory::Nothing;
    };
    if topic.last_seq <= start {
        member.nth = Some(member.nth.unwrap_or(topic.last_nth));
        return InMemory::Nothing;
    }
    if until <= start {
        return InMemory::Nothing;
    }
    let limits = ReadLimits { seq_max: shared.head, ..reading(limits) };
    let nth = match member.nth {
        Some(nth) => nth,
        None if start == Seq::ZERO => Nth::ZERO,
        None if after.max(start) < shared.floor.seq => return InMemory::Unknown,
        None => {
            let one = ReadLimits { events_max: 1, bytes_max: 0, seq_max: shared.head, is_mixed: true };
            match topic.recent.after(start, one, |_| None).filter(|slice| slice.follows) {
                Some(slice) => Nth(slice.first_nth.0 - 1),
                None => return InMemory::Unknown,
            }
        }
    };
    match from_memory(&place(shared, topic, start, nth), topic, limits) {
        // Lists that may be in the store alone are looked for there.
        Some(ReadOutcome::Batch(batch)) if batch.except.is_some() && !shared.excepts.has_all_after(start) => {
            InMemory::Unknown
        }
        Some(outcome) => {
            member.nth = Some(nth);
            InMemory::Found(outcome, topic.last_seq)
        }
        None => InMemory::Unknown,
    }
}

/// A member's topic, looked for by its name only while it has none.
fn topic_of<'a>(shared: &'a Published, member: &mut Member) -> Option<&'a Topic> {
    match member.id {
        Ok(id) => shared.topics.topic(id),
        Err(topics) if topics == shared.topics.named() && topics > 0 => None,
        Err(_) => match shared.topics.find(member.topic.as_str()) {
            Some((id, topic)) => {
                member.id = Ok(id);
                Some(topic)
            }
            None => {
                member.id = Err(shared.topics.named());
                None
            }
        },
    }
}

fn reading(limits: RowLimits) -> ReadLimits {
    ReadLimits {
        events_max: u32::try_from(limits.events_max).unwrap_or(u32::MAX),
        bytes_max: limits.bytes_max,
        seq_max: Seq(u64::MAX),
        is_mixed: true,
    }
}
