//! States: what gateways keep about their clients, durably, by key. Bounded in size; expiry is the gateway's.

use std::sync::Arc;

use bytes::Bytes;
use redeliver_log::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX};
use redeliver_protocol::error::RefusalCode;

use crate::log_calls;
use crate::shared::Shared;

/// Why a state was not saved or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The key or the state is too long, or the key is empty. It is not saved.
    #[error("the state is not valid: {0}")]
    Invalid(String),
    /// It was refused, and is not saved: the disk is full, too much waits for it, or the server is shutting down.
    #[error("the state was refused: {0}")]
    NotApplied(RefusalCode),
    /// The log failed. What is saved shows when it is opened again.
    #[error("the log has failed")]
    Unknown,
}

impl StateError {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            StateError::NotApplied(code) => !code.is_final(),
            StateError::Invalid(_) | StateError::Unknown => false,
        }
    }
}

pub(crate) async fn save(shared: &Shared, key: Bytes, value: Option<Bytes>) -> Result<(), StateError> {
    if key.is_empty() || key.len() > STATE_KEY_BYTES_MAX {
        let words = format!("a key has 1 to {STATE_KEY_BYTES_MAX} bytes, this one has {}", key.len());
        return Err(StateError::Invalid(words));
    }
    if let Some(value) = value.as_ref().filter(|value| value.len() > STATE_BYTES_MAX) {
        let words = format!("a state has at most {STATE_BYTES_MAX} bytes, this one has {}", value.len());
        return Err(StateError::Invalid(words));
    }
    let saved = shared.queue.save_state(key, value).map_err(StateError::NotApplied)?;
    saved.await.map_err(|_| StateError::Unknown)?.map_err(StateError::NotApplied)
}

pub(crate) async fn state(shared: &Arc<Shared>, key: &[u8]) -> Result<Option<Bytes>, StateError> {
    let key = key.to_vec();
    log_calls::run(shared, move |shared| shared.log.state(&key)).await.ok_or(StateError::Unknown)
}

pub(crate) async fn states(
    shared: &Arc<Shared>,
    prefix: &[u8],
    after: Option<&[u8]>,
    states_max: usize,
) -> Result<Vec<(Bytes, Bytes)>, StateError> {
    let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
    let found =
        log_calls::run(shared, move |shared| shared.log.states(&prefix, after.as_deref(), states_max, SWEEP_BYTES_MAX));
    found.await.ok_or(StateError::Unknown)
}

/// Most bytes of states in one answer.
const SWEEP_BYTES_MAX: usize = 1024 * 1024;
