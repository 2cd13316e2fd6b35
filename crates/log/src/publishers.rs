//! What is known of publishers: how far each has come, and what became of its recent numbers. Pure: what a commit changes
//! is collected in a [`PublisherDraft`] and taken over only once the commit is durable.

use std::collections::{BTreeMap, VecDeque};

use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::history::PublisherState;
use redeliver_protocol::seq::{EmitNumber, IdentityTag, PublisherId, Seq};
use redeliver_protocol::time::Timestamp;

use crate::layout::value::{PublisherEntry, StoredEmit};

/// Most refused numbers that are remembered of a publisher since its last event. Older ones are answered as forgotten.
pub(crate) const REFUSED_MAX: usize = 256;

/// All publishers of the log.
#[derive(Debug, Default)]
pub(crate) struct Publishers {
    all: BTreeMap<PublisherId, Publisher>,
    /// Where the search for idle ones goes on.
    searched: Option<PublisherId>,
}

/// One publisher.
#[derive(Clone, Debug, Default)]
pub(crate) struct Publisher {
    /// Whose it is. Nothing if it emitted before that was remembered.
    owner: Option<IdentityTag>,
    /// Every number up to this one is decided.
    last: EmitNumber,
    /// When it last emitted, by the paced clock.
    when: Timestamp,
    /// Numbers whose events are not folded yet, and final refusals among them, in order.
    recent: VecDeque<StoredEmit>,
    /// Whether nobody emits as it any more.
    is_retired: bool,
    /// Final refusals since its last event. They become durable with its next one.
    refused: VecDeque<(EmitNumber, RefusalCode)>,
}

/// What one commit changes of one publisher.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublisherDraft {
    pub(crate) owner: IdentityTag,
    pub(crate) last: EmitNumber,
    /// Its new emits and the refusals among them, in order.
    pub(crate) emits: Vec<StoredEmit>,
}

impl Publishers {
    /// What a publisher that connects is told. `settled` is its own claim.
    pub(crate) fn state(&self, id: PublisherId, settled: EmitNumber) -> PublisherState {
        match self.all.get(&id) {
            Some(publisher) => PublisherState::Reached(publisher.last),
            None if settled == EmitNumber::ZERO => PublisherState::New,
            None => PublisherState::Forgotten,
        }
    }

    /// Whether an identity may speak for a publisher.
    pub(crate) fn belongs_to(&self, id: PublisherId, owner: IdentityTag) -> bool {
        self.owner(id).is_none_or(|known| known == owner)
    }

    /// Whose a publisher is, if that is known.
    pub(crate) fn owner(&self, id: PublisherId) -> Option<IdentityTag> {
        self.all.get(&id)?.owner
    }

    /// Takes over whose a known publisher is, at open.
    pub(crate) fn load_owner(&mut self, id: PublisherId, owner: IdentityTag) {
        if let Some(publisher) = self.all.get_mut(&id) {
            publisher.owner = Some(owner);
        }
    }

    pub(crate) fn find(&self, id: PublisherId) -> Option<&Publisher> {
        self.all.get(&id)
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes over what its own key says, at open.
    pub(crate) fn load(&mut self, id: PublisherId, entry: PublisherEntry) {
        let publisher = self.all.entry(id).or_default();
        (publisher.last, publisher.when) = (entry.last, entry.when);
    }

    /// Takes over what a durable commit changed, or what is consumed without one.
    pub(crate) fn apply(&mut self, id: PublisherId, draft: PublisherDraft, when: Timestamp) {
        let publisher = self.all.entry(id).or_default();
        publisher.owner.get_or_insert(draft.owner);
        publisher.last = publisher.last.max(draft.last);
        publisher.when = publisher.when.max(when);
        publisher.is_retired = false;
        let stored = draft.emits.iter().rposition(|emit| emit.seq > Seq::ZERO).map_or(0, |at| at + 1);
        if stored > 0 {
            for refused in std::mem::take(&mut publisher.refused) {
                publisher.remember(refusal(refused));
            }
        }
        for (at, emit) in draft.emits.into_iter().enumerate() {
            if at < stored {
                publisher.remember(emit);
            } else if let Some(code) = refusal_code(&emit) {
                publisher.refused.push_back((emit.number, code));
            }
        }
        while publisher.refused.len() > REFUSED_MAX {
            publisher.refused.pop_front();
        }
    }

    /// Takes over one emit of a commit that is read back at open.
    pub(crate) fn replay(&mut self, id: PublisherId, emit: StoredEmit, when: Timestamp) {
        let publisher = self.all.entry(id).or_default();
        publisher.last = publisher.last.max(emit.number);
        publisher.when = publisher.when.max(when);
        publisher.remember(emit);
    }

    /// Forgets emits that a fold has put into their own keys.
    pub(crate) fn folded_through(&mut self, id: PublisherId, through: Seq) {
        let Some(publisher) = self.all.get_mut(&id) else { return };
        let is_folded = |emit: &StoredEmit| emit.seq > Seq::ZERO && emit.seq <= through;
        let last =
            publisher.recent.iter().rev().find(|emit| is_folded(emit)).map_or(EmitNumber::ZERO, |emit| emit.number);
        // Refusals went with the event after them.
        publisher.recent.retain(|emit| emit.seq > through || (emit.seq == Seq::ZERO && emit.number > last));
        if publisher.recent.is_empty() {
            publisher.recent = VecDeque::new();
        }
    }

    /// Looks at the next few publishers and gives those that have not emitted since `before` and have nothing unfolded.
    pub(crate) fn idle_since(&mut self, before: Timestamp, count: usize) -> (Vec<PublisherId>, bool) {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.searched.map_or(Unbounded, Excluded);
        let mut idle = Vec::new();
        let mut looked = 0;
        for (id, publisher) in self.all.range((from, Unbounded)).take(count) {
            looked += 1;
            self.searched = Some(*id);
            if publisher.is_idle(before) {
                idle.push(*id);
            }
        }
        let is_through = looked < count;
        if is_through {
            self.searched = None;
        }
        (idle, is_through)
    }

    /// Whether a publisher is known that has not emitted since `before` and has nothing unfolded.
    pub(crate) fn is_idle(&self, id: PublisherId, before: Timestamp) -> bool {
        self.all.get(&id).is_some_and(|publisher| publisher.is_idle(before))
    }

    /// Lets a publisher expire at once, until it emits again.
    pub(crate) fn retire(&mut self, id: PublisherId) {
        if let Some(publisher) = self.all.get_mut(&id) {
            publisher.is_retired = true;
        }
    }

    pub(crate) fn forget(&mut self, id: PublisherId) {
        self.all.remove(&id);
    }
}

impl Publisher {
    /// Puts an emit where its number belongs, in place of what was known of that number.
    fn remember(&mut self, emit: StoredEmit) {
        if self.recent.back().is_none_or(|last| last.number < emit.number) {
            return self.recent.push_back(emit);
        }
        let at = self.recent.partition_point(|other| other.number < emit.number);
        match self.recent.get_mut(at) {
            Some(same) if same.number == emit.number => *same = emit,
            Some(_) | None => self.recent.insert(at, emit),
        }
    }

    fn is_idle(&self, before: Timestamp) -> bool {
        (self.when < before || self.is_retired) && self.recent.is_empty()
    }

    pub(crate) fn last(&self) -> EmitNumber {
        self.last
    }

    /// What became of a number, if its event is not folded yet or it was refused lately.
    pub(crate) fn emit(&self, number: EmitNumber) -> Option<StoredEmit> {
        let at = self.recent.partition_point(|emit| emit.number <= number);
        if let Some(emit) = at.checked_sub(1).and_then(|at| found(&self.recent[at], number)) {
            return Some(emit);
        }
        self.refused.iter().find(|(refused, _)| *refused == number).copied().map(refusal)
    }

    /// Final refusals that the next commit with an event of this publisher makes durable.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (EmitNumber, RefusalCode)> + '_ {
        self.refused.iter().copied()
    }
}

/// What an emit says of a number, if it is the last one up to that number.
pub(crate) fn found(emit: &StoredEmit, number: EmitNumber) -> Option<StoredEmit> {
    match refusal_code(emit) {
        Some(HOLE_BEGINS | RefusalCode::NUMBER_SKIPPED) if emit.number <= number => {
            let is_in_hole = emit.number == number || refusal_code(emit) == Some(HOLE_BEGINS);
            is_in_hole.then(|| refusal((number, RefusalCode::NUMBER_SKIPPED)))
        }
        Some(_) | None => Some(*emit).filter(|emit| emit.number == number),
    }
}

/// The numbers after `last` and before `next`, which were said to be settled but never came: as refusals, of which the
/// first stands for all up to the second.
pub(crate) fn hole(last: EmitNumber, next: EmitNumber) -> impl Iterator<Item = StoredEmit> {
    let (first, end) = (last.0.saturating_add(1), next.0.saturating_sub(1));
    let begin = (first < end).then(|| refusal((EmitNumber(first), HOLE_BEGINS)));
    let end = (first <= end).then(|| refusal((EmitNumber(end), RefusalCode::NUMBER_SKIPPED)));
    begin.into_iter().chain(end)
}

/// The first number of several that were passed over. It is in the store alone.
const HOLE_BEGINS: RefusalCode = RefusalCode(u16::MAX);

/// A final refusal as it is remembered.
pub(crate) fn refusal((number, code): (EmitNumber, RefusalCode)) -> StoredEmit {
    StoredEmit { number, seq: Seq::ZERO, content: u64::from(code.0) }
}

/// The code of a refusal; nothing for an event.
pub(crate) fn refusal_code(emit: &StoredEmit) -> Option<RefusalCode> {
    if emit.seq > Seq::ZERO {
        return None;
    }
    Some(RefusalCode(u16::try_from(emit.content).unwrap_or(RefusalCode::INVALID.0)))
}
