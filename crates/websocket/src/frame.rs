//! Frames as RFC 6455 defines them: opcodes, close codes, the header of a server's frame. Pure.

use bytes::BufMut;

pub(crate) const CONTINUATION: u8 = 0;
/// The opcode of a text message.
pub const TEXT: u8 = 1;
/// The opcode of a binary message.
pub const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// The largest header of a server's frame, in bytes.
pub const HEADER_BYTES_MAX: usize = 10;

/// The largest payload of a control frame, in bytes.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// Close codes of RFC 6455 that a server sends.
pub mod close_code {
    /// The conversation is done.
    pub const NORMAL: u16 = 1000;
    /// The server is going away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the WebSocket protocol.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text message is not UTF-8.
    pub const INVALID_TEXT: u16 = 1007;
    /// The peer broke a rule of whoever uses the WebSocket.
    pub const POLICY: u16 = 1008;
    /// A message is larger than it may be.
    pub const TOO_LARGE: u16 = 1009;
    /// The server has failed.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// The server cannot serve the peer now.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// Writes the header of a server's frame with a payload of `bytes` bytes: final, unmasked.
pub fn put_header(out: &mut impl BufMut, opcode: u8, bytes: usize) {
    out.put_u8(0x80 | opcode);
    if let Ok(short) = u8::try_from(bytes)
        && short < 126
    {
        out.put_u8(short);
    } else if let Ok(medium) = u16::try_from(bytes) {
        out.put_u8(126);
        out.put_u16(medium);
    } else {
        out.put_u8(127);
        out.put_u64(bytes as u64);
    }
}
