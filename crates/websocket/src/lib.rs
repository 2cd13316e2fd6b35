//! The server's side of a WebSocket (RFC 6455) over any byte stream: [`handshake`], then [`WebSocket`].
//!
//! Knows nothing of the protocols that it carries, and never buffers more than it was given or allowed to take. No
//! extension is negotiated: frames go out unmasked and uncompressed. Why this is written by hand stands in
//! `docs/adr/0008-websocket-read-by-hand.md`.

mod frame;
pub mod handshake;
mod reader;
mod socket;
mod writer;

pub use tokio_tungstenite::tungstenite::Utf8Bytes;

pub use crate::frame::{BINARY, HEADER_BYTES_MAX, TEXT, close_code, put_header};
pub use crate::socket::{PREFIX_BYTES_MAX, SocketEvent, WebSocket};
