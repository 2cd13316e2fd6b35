//! The closes that a session itself decides, in words. Nothing here decides anything.

use crate::error::{Close, CloseCode, DecodeError, RetryAdvice};

/// The peer's bytes are no message of this conversation.
pub(super) fn undecodable(error: &DecodeError) -> Close {
    let code = match error {
        DecodeError::TooLarge { .. } => CloseCode::TOO_LARGE,
        DecodeError::Version { .. } | DecodeError::Features(_) => CloseCode::VERSION_MISMATCH,
        DecodeError::Truncated | DecodeError::Trailing(_) | DecodeError::BadMagic(_) | DecodeError::Invalid(_) => {
            CloseCode::MALFORMED
        }
    };
    Close::new(code, error.to_string(), RetryAdvice::Never)
}

/// Something that is not a binary message came.
pub(super) fn not_binary(what: &str) -> Close {
    never(CloseCode::MALFORMED, format!("only binary messages are expected, this was {what}"))
}

/// A well-formed message that has no place now.
pub(super) fn unexpected(words: impl Into<String>) -> Close {
    never(CloseCode::UNEXPECTED, words.into())
}

/// A well-formed message beyond what the peer was told.
pub(super) fn limit_broken(words: impl Into<String>) -> Close {
    never(CloseCode::LIMIT_BROKEN, words.into())
}

/// The shell or the log answered what cannot be: our own bug, which must not reach the reader as a hole.
pub(super) fn internal(words: impl Into<String>) -> Close {
    Close::new(CloseCode::INTERNAL, words.into(), RetryAdvice::Now)
}

pub(super) fn hello_timeout() -> Close {
    retry(CloseCode::HELLO_TIMEOUT)
}

pub(super) fn heartbeat_timeout() -> Close {
    retry(CloseCode::HEARTBEAT_TIMEOUT)
}

pub(super) fn stuck() -> Close {
    retry(CloseCode::STUCK)
}

/// The answer to a peer's goodbye.
pub(super) fn done() -> Close {
    Close::of(CloseCode::DONE, RetryAdvice::Never)
}

/// The answer to the goodbye of a client that nobody follows as its publisher.
pub(super) fn retired() -> Close {
    Close::of(CloseCode::RETIRED, RetryAdvice::Never)
}

fn retry(code: CloseCode) -> Close {
    Close::of(code, RetryAdvice::Now)
}

fn never(code: CloseCode, reason: String) -> Close {
    Close::new(code, reason, RetryAdvice::Never)
}
