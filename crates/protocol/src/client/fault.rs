//! Why a client ends a connection: the server has said what cannot be, or nothing. Decides nothing.

use std::borrow::Cow;

use crate::error::{Close, CloseCode, DecodeError, RetryAdvice};

/// The reason for which a connection is given up. Another one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    code: CloseCode,
    reason: Cow<'static, str>,
}

impl Fault {
    /// A well-formed frame that has no place now.
    pub(super) fn unexpected(reason: &'static str) -> Fault {
        Fault { code: CloseCode::UNEXPECTED, reason: reason.into() }
    }

    /// More than the server was told to send.
    pub(super) fn limit_broken(reason: &'static str) -> Fault {
        Fault { code: CloseCode::LIMIT_BROKEN, reason: reason.into() }
    }

    /// Nothing came in time.
    pub(super) fn silence(reason: &'static str) -> Fault {
        Fault { code: CloseCode::HEARTBEAT_TIMEOUT, reason: reason.into() }
    }

    /// Bytes that are no message of this conversation.
    pub(super) fn malformed(error: &DecodeError) -> Fault {
        Fault { code: CloseCode::MALFORMED, reason: error.to_string().into() }
    }

    /// What the server is told.
    pub(super) fn close(&self) -> Close {
        Close::new(self.code, self.reason.clone().into_owned(), RetryAdvice::Now)
    }
}
