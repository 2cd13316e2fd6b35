//! What can go wrong for an app that uses the gateway. Narrow, without foreign types.

use std::time::Duration;

use redeliver_server::EmitError;

/// Arguments that are not what was asked for, or that have no JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the arguments are not as expected: {0}")]
pub struct ArgsError(String);

impl ArgsError {
    pub(crate) fn new(why: &impl ToString) -> ArgsError {
        ArgsError(why.to_string())
    }
}

/// Why an event could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The arguments have no JSON.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// The name cannot be an event's: empty, too long or reserved (`connect`, `disconnect` …).
    #[error("this cannot be an event's name: {0}")]
    Name(String),
    /// A room's name is too long.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The log did not take it.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl SendError {
    /// Whether the same may succeed later, without the danger of sending it twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            SendError::Emit(error) => error.is_retryable(),
            SendError::Args(_) | SendError::Name(_) | SendError::Room(_) => false,
        }
    }
}

/// Why there is no answer, or not every one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// The event could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Not everybody answered in time.
    #[error("{missing} did not answer within {after:?}")]
    TimedOut {
        /// How many did not answer.
        missing: usize,
        /// For how long they were waited for.
        after: Duration,
        /// The answers that did come.
        answers: Vec<crate::Answer>,
    },
}

/// Why a room cannot be joined or named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// A namespace begins with `/` and has no `#`.
    #[error("a namespace begins with / and has no #")]
    NotANamespace,
    /// Namespace and room together have at most 254 bytes.
    #[error("the names of namespace and room are too long: 254 bytes together at most")]
    TooLong,
    /// The socket is in too many rooms (1,024), or their names are too long together.
    #[error("the socket is in too many rooms")]
    TooMany,
    /// The socket asks for history faster than it reads it.
    #[error("the socket asks for history faster than it reads it")]
    Busy,
    /// The socket is gone.
    #[error("the socket is not connected")]
    NotConnected,
    /// The log did not take it.
    #[error("the membership could not be stored")]
    NotStored,
}

impl RoomError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            RoomError::Busy | RoomError::NotStored => true,
            RoomError::NotANamespace | RoomError::TooLong | RoomError::TooMany | RoomError::NotConnected => false,
        }
    }
}

/// Why a middleware does not let a socket in. The client's `connect_error` has the message, and the data as `err.data`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    pub(crate) message: String,
    pub(crate) data: Option<serde_json::Value>,
}

impl ConnectError {
    /// Not let in, for this reason.
    #[must_use]
    pub fn new(message: impl Into<String>) -> ConnectError {
        ConnectError { message: message.into(), data: None }
    }

    /// With more for the client's program.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> ConnectError {
        self.data = Some(data);
        self
    }
}
