//! What apps asked to be emitted: one content for each key, whichever processes tried it. Judges nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::seq::Seq;

use crate::history::EmitKey;

/// All emits that were asked for.
#[derive(Debug, Default)]
pub(super) struct Emitted {
    pub(super) emits: BTreeMap<EmitKey, Emit>,
    pub(super) payloads: BTreeMap<Bytes, EmitKey>,
}

/// One emit, whichever processes tried it.
#[derive(Debug)]
pub(super) struct Emit {
    pub(super) event: NewEvent,
    pub(super) refused: bool,
    /// The line of history, and the highest seq in it that was acknowledged to anybody before this was first emitted.
    pub(super) acked_before: (usize, Seq),
    pub(super) tries: u32,
    pub(super) was_unknown: bool,
}

impl Emitted {
    pub(super) fn known(&self, key: EmitKey) -> Option<&Emit> {
        self.emits.get(&key)
    }

    /// Payloads are unlike one another: each names its emit.
    pub(super) fn key_of(&self, payload: &Bytes) -> Option<EmitKey> {
        self.payloads.get(payload).copied()
    }
}
