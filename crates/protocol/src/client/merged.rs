//! Several topics of a client read as one row, across its connections. Each is a subscription like any other, with its own
//! proof of completeness, its own cursor and its own acks on the wire; here is the order in which they hand over, and what
//! an ack in that order means for each of them.
//!
//! The server sends in the order of the log, so whatever has arrived and has the lowest seq is next. Where an event belongs to
//! several of the topics, it comes by one of them and the others are told a skip just before it: the skips are handed over
//! first and acknowledged with the event, so that neither a cut nor a crash has it come by another topic once more.

use std::collections::{BTreeMap, VecDeque};

use super::inbox::Misfit;
use super::session::{ClientSession, Timer};
use super::subscription::Subscription;
use super::{Output, StreamItem, SubscribeRequest, SubscriptionEnd};
use crate::codec::Records;
use crate::error::RefusalCode;
use crate::features::Features;
use crate::frame::{ClientFrame, Events, SubscribeMerged};
use crate::seq::{Nth, Position, Seq, SubscriptionId};
use crate::time::Instant;

/// The rows of a client.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<SubscriptionId, Row>,
    /// Which row a subscription belongs to.
    of: BTreeMap<SubscriptionId, SubscriptionId>,
    /// The last number of a group on the present connection: given upwards and never twice.
    last_group: u32,
}

/// Subscriptions that are read as one.
#[derive(Debug)]
struct Row {
    members: Vec<SubscriptionId>,
    /// How many events and gaps were handed over.
    handed: u64,
    /// The seq of the last event that has arrived on this stream, and whether a skip has come since.
    arrived: (Seq, bool),
    /// Where the members stand on this stream, as far as that is handed over.
    standing: Vec<(Position, u64)>,
    caught_up: Vec<Seq>,
    /// Acks in the row's order that are not confirmed by all whom they concern, oldest first.
    unconfirmed: VecDeque<RowAck>,
    has_ended: bool,
}

/// One ack of the app's: what it names, and what it means for the members.
#[derive(Debug)]
struct RowAck {
    seq: Seq,
    waits_for: Vec<(SubscriptionId, Seq)>,
}

/// What arrives on a stream that may be part of a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arrival<'a> {
    /// Events.
    Events(&'a Events),
    /// A skip.
    Skip(Seq),
}

impl Rows {
    /// The row that a subscription belongs to.
    pub(super) fn of(&self, id: SubscriptionId) -> Option<SubscriptionId> {
        self.of.get(&id).copied()
    }

    /// Groups are numbered anew on each connection.
    pub(super) fn disconnected(&mut self) {
        self.last_group = 0;
    }

    pub(super) fn ids(&self) -> Vec<SubscriptionId> {
        self.rows.keys().copied().collect()
    }

    pub(super) fn members(&self, row: SubscriptionId) -> Vec<SubscriptionId> {
        self.rows.get(&row).map_or_else(Vec::new, |row| row.members.clone())
    }

    /// Whether it follows on what has arrived by the other topics. Returns, for a skip, whether an event has come since the
    /// last one.
    fn arrives(&mut self, row: SubscriptionId, what: Arrival<'_>) -> Result<bool, Misfit> {
        let Some(row) = self.rows.get_mut(&row) else { return Ok(false) };
        let (arrived, skips_follow) = row.arrived;
        let first = match what {
            Arrival::Events(batch) => {
                // A batch that cannot be read is refused by its own stream.
                let mut seqs = Records::new(batch.records.clone()).map_while(|record| Some(record.ok()?.seq));
                let first = seqs.next().unwrap_or(arrived);
                row.arrived = (seqs.last().unwrap_or(first), false);
                first
            }
            Arrival::Skip(seq) => {
                row.arrived.1 = true;
                seq
            }
        };
        if first > arrived { Ok(!skips_follow) } else { Err(Misfit::Hole("a row's seq does not rise")) }
    }

    /// A member's acks are confirmed up to this seq. Returns up to where that confirms acks of the row.
    fn confirmed(&mut self, row: SubscriptionId, id: SubscriptionId, seq: Seq) -> Option<Seq> {
        let unconfirmed = &mut self.rows.get_mut(&row)?.unconfirmed;
        // When the log has gone back, a later ack may have a lower seq: an exact match says more than the order of seqs.
        let exact = unconfirmed.iter().rposition(|ack| ack.waits_for.contains(&(id, seq)));
        for (at, ack) in unconfirmed.iter_mut().enumerate() {
            let is_before = exact.is_some_and(|exact| at <= exact);
            ack.waits_for.retain(|(member, waits_for)| *member != id || !is_before && *waits_for > seq);
        }
        let done = unconfirmed.iter().take_while(|ack| ack.waits_for.is_empty()).count();
        unconfirmed.drain(..done).next_back().map(|ack| ack.seq)
    }
}

impl ClientSession {
    pub(super) fn subscribe_merged_wanted(
        &mut self,
        id: SubscriptionId,
        members: Vec<(SubscriptionId, SubscribeRequest)>,
    ) {
        if self.shutting_down || members.is_empty() {
            self.out.push_back(Output::Unsubscribed { id, why: SubscriptionEnd::ClientEnded });
            return;
        }
        let row = Row {
            members: members.iter().map(|(member, _)| *member).collect(),
            handed: 0,
            arrived: (Seq::ZERO, false),
            standing: Vec::new(),
            caught_up: Vec::new(),
            unconfirmed: VecDeque::new(),
            has_ended: false,
        };
        let size = members.len();
        for (member, request) in members {
            self.rows.of.insert(member, id);
            self.subscriptions.insert(member, Subscription::new(member, request, Some(size)));
        }
        self.rows.rows.insert(id, row);
        if self.has_connection() {
            self.subscribe_row(id);
        }
    }

    /// Begins a row's streams anew, all of them where they stand.
    pub(super) fn subscribe_row(&mut self, id: SubscriptionId) {
        self.timers.clear(Timer::Resubscribe(id));
        let members = self.rows.members(id);
        if members.iter().any(|member| self.is_leaving(*member)) {
            // Nothing more is handed over: what is left to do concerns each of them alone.
            let in_need = |member: &SubscriptionId| {
                self.subscriptions.get(member).is_some_and(|member| member.wire().is_none() && member.needs_server())
            };
            let in_need: Vec<_> = members.into_iter().filter(in_need).collect();
            in_need.into_iter().for_each(|member| self.subscribe(member));
            return;
        }
        self.give_up_row(id);
        if !self.features.has(Features::MERGED) {
            let words = "the server does not read several topics as one".to_owned();
            return self.end_row(id, &SubscriptionEnd::Refused(RefusalCode::Unsupported, words));
        }
        if let Some(row) = self.rows.rows.get_mut(&id) {
            row.arrived = (Seq::ZERO, false);
            row.standing.clear();
            row.caught_up.clear();
        }
        self.rows.last_group += 1;
        let group = self.rows.last_group;
        for member in members {
            let wire = self.next_wire(member);
            let Some(subscription) = self.subscriptions.get_mut(&member) else { continue };
            let request = subscription.subscribe(wire);
            let frame = ClientFrame::SubscribeMerged(SubscribeMerged { group, request });
            self.out.push_back(Output::Send(frame));
        }
        self.out.push_back(Output::Send(ClientFrame::BeginMerged { group }));
    }

    /// Gives a row's streams up, for now: they are begun anew later, all together.
    pub(super) fn give_up_row(&mut self, id: SubscriptionId) {
        for member in self.rows.members(id) {
            let Some(subscription) = self.subscriptions.get_mut(&member) else { continue };
            if let Some(wire) = subscription.give_up(&mut self.out) {
                self.wires.remove(&wire);
            }
        }
    }

    /// A row ends as a whole, because one of its topics does.
    pub(super) fn end_row(&mut self, id: SubscriptionId, why: &SubscriptionEnd) {
        self.give_up_row(id);
        for member in self.rows.members(id) {
            self.subscriptions.remove(&member);
            self.forget_member(member, why);
        }
    }

    /// A member is gone; the last one takes the row along.
    pub(super) fn forget_member(&mut self, member: SubscriptionId, why: &SubscriptionEnd) {
        let Some(id) = self.rows.of(member) else { return };
        let Some(row) = self.rows.rows.get_mut(&id) else { return };
        row.members.retain(|other| *other != member);
        if row.members.is_empty() && !std::mem::replace(&mut row.has_ended, true) {
            self.timers.clear(Timer::Resubscribe(id));
            self.out.push_back(Output::Unsubscribed { id, why: why.clone() });
        }
    }

    /// Something arrives by a wire number: if that is one of a row, it must follow on what came by the others. Returns
    /// whether a skip must stand apart.
    pub(super) fn arrives_in_row(&mut self, wire: SubscriptionId, what: Arrival<'_>) -> Result<bool, Misfit> {
        let Some(row) = self.wires.get(&wire).and_then(|id| self.rows.of(*id)) else { return Ok(false) };
        let members = self.rows.members(row);
        if members.iter().any(|member| self.is_leaving(*member)) {
            return Ok(false);
        }
        if !members.iter().all(|member| self.subscriptions.get(member).is_some_and(Subscription::is_open)) {
            return Err(Misfit::Hole("a row began before all its topics had their places"));
        }
        self.rows.arrives(row, what)
    }

    /// Hands over what stands first in a row, again and again, as far as the windows and the keepers of the cursors allow.
    pub(super) fn pump_row(&mut self, id: SubscriptionId) {
        let Some(row) = self.rows.rows.get_mut(&id) else { return };
        if !row.members.iter().all(|member| self.subscriptions.get(member).is_some_and(Subscription::is_open)) {
            return;
        }
        loop {
            let next = |member: &SubscriptionId| Some((self.subscriptions.get(member)?.next_in_row()?, *member));
            let mut first = None;
            let mut second = None;
            for next in row.members.iter().filter_map(next) {
                if first.is_none_or(|first| next < first) {
                    second = first.replace(next);
                } else if second.is_none_or(|second| next < second) {
                    second = Some(next);
                }
            }
            let Some((_, member)) = first else { return };
            let Some(subscription) = self.subscriptions.get_mut(&member) else { return };
            // On from the same one as long as it is first.
            while let Some(next) = subscription.next_in_row()
                && second.is_none_or(|second| (next, member) < second)
            {
                if !subscription.hand_next(row.handed + 1, &mut self.out) {
                    return;
                }
                row.handed_over(id, &mut self.out);
            }
        }
    }

    /// The app has handled something of a row, and all that the row handed over before it.
    pub(super) fn ack_row(&mut self, id: SubscriptionId, position: Position, nth: Nth, now: Instant) {
        let Some(row) = self.rows.of(id) else { return };
        let Some(order) = self.subscriptions.get(&id).and_then(|member| member.order_of(position, nth)) else { return };
        let mut waits_for = Vec::new();
        for member in self.rows.members(row) {
            let last = self.subscriptions.get(&member).and_then(|member| member.last_through(order));
            let Some((last, last_nth)) = last.filter(|_| !self.is_leaving(member)) else { continue };
            waits_for.push((member, last.seq));
            self.ack(member, now, |sub, out| sub.ack(last, last_nth, out));
        }
        let Some(row) = self.rows.rows.get_mut(&row).filter(|_| !waits_for.is_empty()) else { return };
        if row.unconfirmed.len() >= UNCONFIRMED_MAX
            && let Some(last) = row.unconfirmed.pop_back()
        {
            // One entry then stands for two acks: confirmed a little later than could be said.
            waits_for.extend(last.waits_for);
        }
        row.unconfirmed.push_back(RowAck { seq: position.seq, waits_for });
    }

    /// What a shell is told of a row in place of what concerns one of its members.
    pub(super) fn in_terms_of_rows(&mut self, output: Output) -> Option<Output> {
        match output {
            Output::AckConfirmed { id, seq } => match self.rows.of(id) {
                Some(row) => {
                    let seq = self.rows.confirmed(row, id, seq)?;
                    Some(Output::AckConfirmed { id: row, seq })
                }
                None => Some(Output::AckConfirmed { id, seq }),
            },
            Output::Unsubscribed { id, why } => {
                if self.rows.rows.remove(&id).is_some() {
                    self.rows.of.retain(|_, row| *row != id);
                }
                Some(Output::Unsubscribed { id, why })
            }
            Output::Connect
            | Output::SendHello(_)
            | Output::Send(_)
            | Output::Disconnect(_)
            | Output::Deliver { .. }
            | Output::SaveCursor { .. }
            | Output::EmitDone { .. }
            | Output::EmitsLost { .. }
            | Output::Requested { .. }
            | Output::RequestDone { .. }
            | Output::State(_)
            | Output::Ended => Some(output),
        }
    }

    fn is_leaving(&self, id: SubscriptionId) -> bool {
        self.subscriptions.get(&id).is_some_and(Subscription::is_leaving)
    }
}

impl Row {
    /// Something was handed over: the last output, unless it was a skip. News of the streams is told once for all of them.
    fn handed_over(&mut self, id: SubscriptionId, out: &mut VecDeque<Output>) {
        let Some(Output::Deliver { delivery, .. }) = out.back() else { return };
        let news = match delivery {
            StreamItem::Event { .. } | StreamItem::Gap(_) => {
                self.handed += 1;
                return;
            }
            StreamItem::Volatile { .. } => return,
            StreamItem::Subscribed { after, pending, .. } => {
                self.standing.push((*after, *pending));
                if self.standing.len() < self.members.len() {
                    None
                } else {
                    let after = self.standing.iter().map(|(after, _)| *after).max_by_key(|after| after.seq);
                    let pending = self.standing.iter().fold(0, |sum: u64, (_, pending)| sum.saturating_add(*pending));
                    Some(StreamItem::Subscribed { after: after.unwrap_or_default(), nth: Nth::ZERO, pending })
                }
            }
            StreamItem::CaughtUp { seq } => {
                self.caught_up.push(*seq);
                let seq = self.caught_up.iter().max().copied().unwrap_or_default();
                (self.caught_up.len() >= self.members.len()).then_some(StreamItem::CaughtUp { seq })
            }
        };
        out.pop_back();
        out.extend(news.map(|delivery| Output::Deliver { id, delivery }));
    }
}

/// Most acks of a row that are told apart until they are confirmed.
const UNCONFIRMED_MAX: usize = 1024;
