//! One reader's run: does it see everything after its start, once, in order, and every gap as it is?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use redeliver_protocol::client::{StreamItem, SubscriptionEnd};
use redeliver_protocol::event::Record;
use redeliver_protocol::frame::Window;
use redeliver_protocol::history::{Gap, GapCause, Place, Start};
use redeliver_protocol::name::TopicName;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq};

use super::durable::Durables;
use super::emitted::Emitted;
use super::owner::DurableKey;
use super::truth::{Branch, Truth, check_content};
use super::withheld::Withheld;
use super::{Case, Figures, Rule};
use crate::history::{Entry, Process, Run};

#[derive(Debug, Default)]
pub(super) struct Readers {
    runs: BTreeMap<Run, Reader>,
    pub(super) durable: Durables,
    pub(super) withheld: Withheld,
    settled: BTreeSet<Run>,
    connections: BTreeMap<Process, u64>,
}

/// A run so far.
#[derive(Debug)]
struct Reader {
    process: Process,
    topic: TopicName,
    start: Start,
    rewinds: bool,
    window: Window,
    durable: Option<DurableKey>,
    /// What the log looked like when the app subscribed.
    asked: Asked,
    place: Option<ReaderPoint>,
    /// From which place the client's own store or the app's position makes it begin.
    known: Option<Place>,
    told: Option<(Position, Nth)>,
    /// When the app subscribed, as the number of the entry.
    subscribed: usize,
    /// When the present stream began, as the number of its entry.
    begun: usize,
    items: VecDeque<Item>,
    acked: VecDeque<Item>,
    handed: BTreeSet<(Epoch, Seq)>,
    /// The last place in each epoch that the run has been to.
    been: BTreeMap<Epoch, (Seq, Nth)>,
    repeats: u32,
    repeats_max: u32,
    over: bool,
    /// When its process or itself came to an end, as the number of the entry.
    gone: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct ReaderPoint {
    position: Position,
    nth: Nth,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    line: usize,
    head: Seq,
    last: Nth,
    floor: Nth,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    position: Position,
    is_event: bool,
    handled: bool,
}

impl Readers {
    pub(super) fn subscribing(&mut self, truth: &Truth, at: usize, entry: &Entry) {
        let Entry::Subscribing { process, run, topic, start, window, keeper, stored, rewinds } = entry else { return };
        let asked = truth.current().map_or(
            Asked { line: usize::MAX, head: Seq::ZERO, last: Nth::ZERO, floor: Nth::ZERO },
            |branch| Asked {
                line: branch.line,
                head: branch.head(),
                last: branch.last_nth(topic),
                floor: branch.floor(topic),
            },
        );
        let durable = self.durable.begin(keeper, (*run, topic, *window), *rewinds);
        self.withheld.subscribing((*process, *run), std::slice::from_ref(topic), durable.as_ref());
        let known = match (stored, start) {
            (Some(cursor), _) => Some(cursor.place.clone()),
            (None, Start::After(known)) => Some(known.clone()),
            (None, _) => None,
        };
        let been = known.iter().flat_map(|known| {
            let last = (known.position.epoch, (known.position.seq, known.nth));
            known.earlier.iter().rev().map(|p| (p.epoch, (p.seq, Nth::ZERO))).chain([last])
        });
        let reader = Reader {
            process: *process,
            topic: topic.clone(),
            start: start.clone(),
            rewinds: *rewinds,
            window: *window,
            durable,
            asked,
            place: None,
            been: been.collect(),
            known,
            told: None,
            subscribed: at,
            begun: 0,
            items: VecDeque::new(),
            acked: VecDeque::new(),
            handed: BTreeSet::new(),
            repeats: 0,
            repeats_max: 0,
            over: false,
            gone: None,
        };
        self.runs.insert(*run, reader);
    }

    pub(super) fn delivered(
        &mut self,
        case: &mut Case,
        truth: &mut Truth,
        emitted: &Emitted,
        figures: &mut Figures,
        run: Run,
        delivery: &StreamItem,
    ) {
        let excuse = self.excuse(run);
        let Some(reader) = self.runs.get_mut(&run) else { return };
        case.must(!reader.over, Rule::OneOwner, || format!("{run:?} has ended and is given {delivery:?}"));
        let Some(branch) = truth.of(reader.process) else {
            case.must(false, Rule::NothingInvented, || format!("{run:?} is given {delivery:?} without a connection"));
            return;
        };
        let mut ctx = Ctx { case, branch, durable: &mut self.durable, withheld: &self.withheld, run, excuse };
        match delivery {
            StreamItem::Subscribed { after, nth, .. } => {
                reader.settle_subscribed(&mut ctx, None);
                if let Some(key) = &reader.durable {
                    ctx.durable.stream_began(key);
                }
                reader.told = Some((*after, *nth));
                // What counts is when the server gave it the topic: the news travels at different speeds.
                let connection = self.connections.get(&reader.process).copied().unwrap_or(0);
                let granted = reader.durable.as_ref().and_then(|key| ctx.durable.granted(key, connection));
                reader.begun = granted.unwrap_or(ctx.case.entry);
                let entry = ctx.case.entry;
                self.withheld.subscribed(run, entry);
            }
            StreamItem::Event { epoch, record, redelivered, .. } => {
                reader.settle_subscribed(&mut ctx, None);
                figures.delivered += 1;
                figures.redelivered += u64::from(*redelivered);
                reader.event(&mut ctx, *epoch, record, *redelivered);
                let position = Position::new(*epoch, record.seq);
                check_content(case, truth, emitted, &reader.topic, position, record);
            }
            StreamItem::Gap { gap, .. } => {
                figures.gaps += 1;
                figures.epoch_gaps += u64::from(gap.cause == GapCause::EpochChanged);
                if !reader.settle_subscribed(&mut ctx, Some(gap)) {
                    reader.gap(&mut ctx, gap);
                }
            }
            // It has no place that could be wrong.
            StreamItem::Volatile { .. } => {}
            StreamItem::CaughtUp { seq } => {
                reader.settle_subscribed(&mut ctx, None);
                let owed = branch.nth_at(&reader.topic, *seq);
                reader.pass_over(&mut ctx, owed);
                let place = reader.place.map_or(Nth::ZERO, |place| place.nth);
                ctx.case.must(place >= owed, Rule::Complete, || {
                    format!("{run:?} caught up at nth {place} instead of {owed}")
                });
            }
        }
    }

    /// A process is about to have another connection: what it was told on the one before is judged by that one's log.
    pub(super) fn connecting(&mut self, case: &mut Case, truth: &Truth, process: Process, connection: u64) {
        self.connections.insert(process, connection);
        self.withheld.connecting(process);
        let runs: Vec<Run> = self.runs.iter().filter(|(_, r)| r.process == process).map(|(run, _)| *run).collect();
        let excuses: BTreeMap<Run, Nth> = runs.into_iter().map(|run| (run, self.excuse(run))).collect();
        let Some(branch) = truth.of(process) else { return };
        for (run, reader) in self.runs.iter_mut().filter(|(_, reader)| reader.process == process) {
            let excuse = excuses.get(run).copied().unwrap_or_default();
            let (durable, withheld) = (&mut self.durable, &self.withheld);
            reader.settle_subscribed(&mut Ctx { case, branch, durable, withheld, run: *run, excuse }, None);
        }
    }

    /// A process ended without a goodbye.
    pub(super) fn crashed(&mut self, process: Process, entry: usize) {
        for reader in self.runs.values_mut().filter(|reader| reader.process == process) {
            reader.gone.get_or_insert(entry);
        }
    }

    /// Up to which nth another reader of the same name may take the cursor, which began before a rewind moved it: by what
    /// it has handled itself.
    fn excuse(&self, run: Run) -> Nth {
        let Some(key) = self.runs.get(&run).and_then(|reader| reader.durable.as_ref()) else { return Nth::ZERO };
        let moved_at = self.durable.moved_at(key);
        let rivals = self.runs.values().filter(|reader| {
            reader.durable.as_ref() == Some(key)
                && reader.subscribed < moved_at
                && reader.gone.is_none_or(|gone| gone > moved_at)
        });
        rivals.filter_map(|reader| reader.place).map(|place| place.nth).max().unwrap_or_default()
    }

    pub(super) fn handled(&mut self, case: &mut Case, run: Run, position: Position) {
        let Some(reader) = self.runs.get_mut(&run) else { return };
        let item = reader.items.iter_mut().find(|item| item.position == position && !item.handled);
        let Some(item) = item else {
            case.must(false, Rule::NothingInvented, || format!("{run:?} handled {position}, which it was not given"));
            return;
        };
        item.handled = true;
        if let (Some(key), true) = (&reader.durable, item.is_event) {
            self.durable.handled(key, (position.epoch, position.seq));
        }
    }

    pub(super) fn acked(&mut self, case: &mut Case, run: Run, position: Position) {
        let Some(reader) = self.runs.get_mut(&run) else { return };
        let Some(at) = reader.items.iter().position(|item| item.position == position) else {
            case.must(false, Rule::AckAfterHandler, || {
                format!("{run:?} acknowledged {position}, which it was not given")
            });
            return;
        };
        let acked: Vec<Item> = reader.items.drain(..=at).collect();
        let handled = acked.iter().all(|item| item.handled);
        case.must(handled, Rule::AckAfterHandler, || {
            format!("{run:?} acknowledged {position} before its handler was done")
        });
        reader.acked.extend(acked);
    }

    pub(super) fn confirmed(&mut self, case: &mut Case, truth: &Truth, run: Run, seq: Seq) {
        let Some(reader) = self.runs.get_mut(&run) else { return };
        let Some(at) = reader.acked.iter().position(|item| item.position.seq == seq) else {
            // The cursor went on by another reader of the same name. That covers what this one had acknowledged.
            let covers = reader.acked.back().is_some_and(|last| last.position.seq < seq);
            let is_withheld = truth.of(reader.process).is_some_and(|b| self.withheld.may_be(b, reader.process, seq));
            let given = reader.place.is_some_and(|place| place.position.seq >= seq) || reader.told.is_some();
            let given = given || is_withheld;
            case.must(!covers || given || reader.durable.is_some(), Rule::AckAfterHandler, || {
                format!("{seq} is confirmed to {run:?}, which never acknowledged it")
            });
            // Or it is that of an event that was withheld.
            reader.acked.retain(|item| item.position.seq > seq);
            return;
        };
        let done: Vec<Item> = reader.acked.drain(..=at).collect();
        // What a server confirmed whose store was then lost binds nobody any more.
        let line = |branch: Option<&Branch>| branch.map(|branch| branch.line);
        let is_past = line(truth.of(reader.process)) != line(truth.current());
        if let Some(key) = reader.durable.as_ref().filter(|key| !(is_past && key.0.is_server())) {
            for item in done.iter().filter(|item| item.is_event) {
                self.durable.confirmed(key, (item.position.epoch, item.position.seq), reader.begun);
            }
        }
    }

    pub(super) fn ended(
        &mut self,
        case: &mut Case,
        truth: &Truth,
        figures: &mut Figures,
        run: Run,
        why: &SubscriptionEnd,
    ) {
        let excuse = self.excuse(run);
        let Some(reader) = self.runs.get_mut(&run) else { return };
        case.must(!reader.over, Rule::OneOwner, || format!("{run:?} ended twice"));
        if let Some(branch) = truth.of(reader.process) {
            let (durable, withheld) = (&mut self.durable, &self.withheld);
            reader.settle_subscribed(&mut Ctx { case, branch, durable, withheld, run, excuse }, None);
        }
        reader.over = true;
        reader.gone.get_or_insert(case.entry);
        self.withheld.ended(run, case.entry);
        figures.takeovers += u64::from(*why == SubscriptionEnd::TakenOver);
    }

    pub(super) fn settled(&mut self, case: &mut Case, truth: &Truth, runs: &[Run]) {
        let Some(branch) = truth.current() else { return };
        for run in runs {
            let excuse = self.excuse(*run);
            let Some(reader) = self.runs.get_mut(run) else { continue };
            let (durable, withheld) = (&mut self.durable, &self.withheld);
            let mut ctx = Ctx { case, branch, durable, withheld, run: *run, excuse };
            reader.settle_subscribed(&mut ctx, None);
            let last = branch.last_nth(&reader.topic);
            reader.pass_over(&mut ctx, last);
            let place = reader.place;
            case.must(place.is_some_and(|place| place.nth == last), Rule::Settles, || {
                format!("{run:?} stands at {place:?}, {} has {last} events", reader.topic)
            });
            let waiting = reader.items.iter().filter(|item| !item.handled).count();
            case.must(waiting == 0, Rule::Settles, || format!("{run:?} has still {waiting} events to handle"));
            self.settled.insert(*run);
        }
    }

    pub(super) fn shut_down(&mut self, case: &mut Case) {
        for run in &self.settled {
            let Some(reader) = self.runs.get(run) else { continue };
            let open = reader.acked.len();
            case.must(open == 0 || reader.durable.is_none(), Rule::Settles, || {
                format!("{run:?} said goodbye with {open} acks that were not confirmed")
            });
        }
    }
}

/// What a reader is judged against.
struct Ctx<'a> {
    case: &'a mut Case,
    branch: &'a Branch,
    durable: &'a mut Durables,
    withheld: &'a Withheld,
    run: Run,
    /// Up to which nth another reader may have taken the cursor.
    excuse: Nth,
}

impl Reader {
    /// Judges what `Subscribed` said, now that it is known whether a gap follows it. Says whether it took the gap.
    fn settle_subscribed(&mut self, ctx: &mut Ctx<'_>, gap: Option<&Gap>) -> bool {
        let Some((after, nth)) = self.told.take() else { return false };
        let (run, topic) = (ctx.run, self.topic.clone());
        let right = ctx.branch.has(after) && ctx.branch.nth_at(&topic, after.seq) == nth;
        ctx.case.must(right, Rule::Complete, || {
            format!("{run:?} was told to start after {after}, nth {nth}, which is wrong")
        });
        let first = self.place.is_none();
        if first {
            self.place = self.known.as_ref().map(|known| ReaderPoint { position: known.position, nth: known.nth });
        }
        let mut took = false;
        if let Some(gap) = gap.filter(|gap| gap.through == after) {
            self.gap(ctx, gap);
            took = true;
        }
        self.pass_over(ctx, nth);
        let is_servers = self.durable.as_ref().is_some_and(|key| key.0.is_server());
        match self.place {
            // Who moves the cursor to a place starts there and nowhere else.
            Some(place) if nth > place.nth && is_servers && !(first && self.rewinds) => {
                // Another reader under the same name went on meanwhile: what lies between must have been handled.
                if let Some(key) = &self.durable {
                    ctx.durable.passed_over(ctx.branch, key, nth, ctx.withheld);
                    ctx.durable.overtaken(ctx.case, ctx.branch, key, (run, place.nth, nth), (self.begun, ctx.excuse));
                }
            }
            Some(place) => {
                let same = place.nth == nth && (place.position.seq == after.seq || ctx.branch.has(place.position));
                ctx.case.must(same, Rule::Complete, || {
                    format!("{run:?} stood at {place:?} and was told to go on after {after}, nth {nth}, without a gap")
                });
            }
            None => self.judge_start(ctx, after, nth),
        }
        if let (true, Some(key)) = (first, &self.durable) {
            let told_lost = took.then_some(gap).flatten();
            ctx.durable.passed_over(ctx.branch, key, nth, ctx.withheld);
            ctx.durable.started(ctx.case, ctx.branch, key, (run, nth, self.begun), (told_lost, ctx.excuse));
        }
        self.be(ReaderPoint { position: after, nth });
        took
    }

    /// Whether a run without a known place begins where it was asked to.
    fn judge_start(&mut self, ctx: &mut Ctx<'_>, after: Position, nth: Nth) {
        let (run, start, branch) = (ctx.run, &self.start, ctx.branch);
        let same_line = self.asked.line == branch.line;
        let asked = if same_line {
            self.asked
        } else {
            Asked { line: branch.line, head: Seq::ZERO, last: Nth::ZERO, floor: Nth::ZERO }
        };
        let (last, floor) = (branch.last_nth(&self.topic), branch.floor(&self.topic));
        let as_first = start.as_first().filter(|(place, _)| place.is_none()).map(|(_, first)| Start::from(first));
        let start = match (&as_first, &self.durable) {
            (Some(first), Some(key)) if ctx.durable.is_first_start(key, self.begun) => first,
            (Some(_), Some(key)) => {
                // It goes on where the cursor was, whatever it says of a first start.
                let was_there = ctx.durable.was_at(key, nth);
                ctx.case.must(was_there, Rule::Complete, || {
                    format!("{run:?} of {key:?} starts after nth {nth}, where no cursor ever was")
                });
                return;
            }
            _ => start,
        };
        let right = match start {
            Start::Latest => asked.head <= after.seq && asked.last <= nth,
            Start::Earliest => asked.floor <= nth && nth <= floor,
            Start::Last(n) => {
                let from = |last: Nth, floor: Nth| Nth(last.0.saturating_sub(*n)).max(floor);
                from(asked.last, asked.floor) <= nth && nth <= from(last, floor)
            }
            Start::AfterSeq(seq) => nth <= branch.nth_at(&self.topic, *seq).max(floor),
            // Judged by the subscriber's earlier runs, or by the events' times where they are seen.
            Start::Resume { .. }
            | Start::ResumeOr { .. }
            | Start::After(_)
            | Start::Since(_)
            | Start::Within(_)
            | _ => true,
        };
        let words =
            || format!("{run:?} asked for {start:?} and starts after {after}, nth {nth} (floor {floor}, last {last})");
        ctx.case.must(right, Rule::Complete, words);
    }

    fn event(&mut self, ctx: &mut Ctx<'_>, epoch: Epoch, record: &Record, redelivered: bool) {
        let (run, position) = (ctx.run, Position::new(epoch, record.seq));
        self.pass_over(ctx, Nth(record.nth.0.saturating_sub(1)));
        let Some(place) = self.place else {
            ctx.case.must(false, Rule::Complete, || format!("{run:?} is given {position} before a position"));
            return;
        };
        ctx.case.must(!ctx.withheld.must_be(ctx.branch, self.process, record.seq), Rule::Withheld, || {
            format!("{run:?} is given {position}, although its process follows a topic of its except list")
        });
        ctx.case.must(record.nth == place.nth.next(), Rule::Complete, || {
            format!("{run:?} is given nth {} ({position}) after nth {}", record.nth, place.nth)
        });
        ctx.case.must(record.seq > place.position.seq, Rule::RisingSeqs, || {
            format!("{run:?} is given {position} after {}", place.position)
        });
        ctx.case.must(ctx.branch.has(position), Rule::DurableFirst, || {
            format!("{run:?} is given {position}, which the log does not have")
        });
        ctx.case.must(self.handed.insert((epoch, record.seq)), Rule::OnceOrMarked, || {
            format!("{run:?} is given {position} twice")
        });
        if let Some(key) = &self.durable {
            let repeat = ctx.durable.handed(ctx.case, key, (run, position, self.begun), redelivered);
            self.repeats += u32::from(repeat);
            let bound = ctx.durable.repeats_max(key).max(self.repeats_max);
            self.repeats_max = bound;
            ctx.case.must(self.repeats <= bound, Rule::OnceOrMarked, || {
                format!("{run:?} is given {} events again, more than {bound}", self.repeats)
            });
        } else {
            ctx.case
                .must(!redelivered, Rule::OnceOrMarked, || format!("{run:?} is the only one, {position} is marked"));
        }
        self.items.push_back(Item { position, is_event: true, handled: false });
        let open = self.items.iter().filter(|item| item.is_event).count();
        ctx.case.must(open <= self.window.events as usize, Rule::OnceOrMarked, || {
            format!("{run:?} has {open} events unacknowledged, its window is {}", self.window.events)
        });
        self.be(ReaderPoint { position, nth: record.nth });
    }

    /// Goes on over what is withheld from this reader, if all up to there may be.
    fn pass_over(&mut self, ctx: &mut Ctx<'_>, through: Nth) {
        let Some(place) = self.place.filter(|place| place.nth < through && ctx.branch.has(place.position)) else {
            return;
        };
        let passed = ctx.branch.keys_between(&self.topic, place.nth, through);
        let (branch, withheld) = (ctx.branch, ctx.withheld);
        let Some((epoch, seq)) = passed.last().copied() else { return };
        if !passed.iter().all(|(_, seq)| withheld.may_be(branch, self.process, *seq)) {
            return;
        }
        if let Some(key) = &self.durable {
            ctx.durable.covered(key, passed);
        }
        self.be(ReaderPoint { position: Position::new(epoch, seq), nth: through });
    }

    fn gap(&mut self, ctx: &mut Ctx<'_>, gap: &Gap) {
        if gap.count_is_exact {
            self.pass_over(ctx, Nth(gap.nth_through.0.saturating_sub(gap.count)));
        }
        let (run, branch, topic) = (ctx.run, ctx.branch, self.topic.clone());
        if let (Some(place), Some(key)) = (self.place, self.durable.clone().filter(|key| key.0.is_server())) {
            // Another reader under the same name went on meanwhile, up to where the gap begins.
            let is_ahead = branch.has(place.position) && branch.has(gap.after) && gap.after.seq > place.position.seq;
            if is_ahead {
                let nth = branch.nth_at(&topic, gap.after.seq);
                ctx.durable.passed_over(branch, &key, nth, ctx.withheld);
                ctx.durable.overtaken(ctx.case, branch, &key, (run, place.nth, nth), (self.begun, ctx.excuse));
                self.place = Some(ReaderPoint { position: gap.after, nth });
            }
        }
        let Some(place) = self.place else {
            // A resume of a durable subscriber by a new process: where it stood is judged by the subscriber's runs.
            self.items.push_back(Item { position: gap.through, is_event: false, handled: false });
            self.be(ReaderPoint { position: gap.through, nth: gap.nth_through });
            return;
        };
        let floor = branch.floor(&topic);
        let right = branch.has(gap.through) && branch.nth_at(&topic, gap.through.seq) == gap.nth_through;
        ctx.case.must(right, Rule::TrueGaps, || format!("{run:?}: the gap's end is wrong: {gap:?}"));
        let moved = !branch.has(place.position);
        ctx.case.must(moved == (gap.cause == GapCause::EpochChanged), Rule::TrueGaps, || {
            format!("{run:?} stood at {place:?} and was told {gap:?}")
        });
        let mut from = if moved { self.common_nth(branch) } else { place.nth };
        if let (true, Some(key)) = (moved, &self.durable) {
            from = from.max(ctx.durable.done_through(branch, key).min(gap.nth_through));
        }
        ctx.case.must(gap.nth_through <= floor.max(from), Rule::TrueGaps, || {
            format!(
                "{run:?}: {gap:?} covers what is there: the floor is {floor}, the reader had {from} of this history"
            )
        });
        let is_servers = self.durable.as_ref().is_some_and(|key| key.0.is_server());
        let common = if moved && !is_servers { self.common_nth(branch) } else { Nth::ZERO };
        ctx.case.must(gap.nth_through >= common, Rule::OnceOrMarked, || {
            format!("{run:?} was at nth {common} of this history, and is sent back behind it: {gap:?}")
        });
        if gap.count_is_exact {
            let count = gap.nth_through.since(from);
            ctx.case.must(gap.count == count, Rule::TrueGaps, || {
                format!("{run:?} stood at {place:?} (nth {from} of this history), misses {count}: {gap:?}")
            });
        }
        if moved {
            // Whoever is told that the history is another may be given anew what lies behind the gap.
            let anew = branch.keys_between(&topic, gap.nth_through, Nth(u64::MAX));
            self.handed.retain(|event| !anew.contains(event));
            self.repeats = 0;
            if let Some(key) = &self.durable {
                ctx.durable.anew(key, &branch.keys_between(&topic, Nth::ZERO, gap.nth_through));
            }
        }
        if let Some(key) = &self.durable {
            ctx.durable.covered(key, branch.keys_between(&topic, from, gap.nth_through));
        }
        self.items.push_back(Item { position: gap.through, is_event: false, handled: false });
        self.be(ReaderPoint { position: gap.through, nth: gap.nth_through });
    }

    /// The nth of the last place that this run has been to and that this line has, too.
    fn common_nth(&self, branch: &Branch) -> Nth {
        let common = self.been.iter().filter_map(|(epoch, (seq, _))| {
            let (after, last) = branch.reach(*epoch)?;
            (*seq >= after).then_some(last.min(*seq))
        });
        common.max().map_or(Nth::ZERO, |seq| branch.nth_at(&self.topic, seq))
    }

    fn be(&mut self, place: ReaderPoint) {
        self.place = Some(place);
        self.been.insert(place.position.epoch, (place.position.seq, place.nth));
    }
}
