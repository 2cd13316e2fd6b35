//! Emitting: payloads, receipts, and the room in the outbox. What was sent when, and again, is the session's business.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use redeliver_protocol::client::{EmitOutcome, EmitTicket};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::event::{NewEvent, PayloadKind};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::seq::{Position, Seq};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::command::Command;
use crate::error::EmitError;

/// An event's payload: bytes, and what they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// What the bytes are, for readers that show them.
    pub kind: PayloadKind,
    /// The bytes, which redeliver carries untouched.
    pub bytes: Bytes,
}

impl Payload {
    /// A value as a JSON document.
    ///
    /// # Errors
    ///
    /// [`EmitError::Encode`] if the value has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Payload, EmitError> {
        let bytes = serde_json::to_vec(value).map_err(|error| EmitError::Encode { reason: error.to_string() })?;
        Ok(Payload { kind: PayloadKind::Json, bytes: bytes.into() })
    }
}

macro_rules! payload_from {
    ($($kind:ident: $from:ty;)*) => {
        $(impl From<$from> for Payload {
            fn from(payload: $from) -> Payload {
                Payload { kind: PayloadKind::$kind, bytes: payload.to_owned().into() }
            }
        })*
    };
}

payload_from! {
    Text: String;
    Text: &str;
    Bytes: Bytes;
    Bytes: Vec<u8>;
    Bytes: &[u8];
}

/// The server's answer to an emit: the event is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's place in the log. `None` for a duplicate that was stored so long ago that the server no longer knows
    /// where.
    pub position: Option<Position>,
    /// Whether an earlier try under the same publisher and number had stored it, and this one stored nothing.
    pub duplicate: bool,
}

impl Receipt {
    /// The event's number in the log, if the server still knows it.
    #[must_use]
    pub fn seq(&self) -> Option<Seq> {
        self.position.map(|position| position.seq)
    }
}

/// An emit that is in the outbox: a future of its receipt.
///
/// Dropped, it gives the emit up: if it was never sent it is cancelled; once sent it goes on, and only its receipt is
/// lost. [`detach`](PendingReceipt::detach) lets it go on in any case.
#[derive(Debug)]
#[must_use = "dropping a pending receipt cancels an emit that was not sent yet; await it, or detach it"]
pub struct PendingReceipt {
    answer: oneshot::Receiver<Result<Receipt, EmitError>>,
    cancel: Option<(EmitTicket, mpsc::UnboundedSender<Command>)>,
}

impl PendingReceipt {
    pub(crate) fn new(
        ticket: EmitTicket,
        answer: oneshot::Receiver<Result<Receipt, EmitError>>,
        commands: mpsc::UnboundedSender<Command>,
    ) -> PendingReceipt {
        PendingReceipt { answer, cancel: Some((ticket, commands)) }
    }

    /// Lets the emit go on without anybody waiting for its receipt. Only a
    /// [`shutdown`](crate::Client::shutdown) still waits for it.
    pub fn detach(mut self) {
        self.cancel = None;
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt, EmitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        self.cancel = None;
        // The driver answers every emit. If it is gone without, nothing is known.
        Poll::Ready(answer.unwrap_or(Err(EmitError::Unknown)))
    }
}

impl Drop for PendingReceipt {
    fn drop(&mut self) {
        if let Some((ticket, commands)) = self.cancel.take() {
            // A driver that is gone has nothing left to cancel.
            let _ = commands.send(Command::CancelEmit { ticket });
        }
    }
}

pub(crate) fn receipt_of(outcome: EmitOutcome) -> Result<Receipt, EmitError> {
    match outcome {
        EmitOutcome::Stored { position, duplicate } => Ok(Receipt { position: Some(position), duplicate }),
        EmitOutcome::StoredLongAgo => Ok(Receipt { position: None, duplicate: true }),
        EmitOutcome::Refused(code) => Err(EmitError::Refused { code }),
        EmitOutcome::Unknown => Err(EmitError::Unknown),
        EmitOutcome::NotSent => Err(EmitError::ClientEnded),
    }
}

/// Refuses what no server would take, before it gets a number.
pub(crate) fn check(event: &NewEvent) -> Result<(), EmitError> {
    event.check(&Limits::ANY_SERVER).map_err(|error| EmitError::Invalid { reason: error.to_string() })
}

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
