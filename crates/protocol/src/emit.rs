//! What becomes of an emit: its receipt, or why there is none. The same for a client and within the server's process.

use crate::error::RefusalCode;
use crate::event::EventError;
use crate::name::NameError;
use crate::payload::PayloadError;
use crate::seq::{Position, Seq};

/// The server's answer to an emit: the event is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's position. `None` for a duplicate that was stored so long ago that the server no longer knows where.
    pub position: Option<Position>,
    /// Whether an earlier try under the same publisher and number had stored it, and this one stored nothing.
    pub duplicate: bool,
}

impl Receipt {
    /// A receipt for what this emit stored.
    #[must_use]
    pub fn stored(position: Position) -> Receipt {
        Receipt { position: Some(position), duplicate: false }
    }

    /// A receipt for what an earlier try stored, at this position if it is still known.
    #[must_use]
    pub fn duplicate(position: Option<Position>) -> Receipt {
        Receipt { position, duplicate: true }
    }

    /// The event's number in the log, if the server still knows it.
    #[must_use]
    pub fn seq(&self) -> Option<Seq> {
        self.position.map(|position| position.seq)
    }
}

/// Why an emit has no receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// The name of a topic or of the event is not valid.
    #[error(transparent)]
    InvalidName(#[from] NameError),
    /// No server with these limits takes the event.
    #[error(transparent)]
    Invalid(#[from] EventError),
    /// The payload could not be written as JSON.
    #[error(transparent)]
    Encode(#[from] PayloadError),
    /// The server refused the event.
    #[error("the event was refused: {code}")]
    #[non_exhaustive]
    Refused {
        /// Why.
        code: RefusalCode,
    },
    /// More events were to be stored together than one commit of the server holds. None is stored: emit fewer at once.
    #[error(
        "{events} events of {bytes} bytes cannot be stored together: one commit holds {events_max} events and {bytes_max} \
         bytes; emit fewer at once"
    )]
    #[non_exhaustive]
    TooManyTogether {
        /// How many they are.
        events: usize,
        /// How many bytes they take, with about 90 for each event besides names, topics and payload.
        bytes: usize,
        /// How many events one commit holds.
        events_max: usize,
        /// How many bytes one commit holds.
        bytes_max: usize,
    },
    /// The client ended before the event was sent.
    #[error("the client ended before the event was sent")]
    ClientEnded,
    /// An earlier emit used this publisher's number, so long ago that the server cannot compare it with this event any
    /// more. This event is stored if it was that one.
    #[error("the number of this emit was used so long ago that the server has forgotten for what")]
    Forgotten,
    /// Nobody can tell any more whether the event was stored.
    #[error("it is not known whether the event was stored")]
    Unknown,
}

/// Whether an emit that failed may have been stored all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The event was not stored, and will not be.
    NotApplied,
    /// The event may have been stored.
    Unknown,
}

impl EmitError {
    /// Events of so many bytes that do not fit into one commit, which holds so many events and bytes.
    #[must_use]
    pub fn too_many_together(events: usize, bytes: usize, (events_max, bytes_max): (usize, usize)) -> EmitError {
        EmitError::TooManyTogether { events, bytes, events_max, bytes_max }
    }

    /// Returns a refusal with this code.
    #[must_use]
    pub fn refused(code: RefusalCode) -> EmitError {
        EmitError::Refused { code }
    }

    /// Returns whether the event may have been stored all the same.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            EmitError::Unknown | EmitError::Forgotten => Outcome::Unknown,
            EmitError::InvalidName(_)
            | EmitError::Invalid(_)
            | EmitError::Encode(_)
            | EmitError::TooManyTogether { .. }
            | EmitError::Refused { .. }
            | EmitError::ClientEnded => Outcome::NotApplied,
        }
    }

    /// Returns whether emitting the same event again may succeed. After an unknown outcome it may also store it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            // Another connection may emit it, but not this one.
            EmitError::Refused { code } => !code.is_final() && *code != RefusalCode::FENCED,
            EmitError::Unknown | EmitError::ClientEnded => true,
            EmitError::InvalidName(_)
            | EmitError::Invalid(_)
            | EmitError::Encode(_)
            | EmitError::TooManyTogether { .. }
            | EmitError::Forgotten => false,
        }
    }
}
