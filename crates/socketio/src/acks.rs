//! Answers: those that the app waits for ([`Collectors`]), and which ack id of a socket belongs to what ([`Asked`]).
//! Bounded: who never answers is forgotten.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_server::Seq;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::args::Args;
use crate::config::ASKS_MAX;
use crate::offset::Offset;
use crate::packet::AckId;

/// One socket's answer to an event that was emitted with an ack.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AckReply {
    /// Whose it is.
    pub sid: String,
    /// What it answered.
    pub args: Args,
}

/// The questions of one namespace that the app waits for, by the event that asks.
#[derive(Debug, Default)]
pub(crate) struct Collectors {
    state: Mutex<CollectorState>,
}

#[derive(Debug, Default)]
struct CollectorState {
    waiting: HashMap<Seq, Collector>,
    /// How many emits are under way whose seq is not known yet: their answers may come before it.
    asking: usize,
    early: VecDeque<(Seq, AckReply)>,
}

#[derive(Debug)]
struct Collector {
    missing: HashSet<String>,
    answers: Vec<AckReply>,
    complete: Option<oneshot::Sender<()>>,
}

/// An emit with a question whose seq is not known yet.
#[must_use]
pub(crate) struct Asking<'a>(&'a Collectors);

impl Collectors {
    pub(crate) fn ask(&self) -> Asking<'_> {
        self.state.lock().asking += 1;
        Asking(self)
    }

    /// Waits until these sockets have answered the event, and gives what there is then; and how many did not.
    pub(crate) async fn collect(
        &self,
        asking: Asking<'_>,
        seq: Seq,
        from: HashSet<String>,
        patience: Duration,
    ) -> (Vec<AckReply>, usize) {
        let (complete, completed) = oneshot::channel();
        let taken = Taken { collectors: self, seq };
        {
            let mut state = self.state.lock();
            let mut collector = Collector { missing: from, answers: Vec::new(), complete: Some(complete) };
            let (mine, others) = std::mem::take(&mut state.early).into_iter().partition(|(early, _)| *early == seq);
            state.early = others;
            let mine: VecDeque<(Seq, AckReply)> = mine;
            mine.into_iter().for_each(|(_, answer)| collector.take(answer));
            collector.tell();
            state.waiting.insert(seq, collector);
        }
        drop(asking);
        // Whether complete or not, what there is is looked at.
        let _ = tokio::time::timeout(patience, completed).await;
        let collector = self.state.lock().waiting.remove(&seq);
        drop(taken);
        collector.map_or_else(|| (Vec::new(), 0), |collector| (collector.answers, collector.missing.len()))
    }

    /// A socket has answered an event.
    pub(crate) fn answer(&self, seq: Seq, answer: AckReply) {
        let mut state = self.state.lock();
        if let Some(collector) = state.waiting.get_mut(&seq) {
            collector.take(answer);
            collector.tell();
        } else if state.asking > 0 {
            if state.early.len() == EARLY_MAX {
                state.early.pop_front();
            }
            state.early.push_back((seq, answer));
        }
    }
}

impl Collector {
    fn take(&mut self, answer: AckReply) {
        // Once each: an event that was sent again may be answered twice.
        if self.missing.remove(&answer.sid) {
            self.answers.push(answer);
        }
    }

    fn tell(&mut self) {
        if self.missing.is_empty()
            && let Some(complete) = self.complete.take()
        {
            let _ = complete.send(());
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.asking -= 1;
        if state.asking == 0 {
            state.early.clear();
        }
    }
}

/// Forgets a question whose asker does not wait any more.
struct Taken<'a> {
    collectors: &'a Collectors,
    seq: Seq,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.collectors.state.lock().waiting.remove(&self.seq);
    }
}

/// What one socket was asked, by ack id.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    last: u64,
    questions: BTreeMap<AckId, Seq>,
}

impl Asked {
    /// A new ack id, of no question.
    pub(crate) fn next_id(&mut self) -> AckId {
        self.last += 1;
        AckId(self.last)
    }

    /// A new ack id for this event's question.
    pub(crate) fn ask(&mut self, seq: Seq) -> AckId {
        let id = self.next_id();
        self.questions.insert(id, seq);
        if self.questions.len() > ASKS_MAX {
            self.questions.pop_first();
        }
        id
    }

    /// Whether there is a question without an answer.
    pub(crate) fn is_open(&self) -> bool {
        !self.questions.is_empty()
    }

    /// The event whose question has this id, once.
    pub(crate) fn answered(&mut self, id: AckId) -> Option<Seq> {
        self.questions.remove(&id)
    }
}

/// In ack mode, what was sent and not yet answered, in order. The cursor is behind the last one before the first that
/// is open.
#[derive(Debug)]
pub(crate) struct AckWindow {
    sent: VecDeque<Sent>,
    /// Where the answered ones before the first that is open end.
    answered: Offset,
    max: usize,
    patience: Duration,
    resends_max: u32,
}

#[derive(Debug)]
struct Sent {
    offset: Offset,
    ids: Vec<AckId>,
    is_answered: bool,
    due: Instant,
    resends: u32,
    again: Again,
}

/// What makes a packet anew under another id.
#[derive(Clone, Debug)]
pub(crate) struct Again {
    pub(crate) event: redeliver_server::FeedEvent,
    pub(crate) envelope: Option<redeliver_server::TopicName>,
}

/// What is due in a window.
#[derive(Debug)]
pub(crate) enum Due {
    /// To be sent again.
    Resend(Again, AckId),
    /// Sent often enough: it counts as handled.
    GivenUp(Offset),
}

impl AckWindow {
    pub(crate) fn new(start: Offset, max: usize, patience: Duration, resends_max: u32) -> AckWindow {
        AckWindow { sent: VecDeque::new(), answered: start, max: max.max(1), patience, resends_max }
    }

    /// This many events more may be sent.
    pub(crate) fn room(&self) -> usize {
        self.max - self.sent.len().min(self.max)
    }

    pub(crate) fn send(&mut self, offset: Offset, id: AckId, again: Again, now: Instant) {
        let due = now + self.patience;
        self.sent.push_back(Sent { offset, ids: vec![id], is_answered: false, due, resends: 0, again });
    }

    /// An answer has come. Returns whether the id was one of these.
    pub(crate) fn answer(&mut self, id: AckId) -> bool {
        let Some(sent) = self.sent.iter_mut().find(|sent| sent.ids.contains(&id)) else { return false };
        sent.is_answered = true;
        self.advance();
        true
    }

    /// Nothing but what was sent lies before this offset.
    pub(crate) fn passed(&mut self, offset: Offset) {
        if self.sent.is_empty() {
            self.answered = offset;
        }
    }

    /// Up to where everything is handled.
    pub(crate) fn cursor(&self) -> Offset {
        self.answered
    }

    /// When something is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.sent.iter().filter(|sent| !sent.is_answered).map(|sent| sent.due).min()
    }

    /// What is due, one at a time.
    pub(crate) fn take_due(&mut self, now: Instant, next_id: impl FnOnce() -> AckId) -> Option<Due> {
        let sent = self.sent.iter_mut().find(|sent| !sent.is_answered && sent.due <= now)?;
        if sent.resends == self.resends_max {
            sent.is_answered = true;
            let offset = sent.offset;
            self.advance();
            return Some(Due::GivenUp(offset));
        }
        sent.resends += 1;
        sent.due = now + self.patience;
        let id = next_id();
        sent.ids.push(id);
        Some(Due::Resend(sent.again.clone(), id))
    }

    fn advance(&mut self) {
        while let Some(first) = self.sent.front().filter(|sent| sent.is_answered) {
            self.answered = first.offset;
            self.sent.pop_front();
        }
    }
}

/// Answers that wait for their question to be known.
const EARLY_MAX: usize = 4096;
