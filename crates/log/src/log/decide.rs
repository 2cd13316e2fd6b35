//! Deciding what becomes of emits, one after another as if each were alone. Decides only: nothing is written here, and
//! nothing that readers or publishers see is changed.

use std::collections::BTreeMap;

use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{Cursor, EmitFate, EmitRun};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, IdentityTag, Position, PublisherId, Seq};

use super::{EmitSource, Log, TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX, WriteOutcome, WriteRequest, together_bytes};
use crate::content::content_hash;
use crate::error::LogError;
use crate::kv::Direction;
use crate::layout::value::{self, StoredEmit};
use crate::layout::{key, piece};
use crate::lineage::Lineage;
use crate::publishers::{PublisherDraft, Publishers, REFUSED_MAX, found, hole, refusal, refusal_code};
use crate::store::Store;

/// What is to become of a row of requests.
#[derive(Debug, Default)]
pub(super) struct Decision<'a> {
    pub(super) outcomes: Vec<WriteOutcome>,
    /// The events to be stored, in the order of their seqs.
    pub(super) stored: Vec<StoredEvent<'a>>,
    /// Who emits, and what changes of it. Each once.
    pub(super) publishers: Vec<(PublisherId, PublisherDraft)>,
    /// The last cursor for each key.
    pub(super) cursors: BTreeMap<(&'a SubscriberName, &'a TopicName), &'a Cursor>,
    /// The last state for each key.
    pub(super) states: BTreeMap<&'a [u8], Option<&'a [u8]>>,
}

/// An event that gets a seq.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredEvent<'a> {
    pub(super) event: &'a NewEvent,
    /// The publisher's place in [`Decision::publishers`], its number and the content's hash.
    pub(super) emitter: Option<(usize, EmitNumber, u64)>,
    /// Whether it must be in the commit of the event before it.
    pub(super) is_joined: bool,
}

/// A row of requests being decided.
struct Decider<'a, 'l> {
    store: &'l Store,
    publishers: &'l Publishers,
    lineage: &'l Lineage,
    head: Seq,
    stored_max: usize,
    decision: Decision<'a>,
    /// Where in it a publisher is.
    places: BTreeMap<PublisherId, usize>,
}

impl Log {
    /// Decides requests. No more than `stored_max` events are stored; the disk has no room for the others.
    pub(super) fn decide<'a>(&self, requests: &'a [WriteRequest], stored_max: usize) -> Result<Decision<'a>, LogError> {
        let (lineage, head) = {
            let shared = self.shared.read();
            (std::sync::Arc::clone(&shared.lineage), shared.head)
        };
        let publishers = self.publishers.lock();
        let mut decider = Decider {
            store: &self.store,
            publishers: &publishers,
            lineage: &lineage,
            head,
            stored_max,
            decision: Decision::default(),
            places: BTreeMap::new(),
        };
        for request in requests {
            let outcome = match request {
                WriteRequest::Emit { publisher: None, first, events } => decider.plain(*first, events),
                WriteRequest::Emit { publisher: Some(source), first, events } => {
                    decider.numbered(*source, *first, events)?
                }
                WriteRequest::EmitAll { events } => decider.together(events),
                WriteRequest::SaveCursor { subscriber, topic, cursor } => {
                    decider.decision.cursors.insert((subscriber, topic), cursor);
                    WriteOutcome::CursorSaved
                }
                WriteRequest::SaveState { key, value } => {
                    decider.decision.states.insert(key, value.as_deref());
                    WriteOutcome::StateSaved
                }
            };
            decider.decision.outcomes.push(outcome);
        }
        Ok(decider.decision)
    }
}

impl<'a> Decider<'a, '_> {
    /// Emits without a publisher: nothing is a duplicate, and only the disk stops them.
    fn plain(&mut self, first: EmitNumber, events: &'a [Result<NewEvent, RefusalCode>]) -> WriteOutcome {
        let mut runs = Runs::default();
        let mut number = first;
        for event in events {
            let fate = match event.as_ref().map_err(|code| *code).and_then(judged) {
                Err(code) => EmitFate::Refused(code),
                Ok(_) if self.is_full() => EmitFate::Refused(RefusalCode::STORAGE_FULL),
                Ok(event) => EmitFate::Stored(self.store(event, None)),
            };
            runs.push(number, fate);
            number = number.saturating_add(1);
        }
        WriteOutcome::Emitted(runs.runs)
    }

    /// Emits that are stored in one commit or not at all.
    fn together(&mut self, events: &'a [Result<NewEvent, RefusalCode>]) -> WriteOutcome {
        let mut runs = Runs::default();
        let fits = |events: &[&'a NewEvent]| {
            events.len() <= TOGETHER_EVENTS_MAX && together_bytes(events.iter().copied()) <= TOGETHER_BYTES_MAX
        };
        let judged = events.iter().map(|event| event.as_ref().map_err(|code| *code).and_then(judged));
        let refused = match judged.collect::<Result<Vec<_>, _>>() {
            Err(code) => Some(code),
            Ok(events) if !fits(&events) => Some(RefusalCode::TOO_LARGE),
            Ok(events) if self.decision.stored.len() + events.len() > self.stored_max => {
                Some(RefusalCode::STORAGE_FULL)
            }
            Ok(_) => None,
        };
        let mut number = EmitNumber(1);
        for (at, event) in events.iter().enumerate() {
            let fate = match (refused, event) {
                (Some(code), _) => EmitFate::Refused(code),
                (None, Err(code)) => EmitFate::Refused(*code),
                (None, Ok(event)) => {
                    let position = self.store(event, None);
                    if let Some(stored) = self.decision.stored.last_mut() {
                        stored.is_joined = at > 0;
                    }
                    EmitFate::Stored(position)
                }
            };
            runs.push(number, fate);
            number = number.saturating_add(1);
        }
        WriteOutcome::Emitted(runs.runs)
    }

    /// Emits of a publisher, in the order of their numbers and without a hole.
    fn numbered(
        &mut self,
        source: EmitSource,
        first: EmitNumber,
        events: &'a [Result<NewEvent, RefusalCode>],
    ) -> Result<WriteOutcome, LogError> {
        let id = source.publisher;
        let mut runs = Runs::default();
        let mut number = first;
        let mut next = self.last(id).max(source.settled).saturating_add(1);
        // Who connected as this publisher before it belonged to somebody else is refused as an older connection is.
        let is_anothers = self.owner(id).is_some_and(|owner| owner != source.owner);
        let mut blocked = is_anothers.then_some(RefusalCode::FENCED);
        for event in events {
            let fate = if let Some(code) = blocked {
                EmitFate::Refused(code)
            } else if number < next {
                self.repeated(source, number, event)?
            } else if number > next {
                EmitFate::Refused(RefusalCode::OUT_OF_ORDER)
            } else {
                match event.as_ref().map_err(|code| *code).and_then(judged) {
                    Err(code) if code.is_final() => {
                        let at = self.place(source, number);
                        self.refuse(at, number, code);
                        EmitFate::Refused(code)
                    }
                    Err(code) => EmitFate::Refused(code),
                    Ok(_) if self.is_full() => EmitFate::Refused(RefusalCode::STORAGE_FULL),
                    Ok(event) => {
                        let at = self.place(source, number);
                        EmitFate::Stored(self.store(event, Some((at, number, content_hash(event)))))
                    }
                }
            };
            match fate {
                // What was not consumed holds back all that was sent behind it.
                EmitFate::Refused(code) if !code.is_final() => blocked = Some(code),
                EmitFate::Refused(_) | EmitFate::Stored(_) | EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten => {
                    next = next.max(number.saturating_add(1));
                }
            }
            runs.push(number, fate);
            number = number.saturating_add(1);
        }
        Ok(WriteOutcome::Emitted(runs.runs))
    }

    /// What is said of a number that was decided before.
    fn repeated(
        &mut self,
        source: EmitSource,
        number: EmitNumber,
        event: &'a Result<NewEvent, RefusalCode>,
    ) -> Result<EmitFate, LogError> {
        let id = source.publisher;
        let last = self.last(id);
        if number > last && last > EmitNumber::ZERO {
            return Ok(EmitFate::Refused(RefusalCode::NUMBER_SKIPPED));
        }
        let Some(emit) = self.emit(id, number)? else {
            // Nothing is known of it. What cannot be stored now either is refused as it would be.
            return Ok(match event {
                Err(code) if code.is_final() => EmitFate::Refused(*code),
                Err(_) | Ok(_) => EmitFate::DuplicateForgotten,
            });
        };
        if let Some(code) = refusal_code(&emit) {
            return Ok(match event.as_ref().map_err(|code| *code).and_then(judged) {
                // Permission or the server's settings have changed meanwhile: it comes late, but it comes.
                Ok(_) if code.depends_on_server() && self.is_full() => EmitFate::Refused(RefusalCode::STORAGE_FULL),
                Ok(event) if code.depends_on_server() => {
                    let at = self.place(source, number);
                    EmitFate::Stored(self.store(event, Some((at, number, content_hash(event)))))
                }
                Ok(_) | Err(_) => EmitFate::Refused(code),
            });
        }
        let is_same = match event {
            Ok(event) => content_hash(event) == emit.content,
            // Its content never came here: whatever it is refused for now, it was taken then.
            Err(_) => true,
        };
        if !is_same {
            return Ok(EmitFate::Refused(RefusalCode::NUMBER_REUSED));
        }
        let is_new = emit.seq > self.head;
        let epoch = if is_new { self.lineage.current() } else { self.lineage.position(emit.seq).epoch };
        Ok(EmitFate::Duplicate(Position::new(epoch, emit.seq)))
    }

    /// What became of a number: in these requests, in memory, or in the store.
    fn emit(&self, id: PublisherId, number: EmitNumber) -> Result<Option<StoredEmit>, LogError> {
        if let Some(draft) = self.draft(id) {
            let at = draft.emits.partition_point(|emit| emit.number <= number);
            if let Some(emit) = at.checked_sub(1).and_then(|at| found(&draft.emits[at], number)) {
                return Ok(Some(emit));
            }
        }
        let Some(publisher) = self.publishers.find(id) else { return Ok(None) };
        if let Some(emit) = publisher.emit(number) {
            return Ok(Some(emit));
        }
        if number > publisher.last() {
            return Ok(None);
        }
        let (from, to) = (key::emits(id, EmitNumber::ZERO), key::emits(id, number.saturating_add(1)));
        // The nearest value has it, unless what came late lies between.
        for entry in self.store.kv().range(&from, &to, Direction::Down).take(LATE_VALUES_MAX) {
            let (key, sealed) = entry?;
            let Ok(bytes) = piece::open_small(&key, &sealed) else {
                tracing::error!(key = %key::in_words(&key), "a publisher's emits are damaged");
                continue;
            };
            let emit = value::find_emit(bytes, number).unwrap_or(None);
            if let Some(emit) = emit.and_then(|emit| found(&emit, number)) {
                return Ok(Some(emit));
            }
        }
        Ok(None)
    }

    fn owner(&self, id: PublisherId) -> Option<IdentityTag> {
        self.draft(id).map(|draft| draft.owner).or_else(|| self.publishers.owner(id))
    }

    fn last(&self, id: PublisherId) -> EmitNumber {
        match self.draft(id) {
            Some(draft) => draft.last,
            None => self.publishers.find(id).map_or(EmitNumber::ZERO, |publisher| publisher.last()),
        }
    }

    fn draft(&self, id: PublisherId) -> Option<&PublisherDraft> {
        self.places.get(&id).map(|place| &self.decision.publishers[*place].1)
    }

    /// The publisher's place in the decision, for its next number. What it passes over is remembered, if the publisher was
    /// known before: of one that is not known, nobody can tell what came and was forgotten.
    fn place(&mut self, source: EmitSource, number: EmitNumber) -> usize {
        let last = self.last(source.publisher);
        let at = *self.places.entry(source.publisher).or_insert_with(|| {
            let draft = PublisherDraft { owner: source.owner, last, ..PublisherDraft::default() };
            self.decision.publishers.push((source.publisher, draft));
            self.decision.publishers.len() - 1
        });
        if last > EmitNumber::ZERO {
            self.decision.publishers[at].1.emits.extend(hole(last, number));
        }
        at
    }

    fn is_full(&self) -> bool {
        self.decision.stored.len() >= self.stored_max
    }

    fn store(&mut self, event: &'a NewEvent, emitter: Option<(usize, EmitNumber, u64)>) -> Position {
        self.decision.stored.push(StoredEvent { event, emitter, is_joined: false });
        let seq = Seq(self.head.0 + self.decision.stored.len() as u64);
        if let Some((place, number, content)) = emitter {
            let draft = &mut self.decision.publishers[place].1;
            let emit = StoredEmit { number, seq, content };
            if number > draft.last || draft.emits.is_empty() {
                draft.last = draft.last.max(number);
                forget_old_refusals(&mut draft.emits);
                draft.emits.push(emit);
            } else {
                let at = draft.emits.partition_point(|other| other.number < number);
                match draft.emits.get_mut(at).filter(|other| other.number == number) {
                    Some(refused) => *refused = emit,
                    None => draft.emits.insert(at, emit),
                }
            }
        }
        Position::new(self.lineage.current(), seq)
    }

    fn refuse(&mut self, place: usize, number: EmitNumber, code: RefusalCode) {
        let draft = &mut self.decision.publishers[place].1;
        draft.last = number;
        draft.emits.push(refusal((number, code)));
    }
}

/// A publisher's values are searched for a number in so many of them: each emit that came late may have made one.
const LATE_VALUES_MAX: usize = 16;

/// Keeps the last few of the refusals at the end.
fn forget_old_refusals(emits: &mut Vec<StoredEmit>) {
    let refused = emits.iter().rev().take_while(|emit| emit.seq == Seq::ZERO).count();
    if refused > REFUSED_MAX {
        let start = emits.len() - refused;
        emits.drain(start..emits.len() - REFUSED_MAX);
    }
}

/// An event that may be stored, or why it may not. The server has judged it before, by its own limits; the log cannot
/// store what breaks the protocol's.
fn judged(event: &NewEvent) -> Result<&NewEvent, RefusalCode> {
    event.check(&Limits::ANY_SERVER).map_err(|error| error.code())?;
    Ok(event)
}

/// Fates of consecutive numbers, put together where they are alike.
#[derive(Debug, Default)]
struct Runs {
    runs: Vec<EmitRun>,
}

impl Runs {
    fn push(&mut self, number: EmitNumber, fate: EmitFate) {
        let next = EmitRun { first: number, count: 1, fate };
        if !self.runs.last_mut().is_some_and(|run| run.try_extend(&next)) {
            self.runs.push(next);
        }
    }
}
