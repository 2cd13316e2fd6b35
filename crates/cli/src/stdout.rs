//! What `listen` must know of its stdout before it acknowledges anything: whether there is one, and when its reader goes.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fstat};
use tokio::sync::oneshot;

/// Whether the program was started with a closed stdout (`>&-`).
///
/// Rust's runtime opens /dev/null for reading and writing in place of a closed stdout, so that a file that is opened later
/// does not become it. A shell's `> /dev/null` is open for writing only.
pub(crate) fn was_closed() -> bool {
    let stdout = io::stdout();
    let is_for_both = fcntl_getfl(&stdout).is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDWR);
    let null = rustix::fs::stat("/dev/null");
    let is_null = fstat(&stdout).ok().zip(null.ok()).is_some_and(|(stdout, null)| {
        stdout.st_rdev == null.st_rdev && stdout.st_mode == null.st_mode && stdout.st_ino == null.st_ino
    });
    is_for_both && is_null
}

/// Resolves when nobody can read our stdout any more: the reader of a pipe, or a terminal, has gone. Never, if that cannot
/// be seen. A listener without events would otherwise only learn it from the next one.
pub(crate) struct ReaderGone(oneshot::Receiver<()>);

impl ReaderGone {
    /// Watches on a thread of its own, which ends with the program.
    pub(crate) fn watch() -> ReaderGone {
        let (gone, is_gone) = oneshot::channel();
        std::thread::spawn(move || {
            if wait_until_gone(&io::stdout()) {
                // Nobody waits for it when listening has ended.
                let _ = gone.send(());
            }
        });
        ReaderGone(is_gone)
    }

    /// Cancel safe.
    pub(crate) async fn wait(&mut self) {
        if (&mut self.0).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn wait_until_gone(stdout: &impl AsFd) -> bool {
    loop {
        // Errors and hang-ups are reported without being asked for.
        let mut watched = [PollFd::new(stdout, PollFlags::empty())];
        match poll(&mut watched, None) {
            Ok(_) => return watched[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_pipes_reader_is_seen_without_a_write() {
        let (reader, writer) = io::pipe().unwrap();
        let watching = std::thread::spawn(move || wait_until_gone(&writer));
        drop(reader);
        assert!(watching.join().unwrap());
    }
}
