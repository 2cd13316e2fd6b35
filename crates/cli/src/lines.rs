//! `emit --lines`: reads lines from a file or stdin, on a thread of its own, never more than a few chunks ahead.
//!
//! Never holds the whole input, and never a line longer than an event may be.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use tokio::sync::mpsc;

/// One line, without its `\n`. A `\r` before it belongs to the line: what is listened to is byte for byte what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the input up to its end.
    pub(crate) offset_end: u64,
}

/// Lines on their way, in chunks.
pub(crate) type Input = mpsc::Receiver<Result<Vec<Line>, LineError>>;

/// Why the input ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("line {line} is longer than {bytes_max} bytes, the most that an event may have")]
    TooLong { line: u64, bytes_max: usize },
    #[error("the input cannot be read after line {line}: {error}")]
    Io { line: u64, error: std::io::Error },
    #[error("{path} cannot be read: {error}")]
    CannotOpen { path: String, error: std::io::Error },
    #[error("the payload is longer than {bytes_max} bytes, the most that an event may have")]
    PayloadTooLong { bytes_max: usize },
    #[error("the payload cannot be read: {0}")]
    PayloadIo(std::io::Error),
}

/// Starts to read. Ends after the last line, or after the first error.
pub(crate) fn read(input: impl Read + Send + 'static, bytes_max: usize) -> Input {
    read_opened(move || Ok(input), bytes_max)
}

/// Starts to read a file, which is opened on the reading thread: a named pipe is not open before it has a writer.
pub(crate) fn read_file(path: PathBuf, bytes_max: usize) -> Input {
    let open =
        move || File::open(&path).map_err(|error| LineError::CannotOpen { path: path.display().to_string(), error });
    read_opened(open, bytes_max)
}

fn read_opened<R: Read>(open: impl FnOnce() -> Result<R, LineError> + Send + 'static, bytes_max: usize) -> Input {
    let (chunks, receiver) = mpsc::channel(CHUNKS_AHEAD_MAX);
    std::thread::spawn(move || {
        let input = match open() {
            Ok(input) => input,
            Err(error) => {
                // The receiver is gone when nobody wants it any more.
                let _ = chunks.blocking_send(Err(error));
                return;
            }
        };
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, input), bytes_max);
        while let Some(chunk) = lines.next_chunk() {
            let failed = chunk.is_err();
            // The receiver is gone when nobody wants more.
            if chunks.blocking_send(chunk).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// Starts to read all of the input, line ends and all, as the one payload that it is.
pub(crate) fn read_whole(input: impl Read + Send + 'static, bytes_max: usize) -> Input {
    let (chunks, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
        let payload = match input.take(limit).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() > bytes_max => Err(LineError::PayloadTooLong { bytes_max }),
            Ok(_) => Ok(vec![Line { number: 1, offset_end: bytes.len() as u64, bytes }]),
            Err(error) => Err(LineError::PayloadIo(error)),
        };
        // The receiver is gone when nobody wants it any more.
        let _ = chunks.blocking_send(payload);
    });
    receiver
}

struct Lines<R> {
    input: BufReader<R>,
    bytes_max: usize,
    line: u64,
    offset: u64,
    error: Option<LineError>,
}

impl<R: Read> Lines<R> {
    fn new(input: BufReader<R>, bytes_max: usize) -> Lines<R> {
        Lines { input, bytes_max, line: 0, offset: 0, error: None }
    }

    /// The lines that are there, at least one, without waiting for more than that one.
    fn next_chunk(&mut self) -> Option<Result<Vec<Line>, LineError>> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        let mut chunk = Vec::new();
        let mut bytes = 0;
        loop {
            match self.next_line() {
                Ok(Some(line)) => {
                    bytes += line.bytes.len();
                    chunk.push(line);
                }
                Ok(None) => return (!chunk.is_empty()).then_some(Ok(chunk)),
                Err(error) if chunk.is_empty() => return Some(Err(error)),
                Err(error) => {
                    self.error = Some(error);
                    return Some(Ok(chunk));
                }
            }
            let more_is_there = self.input.buffer().contains(&b'\n');
            if !more_is_there || chunk.len() >= CHUNK_LINES_MAX || bytes >= CHUNK_BYTES_MAX {
                return Some(Ok(chunk));
            }
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>, LineError> {
        let mut bytes = Vec::new();
        loop {
            let ready = match self.input.fill_buf() {
                Ok(ready) => ready,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(LineError::Io { line: self.line, error }),
            };
            let end = ready.iter().position(|byte| *byte == b'\n');
            let part = &ready[..end.unwrap_or(ready.len())];
            if bytes.len() + part.len() > self.bytes_max {
                return Err(LineError::TooLong { line: self.line + 1, bytes_max: self.bytes_max });
            }
            let at_end_of_input = ready.is_empty();
            bytes.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            self.offset += used as u64;
            if at_end_of_input && bytes.is_empty() {
                return Ok(None);
            }
            if at_end_of_input || end.is_some() {
                self.line += 1;
                return Ok(Some(Line { number: self.line, bytes, offset_end: self.offset }));
            }
        }
    }
}

const BUFFER_BYTES: usize = 64 * 1024;
const CHUNKS_AHEAD_MAX: usize = 4;
const CHUNK_LINES_MAX: usize = 1024;
const CHUNK_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8], buffer: usize, bytes_max: usize) -> (Vec<Vec<u8>>, Option<String>) {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, input), bytes_max);
        let mut all = Vec::new();
        while let Some(chunk) = lines.next_chunk() {
            match chunk {
                Ok(chunk) => all.extend(chunk.into_iter().map(|line| line.bytes)),
                Err(error) => return (all, Some(error.to_string())),
            }
        }
        (all, None)
    }

    #[test]
    fn each_line_comes_without_its_end_whatever_the_buffer() {
        let wanted: Vec<&[u8]> = vec![b"one", b"", b"three\r", b"\xff", b"last"];
        for buffer in 1..20 {
            assert_eq!(
                lines(b"one\n\nthree\r\n\xff\nlast", buffer, 100),
                (wanted.iter().map(|l| l.to_vec()).collect(), None)
            );
            assert_eq!(lines(b"one\n\nthree\r\n\xff\nlast\n", buffer, 100).0, wanted);
        }
        assert_eq!(lines(b"", 8, 100), (vec![], None));
        assert_eq!(lines(b"\n", 8, 100), (vec![vec![]], None));
    }

    #[test]
    fn a_line_that_is_too_long_is_named_after_those_before_it() {
        for buffer in 1..20 {
            let (before, error) = lines(b"12345\n123\n123456\nnever", buffer, 5);
            assert_eq!(before, [b"12345".to_vec(), b"123".to_vec()]);
            assert_eq!(error.unwrap(), "line 3 is longer than 5 bytes, the most that an event may have");
        }
    }

    #[test]
    fn numbers_and_offsets_count_the_input() {
        let mut lines = Lines::new(BufReader::new(&b"a\nbb\nccc"[..]), 10);
        let chunk = lines.next_chunk().unwrap().unwrap();
        let seen: Vec<_> = chunk.iter().map(|line| (line.number, line.offset_end)).collect();
        assert_eq!(seen, [(1, 2), (2, 5)], "the last line may still grow, so it is not waited for");
        assert_eq!(lines.next_chunk().unwrap().unwrap()[0], Line { number: 3, bytes: b"ccc".to_vec(), offset_end: 8 });
    }
}
