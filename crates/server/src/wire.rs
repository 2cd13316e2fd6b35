//! A WebSocket from the server's side of any byte stream: read through tungstenite, written by hand.
//!
//! Frames of a server are unmasked and no extension is negotiated, so a batch goes out as `[WebSocket header][batch
//! head][shared records]` in one vectored write, without a copy. What tungstenite itself wants to write (pongs, the answer
//! to a close) lands in a small slot and goes out between frames. Never knows a frame of the protocol, never buffers more
//! than it was given. Gateways beside this crate carry their own protocols over it.

mod outgoing;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::EVENTS_HEAD_BYTES;
use redeliver_protocol::error::CloseCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes, error::ProtocolError};

use self::outgoing::Outgoing;
pub use self::outgoing::{BINARY, TEXT, put_header};

/// A peer's WebSocket.
pub struct Wire<S> {
    io: S,
    socket: WebSocketContext,
    outgoing: Outgoing,
    bytes_max: usize,
    /// When a byte last left, or the first of those that wait was put in.
    progress_at: Instant,
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
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(CONTROL_BYTES_MAX)
            .max_message_size(Some(first_bytes_max))
            .max_frame_size(Some(first_bytes_max));
        Wire {
            io,
            socket: WebSocketContext::new(Role::Server, Some(config)),
            outgoing: Outgoing::default(),
            bytes_max,
            progress_at: Instant::now(),
            drain_owed: false,
            flush_owed: false,
        }
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
        (!self.outgoing.is_empty()).then_some(self.progress_at)
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
            self.progress_at = Instant::now();
        }
        self.drain_owed = true;
    }

    fn after_message(&mut self) {
        let bytes_max = Some(self.bytes_max);
        if self.socket.get_config().max_message_size != bytes_max {
            self.socket.set_config(|config| (config.max_message_size, config.max_frame_size) = (bytes_max, bytes_max));
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<WireEvent> {
        loop {
            let mut stream = Polled { io: &mut self.io, outgoing: &mut self.outgoing, cx };
            let message = match self.socket.read(&mut stream) {
                Ok(message) => message,
                Err(error) => return translate(error),
            };
            match message {
                Message::Binary(bytes) => {
                    self.after_message();
                    return Poll::Ready(WireEvent::Message(bytes));
                }
                Message::Text(text) => {
                    self.after_message();
                    return Poll::Ready(WireEvent::Text(text));
                }
                // tungstenite answers these itself when it is next asked to read.
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let mut slices = [io::IoSlice::new(&[]); SLICES_MAX];
            let count = self.outgoing.fill(&mut slices);
            let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
            self.progress_at = Instant::now();
            self.flush_owed = true;
        }
        if self.flush_owed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flush_owed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The stream as tungstenite wants it: reads may block, writes go to the control slot.
struct Polled<'a, 'cx, S> {
    io: &'a mut S,
    outgoing: &'a mut Outgoing,
    cx: &'a mut Context<'cx>,
}

impl<S: AsyncRead + Unpin> io::Read for Polled<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S> io::Write for Polled<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A peer that pings without reading the pongs fills the slot; tungstenite then keeps the latest one only.
        if self.outgoing.control_bytes() + bytes.len() > CONTROL_BYTES_MAX {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.outgoing.push_control(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn translate(error: Error) -> Poll<WireEvent> {
    match error {
        Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_)
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Poll::Ready(WireEvent::Ended),
        Error::Capacity(error) => Poll::Ready(WireEvent::Broken(CloseCode::TooLarge, error.to_string())),
        error @ (Error::Protocol(_)
        | Error::Utf8(_)
        | Error::AttackAttempt
        | Error::WriteBufferFull(_)
        | Error::Tls(_)
        | Error::Url(_)
        | Error::Http(_)
        | Error::HttpFormat(_)) => Poll::Ready(WireEvent::Broken(CloseCode::Malformed, error.to_string())),
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

/// tungstenite zeroes its read buffer at each poll; a large one makes a task that mostly writes 3 to 7 times slower.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Pongs and close answers that wait for a frame's end, in bytes. A peer that pings without reading gets fewer pongs.
const CONTROL_BYTES_MAX: usize = 512;

/// Slices in one vectored write: 16 batches' heads and records.
const SLICES_MAX: usize = 32;

impl<S> std::fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("outgoing", &self.outgoing).finish_non_exhaustive()
    }
}
