//! Emits from within the process: held to the same limits as a client's, durable when they return.

use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, EmitRun};

use crate::shared::Shared;
use crate::stats::add;

pub(crate) async fn emit(shared: &Shared, event: NewEvent) -> Result<Receipt, EmitError> {
    event.check(&shared.config.limits)?;
    let receipt = shared.queue.append_one(event).map_err(|code| {
        if code == RefusalCode::OVERLOADED {
            add(&shared.counters.overloads, 1);
        }
        EmitError::refused(code)
    })?;
    let runs = receipt.await.map_err(|_| EmitError::Unknown)?;
    match runs.first() {
        Some(EmitRun { fate: EmitFate::Stored(position), .. }) => Ok(Receipt::stored(*position)),
        Some(EmitRun { fate: EmitFate::Refused(code), .. }) => Err(EmitError::refused(*code)),
        // None can be: there is no publisher whose duplicate this could be, and every emit has an outcome.
        Some(EmitRun { fate: EmitFate::Duplicate(_) | EmitFate::DuplicateForgotten, .. }) | None => {
            Err(EmitError::Unknown)
        }
    }
}
