//! Codes with which one peer tells the other what is wrong. Numbers are never reused; ranges are documented in
//! docs/protocol.md.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $description:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(pub u16);

        impl $name {
            $($(#[$vdoc])* pub const $variant: $name = $name($number);)*

            /// What the code means, for a person. Says so if the code is of a later version.
            #[must_use]
            pub fn description(self) -> &'static str {
                match self.0 {
                    $($number => $description,)*
                    _ => "a code that this version does not know",
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} ({})", self.description(), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = match self.0 {
                    $($number => stringify!($variant),)*
                    _ => "Unknown",
                };
                write!(f, concat!(stringify!($name), "::{}({})"), name, self.0)
            }
        }
    };
}

codes! {
    /// Why a connection is closed. 1xx: the peer's protocol is wrong. 2xx: the peer may not. 3xx: somebody newer took
    /// its place. 4xx: too slow or too much. 5xx: the server's own reasons. 600: a clean goodbye.
    CloseCode {
        /// The peer speaks another version.
        VERSION_MISMATCH = 100, "the peers speak different versions of the protocol";
        /// A message could not be decoded.
        MALFORMED = 101, "a message could not be decoded";
        /// A message was larger than allowed.
        TOO_LARGE = 102, "a message was larger than allowed";
        /// A message came that has no place in the conversation now.
        UNEXPECTED = 103, "a message came out of order";
        /// A peer broke a limit that it was told.
        LIMIT_BROKEN = 104, "a limit of the conversation was broken";
        /// Authentication was refused.
        UNAUTHENTICATED = 200, "authentication was refused";
        /// Hello or authentication took too long.
        HELLO_TIMEOUT = 201, "Hello or authentication took too long";
        /// The credentials are no longer valid.
        EXPIRED = 202, "the credentials are no longer valid";
        /// The server's app has sent the peer away.
        DISCONNECTED = 203, "the server has ended this connection";
        /// The publisher belongs to another identity.
        NOT_YOUR_PUBLISHER = 204, "the publisher belongs to another identity";
        /// The same client instance has a newer connection.
        SUPERSEDED = 300, "the same client has a newer connection";
        /// The publisher has a newer connection.
        PUBLISHER_FENCED = 301, "the publisher has a newer connection";
        /// The peer did not answer in time.
        HEARTBEAT_TIMEOUT = 400, "the peer did not answer in time";
        /// The reader took no bytes for too long.
        STUCK = 401, "the reader took no bytes for too long";
        /// Too many connections.
        OVERLOADED = 402, "the server has too much to do";
        /// The server is shutting down.
        DRAINING = 500, "the server is shutting down";
        /// The server cannot use its log any more.
        LOG_FAILED = 501, "the server's log has failed";
        /// A bug of the server's.
        INTERNAL = 502, "the server has made a mistake";
        /// The peer is done.
        DONE = 600, "the peer is done";
        /// The client is done, all that it emitted is stored, and nobody will emit as its publisher again: the server may
        /// forget the publisher. A server from before takes it for `DONE`.
        RETIRED = 601, "the client is done, and so is its publisher";
    }
}

codes! {
    /// Why an emit or a subscription was refused. 1xx are final: trying the same again cannot help, and an emit's number
    /// is consumed. 2xx are retryable: the number is not consumed, and what was pipelined behind is refused in order too.
    RefusalCode {
        /// Permission is missing.
        FORBIDDEN = 100, "permission is missing";
        /// The event is too large.
        TOO_LARGE = 101, "the event is larger than the server allows";
        /// The event or subscription is not valid.
        INVALID = 102, "the request is not valid";
        /// Other content was already emitted under this number.
        NUMBER_REUSED = 103, "other content was already emitted under this number";
        /// The connection has too many subscriptions.
        TOO_MANY_SUBSCRIPTIONS = 104, "the connection has too many subscriptions";
        /// A subscription without a durable subscriber asked for what only one has.
        NO_SUBSCRIBER = 105, "only a durable subscriber can do this: name one in Hello";
        /// The server has not got a feature that this needs.
        UNSUPPORTED = 106, "the server is too old for this";
        /// Nobody answers requests there.
        NO_HANDLER = 107, "nobody answers requests there";
        /// The app that was asked declined to answer.
        DECLINED = 108, "the app declined to answer";
        /// The request was handled, but its answer is larger than can be carried, or than there was room for.
        ANSWER_TOO_LARGE = 109, "the request was handled, but its answer is too large";
        /// The number was passed over: later ones came, with the word that this one was settled, but it never came.
        NUMBER_SKIPPED = 110, "this number was said to be settled, but never came here";
        /// Numbers before this one are missing.
        OUT_OF_ORDER = 200, "numbers before this one are missing";
        /// The disk is full.
        STORAGE_FULL = 201, "the server's disk is full";
        /// The server has too much to do.
        OVERLOADED = 202, "the server has too much to do";
        /// The server is shutting down.
        DRAINING = 203, "the server is shutting down";
        /// The publisher has a newer connection.
        FENCED = 204, "the publisher has a newer connection";
        /// The log has failed.
        LOG_FAILED = 205, "the server's log has failed";
    }
}

impl RefusalCode {
    /// Whether the refusal depends on permission or on the server's settings, so that the same emit may be taken once these
    /// have changed. The log takes it then under the number that the refusal consumed.
    #[must_use]
    pub fn depends_on_server(self) -> bool {
        matches!(self, RefusalCode::FORBIDDEN | RefusalCode::TOO_LARGE)
    }

    /// Whether trying the same again cannot help. A final refusal consumes an emit's number.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.0 < 200
    }
}

/// What the closed peer should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryAdvice {
    /// Not connect again with the same request.
    Never,
    /// Connect again at once (with its usual backoff).
    Now,
    /// Connect again after this time, to spread a crowd.
    After(Duration),
}

/// A connection's end, in words and numbers that every version can read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Close {
    /// Why.
    pub code: CloseCode,
    /// Why, in words for a person. At most [`crate::limits::REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// What to do.
    pub retry: RetryAdvice,
}

impl Close {
    /// Returns a close with a reason in words.
    #[must_use]
    pub fn new(code: CloseCode, reason: impl Into<String>, retry: RetryAdvice) -> Close {
        Close { code, reason: reason.into(), retry }
    }

    /// Returns a close that says no more than its code.
    #[must_use]
    pub fn of(code: CloseCode, retry: RetryAdvice) -> Close {
        Close::new(code, code.description(), retry)
    }
}

/// Why bytes are not a message of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The message is larger than allowed.
    #[error("the message has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest allowed.
        bytes_max: usize,
    },
    /// The message ends too early.
    #[error("the message ends too early")]
    Truncated,
    /// Bytes are left over behind the message.
    #[error("{0} bytes are left over behind the message")]
    Trailing(usize),
    /// The message does not begin as it must.
    #[error("the message does not begin as a {0} must")]
    BadMagic(&'static str),
    /// The peer speaks another version.
    #[error("the peer speaks version {theirs} of the protocol, this side version {ours}")]
    Version {
        /// The peer's version.
        theirs: u16,
        /// This side's version.
        ours: u16,
    },
    /// The message needs a feature that this side does not have.
    #[error("the peer needs features {0:#x}, which this side does not have")]
    Features(u32),
    /// A field has a value that it cannot have.
    #[error("the message has an impossible value: {0}")]
    Invalid(String),
}
