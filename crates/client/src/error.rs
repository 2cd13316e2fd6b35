//! What can go wrong, one narrow enum for each thing an app does. Ending is not an error.

use std::path::PathBuf;
use std::time::Duration;

use redeliver_protocol::cause::Cause;
use redeliver_protocol::client::SubscriptionEnd;
use redeliver_protocol::error::{Close, RefusalCode};
use redeliver_protocol::name::NameError;

use crate::cursor_store::CursorKey;

/// Why a client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is not one of a redeliver server.
    #[error("{url:?} is not a URL of the form ws://HOST:PORT: {reason}")]
    InvalidUrl {
        /// The URL as it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL asks for TLS, which the connector in use does not have.
    #[error("wss:// needs TLS: build redeliver-client with its feature `tls`, or give a connector that offers it")]
    TlsUnsupported,
    /// TLS cannot be spoken as configured.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The subscriber's name is not valid.
    #[error(transparent)]
    InvalidSubscriber(#[from] NameError),
    /// The server will never take this client.
    #[error("the server refuses this client: {}", words(.0))]
    Refused(Close),
    /// No connection stood within the time given with `connect_within`.
    #[error("no connection within {waited:?}")]
    #[non_exhaustive]
    Unreachable {
        /// Why the last try failed.
        source: Cause,
        /// The time that was given.
        waited: Duration,
    },
    /// The client was shut down before it was connected.
    #[error("the client was shut down before it was connected")]
    Ended,
}

impl ConnectError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            ConnectError::Unreachable { .. } => true,
            #[cfg(feature = "tls")]
            ConnectError::Tls(_) => false,
            ConnectError::InvalidUrl { .. }
            | ConnectError::TlsUnsupported
            | ConnectError::InvalidSubscriber(_)
            | ConnectError::Refused(_)
            | ConnectError::Ended => false,
        }
    }
}

/// Why a subscription does not stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The topic's name is not valid.
    #[error(transparent)]
    InvalidTopic(#[from] NameError),
    /// No topic was named.
    #[error("no topic was named")]
    NoTopic,
    /// The server refused it.
    #[error("the server refused the subscription: {}", with_reason(code, code.description(), reason))]
    Refused {
        /// Why.
        code: RefusalCode,
        /// Why, in the server's words.
        reason: String,
    },
    /// A durable subscription needs a client with a subscriber's name.
    #[error("a durable subscription needs a subscriber: name one when the client is built")]
    NoSubscriber,
    /// A stored subscription needs a client with a cursor store.
    #[error("a stored subscription needs a cursor store: give one when the client is built")]
    NoCursorStore,
    /// Another subscription of this client keeps its cursor under the same key.
    #[error("another subscription keeps its cursor under the key {key}")]
    CursorInUse {
        /// The key.
        key: CursorKey,
    },
    /// The stored cursor could not be read. Never taken for "there is none".
    #[error(transparent)]
    Store(#[from] CursorStoreError),
    /// Another client took the topic over before the subscription stood.
    #[error("another client has taken the subscription over")]
    TakenOver,
    /// The client has ended.
    #[error("the client has ended")]
    ClientEnded,
}

impl SubscribeError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            SubscribeError::Refused { code, .. } => !code.is_final(),
            SubscribeError::CursorInUse { .. } => true,
            SubscribeError::Store(error) => error.is_retryable(),
            SubscribeError::InvalidTopic(_)
            | SubscribeError::NoTopic
            | SubscribeError::NoSubscriber
            | SubscribeError::NoCursorStore
            | SubscribeError::TakenOver
            | SubscribeError::ClientEnded => false,
        }
    }
}

/// A subscription ended before its acks were confirmed: what they covered may be handed over again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription ended before its acks were confirmed: {}", end_words(end))]
#[non_exhaustive]
pub struct NotConfirmed {
    /// How it ended.
    pub end: SubscriptionEnd,
}

impl NotConfirmed {
    pub(crate) fn new(end: SubscriptionEnd) -> NotConfirmed {
        NotConfirmed { end }
    }
}

/// Why a shutdown was not clean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// The time was over first. Emits without a receipt have been reported to whoever waits for them.
    #[error("the time was over with {emits} emits and the acks of {subscriptions} subscriptions unconfirmed")]
    TimedOut {
        /// Emits without a receipt.
        emits: usize,
        /// Subscriptions with acks that were not confirmed.
        subscriptions: usize,
    },
    /// The client had already ended, because the server refuses it.
    #[error("the server had ended this client: {}", words(.0))]
    Refused(Close),
}

/// Why a cursor store could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CursorStoreError {
    /// Reading or writing failed.
    #[error("{} cannot be read or written", path.display())]
    #[non_exhaustive]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: Cause,
    },
    /// The file is not what was written. It is left as it is.
    #[error("the cursor store {} is damaged ({reason}); its cursors cannot be trusted", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A later version of redeliver wrote the file.
    #[error("the cursor store {} has format {found}, this version reads up to {known}", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The file's format.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// Another process has the store open.
    #[error("the cursor store {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A store of the app's own failed.
    #[error("the cursor store failed")]
    #[non_exhaustive]
    Other {
        /// Why.
        source: Cause,
    },
}

impl CursorStoreError {
    /// A failure of a store of the app's own.
    #[must_use]
    pub fn other(source: impl Into<Cause>) -> CursorStoreError {
        CursorStoreError::Other { source: source.into() }
    }

    /// A failure of a store of the app's own that is known in words only.
    #[must_use]
    pub fn other_in_words(words: impl Into<String>) -> CursorStoreError {
        CursorStoreError::Other { source: Cause::of_words(words) }
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            CursorStoreError::Io { .. } | CursorStoreError::InUse { .. } | CursorStoreError::Other { .. } => true,
            CursorStoreError::Damaged { .. } | CursorStoreError::NewerFormat { .. } => false,
        }
    }
}

fn words(close: &Close) -> String {
    with_reason(&close.code, close.code.description(), &close.reason)
}

/// A code and a reason, without saying the same twice.
fn with_reason(code: &dyn std::fmt::Display, description: &str, reason: &str) -> String {
    if reason.is_empty() || reason == description { code.to_string() } else { format!("{code}: {reason}") }
}

fn end_words(end: &SubscriptionEnd) -> String {
    match end {
        SubscriptionEnd::Asked => "it was closed".to_owned(),
        SubscriptionEnd::TakenOver => "another client has taken it over".to_owned(),
        SubscriptionEnd::Refused(code, reason) => {
            format!("the server refused it: {}", with_reason(code, code.description(), reason))
        }
        SubscriptionEnd::ClientEnded => "the client has ended".to_owned(),
        _ => "it has ended".to_owned(),
    }
}
