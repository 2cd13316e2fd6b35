//! Keys and values: the only place that knows bytes on the medium. Everything is checked when it is read back.
//!
//! Keys are a prefix byte and big-endian numbers, values little-endian. Every value begins with a CRC32C over its key and
//! itself, so that neither a flipped bit nor a value under a wrong key is taken for what was written.

pub(crate) mod key;
pub(crate) mod piece;
pub(crate) mod reader;
pub(crate) mod value;

/// The format that this version writes. It reads all up to this one; opening a log makes it one of this format.
///
/// 1: each topic has a key of its own (`n`) with its name and its last event. 2: the topic table (`d`, `h`) instead.
pub(crate) const FORMAT: u32 = 2;

/// A value is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;
