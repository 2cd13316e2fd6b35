//! Judges a history: does it keep the promise? Pure: it looks at the entries and at nothing else, and it is tested itself
//! by damaging good histories (see `meta`).

mod asides;
mod durable;
mod emits;
mod emitted;
mod owner;
mod readers;
mod rows;
mod truth;
mod withheld;

use std::fmt;
use std::ops::AddAssign;

use redeliver_protocol::client::StreamItem;
use redeliver_protocol::time::Instant;

use self::asides::Asides;
use self::emits::Emits;
use self::owner::Owner;
use self::readers::Readers;
use self::rows::Rows;
use self::truth::Truth;
use crate::history::{Entry, History};

/// What a history must keep. The numbers are those of the design's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// 1: every acknowledged emit is in the log at exactly its position.
    AcknowledgedIsStored,
    /// 2: nothing is in the log or delivered that was not emitted, and an emit appears at most once.
    NothingInvented,
    /// 4: one content per epoch and seq, over all time.
    OneContent,
    /// 5: no holes in the log, nor in any topic's nth.
    NoHoles,
    /// 6: real-time order and each publisher's order.
    Order,
    /// 7: the head never goes back, and times do not either.
    NothingTakenBack,
    /// 8: a reader sees rising seqs.
    RisingSeqs,
    /// 9: each event after the start is delivered, or covered by exactly one gap.
    Complete,
    /// 10: a gap counts exactly, and never covers what is still there.
    TrueGaps,
    /// 11: no event is handed over twice in one run; across runs only what was not confirmed, at most a window, marked.
    OnceOrMarked,
    /// 12: acks only after handlers; cursors never regress.
    AckAfterHandler,
    /// 13: after the faults everyone reaches the head, and every emit is decided.
    Settles,
    /// Durable before visible: nothing is delivered that a crash could take back (14).
    DurableFirst,
    /// One owner: only the owner's acks count.
    OneOwner,
    /// Trims are due: nothing goes that retention keeps.
    TrimsAreDue,
    /// Whoever loses something is told.
    Told,
    /// What is not logged reaches a reader at most once; a request is asked and answered at most once.
    AtMostOnce,
    /// A publisher belongs to one identity: no other speaks for it, or fences it.
    Belongs,
    /// An event is not given to whoever follows a topic of its except list.
    Withheld,
    /// Neither a session nor the log refuses to work, or works without end.
    Works,
}

/// A history that does not keep the promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What was broken.
    pub rule: Rule,
    /// Which entry shows it.
    pub entry: usize,
    /// When, in virtual time.
    pub at: Instant,
    /// How, in words.
    pub words: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?} (entry {}): {}", self.rule, self.at.since_origin(), self.entry, self.words)
    }
}

/// What was judged, to show that it was not nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Emits that were acknowledged.
    pub acknowledged: u64,
    /// Events handed to apps.
    pub delivered: u64,
    /// Of these, marked as redelivered.
    pub redelivered: u64,
    /// Gaps told.
    pub gaps: u64,
    /// Of these, because of another epoch.
    pub epoch_gaps: u64,
    /// Openings of the log.
    pub openings: u64,
    /// Subscriptions that were made.
    pub runs: u64,
    /// Takeovers that a displaced reader was told of.
    pub takeovers: u64,
    /// Acknowledgements that were confirmed.
    pub confirmed: u64,
    /// Volatile events handed to apps.
    pub volatile: u64,
    /// Requests that were answered.
    pub answers: u64,
    /// Events that merged subscriptions were given.
    pub merged: u64,
}

impl AddAssign for Figures {
    fn add_assign(&mut self, other: Figures) {
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.gaps += other.gaps;
        self.epoch_gaps += other.epoch_gaps;
        self.openings += other.openings;
        self.runs += other.runs;
        self.takeovers += other.takeovers;
        self.confirmed += other.confirmed;
        self.volatile += other.volatile;
        self.answers += other.answers;
        self.merged += other.merged;
    }
}

/// Judges a history.
///
/// # Errors
///
/// Its first violations.
pub fn check(history: &History) -> Result<Figures, Vec<Violation>> {
    let mut judge = Judge::default();
    for (index, (at, entry)) in history.entries.iter().enumerate() {
        judge.case = Case { entry: index, at: *at, violations: std::mem::take(&mut judge.case.violations) };
        judge.entry(entry);
        if judge.case.violations.len() >= VIOLATIONS_MAX {
            break;
        }
    }
    if judge.case.violations.is_empty() { Ok(judge.figures) } else { Err(judge.case.violations) }
}

/// The entry that is being judged, and what was found so far.
#[derive(Debug, Default)]
struct Case {
    entry: usize,
    at: Instant,
    violations: Vec<Violation>,
}

impl Case {
    fn must(&mut self, holds: bool, rule: Rule, words: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation { rule, entry: self.entry, at: self.at, words: words() });
        }
    }
}

#[derive(Debug, Default)]
struct Judge {
    case: Case,
    truth: Truth,
    emits: Emits,
    readers: Readers,
    rows: Rows,
    asides: Asides,
    figures: Figures,
}

impl Judge {
    fn entry(&mut self, entry: &Entry) {
        let Judge { case, truth, emits, readers, rows, asides, figures } = self;
        match entry {
            Entry::Configured(kept) => truth.kept = *kept,
            Entry::Fault(_) | Entry::Started(_) | Entry::Calm | Entry::Shutdown => {}
            Entry::Opened { opening, origin, epoch, head, dump } => {
                figures.openings += 1;
                truth.opened(case, &emits.emitted, (*opening, *origin, *epoch, *head), dump);
                readers.durable.opened(case, truth, *origin);
            }
            Entry::SnapshotTaken(snapshot) => {
                truth.snapshot(*snapshot);
                readers.durable.snapshot(*snapshot);
            }
            Entry::Dumped { head, dump } => truth.dumped(case, *head, dump),
            Entry::Committed(events) => truth.committed(case, &emits.emitted, events),
            Entry::Floor { topic, nth } => truth.floor(case, topic, *nth),
            Entry::Owned { subscriber, topic, connection } => {
                readers.durable.owned(case, (subscriber, topic), *connection);
            }
            Entry::Fenced { older, newer } => case
                .must(older == newer, Rule::Belongs, || format!("the publisher of {older:?} was fenced by {newer:?}")),
            Entry::CursorStaged { subscriber, topic, connection, cursor } => {
                let key = (Owner::Server(subscriber.clone()), topic.clone());
                readers.durable.cursor_staged(case, &key, *connection, cursor);
            }
            Entry::CursorWritten { subscriber, topic, cursor } => {
                let key = (Owner::Server(subscriber.clone()), topic.clone());
                readers.durable.cursor_written(case, truth, &key, cursor);
            }
            Entry::CursorStored { client, topic, cursor } => {
                let key = (Owner::Client(*client), topic.clone());
                readers.durable.cursor_written(case, truth, &key, cursor);
            }
            Entry::ClockSet => truth.clock_set(case.entry),
            Entry::Crashed(process) => {
                emits.crashed(*process);
                readers.crashed(*process, case.entry);
            }
            Entry::Unsubscribing { run } => readers.withheld.unsubscribing(*run),
            Entry::Connected { process, opening, connection } => {
                readers.connecting(case, truth, *process, *connection);
                truth.connected(*process, *opening);
            }
            Entry::Emitting { process, key, event } => emits.emitting(case, truth, (*process, *key), event),
            Entry::EmitDone { process, key, outcome } => {
                figures.acknowledged += u64::from(emits.done(case, truth, *process, *key, *outcome));
            }
            Entry::EmitsLost { process, publisher, from, through } => {
                emits.lost(*process, *publisher, *from, *through);
            }
            Entry::Subscribing { run, topic, .. } => {
                asides.subscribing(*run, topic);
                figures.runs += 1;
                readers.subscribing(truth, case.entry, entry);
            }
            Entry::Handing { number, topics } => asides.handing(*number, topics),
            Entry::Asking { number, process } => asides.asking(*number, *process),
            Entry::Asked { number } => asides.asked(case, *number),
            Entry::Answered { number, result } => {
                figures.answers += u64::from(result.is_ok());
                asides.answered(case, *number, result);
            }
            Entry::Delivered { run, delivery: StreamItem::Volatile { payload, .. } } => {
                figures.volatile += 1;
                asides.delivered(case, *run, payload);
            }
            Entry::Delivered { run, delivery } => {
                readers.delivered(case, truth, &emits.emitted, figures, *run, delivery);
            }
            Entry::RowSubscribing { process, run, topics } => {
                readers.withheld.subscribing((*process, *run), topics, None);
                rows.subscribing(*process, *run, topics);
            }
            Entry::RowDelivered { run, topic, delivery } => {
                let all = (case, truth, &emits.emitted, &readers.withheld);
                rows.delivered(all, figures, (*run, topic.as_ref()), delivery);
            }
            Entry::RowEnded { run } => {
                rows.ended(*run);
                readers.withheld.ended(*run, case.entry);
            }
            Entry::Handled { run, position } => readers.handled(case, *run, *position),
            Entry::Acked { run, position } => readers.acked(case, *run, *position),
            Entry::Confirmed { run, seq } => {
                figures.confirmed += 1;
                readers.confirmed(case, truth, *run, *seq);
            }
            Entry::Ended { run, why } => readers.ended(case, truth, figures, *run, why),
            Entry::Settled { runs, processes } => {
                readers.settled(case, truth, runs);
                rows.settled(case, truth, &readers.withheld, processes);
                truth.settled(case);
                emits.settled(case, truth, processes);
                asides.settled(case, processes);
            }
            Entry::Leftover(names) => {
                case.must(names.is_empty(), Rule::Settles, || format!("these did not end after a shutdown: {names:?}"));
                readers.shut_down(case);
            }
        }
    }
}

/// More of them say no more.
const VIOLATIONS_MAX: usize = 8;
