//! The closes that a session itself decides, in words. Nothing here decides anything.

use crate::error::{Close, CloseCode, DecodeError, RetryAdvice};

/// The peer's bytes are no message of this conversation.
pub(super) fn undecodable(error: &DecodeError) -> Close {
    let code = match error {
        DecodeError::TooLarge { .. } => CloseCode::TooLarge,
        DecodeError::Version { .. } | DecodeError::Features(_) => CloseCode::VersionMismatch,
        DecodeError::Truncated | DecodeError::Trailing(_) | DecodeError::BadMagic(_) | DecodeError::Invalid(_) => {
            CloseCode::Malformed
        }
    };
    Close::new(code, error.to_string(), RetryAdvice::Never)
}

/// Something that is not a binary message came.
pub(super) fn not_binary(what: &str) -> Close {
    never(CloseCode::Malformed, format!("only binary messages are expected, this was {what}"))
}

/// A well-formed message that has no place now.
pub(super) fn unexpected(words: impl Into<String>) -> Close {
    never(CloseCode::Unexpected, words.into())
}

/// A well-formed message beyond what the peer was told.
pub(super) fn limit_broken(words: impl Into<String>) -> Close {
    never(CloseCode::LimitBroken, words.into())
}

/// The shell or the log answered what cannot be: our own bug, which must not reach the reader as a hole.
pub(super) fn internal(words: impl Into<String>) -> Close {
    Close::new(CloseCode::Internal, words.into(), RetryAdvice::Now)
}

pub(super) fn hello_timeout() -> Close {
    retry(CloseCode::HelloTimeout)
}

pub(super) fn heartbeat_timeout() -> Close {
    retry(CloseCode::HeartbeatTimeout)
}

pub(super) fn stuck() -> Close {
    retry(CloseCode::Stuck)
}

/// The answer to a peer's goodbye.
pub(super) fn done() -> Close {
    never(CloseCode::Done, CloseCode::Done.description().to_owned())
}

fn retry(code: CloseCode) -> Close {
    Close::of(code, RetryAdvice::Now)
}

fn never(code: CloseCode, reason: String) -> Close {
    Close::new(code, reason, RetryAdvice::Never)
}
