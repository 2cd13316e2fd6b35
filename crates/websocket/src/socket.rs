//! A WebSocket from the server's side of any byte stream: one poll writes what waits and reads the next message.
//!
//! Frames of a server are unmasked and no extension is negotiated, so a batch goes out as `[WebSocket header][batch
//! head][shared records]` in one vectored write, without a copy. Pongs and the answer to a close wait in a small slot and go
//! out between frames. Never buffers more than it was given.

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::frame::{BINARY, CLOSE, PONG};
use crate::reader::{Read, Reader};
pub use crate::writer::PREFIX_BYTES_MAX;
use crate::writer::Writer;

/// A peer's WebSocket.
pub struct WebSocket<S> {
    io: S,
    reader: Reader,
    writer: Writer,
    /// When a byte last left, or the first of those that wait was put in. Looked up only once bytes have to wait: most never
    /// do. None: it is now.
    progress_at: Option<Instant>,
    /// Whether the user is owed a [`SocketEvent::Drained`].
    drain_owed: bool,
    flush_owed: bool,
}

/// What happened on a WebSocket.
#[derive(Debug)]
pub enum SocketEvent {
    /// A whole binary message.
    Message(Bytes),
    /// A whole text message.
    Text(Utf8Bytes),
    /// Everything that was sent has left.
    Drained,
    /// The peer broke the WebSocket protocol or a size limit: the [`close_code`](crate::close_code) that tells it so, and
    /// which rule.
    Broken(u16, &'static str),
    /// The peer is gone.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A WebSocket after its handshake. Its first message may have `first_bytes_max` bytes, later ones `bytes_max`.
    pub fn new(io: S, first_bytes_max: usize, bytes_max: usize) -> WebSocket<S> {
        WebSocket {
            io,
            reader: Reader::new(first_bytes_max, bytes_max),
            writer: Writer::default(),
            progress_at: None,
            drain_owed: false,
            flush_owed: false,
        }
    }

    /// Lets messages have `bytes_max` bytes from here on, the first one too.
    pub fn allow(&mut self, bytes_max: usize) {
        self.reader.allow(bytes_max);
    }

    /// Takes bytes that were read from the peer before the socket was made. They come before all others.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.reader.bytes().extend_from_slice(bytes);
    }

    /// Takes a whole binary message to be written.
    pub fn send(&mut self, message: Bytes) {
        self.before_output();
        self.writer.push_binary(&[], message);
    }

    /// Takes a small binary message to be written before all others that wait, as soon as none of them is half written.
    pub fn send_between(&mut self, message: &[u8]) {
        self.before_output();
        self.writer.push_control(BINARY, message);
    }

    /// Takes a whole frame to be written, its header with it, in two parts. They may be shared by many sockets.
    pub fn send_frame(&mut self, head: Bytes, body: Bytes) {
        self.before_output();
        self.writer.push_frame(head, body);
    }

    /// Takes a whole binary message to be written, in two parts: `prefix` is copied, at most [`PREFIX_BYTES_MAX`] bytes,
    /// and `body` may be shared by many sockets.
    pub fn send_with_prefix<const N: usize>(&mut self, prefix: &[u8; N], body: Bytes) {
        self.before_output();
        self.writer.push_binary(prefix, body);
    }

    /// Returns since when bytes wait of which the peer takes none, or `None` if nothing waits.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.writer.is_empty()).then(|| self.progress_at.unwrap_or_else(Instant::now))
    }

    /// Returns about how many bytes of memory wait to be written: 0 exactly if nothing waits. Costs nothing to ask.
    pub fn waiting_bytes(&self) -> usize {
        self.writer.bytes()
    }

    /// Writes what can be written and, if a message is wanted, reads. Ready when something happened.
    pub fn poll(&mut self, cx: &mut Context<'_>, wants_message: bool) -> Poll<SocketEvent> {
        match self.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(SocketEvent::Ended),
            Poll::Ready(Ok(())) if self.drain_owed => {
                self.drain_owed = false;
                return Poll::Ready(SocketEvent::Drained);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if !wants_message {
            return Poll::Pending;
        }
        if let Poll::Ready(event) = self.poll_read(cx) {
            return Poll::Ready(event);
        }
        // Reading may have left a pong.
        match self.poll_write(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(SocketEvent::Ended),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Ends the connection: writes what waits and, if there is a code, a close, and lets the peer read it. Takes at most
    /// `linger`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call drops the connection with what has not been written.
    pub async fn finish(mut self, code: Option<u16>, linger: Duration) {
        if let Some(code) = code {
            self.writer.push_close(code);
        }
        let ending = async {
            std::future::poll_fn(|cx| self.poll_write(cx)).await?;
            self.io.shutdown().await?;
            // What still comes is read and dropped: closing a socket with unread bytes would reset the connection, and
            // the peer might never see why it was closed.
            let mut dropped = [0; 512];
            while self.io.read(&mut dropped).await? > 0 {
                // Of a stream that always has more to read, too: the time limit must have its turn.
                tokio::task::coop::consume_budget().await;
            }
            io::Result::Ok(())
        };
        // However it ends, the connection is over.
        let _ = tokio::time::timeout(linger, ending).await;
    }

    fn before_output(&mut self) {
        if self.writer.is_empty() {
            self.progress_at = None;
        }
        self.drain_owed = true;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<SocketEvent> {
        loop {
            match self.reader.next() {
                Read::Binary(message) => return Poll::Ready(SocketEvent::Message(message)),
                Read::Text(text) => return Poll::Ready(SocketEvent::Text(text)),
                Read::Ping(payload) => {
                    // A peer that pings without reading gets fewer pongs.
                    if self.writer.control_bytes() + payload.len() < CONTROL_BYTES_MAX {
                        self.writer.push_control(PONG, &payload);
                    }
                }
                Read::Close(code) => {
                    self.writer.push_control(CLOSE, &code.to_be_bytes());
                    return Poll::Ready(SocketEvent::Ended);
                }
                Read::Broken(code, rule) => return Poll::Ready(SocketEvent::Broken(code, rule)),
                Read::Missing(bytes) => match ready!(self.poll_fill(cx, bytes)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(SocketEvent::Ended),
                },
            }
        }
    }

    /// Reads what is there; `missing` bytes at least are wanted.
    fn poll_fill(&mut self, cx: &mut Context<'_>, missing: usize) -> Poll<io::Result<usize>> {
        let bytes = self.reader.bytes();
        if missing > READ_BYTES {
            // A large message goes where it stays. What is only announced is not allocated at once.
            bytes.reserve(missing.min(RESERVE_BYTES_MAX));
            return pin!(self.io.read_buf(bytes)).poll(cx);
        }
        // Nothing is allocated, and nothing zeroed, for a socket that has nothing to read.
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        bytes.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.writer.is_empty() {
            let Poll::Ready(written) = self.poll_write_some(cx) else {
                self.progress_at = self.progress_at.or_else(|| Some(Instant::now()));
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.writer.advance(written);
            self.progress_at = None;
            self.flush_owed = true;
        }
        if self.flush_owed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flush_owed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes what the socket takes now of what waits.
    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
        let count = self.writer.fill(&mut slices);
        let slices = &slices[..count];
        // A vector of one costs the kernel more than the slice alone.
        if let [only] = slices {
            return Pin::new(&mut self.io).poll_write(cx, only);
        }
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if bytes > JOINED_BYTES_MAX {
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        // The kernel takes a vector apart at more cost than that of a small copy.
        let mut space = [MaybeUninit::uninit(); JOINED_BYTES_MAX];
        let mut joined = ReadBuf::uninit(&mut space);
        slices.iter().for_each(|slice| joined.put_slice(slice));
        Pin::new(&mut self.io).poll_write(cx, joined.filled())
    }
}

/// What is read at once, onto the stack.
const READ_BYTES: usize = 16 * 1024;

/// The most that is allocated for a message before more of it has come.
const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// Pongs and close answers that wait for a frame's end, in bytes. A peer that pings without reading gets fewer pongs.
const CONTROL_BYTES_MAX: usize = 512;

/// What is written in one piece, by way of the stack, in bytes.
const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Slices in one vectored write: 16 batches' heads and records.
const SLICES_MAX: usize = 32;

impl<S> std::fmt::Debug for WebSocket<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebSocket").field("writer", &self.writer).finish_non_exhaustive()
    }
}
