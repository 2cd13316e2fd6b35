//! A WebSocket from the server's side of any byte stream, read and written by hand.
//!
//! Frames of a server are unmasked and no extension is negotiated, so a batch goes out as `[WebSocket header][batch
//! head][shared records]` in one vectored write, without a copy. Pongs and the answer to a
//! close land in a small slot and go out between frames. Never knows a frame of the protocol, never buffers more
//! than it was given. Gateways beside this crate carry their own protocols over it.

mod incoming;
mod outgoing;

use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::EVENTS_HEAD_BYTES;
use redeliver_protocol::error::CloseCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::incoming::{Found, Incoming};
pub use self::outgoing::{BINARY, TEXT, put_header};
use self::outgoing::{CLOSE, Outgoing, PONG};

/// A peer's WebSocket.
pub struct Wire<S> {
    io: S,
    incoming: Incoming,
    outgoing: Outgoing,
    /// When a byte last left, or the first of those that wait was put in. Looked up only once bytes have to wait: most never
    /// do. None: it is now.
    progress_at: Option<Instant>,
    /// Whether the session is owed a word that all it sent has left.
    drain_owed: bool,
    flush_owed: bool,
}

/// What happened on a wire.
#[derive(Debug)]
pub enum WireEvent {
    /// A whole binary message.
    Message(Bytes),
    /// A whole text message.
    Text(Utf8Bytes),
    /// Everything that was sent has left.
    Drained,
    /// The peer broke the WebSocket protocol or a size limit.
    Broken(CloseCode, String),
    /// The peer is gone.
    Ended,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A WebSocket after its handshake. Its first message may have `first_bytes_max` bytes, later ones `bytes_max`.
    pub fn new(io: S, first_bytes_max: usize, bytes_max: usize) -> Wire<S> {
        Wire {
            io,
            incoming: Incoming::new(first_bytes_max, bytes_max),
            outgoing: Outgoing::default(),
            progress_at: None,
            drain_owed: false,
            flush_owed: false,
        }
    }

    /// Takes what came from the peer before this was made: its first bytes.
    pub fn put_back(&mut self, bytes: &[u8]) {
        self.incoming.bytes().extend_from_slice(bytes);
    }

    /// Takes a whole message to be written.
    pub fn send(&mut self, message: Bytes) {
        self.before_output();
        self.outgoing.push_binary(&[], message);
    }

    /// Takes a whole frame to be written, its header with it, in two parts. They may be shared by many wires.
    pub fn send_frame(&mut self, head: Bytes, body: Bytes) {
        self.before_output();
        self.outgoing.push_frame(head, body);
    }

    /// Takes a batch of events to be written: its head and the shared records.
    pub(crate) fn send_events(&mut self, head: [u8; EVENTS_HEAD_BYTES], records: Bytes) {
        self.before_output();
        self.outgoing.push_binary(&head, records);
    }

    /// Since when bytes wait of which none was taken; none if nothing waits.
    pub fn waiting_since(&self) -> Option<Instant> {
        (!self.outgoing.is_empty()).then(|| self.progress_at.unwrap_or_else(Instant::now))
    }

    /// How many bytes wait.
    pub fn waiting_bytes(&self) -> usize {
        self.outgoing.bytes()
    }

    /// Writes what can be written and, if a message is wanted, reads. Holds no state of its own between calls.
    pub fn poll(&mut self, cx: &mut Context<'_>, wants_message: bool) -> Poll<WireEvent> {
        match self.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(WireEvent::Ended),
            Poll::Ready(Ok(())) if self.drain_owed => {
                self.drain_owed = false;
                return Poll::Ready(WireEvent::Drained);
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
            Poll::Ready(Err(_)) => Poll::Ready(WireEvent::Ended),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Ends the connection: writes what waits and the WebSocket's close, and lets the peer read it. Takes at most
    /// `linger`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call drops the connection with what has not been written.
    pub async fn finish(mut self, code: Option<CloseCode>, linger: Duration) {
        if let Some(code) = code {
            self.outgoing.push_close(websocket_code(code));
        }
        let ending = async {
            std::future::poll_fn(|cx| self.poll_write(cx)).await?;
            self.io.shutdown().await?;
            // What still comes is read and dropped: closing a socket with unread bytes would reset the connection, and
            // the peer might never see why it was closed.
            let mut dropped = [0; 512];
            while self.io.read(&mut dropped).await? > 0 {}
            io::Result::Ok(())
        };
        // However it ends, the connection is over.
        let _ = tokio::time::timeout(linger, ending).await;
    }

    fn before_output(&mut self) {
        if self.outgoing.is_empty() {
            self.progress_at = None;
        }
        self.drain_owed = true;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<WireEvent> {
        loop {
            match self.incoming.next() {
                Found::Binary(message) => return Poll::Ready(WireEvent::Message(message)),
                Found::Text(text) => {
                    return Poll::Ready(match Utf8Bytes::try_from(text) {
                        Ok(text) => WireEvent::Text(text),
                        Err(_) => WireEvent::Broken(CloseCode::Malformed, "a text that is no UTF-8".to_owned()),
                    });
                }
                Found::Ping(payload) => {
                    // A peer that pings without reading gets fewer pongs.
                    if self.outgoing.control_bytes() + payload.len() < CONTROL_BYTES_MAX {
                        self.outgoing.push_control(PONG, &payload);
                    }
                }
                Found::Close(code) => {
                    self.outgoing.push_control(CLOSE, &code.to_be_bytes());
                    return Poll::Ready(WireEvent::Ended);
                }
                Found::Broken(code, words) => return Poll::Ready(WireEvent::Broken(code, words.to_owned())),
                Found::Missing(bytes) => match ready!(self.poll_fill(cx, bytes)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(WireEvent::Ended),
                },
            }
        }
    }

    /// Reads what is there; `missing` bytes at least are wanted.
    fn poll_fill(&mut self, cx: &mut Context<'_>, missing: usize) -> Poll<io::Result<usize>> {
        let bytes = self.incoming.bytes();
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
        while !self.outgoing.is_empty() {
            let Poll::Ready(written) = self.poll_write_some(cx) else {
                self.progress_at = self.progress_at.or_else(|| Some(Instant::now()));
                return Poll::Pending;
            };
            let written = written?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
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

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes what the socket takes now of what waits.
    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
        let count = self.outgoing.fill(&mut slices);
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

/// The WebSocket close code for people who look at the connection with other tools. redeliver's own Close, with code,
/// reason and advice, went before it.
fn websocket_code(code: CloseCode) -> u16 {
    match code {
        CloseCode::Done => 1000,
        CloseCode::Draining => 1001,
        CloseCode::TooLarge => 1009,
        CloseCode::Overloaded => 1013,
        CloseCode(100..200) => 1002,
        CloseCode(200..500) => 1008,
        CloseCode(_) => 1011,
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

impl<S> std::fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("outgoing", &self.outgoing).finish_non_exhaustive()
    }
}
