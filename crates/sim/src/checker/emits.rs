//! Emits: what was asked for, what became of it, and who must be told when acknowledged ones are gone.

use std::collections::{BTreeMap, BTreeSet};

use redeliver_protocol::client::EmitOutcome;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::seq::{Position, Seq};

use super::emitted::{Emit, Emitted};
use super::truth::Truth;
use super::{Case, Rule};
use crate::history::{EmitKey, Kept, Process};

#[derive(Debug, Default)]
pub(super) struct Emits {
    pub(super) emitted: Emitted,
    pending: BTreeSet<(Process, EmitKey)>,
    acked: BTreeMap<(Process, EmitKey), Position>,
    /// The first number of which a process was told where it is, on each line of history.
    remembered: BTreeMap<(Process, usize), u64>,
    lost: BTreeMap<(Process, u32), Vec<(u64, u64)>>,
}

impl Emits {
    pub(super) fn emitting(
        &mut self,
        case: &mut Case,
        truth: &Truth,
        (process, key): (Process, EmitKey),
        event: &NewEvent,
    ) {
        self.pending.insert((process, key));
        self.emitted.payloads.insert(event.payload.clone(), key);
        let bound = truth.current().map_or((usize::MAX, Seq::ZERO), |branch| (branch.line, branch.acked_through));
        let emit = self.emitted.emits.entry(key).or_insert_with(|| Emit {
            event: event.clone(),
            refused: false,
            acked_before: bound,
            tries: 0,
            was_unknown: false,
        });
        emit.tries += 1;
        case.must(emit.event == *event, Rule::NothingInvented, || format!("{key:?} was emitted with two contents"));
    }

    pub(super) fn crashed(&mut self, process: Process) {
        self.pending.retain(|(owner, _)| *owner != process);
        self.acked.retain(|(owner, _), _| *owner != process);
    }

    /// Judges an outcome; says whether it is an acknowledgement.
    pub(super) fn done(
        &mut self,
        case: &mut Case,
        truth: &mut Truth,
        process: Process,
        key: EmitKey,
        outcome: EmitOutcome,
    ) -> bool {
        case.must(self.pending.remove(&(process, key)), Rule::NothingInvented, || {
            format!("{key:?} was decided twice, or was never emitted by {process:?}: {outcome:?}")
        });
        let Some(emit) = self.emitted.emits.get_mut(&key) else { return false };
        let stored_at = truth.of(process).and_then(|branch| branch.keys.get(&key).copied());
        let line = truth.of(process).map_or(usize::MAX, |branch| branch.line);
        match outcome {
            EmitOutcome::Stored { position, .. } => {
                case.must(truth.at(position) == Some(key), Rule::AcknowledgedIsStored, || {
                    format!("{key:?} was acknowledged at {position}, where {:?} is", truth.at(position))
                });
                let there = truth.of(process).is_some_and(|branch| branch.has(position));
                case.must(there && stored_at == Some(position.seq), Rule::AcknowledgedIsStored, || {
                    format!("{key:?} was acknowledged at {position}, the log has it at {stored_at:?}")
                });
                truth.acknowledged(process, position.seq);
                self.acked.insert((process, key), position);
                self.remembered.entry((process, line)).or_insert(key.index);
                true
            }
            EmitOutcome::StoredLongAgo => {
                // A log that lost its memory of a publisher (it was put back or wiped, or crashed behind refusals alone)
                // takes that publisher's word for what it had settled. It cannot tell a later process of the same
                // publisher that this is not here; the earlier one was told `Unknown` or `EmitsLost`.
                let forgot = truth.of(process).is_some_and(|branch| branch.line > 0) || emit.was_unknown;
                // What is trimmed is forgotten, and the numbers that never came among it. Else what it still knows of is
                // not older than what it has forgotten.
                let trims = truth.kept != Kept::default();
                let remembers = self.remembered.get(&(process, line)).is_some_and(|first| *first < key.index);
                let on_word = trims || (forgot && !remembers);
                case.must(stored_at.is_some() || on_word, Rule::AcknowledgedIsStored, || {
                    format!("{key:?} was acknowledged as stored long ago and is not in the log")
                });
                true
            }
            EmitOutcome::Refused(code) => {
                case.must(stored_at.is_none(), Rule::AcknowledgedIsStored, || {
                    format!("{key:?} was refused and is stored")
                });
                emit.refused |= code.is_final();
                false
            }
            EmitOutcome::NotSent => {
                case.must(stored_at.is_none() || emit.tries > 1, Rule::AcknowledgedIsStored, || {
                    format!("{key:?} is said not to have been sent, and is stored")
                });
                false
            }
            EmitOutcome::Unknown => {
                emit.was_unknown = true;
                false
            }
        }
    }

    pub(super) fn lost(&mut self, process: Process, publisher: u32, from: u64, through: u64) {
        self.lost.entry((process, publisher)).or_default().push((from, through));
    }

    /// Everything is decided; and whoever had an acknowledged emit that is gone from the log knows it, unless the log
    /// has no memory of that publisher at all.
    pub(super) fn settled(&mut self, case: &mut Case, truth: &Truth, processes: &[Process]) {
        let open: Vec<_> = self.pending.iter().filter(|(process, _)| processes.contains(process)).collect();
        case.must(open.is_empty(), Rule::Settles, || {
            format!("{} emits are still not decided: {:?} …", open.len(), open[0])
        });
        let Some(branch) = truth.current() else { return };
        for ((process, key), position) in self.acked.iter().filter(|((process, _), _)| processes.contains(process)) {
            // A copy that was put back may have it from an earlier try, elsewhere.
            let is_there = branch.has(*position) || branch.keys.contains_key(key);
            if is_there || !branch.remembered.contains(&key.publisher) {
                continue;
            }
            let told = self.lost.get(&(*process, key.publisher));
            let told =
                told.is_some_and(|ranges| ranges.iter().any(|(from, to)| *from <= key.index && key.index <= *to));
            case.must(told, Rule::Told, || {
                format!("{key:?} was acknowledged at {position}, is gone, and {process:?} was not told")
            });
        }
    }
}
