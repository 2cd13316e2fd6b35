//! How long tests wait, and that they wait no longer: whatever may hang is waited for with a limit, and fails its test.

use std::future::Future;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

/// How long anything may take on a slow and busy machine before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a future, but not for longer than [`PATIENCE`].
///
/// # Errors
///
/// If it takes longer.
pub async fn within<T>(future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("nothing came within {PATIENCE:?}"))
}

/// Waits for a thread's end, but not for longer than [`PATIENCE`].
///
/// # Errors
///
/// What it ended with, or that it does not end.
pub(crate) fn join(thread: JoinHandle<Result<()>>, who: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !thread.is_finished() {
        ensure!(Instant::now() < deadline, "{who} does not come to its end");
        thread::sleep(Duration::from_millis(5));
    }
    thread.join().map_err(|_| anyhow!("{who} panicked"))?
}
