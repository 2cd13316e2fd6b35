//! The one writer: a thread of its own (or, for tests, a task) that turns what has queued into commits, answers after the
//! fsync, and looks after the log in between. Never tells anybody of anything that is not durable.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use redeliver_log::{Committed, Log, LogError, Maintenance, WriteOutcome, WriteRequest, panic_message};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::EmitNumber;
use redeliver_protocol::server::{Input, Reply};
use redeliver_protocol::time::Instant;
use tokio::sync::{oneshot, watch};
use tracing::error;

use crate::clock::wall_clock;
use crate::queue::{Answer, Append, CursorKey, CursorSave, StateSave, Work};
use crate::shared::Shared;
use crate::stats::add;

/// Starts the writer of a server. It ends when the queue is closed and empty, or when the log fails; then what is returned
/// here closes. `opened` is the origin of the log's monotonic time.
pub(crate) fn start(shared: Arc<Shared>, opened: std::time::Instant) -> std::io::Result<watch::Receiver<()>> {
    let (running, ended) = watch::channel(());
    let writer = Writer { shared, opened, more: true };
    if writer.shared.queue.is_for_task() {
        tokio::spawn(run_in_task(writer, running));
    } else {
        let thread = std::thread::Builder::new().name("redeliver-writer".to_owned());
        thread.spawn(move || run_in_thread(writer, running))?;
    }
    Ok(ended)
}

/// Whether the writer goes on.
enum Progress {
    GoesOn,
    Ended,
}

fn run_in_thread(mut writer: Writer, running: watch::Sender<()>) {
    loop {
        let work = writer.shared.queue.next(writer.patience());
        if let Progress::Ended = writer.step(work) {
            break;
        }
    }
    drop(writer);
    // Last: whoever waits for the writer may take its log.
    drop(running);
}

/// Commits on the runtime's own threads: its clock does not run ahead of a commit when it is paused.
async fn run_in_task(mut writer: Writer, running: watch::Sender<()>) {
    loop {
        let work = writer.shared.queue.next_in_task(writer.patience()).await;
        match writer.step(work) {
            Progress::GoesOn => tokio::task::yield_now().await,
            Progress::Ended => break,
        }
    }
    drop(writer);
    drop(running);
}

struct Writer {
    shared: Arc<Shared>,
    opened: std::time::Instant,
    /// Whether there was more to look after when the log was last looked after.
    more: bool,
}

/// Who waits for which part of a commit.
enum Waiter {
    /// Of an append: who, its first number, and how many.
    Append(Answer, EmitNumber, usize),
    Cursor(CursorKey, CursorSave),
    State(oneshot::Sender<Result<(), RefusalCode>>),
}

impl Writer {
    /// How long to wait for work before the log is looked after.
    fn patience(&self) -> Duration {
        if self.more { Duration::ZERO } else { UPKEEP_INTERVAL }
    }

    /// Does what is to be done next. A failure of the log, or a panic, is the end.
    fn step(&mut self, work: Work) -> Progress {
        let failure = match catch_unwind(AssertUnwindSafe(|| self.perform(work))) {
            Ok(Ok(progress)) => return progress,
            Ok(Err(failure)) => failure.to_string(),
            Err(panic) => format!("the writer panicked: {}", panic_message(&*panic)),
        };
        error!(%failure, "the log has failed; nothing more is taken or answered");
        self.shared.fail(&failure);
        Progress::Ended
    }

    fn perform(&mut self, work: Work) -> Result<Progress, LogError> {
        match work {
            Work::Commit(appends, cursors, states) => {
                self.make_room()?;
                self.commit(appends, cursors, states)?;
                self.keep_up()?;
                self.more = true;
            }
            Work::Idle => {
                self.more = self.tend()? == Maintenance::More;
                self.look_for_room()?;
            }
            Work::Closed => return Ok(Progress::Ended),
        }
        Ok(Progress::GoesOn)
    }

    /// While the tail is full, emits wait for the fold.
    fn make_room(&mut self) -> Result<(), LogError> {
        while self.log().tail_is_full() {
            if self.tend()? == Maintenance::Idle {
                break;
            }
        }
        Ok(())
    }

    /// Folds a little between commits if there are so many that it is never idle.
    fn keep_up(&mut self) -> Result<(), LogError> {
        for _ in 0..self.log().steps_due() {
            if self.tend()? == Maintenance::Idle {
                break;
            }
        }
        Ok(())
    }

    fn tend(&mut self) -> Result<Maintenance, LogError> {
        let monotonic = Instant::from_origin(self.opened.elapsed());
        match self.log().maintain(wall_clock(), monotonic) {
            Err(error) if error.is_retryable() => {
                self.shared.storage.found_full(&error);
                Ok(Maintenance::Idle)
            }
            done => done,
        }
    }

    /// Says that the disk has room again, also if nobody emits.
    fn look_for_room(&self) -> Result<(), LogError> {
        if self.shared.storage.is_full() && self.log().has_room()? {
            self.shared.storage.found_room();
        }
        Ok(())
    }

    fn commit(
        &mut self,
        appends: Vec<Append>,
        cursors: BTreeMap<CursorKey, CursorSave>,
        states: Vec<StateSave>,
    ) -> Result<(), LogError> {
        let mut requests = Vec::with_capacity(appends.len() + cursors.len() + states.len());
        let mut waiters = Vec::with_capacity(appends.len() + cursors.len() + states.len());
        // What was refused before keeps its place: its answer comes after those of the appends before it.
        let mut refused: BTreeMap<usize, Vec<(Answer, EmitRun)>> = BTreeMap::new();
        for Append { publisher, first, events, is_whole, refused: run, answer, .. } in appends {
            if let Some(run) = run {
                refused.entry(requests.len()).or_default().push((answer, run));
                continue;
            }
            waiters.push(Waiter::Append(answer, first, events.len()));
            requests.push(if is_whole {
                WriteRequest::EmitAll { events }
            } else {
                WriteRequest::Emit { publisher, first, events }
            });
        }
        let before_cursors = requests.len();
        for (key, save) in cursors {
            let (subscriber, topic) = key.clone();
            requests.push(WriteRequest::SaveCursor { subscriber, topic, cursor: save.cursor.clone() });
            waiters.push(Waiter::Cursor(key, save));
        }
        for StateSave { key, value, answer } in states {
            requests.push(WriteRequest::SaveState { key, value });
            waiters.push(Waiter::State(answer));
        }
        let outcomes = if requests.is_empty() { Some(Vec::new()) } else { self.write(requests)? };
        let mut outcomes = outcomes.map(Vec::into_iter);
        for (at, waiter) in waiters.into_iter().enumerate() {
            give_refused(refused.remove(&at));
            match &mut outcomes {
                Some(outcomes) => self.answer(outcomes.next(), waiter)?,
                None => self.put_off(waiter),
            }
        }
        give_refused(refused.remove(&before_cursors));
        debug_assert!(refused.is_empty(), "every refusal has a place among the appends");
        Ok(())
    }

    /// Stages and publishes a commit, and wakes who follows a topic that grew. Nothing is written if the disk is full.
    fn write(&mut self, requests: Vec<WriteRequest>) -> Result<Option<Vec<WriteOutcome>>, LogError> {
        let monotonic = Instant::from_origin(self.opened.elapsed());
        let staged = match self.log().stage(requests, wall_clock(), monotonic) {
            Ok(staged) => staged,
            Err(error) if error.is_retryable() => {
                self.shared.storage.found_full(&error);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.shared.queue.cursors_staged();
        let Committed { outcomes, grown } = self.log().publish(staged)?;
        if outcomes.iter().any(lacked_room) {
            self.shared.storage.found_full(&LogError::StorageFull);
        } else if !grown.is_empty() {
            // Of a cursor alone there is no telling: it may fit where no event does.
            self.shared.storage.found_room();
        }
        add(&self.shared.counters.commits, 1);
        self.shared.hub.wake(grown);
        Ok(Some(outcomes))
    }

    fn answer(&self, outcome: Option<WriteOutcome>, waiter: Waiter) -> Result<(), LogError> {
        match (outcome, waiter) {
            (Some(WriteOutcome::Emitted(runs)), Waiter::Append(answer, ..)) => {
                let stored = runs.iter().filter(|run| matches!(run.fate, EmitFate::Stored(_)));
                add(&self.shared.counters.events_in, stored.map(|run| u64::from(run.count)).sum());
                answer.give(runs);
            }
            (Some(WriteOutcome::CursorSaved), Waiter::Cursor(_, save)) => {
                for (inbox, id, seq) in save.waiters {
                    inbox.push(Input::Reply(Reply::CursorSaved { id, seq }));
                }
            }
            (Some(WriteOutcome::CursorNotSaved), Waiter::Cursor(key, save)) => {
                self.shared.queue.put_off_cursor(key, save);
            }
            // The caller may have gone; its state is saved all the same.
            (Some(WriteOutcome::StateSaved), Waiter::State(answer)) => {
                let _ = answer.send(Ok(()));
            }
            (Some(WriteOutcome::StateNotSaved), Waiter::State(answer)) => {
                let _ = answer.send(Err(RefusalCode::STORAGE_FULL));
            }
            // Invariant of the log: one outcome per request, in their order. Going on would answer the wrong peer.
            (outcome, _) => return Err(LogError::Failed(format!("it answered {outcome:?} to something else"))),
        }
        Ok(())
    }

    /// The disk is full: emits are refused for now, cursors wait.
    fn put_off(&self, waiter: Waiter) {
        match waiter {
            Waiter::Append(answer, first, count) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                answer.give(vec![EmitRun { first, count, fate: EmitFate::Refused(RefusalCode::STORAGE_FULL) }]);
            }
            Waiter::Cursor(key, save) => self.shared.queue.put_off_cursor(key, save),
            Waiter::State(answer) => {
                let _ = answer.send(Err(RefusalCode::STORAGE_FULL));
            }
        }
    }

    fn log(&self) -> &Log {
        &self.shared.log
    }
}

/// Whether some of a request was not written because the disk is full.
fn lacked_room(outcome: &WriteOutcome) -> bool {
    match outcome {
        WriteOutcome::Emitted(runs) => runs.iter().any(|run| run.fate == EmitFate::Refused(RefusalCode::STORAGE_FULL)),
        WriteOutcome::CursorNotSaved | WriteOutcome::StateNotSaved => true,
        WriteOutcome::CursorSaved | WriteOutcome::StateSaved => false,
    }
}

fn give_refused(refused: Option<Vec<(Answer, EmitRun)>>) {
    for (answer, run) in refused.into_iter().flatten() {
        answer.give(vec![run]);
    }
}

/// How often an idle log is looked after: retention by age, expiry.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
