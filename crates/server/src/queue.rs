//! What waits for the writer: appends in order, gateways' states, and at most one cursor per subscriber and topic. Bounded in bytes: what
//! comes beyond is refused, in its place in the order.

mod append;
mod group_commit;
mod in_task;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use redeliver_log::EmitSource;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::Cursor;
use redeliver_protocol::name::{SubscriberName, TopicName};
use redeliver_protocol::seq::{EmitNumber, Seq, SubscriptionId};
use tokio::sync::{Notify, oneshot};

pub(crate) use self::append::{Answer, Append, Runs};
use self::append::{EVENT_OVERHEAD_BYTES, event_bytes, parts};
use self::group_commit::GroupCommit;
use crate::inbox::Inbox;

/// The queue between the connections and the writer.
#[derive(Debug)]
pub(crate) struct Queue {
    content: Mutex<Content>,
    work: Condvar,
    /// Wakes a writer that is a task; nothing if it is a thread.
    task: Option<Notify>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Content {
    appends: VecDeque<Append>,
    append_bytes: usize,
    cursors: BTreeMap<CursorKey, CursorSave>,
    states: VecDeque<StateSave>,
    /// When the cursors are committed alone.
    cursors_due: Option<Instant>,
    /// Cursors that the writer has taken but not yet staged: the log does not know them yet.
    taken: BTreeMap<CursorKey, Cursor>,
    group_commit: GroupCommit,
    /// How many appends a writer waits for that gathers; 0 if it does not.
    enough: usize,
    closing: bool,
    failed: bool,
}

/// Whose cursor of which topic.
pub(crate) type CursorKey = (SubscriberName, TopicName);

/// Events to be appended, numbered upwards from the first; an `Err` consumes its number.
pub(crate) type Events = Vec<Result<NewEvent, RefusalCode>>;

/// A cursor to be saved, and who waits for it.
#[derive(Debug)]
pub(crate) struct CursorSave {
    pub(crate) cursor: Cursor,
    pub(crate) waiters: Vec<(Arc<Inbox>, SubscriptionId, Seq)>,
}

/// A state to be saved or deleted, and who is told whether it was.
#[derive(Debug)]
pub(crate) struct StateSave {
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
    pub(crate) answer: oneshot::Sender<Result<(), RefusalCode>>,
}

impl StateSave {
    fn bytes(&self) -> usize {
        EVENT_OVERHEAD_BYTES + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What the writer is to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// A commit's worth of requests.
    Commit(Vec<Append>, BTreeMap<CursorKey, CursorSave>, Vec<StateSave>),
    /// Nothing waits: time for upkeep.
    Idle,
    /// Nothing waits and nothing will come.
    Closed,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Queue {
        Queue { content: Mutex::default(), work: Condvar::new(), task: None, bytes_max }
    }

    /// Takes a connection's events. If the queue is full or closing they are refused in their place. Returns whether they
    /// were taken.
    pub(crate) fn append_for(
        &self,
        inbox: &Arc<Inbox>,
        publisher: Option<EmitSource>,
        first: EmitNumber,
        events: Events,
    ) -> bool {
        let bytes = events.iter().map(event_bytes).sum();
        let mut content = self.content.lock();
        match content.refusal(bytes, self.bytes_max) {
            Some(code) => {
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
                content.push(Append::refused(first, count, code, Answer::Connection(Arc::clone(inbox))));
                self.notify(&content);
                false
            }
            None => {
                let mut next = first;
                for (part, bytes) in parts(events, bytes) {
                    let after = next.saturating_add(part.len() as u64);
                    content.push(Append::new(publisher, next, part, bytes, Answer::Connection(Arc::clone(inbox))));
                    next = after;
                }
                self.notify(&content);
                true
            }
        }
    }

    /// Answers a connection that these are refused, behind everything that it appended before.
    pub(crate) fn refuse_for(&self, inbox: &Arc<Inbox>, first: EmitNumber, count: u32, code: RefusalCode) {
        let mut content = self.content.lock();
        content.push(Append::refused(first, count, code, Answer::Connection(Arc::clone(inbox))));
        self.notify(&content);
    }

    /// Takes one event of a caller within the process, by itself or under a publisher's number.
    ///
    /// # Errors
    ///
    /// Why the queue does not take it.
    pub(crate) fn append_one(
        &self,
        publisher: Option<EmitSource>,
        number: EmitNumber,
        event: Result<NewEvent, RefusalCode>,
    ) -> Result<Runs, RefusalCode> {
        let events = vec![event];
        let bytes = events.iter().map(event_bytes).sum();
        self.append_of_caller(|answer| Append::new(publisher, number, events, bytes, answer))
    }

    /// Takes events of a caller within the process that are stored in one commit or not at all.
    ///
    /// # Errors
    ///
    /// Why the queue does not take them.
    pub(crate) fn append_whole(&self, events: Vec<NewEvent>) -> Result<Runs, RefusalCode> {
        let events: Events = events.into_iter().map(Ok).collect();
        let bytes = events.iter().map(event_bytes).sum();
        self.append_of_caller(|answer| Append {
            is_whole: true,
            ..Append::new(None, EmitNumber(1), events, bytes, answer)
        })
    }

    fn append_of_caller(&self, append: impl FnOnce(Answer) -> Append) -> Result<Runs, RefusalCode> {
        let (answer, runs) = oneshot::channel();
        let append = append(Answer::Caller(answer));
        let mut content = self.content.lock();
        if let Some(code) = content.refusal(append.bytes, self.bytes_max) {
            return Err(code);
        }
        content.push(append);
        self.notify(&content);
        Ok(runs)
    }

    /// Takes a state of a gateway.
    ///
    /// # Errors
    ///
    /// Why the queue does not take it.
    pub(crate) fn save_state(
        &self,
        key: Bytes,
        value: Option<Bytes>,
    ) -> Result<oneshot::Receiver<Result<(), RefusalCode>>, RefusalCode> {
        let (answer, saved) = oneshot::channel();
        let save = StateSave { key, value, answer };
        let mut content = self.content.lock();
        if let Some(code) = content.refusal(save.bytes(), self.bytes_max) {
            return Err(code);
        }
        content.append_bytes += save.bytes();
        content.states.push_back(save);
        self.wake_writer();
        Ok(saved)
    }

    /// Takes a cursor; a newer one of the same subscriber and topic replaces one that still waits.
    pub(crate) fn save_cursor(
        &self,
        key: CursorKey,
        cursor: Cursor,
        waiter: (Arc<Inbox>, SubscriptionId),
        urgent: bool,
    ) {
        let mut content = self.content.lock();
        if content.failed {
            return;
        }
        let (inbox, id) = waiter;
        let waiter = (inbox, id, cursor.place.position.seq);
        match content.cursors.get_mut(&key) {
            Some(waiting) => {
                waiting.cursor = cursor;
                // One answer per subscription: it covers all before.
                waiting.waiters.retain(|(inbox, id, _)| !(*id == waiter.1 && Arc::ptr_eq(inbox, &waiter.0)));
                waiting.waiters.push(waiter);
            }
            None => {
                content.cursors.insert(key, CursorSave { cursor, waiters: vec![waiter] });
            }
        }
        let due = Instant::now() + if urgent || self.is_for_task() { Duration::ZERO } else { CURSOR_DELAY };
        content.cursors_due = Some(content.cursors_due.map_or(due, |earlier| earlier.min(due)));
        self.wake_writer();
    }

    /// Takes back a cursor that could not be written for now. A newer one that has come meanwhile stays.
    pub(crate) fn put_off_cursor(&self, key: CursorKey, mut save: CursorSave) {
        let mut content = self.content.lock();
        if content.closing {
            // There may never be room. The reader was not told that its ack is durable, and will be handed the rest again.
            return;
        }
        content.taken.remove(&key);
        match content.cursors.get_mut(&key) {
            Some(newer) => newer.waiters.append(&mut save.waiters),
            None => {
                content.cursors.insert(key, save);
            }
        }
        let due = Instant::now() + PUT_OFF_DELAY;
        content.cursors_due = Some(content.cursors_due.map_or(due, |earlier| earlier.min(due)));
    }

    /// The cursor of this key that is on its way into the log, if one is.
    pub(crate) fn cursor(&self, key: &CursorKey) -> Option<Cursor> {
        let content = self.content.lock();
        content.cursors.get(key).map(|save| &save.cursor).or_else(|| content.taken.get(key)).cloned()
    }

    /// No more appends; what waits is still done.
    pub(crate) fn close(&self) {
        self.content.lock().closing = true;
        self.wake_writer();
    }

    /// The log has failed: forgets everything, unanswered.
    pub(crate) fn fail(&self) {
        let forgotten = {
            let mut content = self.content.lock();
            std::mem::replace(&mut *content, Content { failed: true, closing: true, ..Content::default() })
        };
        drop(forgotten);
        self.wake_writer();
    }

    /// The writer's wait for work, at most `patience`.
    pub(crate) fn next(&self, patience: Duration) -> Work {
        let deadline = Instant::now() + patience;
        let mut content = self.content.lock();
        loop {
            let due = content.cursors_due.is_some_and(|due| content.closing || due <= Instant::now());
            if !content.appends.is_empty() || !content.states.is_empty() || due {
                self.gather(&mut content);
                return content.take_commit();
            }
            if content.closing {
                return Work::Closed;
            }
            let until = content.cursors_due.map_or(deadline, |due| due.min(deadline));
            if self.work.wait_until(&mut content, until).timed_out() && Instant::now() >= deadline {
                return Work::Idle;
            }
        }
    }

    /// Gives those a moment who were answered last and are likely to emit again at once, if that was worth it lately: so they
    /// share a commit instead of each paying for its sync.
    fn gather(&self, content: &mut MutexGuard<'_, Content>) {
        let waiting = content.appends.len();
        let Some((enough, moment)) = content.group_commit.expected(waiting) else { return };
        let deadline = Instant::now() + moment;
        content.enough = enough;
        while content.appends.len() < enough && content.append_bytes < COMMIT_BYTES_MAX && !content.closing {
            if self.work.wait_until(content, deadline).timed_out() {
                break;
            }
        }
        content.enough = 0;
        let gathered = content.appends.len();
        content.group_commit.gathered(waiting, gathered);
    }

    /// Wakes the writer, unless it waits for more appends.
    fn notify(&self, content: &Content) {
        if content.appends.len() >= content.enough || content.append_bytes >= COMMIT_BYTES_MAX {
            self.wake_writer();
        }
    }

    /// The taken cursors are staged: the log knows them now.
    pub(crate) fn cursors_staged(&self) {
        self.content.lock().taken.clear();
    }
}

impl Content {
    fn refusal(&self, bytes: usize, bytes_max: usize) -> Option<RefusalCode> {
        if self.failed {
            Some(RefusalCode::LOG_FAILED)
        } else if self.closing {
            Some(RefusalCode::DRAINING)
        } else if self.append_bytes > 0 && self.append_bytes + bytes > bytes_max {
            Some(RefusalCode::OVERLOADED)
        } else {
            None
        }
    }

    fn push(&mut self, append: Append) {
        // After a failure nothing is answered any more: connections end, and callers see that their answer was dropped.
        if !self.failed {
            self.append_bytes += append.bytes;
            self.appends.push_back(append);
        }
    }

    /// As many appends as fit into a commit, and the cursors that wait.
    fn take_commit(&mut self) -> Work {
        let mut appends = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while let Some(next) = self.appends.front() {
            events += next.events.len();
            bytes += next.bytes;
            let fits = events <= COMMIT_EVENTS_MAX && bytes <= COMMIT_BYTES_MAX;
            if !fits && !appends.is_empty() {
                break;
            }
            if let Some(append) = self.appends.pop_front() {
                self.append_bytes -= append.bytes;
                appends.push(append);
            }
        }
        let mut cursors = BTreeMap::new();
        while cursors.len() < COMMIT_CURSORS_MAX
            && let Some((key, save)) = self.cursors.pop_first()
        {
            self.taken.insert(key.clone(), save.cursor.clone());
            cursors.insert(key, save);
        }
        if self.cursors.is_empty() {
            self.cursors_due = None;
        }
        self.group_commit.left(appends.len());
        Work::Commit(appends, cursors, self.take_states())
    }
}

impl Content {
    /// As many states as go with one commit.
    fn take_states(&mut self) -> Vec<StateSave> {
        let mut states = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.states.front() {
            bytes += next.bytes();
            if !states.is_empty() && (bytes > COMMIT_STATE_BYTES_MAX || states.len() >= COMMIT_STATES_MAX) {
                break;
            }
            if let Some(state) = self.states.pop_front() {
                self.append_bytes -= state.bytes();
                states.push(state);
            }
        }
        states
    }
}

/// Most events in one commit.
const COMMIT_EVENTS_MAX: usize = 1024;

/// Most bytes of events in one commit, so that with what surrounds them and the cursors it stays below the 1 MiB that
/// are safe between two syncs. One event of the largest size fits.
const COMMIT_BYTES_MAX: usize = 896 * 1024;

/// Most cursors in one commit.
const COMMIT_CURSORS_MAX: usize = 256;

/// Most states in one commit, and their bytes: what does not fit beside the events is written in a batch of its own.
const COMMIT_STATES_MAX: usize = 1024;
const COMMIT_STATE_BYTES_MAX: usize = 448 * 1024;

/// Longest time that a cursor for which nobody waits waits for a commit to join.
const CURSOR_DELAY: Duration = Duration::from_millis(100);

/// When a cursor is tried again for which the disk had no room.
const PUT_OFF_DELAY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use redeliver_protocol::event::PayloadKind;
    use redeliver_protocol::history::{EmitFate, EmitRun, Place};
    use redeliver_protocol::name::EventName;
    use redeliver_protocol::redelivery::DeliveredThrough;
    use redeliver_protocol::seq::{Epoch, Nth, Position};

    use super::*;

    fn event(bytes: usize) -> Result<NewEvent, RefusalCode> {
        let topic = TopicName::new("t").unwrap();
        Ok(NewEvent::new(topic, EventName::new("n").unwrap(), PayloadKind::Bytes, vec![0; bytes]))
    }

    fn cursor(seq: u64) -> Cursor {
        let position = Position::new(Epoch([1; 16]), Seq(seq));
        Cursor::new(Place { position, nth: Nth(seq), earlier: [].into() }, DeliveredThrough(Nth(seq)))
    }

    fn key(subscriber: &str) -> CursorKey {
        (SubscriberName::new(subscriber).unwrap(), TopicName::new("t").unwrap())
    }

    fn commit(queue: &Queue) -> (Vec<Append>, BTreeMap<CursorKey, CursorSave>) {
        match queue.next(Duration::ZERO) {
            Work::Commit(appends, cursors, _) => (appends, cursors),
            other @ (Work::Idle | Work::Closed) => panic!("expected a commit, got {other:?}"),
        }
    }

    #[test]
    fn a_commit_takes_whole_appends_up_to_its_limit() {
        let queue = Queue::new(usize::MAX);
        let inbox = Arc::default();
        for first in [1, 601, 1201] {
            assert!(queue.append_for(&inbox, None, EmitNumber(first), (0..600).map(|_| event(10)).collect()));
        }
        let firsts = |appends: Vec<Append>| appends.iter().map(|append| append.first.0).collect::<Vec<_>>();
        assert_eq!(firsts(commit(&queue).0), [1]);
        assert_eq!(firsts(commit(&queue).0), [601]);
        assert_eq!(firsts(commit(&queue).0), [1201]);
        assert!(matches!(queue.next(Duration::ZERO), Work::Idle));
    }

    #[test]
    fn an_append_that_alone_exceeds_a_commit_is_split_in_order() {
        let queue = Queue::new(usize::MAX);
        let mut events: Vec<_> = (0..2500).map(|_| event(10)).collect();
        events.push(event(700 * 1024));
        events.push(event(700 * 1024));
        queue.append_for(&Arc::default(), None, EmitNumber(1), events);
        let mut next = 1;
        let mut commits = 0;
        while let Work::Commit(appends, _, _) = queue.next(Duration::ZERO) {
            commits += 1;
            assert!(appends.iter().map(|append| append.bytes).sum::<usize>() <= COMMIT_BYTES_MAX);
            for append in appends {
                assert_eq!(append.first.0, next);
                next += append.events.len() as u64;
            }
        }
        assert_eq!((next, commits), (2503, 4));
    }

    #[test]
    fn what_a_full_queue_refuses_is_answered_in_its_place() {
        let queue = Queue::new(1000);
        let inbox = Arc::default();
        assert!(queue.append_for(&inbox, None, EmitNumber(1), vec![event(900)]));
        assert!(!queue.append_for(&inbox, None, EmitNumber(2), vec![event(900), event(900)]));
        assert_eq!(queue.append_one(None, EmitNumber(1), event(900)).err(), Some(RefusalCode::OVERLOADED));
        let (appends, _) = commit(&queue);
        assert_eq!(appends.len(), 2);
        assert_eq!(appends[0].refused, None);
        let refused = EmitRun { first: EmitNumber(2), count: 2, fate: EmitFate::Refused(RefusalCode::OVERLOADED) };
        assert_eq!(appends[1].refused, Some(refused));
        assert!(queue.append_for(&inbox, None, EmitNumber(2), vec![event(900)]), "there is room again");
    }

    #[test]
    fn one_event_always_fits() {
        assert!(Queue::new(10).append_for(&Arc::default(), None, EmitNumber(1), vec![event(900)]));
    }

    #[test]
    fn cursors_wait_for_a_commit_to_join_unless_someone_waits_for_them() {
        let queue = Queue::new(1000);
        let waiter = || (Arc::default(), SubscriptionId(1));
        queue.save_cursor(key("a"), cursor(1), waiter(), false);
        assert!(matches!(queue.next(Duration::ZERO), Work::Idle));
        queue.append_for(&Arc::default(), None, EmitNumber(1), vec![event(1)]);
        assert_eq!(commit(&queue).1.len(), 1);
        queue.save_cursor(key("a"), cursor(2), waiter(), true);
        assert_eq!(commit(&queue).1.len(), 1);
    }

    #[test]
    fn a_cursor_on_its_way_is_known_until_the_log_has_it() {
        let queue = Queue::new(1000);
        queue.save_cursor(key("a"), cursor(1), (Arc::default(), SubscriptionId(1)), true);
        queue.save_cursor(key("a"), cursor(2), (Arc::default(), SubscriptionId(1)), true);
        assert_eq!(queue.cursor(&key("a")), Some(cursor(2)));
        let (_, cursors) = commit(&queue);
        assert_eq!(cursors[&key("a")].waiters.len(), 2, "two inboxes wait");
        assert_eq!(queue.cursor(&key("a")), Some(cursor(2)));
        queue.cursors_staged();
        assert_eq!(queue.cursor(&key("a")), None);
    }

    #[test]
    fn closing_does_what_waits_and_takes_nothing_more() {
        let queue = Queue::new(1000);
        queue.save_cursor(key("a"), cursor(1), (Arc::default(), SubscriptionId(1)), false);
        queue.close();
        assert_eq!(queue.append_one(None, EmitNumber(1), event(1)).err(), Some(RefusalCode::DRAINING));
        assert_eq!(commit(&queue).1.len(), 1);
        assert!(matches!(queue.next(Duration::ZERO), Work::Closed));
    }
}
