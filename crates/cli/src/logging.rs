//! Logs on stderr, which may be closed or lose its reader at any time: then they are lost, and nothing else happens.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, Result, anyhow};
use tracing_subscriber::EnvFilter;

/// Starts to log what the filter says.
///
/// # Errors
///
/// If it is not a filter.
pub(crate) fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log `{filter}` is not a filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Heedless(io::stderr()))
        // Such an error is written with `eprintln!`, which panics if stderr is what has failed.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow!("logging cannot be started: {error}"))
}

/// Writes, and never fails.
struct Heedless<W>(W);

impl<W: Write> Write for Heedless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_writer_that_fails_is_not_noticed() {
        let mut log = Heedless(Closed);
        assert_eq!(log.write(b"line\n").unwrap(), 5);
        log.flush().unwrap();
    }
}
