//! Merged subscriptions: does a row show the events of all its topics, each once, in the order of the log, and every gap?
//! Rows are drawn only where no store is lost, so one line of history is all that there is.

use std::collections::{BTreeMap, BTreeSet};

use redeliver_protocol::client::StreamItem;
use redeliver_protocol::event::Record;
use redeliver_protocol::history::Gap;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Nth, Position, Seq};

use super::emitted::Emitted;
use super::truth::{Branch, Truth, check_content};
use super::withheld::Withheld;
use super::{Case, Figures, Rule};
use crate::history::{Process, Run};

#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<Run, Row>,
}

#[derive(Debug)]
struct Row {
    process: Process,
    /// Up to which nth each topic is accounted for; `None` until its first event or gap.
    accounted: BTreeMap<TopicName, Option<Nth>>,
    /// What was told as gone, by whichever of its topics.
    gone: BTreeSet<Seq>,
    last: Seq,
    is_over: bool,
}

impl Rows {
    pub(super) fn subscribing(&mut self, process: Process, run: Run, topics: &[TopicName]) {
        let accounted = topics.iter().map(|topic| (topic.clone(), None)).collect();
        self.rows.insert(run, Row { process, accounted, gone: BTreeSet::new(), last: Seq::ZERO, is_over: false });
    }

    pub(super) fn ended(&mut self, run: Run) {
        if let Some(row) = self.rows.get_mut(&run) {
            row.is_over = true;
        }
    }

    pub(super) fn delivered(
        &mut self,
        (case, truth, emitted, withheld): (&mut Case, &mut Truth, &Emitted, &Withheld),
        figures: &mut Figures,
        (run, topic): (Run, Option<&TopicName>),
        delivery: &StreamItem,
    ) {
        let Some(row) = self.rows.get_mut(&run) else { return };
        case.must(!row.is_over, Rule::OneOwner, || format!("{run:?} has ended and is given {delivery:?}"));
        let Some(branch) = truth.of(row.process) else {
            case.must(false, Rule::NothingInvented, || format!("{run:?} is given {delivery:?} without a connection"));
            return;
        };
        match (delivery, topic) {
            (StreamItem::Event { epoch, record, .. }, Some(topic)) => {
                figures.merged += 1;
                row.event((case, branch, withheld), (run, topic), record);
                check_content(case, truth, emitted, topic, Position::new(*epoch, record.seq), record);
            }
            (StreamItem::Gap { gap, .. }, Some(topic)) => row.gap((case, branch, withheld), (run, topic), gap),
            (StreamItem::CaughtUp { seq }, _) => {
                row.has_all((case, branch, withheld), run, *seq);
            }
            (StreamItem::Event { .. } | StreamItem::Gap { .. }, None) => {
                case.must(false, Rule::NothingInvented, || format!("{run:?} is given {delivery:?} of no topic"));
            }
            (StreamItem::Subscribed { .. } | StreamItem::Volatile { .. }, _) => {}
        }
    }

    /// Whoever lives has everything.
    pub(super) fn settled(&self, case: &mut Case, truth: &Truth, withheld: &Withheld, processes: &[Process]) {
        let Some(branch) = truth.current() else { return };
        let living: BTreeSet<&Process> = processes.iter().collect();
        for (run, row) in self.rows.iter().filter(|(_, row)| !row.is_over && living.contains(&row.process)) {
            for (topic, accounted) in &row.accounted {
                let last = branch.last_nth(topic);
                let has = accounted.unwrap_or_else(|| branch.floor(topic));
                let has = row.over_withheld(branch, withheld, topic, (has, last));
                case.must(has >= last, Rule::Settles, || format!("{run:?} has {has} of {last} events of {topic}"));
            }
        }
    }
}

impl Row {
    fn event(
        &mut self,
        (case, branch, withheld): (&mut Case, &Branch, &Withheld),
        (run, by): (Run, &TopicName),
        record: &Record,
    ) {
        let seq = record.seq;
        case.must(!withheld.must_be(branch, self.process, seq), Rule::Withheld, || {
            format!("{run:?} is given {seq}, although its process follows a topic of its except list")
        });
        case.must(seq > self.last, Rule::RisingSeqs, || format!("{run:?} is given {seq} after {}", self.last));
        self.last = self.last.max(seq);
        let right = branch.nth_at(by, seq) == record.nth;
        case.must(right, Rule::Complete, || format!("{run:?}: {seq} has not nth {} in {by}", record.nth));
        let had: BTreeMap<TopicName, Nth> = self
            .accounted
            .iter()
            .map(|(topic, accounted)| {
                let has = accounted.unwrap_or_else(|| branch.floor(topic));
                let is_of_topic = branch.seqs(topic).binary_search(&seq).is_ok();
                let due = Nth(branch.nth_at(topic, seq).0 - u64::from(is_of_topic));
                (topic.clone(), self.over_withheld(branch, withheld, topic, (has, due)))
            })
            .collect();
        for (topic, accounted) in &mut self.accounted {
            let through = branch.nth_at(topic, seq);
            let is_of_topic = branch.seqs(topic).binary_search(&seq).is_ok();
            let due = Nth(through.0 - u64::from(is_of_topic));
            let has = had.get(topic).copied().unwrap_or_default();
            case.must(has >= due, Rule::Complete, || {
                format!("{run:?} is given {seq} by {by} and has only {has} of {due} events of {topic} before it")
            });
            if accounted.is_some() || through > branch.floor(topic) {
                *accounted = Some(has.max(through));
            }
        }
    }

    /// How far a topic is accounted for if what may be withheld from the row is passed over, up to a second nth.
    fn over_withheld(&self, branch: &Branch, withheld: &Withheld, topic: &TopicName, (has, due): (Nth, Nth)) -> Nth {
        let between = branch.keys_between(topic, has, due);
        let passed = between
            .iter()
            .take_while(|(_, seq)| self.gone.contains(seq) || withheld.may_be(branch, self.process, *seq))
            .count();
        Nth(has.0 + passed as u64)
    }

    fn gap(
        &mut self,
        (case, branch, withheld): (&mut Case, &Branch, &Withheld),
        (run, topic): (Run, &TopicName),
        gap: &Gap,
    ) {
        let right = branch.nth_at(topic, gap.through.seq) == gap.nth_through;
        case.must(right, Rule::TrueGaps, || format!("{run:?} is told a gap of {topic} with a wrong nth: {gap:?}"));
        case.must(gap.nth_through <= branch.floor(topic), Rule::TrueGaps, || {
            format!("{run:?} is told a gap over what is still in {topic}: {gap:?}")
        });
        let from = branch.nth_at(topic, gap.after.seq);
        let counts = gap.nth_through.0.saturating_sub(from.0);
        case.must(gap.count == counts, Rule::TrueGaps, || {
            format!("{run:?} is told a gap of {topic} of another count than {counts}: {gap:?}")
        });
        self.gone.extend(branch.keys_between(topic, from, gap.nth_through).into_iter().map(|(_, seq)| seq));
        let has = self.accounted.get(topic).copied().flatten();
        // What the topic was told to skip before the gap comes, or is told as gone, by another topic of the row.
        for nth in has.map_or(from.0, |has| has.0)..from.0 {
            let seq = usize::try_from(nth).ok().and_then(|at| branch.seqs(topic).get(at)).copied().unwrap_or_default();
            let is_of = |other: &&TopicName| branch.seqs(other).binary_search(&seq).is_ok();
            if withheld.may_be(branch, self.process, seq) {
                continue;
            }
            case.must(self.accounted.keys().filter(is_of).count() > 1, Rule::Complete, || {
                format!("{run:?} was never given {seq} of {topic}, and is told a gap after it: {gap:?}")
            });
        }
        let Some(accounted) = self.accounted.get_mut(topic) else { return };
        *accounted = Some(accounted.unwrap_or_default().max(gap.nth_through));
    }

    fn has_all(&self, (case, branch, withheld): (&mut Case, &Branch, &Withheld), run: Run, seq: Seq) {
        for (topic, accounted) in &self.accounted {
            let owed = branch.nth_at(topic, seq);
            let has = accounted.unwrap_or_else(|| branch.floor(topic));
            let has = self.over_withheld(branch, withheld, topic, (has, owed));
            case.must(has >= owed, Rule::Complete, || {
                format!("{run:?} caught up at {seq} with {has} of {owed} events of {topic}")
            });
        }
    }
}
