//! A log in memory for the stories: the same answers as the real one, by the plainest means. Everything in it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::BytesMut;
use redeliver_protocol::codec::encode_record;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::{EmitOptions, NewEvent, RecordKind};
use redeliver_protocol::history::{
    Batch, Cursor, EmitFate, EmitRun, Gap, GapCause, Opened, Place, PublisherState, ReadOutcome, Start,
};
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Epoch, Nth, Position, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeLog {
    lineage: Vec<Position>,
    events: Vec<Stored>,
    /// Events up to here are gone.
    pub(crate) floor: Seq,
    /// Emits are refused with this.
    pub(crate) refusing: Option<RefusalCode>,
    /// Nobody may use these topics.
    pub(crate) forbidden: BTreeSet<TopicName>,
    pub(crate) cursors: BTreeMap<(SubscriberName, TopicName), Cursor>,
    publishers: BTreeMap<PublisherId, Numbers>,
}

#[derive(Clone, Debug)]
struct Stored {
    event: NewEvent,
    time: Timestamp,
}

#[derive(Clone, Debug, Default)]
struct Numbers {
    last: EmitNumber,
    taken: BTreeMap<EmitNumber, (NewEvent, Position)>,
}

impl FakeLog {
    /// An empty log in its first epoch.
    pub(crate) fn new() -> FakeLog {
        let mut log = FakeLog::default();
        log.begin_epoch(1);
        log
    }

    /// The log is opened again.
    pub(crate) fn begin_epoch(&mut self, epoch: u8) {
        self.lineage.push(Position::new(Epoch([epoch; 16]), self.head_seq()));
    }

    /// The newest position.
    pub(crate) fn head(&self) -> Position {
        let epoch = self.lineage.last().expect("begun").epoch;
        Position::new(epoch, self.head_seq())
    }

    fn head_seq(&self) -> Seq {
        Seq(self.events.len() as u64)
    }

    /// What `RefusalCode` would answer a publisher's emits; in-process emits have none.
    pub(crate) fn append(
        &mut self,
        publisher: Option<(PublisherId, EmitNumber)>,
        first: EmitNumber,
        events: Vec<Result<NewEvent, RefusalCode>>,
        time: Timestamp,
    ) -> (Vec<EmitRun>, BTreeSet<TopicName>) {
        let mut grown = BTreeSet::new();
        let mut runs = Vec::new();
        for (number, event) in (first.0..).map(EmitNumber).zip(events) {
            let fate = self.append_one(publisher, number, event, time, &mut grown);
            runs.push(EmitRun { first: number, count: 1, fate });
        }
        (runs, grown)
    }

    fn append_one(
        &mut self,
        publisher: Option<(PublisherId, EmitNumber)>,
        number: EmitNumber,
        event: Result<NewEvent, RefusalCode>,
        time: Timestamp,
        grown: &mut BTreeSet<TopicName>,
    ) -> EmitFate {
        let Some((publisher, settled)) = publisher else {
            return EmitFate::Stored(self.store(event.expect("valid"), time, grown));
        };
        let numbers = self.publishers.entry(publisher).or_default();
        numbers.last = numbers.last.max(settled);
        if number <= numbers.last {
            return match (numbers.taken.get(&number), event) {
                (None, _) => EmitFate::DuplicateForgotten,
                (Some((known, position)), Ok(event)) if *known == event => EmitFate::Duplicate(*position),
                (Some(_), _) => EmitFate::Refused(RefusalCode::NUMBER_REUSED),
            };
        }
        if number.0 > numbers.last.0 + 1 {
            return EmitFate::Refused(RefusalCode::OUT_OF_ORDER);
        }
        if let Some(code) = self.refusing {
            return EmitFate::Refused(code);
        }
        let event = event.and_then(|event| {
            let is_forbidden = event.topics.iter().any(|topic| self.forbidden.contains(topic));
            if is_forbidden { Err(RefusalCode::FORBIDDEN) } else { Ok(event) }
        });
        let fate = match event {
            Err(code) => EmitFate::Refused(code),
            Ok(event) => {
                let position = self.store(event.clone(), time, grown);
                let numbers = self.publishers.entry(publisher).or_default();
                numbers.taken.insert(number, (event, position));
                EmitFate::Stored(position)
            }
        };
        self.publishers.entry(publisher).or_default().last = number;
        fate
    }

    fn store(&mut self, event: NewEvent, time: Timestamp, grown: &mut BTreeSet<TopicName>) -> Position {
        grown.extend(event.topics.iter().cloned());
        self.events.push(Stored { event, time });
        self.head()
    }

    /// What is known of a publisher.
    pub(crate) fn publisher(&self, publisher: PublisherId, settled: EmitNumber) -> PublisherState {
        match self.publishers.get(&publisher) {
            Some(numbers) => PublisherState::Reached(numbers.last),
            None if settled > EmitNumber::ZERO => PublisherState::Forgotten,
            None => PublisherState::New,
        }
    }

    /// The next events of a topic.
    pub(crate) fn read(&self, topic: &TopicName, after: Seq, events_max: u32, bytes_max: usize) -> ReadOutcome {
        let newest = self.topic(topic).map(|(seq, _, _)| seq).last();
        let mut following = self.topic(topic).filter(|(seq, _, _)| *seq > after).peekable();
        let Some((first, first_nth, _)) = following.peek().copied() else { return ReadOutcome::End };
        if first <= self.floor {
            return ReadOutcome::Gap(self.gap(topic, self.position(after), self.floor, GapCause::RetentionAge));
        }
        let epoch = self.position(first).epoch;
        let (mut records, mut count, mut last_seq) = (BytesMut::new(), 0, first);
        let mut except: Option<Arc<[TopicName]>> = None;
        let mut is_marked = false;
        for (seq, nth, stored) in following.take(events_max as usize) {
            let mut record = BytesMut::new();
            let event = &stored.event;
            let has_except = !event.except.is_empty();
            let kind = RecordKind { payload: event.kind, asks: event.options.has(EmitOptions::ASKS), has_except };
            encode_record(&mut record, (seq, nth, stored.time), kind, event.name.as_str(), &event.payload);
            // Marked ones come alone.
            if count > 0 && (is_marked || kind.is_marked()) {
                break;
            }
            is_marked = kind.is_marked();
            if self.position(seq).epoch != epoch || (count > 0 && records.len() + record.len() > bytes_max) {
                break;
            }
            records.extend_from_slice(&record);
            (count, last_seq) = (count + 1, seq);
            except = has_except.then(|| event.except.as_slice().into());
        }
        let is_end = newest == Some(last_seq);
        ReadOutcome::Batch(Batch { epoch, count, first_nth, last_seq, records: records.freeze(), except, is_end })
    }

    /// Where a subscription starts.
    pub(crate) fn open(
        &self,
        topic: &TopicName,
        start: &Start,
        subscriber: Option<&SubscriberName>,
        now: Timestamp,
    ) -> Result<Opened, (RefusalCode, String)> {
        if self.forbidden.contains(topic) {
            return Err((RefusalCode::FORBIDDEN, "not this topic".to_owned()));
        }
        let stored = subscriber.and_then(|name| self.cursors.get(&(name.clone(), topic.clone())));
        let (from, gap) = self.start(topic, start, stored.map(|cursor| &cursor.place), now);
        let after = gap.as_ref().map_or(from, |gap: &Gap| gap.through);
        let resumed_from = gap.as_ref().map_or(after, |gap| gap.after);
        let known = stored.map(|cursor| cursor.place.clone());
        let known = known.filter(|known| self.is_valid(known.position) || known.position == resumed_from);
        let epochs = known.as_ref().map(|known| self.epochs_between(known.position, resumed_from));
        let (nth, head) = (self.nth_at(topic, after.seq), self.head());
        Ok(Opened {
            after,
            nth,
            head,
            pending: self.nth_at(topic, head.seq).since(nth),
            gap,
            delivered_through: stored.map_or(DeliveredThrough::NOTHING, |cursor| cursor.delivered_through),
            stored_through: stored.map_or(DeliveredThrough::NOTHING, |cursor| cursor.delivered_through),
            reader: stored.and_then(|cursor| cursor.reader),
            stored: known,
            epochs: epochs.unwrap_or_default(),
        })
    }

    fn start(
        &self,
        topic: &TopicName,
        start: &Start,
        stored: Option<&Place>,
        now: Timestamp,
    ) -> (Position, Option<Gap>) {
        let head = self.head();
        match start {
            Start::Latest => (head, None),
            Start::Earliest => (self.position(self.floor), None),
            Start::After(known) => self.judge(topic, known),
            Start::ResumeOr { at_least: None, first } if stored.is_none() => {
                self.start(topic, &Start::from(*first), None, now)
            }
            Start::Resume { at_least } | Start::ResumeOr { at_least, .. } => match (at_least, stored) {
                (None, None) => (head, None),
                (Some(known), None) | (None, Some(known)) => self.judge(topic, known),
                (Some(known), Some(stored)) if !self.is_valid(known.position) => {
                    if self.is_valid(stored.position) {
                        // The server's cursor is a common place too.
                        let common = known.earlier.iter().chain([&stored.position]).copied();
                        let common = common.filter(|position| self.is_valid(*position)).max_by_key(|at| at.seq);
                        self.judge(topic, &Place { earlier: common.into_iter().collect(), ..known.clone() })
                    } else {
                        self.judge(topic, stored)
                    }
                }
                (Some(known), Some(stored)) if stored.position.seq > known.position.seq => self.judge(topic, stored),
                (Some(known), Some(_)) => self.judge(topic, known),
            },
            Start::AfterSeq(seq) => (self.position((*seq).clamp(self.floor, head.seq)), None),
            Start::Since(time) => (self.since(*time), None),
            Start::Within(age) => (self.since(now.before(*age)), None),
            Start::Last(n) => {
                let from = self.nth_at(topic, head.seq).0.saturating_sub(*n);
                let at = self.topic(topic).filter(|(_, nth, _)| nth.0 <= from).map(|(seq, _, _)| seq).last();
                (self.position(at.unwrap_or(Seq::ZERO).max(self.floor)), None)
            }
            _ => unreachable!("a start that this log does not know"),
        }
    }

    fn since(&self, time: Timestamp) -> Position {
        let before = self.events.iter().take_while(|stored| stored.time < time).count();
        self.position(Seq(before as u64).max(self.floor))
    }

    fn judge(&self, topic: &TopicName, known: &Place) -> (Position, Option<Gap>) {
        let at = known.position;
        if !self.is_valid(at) {
            let common = known.earlier.iter().copied().find(|position| self.is_valid(*position));
            let through = common.map_or(self.floor, |common| common.seq.max(self.floor));
            let mut gap = self.gap(topic, at, through, GapCause::EpochChanged);
            if common.is_some_and(|common| common.seq >= self.floor) {
                // From a common place on that is retained, nothing is missing.
                (gap.count, gap.count_is_exact) = (0, true);
            }
            return (at, Some(gap));
        }
        if self.nth_at(topic, at.seq) < self.nth_at(topic, self.floor) {
            return (at, Some(self.gap(topic, at, self.floor, GapCause::RetentionAge)));
        }
        (at, None)
    }

    fn gap(&self, topic: &TopicName, after: Position, through: Seq, cause: GapCause) -> Gap {
        let nth_through = self.nth_at(topic, through);
        let is_valid = self.is_valid(after);
        let nth = if is_valid { self.nth_at(topic, after.seq) } else { Nth::ZERO };
        Gap {
            after,
            through: self.position(through),
            nth_through,
            count: nth_through.since(nth),
            count_is_exact: is_valid,
            cause,
        }
    }

    /// The position of a seq of this log.
    pub(crate) fn position(&self, seq: Seq) -> Position {
        let written_in = self.lineage.iter().rev().find(|began| began.seq < seq).unwrap_or(&self.lineage[0]);
        let epoch = if seq == self.head().seq { self.head().epoch } else { written_in.epoch };
        Position::new(epoch, seq)
    }

    fn is_valid(&self, position: Position) -> bool {
        let Some(at) = self.lineage.iter().position(|began| began.epoch == position.epoch) else { return false };
        let end = self.lineage.get(at + 1).map_or(self.head().seq, |next| next.seq);
        (self.lineage[at].seq..=end).contains(&position.seq)
    }

    fn epochs_between(&self, stored: Position, start: Position) -> Vec<Position> {
        let place = |position: Position| self.lineage.iter().position(|began| began.epoch == position.epoch);
        match (place(stored), place(start)) {
            (Some(from), Some(to)) if from < to => self.lineage[from + 1..=to].to_vec(),
            _ => Vec::new(),
        }
    }

    fn topic(&self, topic: &TopicName) -> impl Iterator<Item = (Seq, Nth, &Stored)> {
        let of_topic = (1..).map(Seq).zip(&self.events).filter(|(_, stored)| stored.event.topics.contains(topic));
        of_topic.zip(1..).map(|((seq, stored), nth)| (seq, Nth(nth), stored))
    }

    /// The seq of a topic's last event.
    pub(crate) fn end(&self, topic: &TopicName) -> Option<Seq> {
        self.topic(topic).last().map(|(seq, ..)| seq)
    }

    /// The nth of the topic's last event at or before a seq.
    pub(crate) fn nth_at(&self, topic: &TopicName, seq: Seq) -> Nth {
        Nth(self.topic(topic).filter(|(at, _, _)| *at <= seq).count() as u64)
    }

    /// The log goes back to an earlier state, as a restored backup does.
    pub(crate) fn roll_back(&mut self, seq: Seq, epoch: u8) {
        self.events.truncate(usize::try_from(seq.0).expect("a short log"));
        self.lineage.retain(|began| began.seq <= seq);
        for numbers in self.publishers.values_mut() {
            numbers.taken.retain(|_, (_, position)| position.seq <= seq);
            numbers.last = numbers.taken.keys().last().copied().unwrap_or_default();
        }
        self.cursors.retain(|_, cursor| cursor.place.position.seq <= seq);
        self.begin_epoch(epoch);
    }
}
