//! Emits from within the process: held to the same limits as a client's, durable when they return.

use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::Position;

use crate::shared::Shared;
use crate::stats::add;

/// The log's word that an event is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Where it is.
    pub position: Position,
}

/// Why an emit has no receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The event is not one that could be stored. It is not stored.
    #[error("the event is not valid: {0}")]
    Invalid(String),
    /// The event was refused. It is not stored.
    #[error("the event was refused: {0}")]
    NotApplied(RefusalCode),
    /// The log failed with the event in its hands. Whether it is stored shows when the log is opened again.
    #[error("the log failed before it said whether the event is stored")]
    Unknown,
}

impl EmitError {
    /// Whether the same emit may succeed later, without the danger of storing it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            EmitError::NotApplied(code) => !code.is_final(),
            EmitError::Invalid(_) | EmitError::Unknown => false,
        }
    }
}

pub(crate) async fn emit(shared: &Shared, event: NewEvent) -> Result<Receipt, EmitError> {
    event.check(&shared.config.limits).map_err(|error| EmitError::Invalid(error.to_string()))?;
    let receipt = shared.queue.append_one(event).map_err(|code| {
        if code == RefusalCode::Overloaded {
            add(&shared.counters.overloads, 1);
        }
        EmitError::NotApplied(code)
    })?;
    let runs = receipt.await.map_err(|_| EmitError::Unknown)?;
    match runs.first() {
        Some(EmitRun { fate: EmitFate::Stored(position) | EmitFate::Duplicate(position), .. }) => {
            Ok(Receipt { position: *position })
        }
        Some(EmitRun { fate: EmitFate::Refused(code), .. }) => Err(EmitError::NotApplied(*code)),
        // Neither can be: there is no publisher whose duplicate this could be, and every emit has an outcome.
        Some(EmitRun { fate: EmitFate::DuplicateForgotten, .. }) | None => Err(EmitError::Unknown),
    }
}
