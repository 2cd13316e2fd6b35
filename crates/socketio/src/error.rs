//! What can go wrong for an app that uses the gateway. Narrow; causes are kept as `source()`.

use std::sync::Arc;
use std::time::Duration;

use redeliver_server::EmitError;
use serde_json::Value;

/// Arguments that are not what was asked for, or that have no JSON.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the arguments are not as expected: {reason}")]
pub struct ArgsError {
    reason: String,
    source: Option<Arc<serde_json::Error>>,
}

impl ArgsError {
    pub(crate) fn new(reason: impl Into<String>) -> ArgsError {
        ArgsError { reason: reason.into(), source: None }
    }
}

impl From<serde_json::Error> for ArgsError {
    fn from(error: serde_json::Error) -> ArgsError {
        ArgsError { reason: error.to_string(), source: Some(Arc::new(error)) }
    }
}

impl PartialEq for ArgsError {
    fn eq(&self, other: &ArgsError) -> bool {
        self.reason == other.reason
    }
}

impl Eq for ArgsError {}

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
    /// The log did not take the event.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

impl SendError {
    /// Whether the same emit may succeed later, without the danger that the event is stored twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            SendError::Emit(error) => error.is_retryable(),
            SendError::Args(_) | SendError::Name(_) | SendError::Room(_) => false,
        }
    }
}

/// Why an ack is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
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
        answers: Vec<crate::AckReply>,
    },
}

impl AckError {
    /// Whether the same emit may succeed later, without the danger that the event is stored twice.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            AckError::Send(error) => error.is_retryable(),
            AckError::TimedOut { .. } => false,
        }
    }
}

/// Why a name cannot be a namespace's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The name does not begin with `/`, or it has a `#` or a comma.
    #[error("a namespace begins with / and has no # and no comma")]
    Invalid,
    /// The name is too long: at most 255 bytes.
    #[error("the namespace's name is too long: 255 bytes at most")]
    TooLong,
}

/// Why a room cannot be joined, left or named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// Namespace and room together have at most 254 bytes.
    #[error("the names of namespace and room are too long: 254 bytes together at most")]
    TooLong,
    /// The socket is in too many rooms (1,024), or their names and the socket's data are too long together (60 KiB).
    #[error("the socket is in too many rooms")]
    TooMany,
    /// The socket asks for history faster than it reads it.
    #[error("the socket asks for history faster than it reads it")]
    Busy,
    /// The socket is gone.
    #[error("the socket is not connected")]
    NotConnected,
    /// The log did not take the change.
    #[error("the membership could not be stored")]
    NotStored,
}

impl RoomError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            RoomError::Busy | RoomError::NotStored => true,
            RoomError::TooLong | RoomError::TooMany | RoomError::NotConnected => false,
        }
    }
}

/// Why a socket's data could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Data and names of rooms are too long together: 60 KiB at most.
    #[error("the socket's data is too large")]
    TooLarge,
    /// The socket is gone.
    #[error("the socket is not connected")]
    NotConnected,
    /// The log did not take the change.
    #[error("the data could not be stored")]
    NotStored,
}

impl DataError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            DataError::NotStored => true,
            DataError::TooLarge | DataError::NotConnected => false,
        }
    }
}

/// Why a change of a socket's session was not made: what [`RoomError`] and [`DataError`] are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeError {
    TooManyRooms,
    /// The session as a whole.
    TooLarge,
    Busy,
    NotConnected,
    NotStored,
}

impl From<ChangeError> for RoomError {
    fn from(error: ChangeError) -> RoomError {
        match error {
            ChangeError::TooManyRooms | ChangeError::TooLarge => RoomError::TooMany,
            ChangeError::Busy => RoomError::Busy,
            ChangeError::NotConnected => RoomError::NotConnected,
            ChangeError::NotStored => RoomError::NotStored,
        }
    }
}

impl From<ChangeError> for DataError {
    fn from(error: ChangeError) -> DataError {
        match error {
            ChangeError::TooManyRooms | ChangeError::TooLarge => DataError::TooLarge,
            ChangeError::NotConnected => DataError::NotConnected,
            ChangeError::Busy | ChangeError::NotStored => DataError::NotStored,
        }
    }
}

/// Why a middleware does not let a socket in. The client's `connect_error` has the message, and the data as `err.data`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    message: String,
    data: Option<Value>,
}

impl ConnectError {
    /// Turns the socket away with this message.
    #[must_use]
    pub fn new(message: impl Into<String>) -> ConnectError {
        ConnectError { message: message.into(), data: None }
    }

    /// Adds more for the client's program.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> ConnectError {
        self.data = Some(data);
        self
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What was added for the client's program.
    #[must_use]
    pub fn data(&self) -> Option<&Value> {
        self.data.as_ref()
    }
}

impl From<ChangeError> for ConnectError {
    fn from(error: ChangeError) -> ConnectError {
        ConnectError::new(RoomError::from(error).to_string())
    }
}
