//! Files that a running store opens although the process may have no descriptor left. Having none is no fault of the disk:
//! it is waited for, and never ends a store.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// Calls `open` until it does not fail for want of a descriptor, however long that takes. Every other failure is returned
/// at once. Whoever waits is told to the operator, at first and then every few seconds.
pub(crate) fn patiently<T>(doing: &'static str, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut told_at: Option<Instant> = None;
    loop {
        match open() {
            Err(error) if is_out_of_descriptors(&error) => {
                if told_at.is_none_or(|at| at.elapsed() >= REMINDER) {
                    tracing::warn!(
                        doing,
                        %error,
                        "the store waits for a file descriptor: commits stand still until one is free; raise the limit"
                    );
                    told_at = Some(Instant::now());
                }
                thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

/// Whether something failed because the process, or the system, has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

const PAUSE: Duration = Duration::from_millis(20);
const REMINDER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_finds_no_descriptor_is_opened_later_and_other_failures_are_told_at_once() {
        let mut tries = 0;
        let opened = patiently("testing", || {
            tries += 1;
            match tries {
                1 => Err(Errno::MFILE.into()),
                2 => Err(Errno::NFILE.into()),
                _ => Ok(tries),
            }
        });
        assert_eq!(opened.unwrap(), 3);
        let refused = patiently("testing", || io::Result::<()>::Err(Errno::ACCESS.into()));
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
