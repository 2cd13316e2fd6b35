//! SIGINT and SIGTERM: the first asks for a clean end, the second ends at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::Exit;

/// Whether, and how, the program was asked to end.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<Option<Exit>>);

impl Stop {
    /// Takes the signals over. They are watched on a task of their own, so that they work while a write blocks.
    pub(crate) fn on_signals() -> Result<Stop> {
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
        let (asked, stop) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let how = tokio::select! {
                    _ = interrupt.recv() => Exit::Interrupted,
                    _ = terminate.recv() => Exit::Terminated,
                };
                if asked.send_replace(Some(how)).is_some() {
                    std::process::exit(how.code().into());
                }
            }
        });
        Ok(Stop(stop))
    }

    /// Resolves when the end was asked for. Cancel safe.
    pub(crate) async fn asked(&mut self) -> Exit {
        match self.0.wait_for(Option::is_some).await {
            Ok(how) => how.unwrap_or(Exit::Interrupted),
            // The watching task never ends while the runtime lives.
            Err(_) => std::future::pending().await,
        }
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.0.borrow().is_some()
    }
}
