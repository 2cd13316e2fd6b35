//! States: small durable values by key that gateways keep about their clients. They share commits with events, and say
//! nothing about them. What becomes old is the gateway's to delete.
//!
//! A state that fits lies in one value, `w | key`; the rest of a larger one lies in pieces beside it, `v | key`.

use bytes::Bytes;

use super::Log;
use crate::error::LogError;
use crate::kv::{Direction, WriteBatch};
use crate::layout::piece::{self, StoredValue};
use crate::layout::{Damaged, key, value::StateHead};

/// Longest key of a state, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 200;

/// Largest state, in bytes.
pub const STATE_BYTES_MAX: usize = 64 * 1024;

impl Log {
    /// A state: the last one staged. One that is damaged is as if it were not there.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn state(&self, name: &[u8]) -> Result<Option<Bytes>, LogError> {
        let key = key::state(name);
        for _ in 0..TRIES_MAX {
            let Some(sealed) = self.store.kv().get(&key)? else { return Ok(None) };
            let read = match piece::open_small(&key, &sealed).and_then(StateHead::decode) {
                Ok(head) => self.whole(name, &head)?,
                Err(Damaged) => None,
            };
            if read.is_some() {
                return Ok(read);
            }
            // Its rest is of another time than its head, or one of them is damaged.
            if self.store.kv().get(&key)?.as_ref() == Some(&sealed) {
                break;
            }
        }
        self.note_damage(vec![key]);
        Ok(None)
    }

    /// The states whose keys begin with `prefix` and come after `after`, in the order of their keys: as many as fit into
    /// both bounds, at least one if there is one. Those that are damaged are left out.
    ///
    /// # Errors
    ///
    /// What the store fails with.
    pub fn states(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        states_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let mut from = key::state(after.unwrap_or(prefix).max(prefix));
        if after.is_some_and(|after| after >= prefix) {
            from.push(0);
        }
        let mut found = Vec::new();
        let mut bytes = 0;
        for entry in self.store.kv().range(&from, &key::all(key::STATE).1, Direction::Up) {
            let name = Bytes::from(entry?.0).slice(1..);
            if !name.starts_with(prefix) || found.len() >= states_max.max(1) {
                break;
            }
            let Some(state) = self.state(&name)? else { continue };
            bytes += name.len() + state.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((name, state));
        }
        Ok(found)
    }

    /// What sets a state, or deletes it.
    pub(super) fn state_change(&self, name: &[u8], state: Option<&[u8]>) -> Result<WriteBatch, LogError> {
        let (key, rest_key) = (key::state(name), key::state_rest(name));
        let old = match self.store.kv().get(&key)? {
            None => 0,
            Some(sealed) => match piece::open_small(&key, &sealed).and_then(StateHead::decode) {
                Ok(head) if head.rest_bytes == 0 => 0,
                Ok(head) => piece::count(head.rest_bytes),
                // Whatever it had.
                Err(Damaged) => piece::count(STATE_BYTES_MAX),
            },
        };
        let mut batch = WriteBatch::default();
        let mut kept = 0;
        match state {
            Some(state) => {
                let (first, rest) = state.split_at(state.len().min(StateHead::FIRST_BYTES_MAX));
                piece::put_small(&mut batch, key, &StateHead::new(first, rest).encode());
                if !rest.is_empty() {
                    piece::put(&mut batch, &rest_key, rest);
                    kept = piece::count(rest.len());
                }
            }
            None => batch.delete(key),
        }
        piece::delete_from(&mut batch, &rest_key, kept..old);
        Ok(batch)
    }

    /// A state with its rest; nothing if they are not of one time.
    fn whole(&self, name: &[u8], head: &StateHead<'_>) -> Result<Option<Bytes>, LogError> {
        let mut state = head.first.to_vec();
        if head.rest_bytes > 0 {
            match piece::read(self.store.kv(), &key::state_rest(name))? {
                StoredValue::Whole(rest) if head.has(&rest) => state.extend_from_slice(&rest),
                StoredValue::Whole(_)
                | StoredValue::Nothing
                | StoredValue::Beginning(_)
                | StoredValue::Incomplete
                | StoredValue::Damaged(_) => {
                    return Ok(None);
                }
            }
        }
        Ok(Some(state.into()))
    }
}

/// So often a state is read again because it is being replaced.
const TRIES_MAX: usize = 64;
