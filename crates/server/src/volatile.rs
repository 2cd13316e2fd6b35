//! Events that are not logged: handed to whoever is connected now, and forgotten. Never waits, never queues for long.

use std::sync::Arc;

use redeliver_protocol::emit::EmitError;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::{NewEvent, VolatileEmit};

use crate::clock::wall_clock;
use crate::shared::Shared;

/// Gives a caller's event to its readers.
pub(crate) fn emit(shared: &Shared, event: NewEvent) -> Result<(), EmitError> {
    event.check(&shared.config.limits)?;
    if !shared.is_ready() {
        return Err(EmitError::refused(RefusalCode::DRAINING));
    }
    give(shared, event);
    Ok(())
}

/// Gives an event that was checked to its readers.
pub(crate) fn give(shared: &Shared, event: NewEvent) {
    shared.hub.volatile(&Arc::new(VolatileEmit { time: wall_clock(), event }));
}
