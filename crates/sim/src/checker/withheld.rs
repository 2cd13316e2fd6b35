//! Events that are kept from a reader because its connection follows a topic of their except lists: whose nths a reader
//! may pass over, and what must never be given to it. A server judges when it reads, which no entry shows. So an event
//! *may* be withheld if the topic was followed at any time since it was written, and *must* be if it was followed, as far
//! as the reader was told, since before that.

use std::collections::{BTreeMap, BTreeSet};

use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::Seq;

use super::owner::DurableKey;
use super::truth::Branch;
use crate::history::{Process, Run};

#[derive(Debug, Default)]
pub(super) struct Withheld {
    runs: BTreeMap<Run, Follows>,
    processes: BTreeMap<Process, Vec<Run>>,
    /// Which processes read under a name.
    readers: BTreeMap<DurableKey, BTreeSet<Process>>,
}

#[derive(Debug)]
struct Follows {
    topics: Vec<TopicName>,
    /// Whether nobody can take the subscription away.
    is_safe: bool,
    /// Since which entry the reader knows that it follows them, on its present connection.
    since: Option<usize>,
    /// At which entry it ended.
    ended: Option<usize>,
}

impl Withheld {
    pub(super) fn subscribing(
        &mut self,
        (process, run): (Process, Run),
        topics: &[TopicName],
        key: Option<&DurableKey>,
    ) {
        let is_safe = topics.len() == 1 && key.is_none_or(|key| !key.0.is_server());
        self.runs.insert(run, Follows { topics: topics.to_vec(), is_safe, since: None, ended: None });
        self.processes.entry(process).or_default().push(run);
        if let Some(key) = key {
            self.readers.entry(key.clone()).or_default().insert(process);
        }
    }

    pub(super) fn subscribed(&mut self, run: Run, entry: usize) {
        if let Some(follows) = self.runs.get_mut(&run) {
            follows.since = Some(entry);
        }
    }

    /// The run's app wants no more: from here on nothing is certain.
    pub(super) fn unsubscribing(&mut self, run: Run) {
        if let Some(follows) = self.runs.get_mut(&run) {
            follows.is_safe = false;
        }
    }

    pub(super) fn ended(&mut self, run: Run, entry: usize) {
        if let Some(follows) = self.runs.get_mut(&run) {
            follows.ended = Some(entry);
        }
    }

    /// A process has another connection, on which nothing is followed yet.
    pub(super) fn connecting(&mut self, process: Process) {
        for run in self.processes.get(&process).into_iter().flatten() {
            if let Some(follows) = self.runs.get_mut(run) {
                follows.since = None;
            }
        }
    }

    /// Whether a reader of this process may pass over an event.
    pub(super) fn may_be(&self, branch: &Branch, process: Process, seq: Seq) -> bool {
        let Some(event) = branch.logged(seq).filter(|event| !event.except.is_empty()) else { return false };
        self.of(process).any(|follows| {
            follows.ended.is_none_or(|ended| ended > event.commit)
                && follows.topics.iter().any(|topic| event.except.contains(topic))
        })
    }

    /// Whether a reader of this process must not be given an event.
    pub(super) fn must_be(&self, branch: &Branch, process: Process, seq: Seq) -> bool {
        let Some(event) = branch.logged(seq) else { return false };
        self.of(process).any(|follows| {
            follows.is_safe
                && follows.ended.is_none()
                && follows.since.is_some_and(|since| since < event.commit)
                && follows.topics.iter().any(|topic| event.except.contains(topic))
        })
    }

    /// Whether some reader under this name may have passed over an event.
    pub(super) fn may_be_of(&self, branch: &Branch, key: &DurableKey, seq: Seq) -> bool {
        self.readers.get(key).into_iter().flatten().any(|process| self.may_be(branch, *process, seq))
    }

    fn of(&self, process: Process) -> impl Iterator<Item = &Follows> {
        self.processes.get(&process).into_iter().flatten().filter_map(|run| self.runs.get(run))
    }
}
