//! The end of a client: asked for, for want of handles, or by the server. Whoever waits is answered, and what can still
//! be kept is kept.

use std::time::Duration;

use redeliver_protocol::client::Input;
use redeliver_protocol::emit::EmitError;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::request::RequestError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::command::Command;
use crate::connector::Connector;
use crate::error::ShutdownError;

/// A shutdown that is under way.
pub(super) struct Shutdown {
    pub(super) deadline: Instant,
    answers: Vec<oneshot::Sender<Result<(), ShutdownError>>>,
    /// Set when the deadline has passed.
    pub(super) failure: Option<ShutdownError>,
}

impl<C: Connector> Driver<C> {
    /// All handles are gone.
    pub(super) fn linger(&mut self) {
        self.begin_shutdown(Instant::now() + LINGER, None);
    }

    pub(super) fn begin_shutdown(
        &mut self,
        deadline: Instant,
        answer: Option<oneshot::Sender<Result<(), ShutdownError>>>,
    ) {
        self.pass_acks();
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.deadline = shutdown.deadline.min(deadline);
            shutdown.answers.extend(answer);
        } else {
            self.shutdown = Some(Shutdown { deadline, answers: answer.into_iter().collect(), failure: None });
            self.handle(Input::Shutdown);
        }
    }

    /// The time for the shutdown is over: the session says what became of each emit, and ends.
    pub(super) fn give_up(&mut self) {
        let (emits, subscriptions) = (self.emits.len(), self.subscriptions.unconfirmed());
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.failure = Some(ShutdownError::TimedOut { emits, subscriptions });
        }
        let reason = "the time for a clean shutdown was over".to_owned();
        self.handle(Input::Rejected(Close::new(CloseCode::DONE, reason, RetryAdvice::Never)));
    }

    /// After the session's end: whoever still waits is answered, and what can be kept is kept.
    pub(super) async fn finish(mut self) {
        self.room.close();
        self.commands.close();
        let mut late_answers = Vec::new();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                // It never reached the session, so it was not stored.
                Command::Emit { answer, .. } => drop(answer.send(Err(EmitError::ClientEnded))),
                Command::Shutdown { answer, .. } => late_answers.push(answer),
                // Their answers are dropped, which says that the client has ended.
                Command::Request { answer, .. } => drop(answer.send(Err(RequestError::NotSent))),
                Command::CancelEmit { .. }
                | Command::RetirePublisher
                | Command::EmitVolatile { .. }
                | Command::CancelRequest { .. }
                | Command::Subscribe { .. }
                | Command::SubscribeMerged { .. }
                | Command::Unsubscribe { .. }
                | Command::Flush { .. } => {}
            }
        }
        self.subscriptions.end_all();
        // Also after a failure: what was handled and can still be noted is not handed over again.
        self.saver.finish().await;
        self.transport.closed().await;
        let (answers, failure) = self.shutdown.map_or((Vec::new(), None), |s| (s.answers, s.failure));
        let result = failure.map_or(Ok(()), Err);
        for answer in answers.into_iter().chain(late_answers) {
            // Whoever asked may be gone.
            let _ = answer.send(result.clone());
        }
    }
}

/// How long a client whose handles are all dropped goes on, to send what is in its outbox and have its acks confirmed.
const LINGER: Duration = Duration::from_secs(5);
