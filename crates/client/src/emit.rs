//! Emits on their way: receipts to come, and what no server would take. What is sent when, and again, is for the session.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use redeliver_protocol::client::{EmitOutcome, EmitTicket};
use redeliver_protocol::emit::{EmitError, Receipt};
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::limits::Limits;
use tokio::sync::{mpsc, oneshot};

use crate::command::Command;

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

pub(crate) fn receipt_of(outcome: EmitOutcome, replays: bool) -> Result<Receipt, EmitError> {
    match outcome {
        EmitOutcome::Stored { position, duplicate: false } => Ok(Receipt::stored(position)),
        EmitOutcome::Stored { position, duplicate: true } => Ok(Receipt::duplicate(Some(position))),
        // Something is stored under this number. Only who emits the same again from the beginning knows what.
        EmitOutcome::StoredLongAgo if replays => Ok(Receipt::duplicate(None)),
        EmitOutcome::StoredLongAgo => Err(EmitError::Forgotten),
        EmitOutcome::Refused(code) => Err(EmitError::refused(code)),
        EmitOutcome::Unknown => Err(EmitError::Unknown),
        EmitOutcome::NotSent => Err(EmitError::ClientEnded),
    }
}

/// Refuses what no server would take, before it gets a number.
pub(crate) fn check(event: &NewEvent) -> Result<(), EmitError> {
    Ok(event.check(&Limits::ANY_SERVER)?)
}
