//! Emits from within the process: held to the same limits as a client's, durable when they return. Never judges who emits.

use redeliver_log::{TOGETHER_BYTES_MAX, TOGETHER_EVENTS_MAX, together_bytes};
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::{EmitNumber, Position, Seq};

use crate::queue::Runs;
use crate::shared::Shared;
use crate::stats::add;

/// Stores one event.
pub(crate) async fn emit(shared: &Shared, event: NewEvent) -> Result<Receipt, EmitError> {
    event.check(&shared.config.limits)?;
    let runs = shared.queue.append_one(None, EmitNumber(1), Ok(event));
    receipt(first_run(shared, runs).await?.fate)
}

/// Stores all of these events in one commit, or none.
pub(crate) async fn emit_all(shared: &Shared, events: Vec<NewEvent>) -> Result<Vec<Receipt>, EmitError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    for event in &events {
        event.check(&shared.config.limits)?;
    }
    let (count, bytes) = (events.len(), together_bytes(&events));
    if count > TOGETHER_EVENTS_MAX || bytes > TOGETHER_BYTES_MAX {
        return Err(EmitError::too_many_together(count, bytes, (TOGETHER_EVENTS_MAX, TOGETHER_BYTES_MAX)));
    }
    let runs = shared.queue.append_whole(events);
    match first_run(shared, runs).await?.fate {
        EmitFate::Stored(first) => {
            let stored = |at: u64| Receipt::stored(Position::new(first.epoch, Seq(first.seq.0 + at)));
            Ok((0..count as u64).map(stored).collect())
        }
        EmitFate::Refused(code) => Err(EmitError::refused(code)),
        // None can be: nothing is repeated here.
        EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten => Err(EmitError::Unknown),
    }
}

/// Waits for what became of an append: its first run, which is the only one.
pub(crate) async fn first_run(shared: &Shared, runs: Result<Runs, RefusalCode>) -> Result<EmitRun, EmitError> {
    let runs = runs.map_err(|code| {
        if code == RefusalCode::OVERLOADED {
            add(&shared.counters.overloads, 1);
        }
        EmitError::refused(code)
    })?;
    let runs = runs.await.map_err(|_| EmitError::Unknown)?;
    runs.first().copied().ok_or(EmitError::Unknown)
}

/// What a caller is told of an emit.
pub(crate) fn receipt(fate: EmitFate) -> Result<Receipt, EmitError> {
    match fate {
        EmitFate::Stored(position) => Ok(Receipt::stored(position)),
        EmitFate::Duplicate(position) => Ok(Receipt::duplicate(Some(position))),
        EmitFate::DuplicateForgotten => Err(EmitError::Forgotten),
        EmitFate::Refused(code) => Err(EmitError::refused(code)),
    }
}
