//! The numbers and identities that order everything: seqs, nths, epochs, positions, emit numbers.
//!
//! Plain newtypes. Nothing here knows a frame, a clock or a store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An event's number in the log. The first event is 1, and each later one is exactly one higher.
///
/// `Seq::ZERO` is not an event: as an exclusive lower bound (`after`) it means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// An event's number within one of its topics: the first is 1, and each later one of the topic is exactly one higher.
///
/// `Nth::ZERO` is the bound before a topic's first event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nth(pub u64);

/// A publisher's own number for one of its emits. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EmitNumber(pub u64);

macro_rules! number {
    ($name:ident) => {
        impl $name {
            /// The bound before the first one.
            pub const ZERO: $name = $name(0);

            /// The next number.
            ///
            /// # Panics
            ///
            /// At `u64::MAX`, which 10 million events a second would reach after 58,000 years.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }

            /// This number moved forward by `n`, stopping at `u64::MAX` (for bounds made of a peer's numbers).
            #[must_use]
            pub fn saturating_add(self, n: u64) -> $name {
                $name(self.0.saturating_add(n))
            }

            /// How far this number lies above `after`; zero if it does not.
            #[must_use]
            pub fn since(self, after: $name) -> u64 {
                self.0.saturating_sub(after.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<$name, ParseError> {
                // The number's own parser also takes a sign.
                let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let number = digits.and_then(|digits| digits.parse().ok());
                number.map($name).ok_or_else(|| ParseError::new("a number", text))
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> $name {
                $name(number)
            }
        }

        impl From<$name> for u64 {
            fn from(number: $name) -> u64 {
                number.0
            }
        }
    };
}

number!(Seq);
number!(Nth);
number!(EmitNumber);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                $name(id.into_bytes())
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                Uuid::from_bytes(id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from(*self).fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<$name, ParseError> {
                Uuid::from_str(text).map($name::from).map_err(|_| ParseError::new("a UUID", text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

identity! {
    /// What is stored of an identity's name with what belongs to it: a hash that the server makes of it.
    IdentityTag
}

identity! {
    /// One opening of the log for writing. A log's epochs, in order, are its lineage.
    Epoch
}
identity! {
    /// An emitter's identity, which outlives its connections and, if the app keeps it, its process.
    PublisherId
}
identity! {
    /// One running client. A reconnect has the same instance; a new process has a new one.
    InstanceId
}

/// The number that a client gives to one of its subscriptions; unique within a connection's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubscriptionId(pub u32);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that an asker gives to one of its requests; unique within a connection's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the history of one log: the only thing from which anyone may resume.
///
/// A position is valid for a log iff its epoch is in the log's lineage and its seq lies within what was written in that
/// epoch, or is the head with which the epoch began. There is no order between positions of different epochs without
/// that lineage, so the type has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The epoch in which the event was written.
    pub epoch: Epoch,
    /// The event's number in the log.
    pub seq: Seq,
}

impl Position {
    /// The position at `seq`, written in `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch, seq: Seq) -> Position {
        Position { epoch, seq }
    }
}

/// A text is not what it was read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct ParseError {
    what: &'static str,
    text: String,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str) -> ParseError {
        // A text of any length may come from outside, and a log line is no place for it.
        ParseError { what, text: text.chars().take(TEXT_CHARS_MAX).collect() }
    }
}

/// How much of a text that cannot be read is shown.
const TEXT_CHARS_MAX: usize = 100;
