//! Room: for emits in the outbox, which whoever emits waits for, and for volatile events on their way to the driver, which
//! nobody waits for. Gives no room beyond its bounds, but for one event that is larger than all of it.

use std::sync::Arc;

use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::emit::EmitError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The outbox's room. Taken in the order in which it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRoom {
    events: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

/// The room of volatile events on their way to the driver. Nobody waits for it: what finds none is dropped.
#[derive(Debug)]
pub(crate) struct VolatileRoom {
    _permit: OwnedSemaphorePermit,
}

impl VolatileRoom {
    /// Room for an event of this size, if there is any.
    pub(crate) fn take(bytes_left: &Arc<Semaphore>, bytes: usize) -> Option<VolatileRoom> {
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(bytes_left).try_acquire_many_owned(bytes).ok()?;
        Some(VolatileRoom { _permit: permit })
    }
}

/// The room of one emit, until it has its receipt.
#[derive(Debug)]
pub(crate) struct Room {
    _event: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl OutboxRoom {
    pub(crate) fn new(config: &ClientConfig) -> OutboxRoom {
        let events = config.outbox_events_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_max = u32::try_from(config.outbox_bytes_max).unwrap_or(u32::MAX).max(1);
        OutboxRoom {
            events: Arc::new(Semaphore::new(events)),
            bytes: Arc::new(Semaphore::new(usize::try_from(bytes_max).unwrap_or(usize::MAX))),
            bytes_max,
        }
    }

    /// Waits for room for an event of this size. One event always fits. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> Result<Room, EmitError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max);
        let ended = |_| EmitError::ClientEnded;
        let event = Arc::clone(&self.events).acquire_owned().await.map_err(ended)?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.map_err(ended)?;
        Ok(Room { _event: event, _bytes: bytes })
    }

    /// The client has ended: whoever waits learns it.
    pub(crate) fn close(&self) {
        self.events.close();
        self.bytes.close();
    }
}
