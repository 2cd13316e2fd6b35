//! How a subscription begins on a connection: what it asks for, and where the answer puts it. Decides what counts as a
//! hole at the start, and from which place the stream is handed over; never what follows the start.

use super::{Leaving, Link, Subscription};
use crate::client::inbox::Misfit;
use crate::client::outputs::Outputs;
use crate::features::Features;
use crate::frame::{ClientFrame, Ownership, Subscribe, Subscribed, Window};
use crate::history::{FirstStart, GapCause, Place, Start};
use crate::limits::EARLIER_EPOCHS_MAX;
use crate::redelivery::DeliveredThrough;
use crate::seq::{Nth, Position, SubscriptionId};

impl Subscription {
    /// Begins anew under this wire number, where it stands. What must go before the request is sent here. `None` if a
    /// server with these features cannot be asked.
    pub(in crate::client) fn subscribe(
        &mut self,
        wire: SubscriptionId,
        features: Features,
        out: &mut Outputs,
    ) -> Option<Subscribe> {
        self.stop_stream();
        self.features = features;
        let is_newcomer = self.handed.is_none();
        self.is_gap_false = false;
        let start = match self.handed.clone() {
            None => self.first_start(features)?,
            Some(known) if self.kept_by_server => Start::Resume { at_least: Some(known) },
            Some(known) => Start::After(known),
        };
        self.link = Link::Asked { wire };
        let goes_on = self.kept_by_server && self.begun && self.handed.is_some() && self.handed_history == self.history;
        if goes_on && features.has(Features::RESUMING) {
            out.send(ClientFrame::Resuming { id: wire, nth: self.handed_exactly().0 });
        }
        Some(Subscribe {
            id: wire,
            topic: self.topic.clone(),
            start,
            window: self.requested,
            // Who comes back is no newcomer: it must not take the topic back from one that came meanwhile.
            ownership: if is_newcomer && !self.is_leaving() { self.ownership } else { Ownership::Standby },
            durable: self.kept_by_server,
        })
    }

    /// The start of a reader that was handed nothing yet, as a server with these features takes it.
    fn first_start(&mut self, features: Features) -> Option<Start> {
        if features.has(Features::FIRST_START) {
            return Some(self.start.clone());
        }
        Some(match self.start.as_first() {
            None => self.start.clone(),
            Some((Some(at_least), _)) => Start::Resume { at_least: Some(at_least.clone()) },
            Some((None, FirstStart::Latest)) => Start::Resume { at_least: None },
            Some((None, FirstStart::Earliest)) => {
                // "Before everything" is a place in no history. Such a server then begins with the earliest event, or
                // behind the cursor that it has, and tells a gap of nothing.
                self.is_gap_false = true;
                Start::Resume { at_least: Some(Place::default()) }
            }
            Some((
                None,
                FirstStart::AfterSeq(_) | FirstStart::Since(_) | FirstStart::Within(_) | FirstStart::Last(_),
            )) => return None,
        })
    }

    /// The server's answer to Subscribe.
    pub(in crate::client) fn subscribed(&mut self, mut answer: Subscribed, out: &mut Outputs) -> Result<(), Misfit> {
        if self.leaving == Leaving::Sent {
            return Ok(());
        }
        let Link::Asked { wire } = self.link else { return Err(Misfit::Hole("Subscribed came twice")) };
        // Only one that is said to hold nothing: a count says that the topic's beginning is no longer there.
        answer.gap.take_if(|gap| self.is_gap_false && gap.cause == GapCause::EpochChanged && gap.count == 0);
        let breaks = answer.gap.as_ref().is_some_and(|gap| gap.cause == GapCause::EpochChanged);
        let ahead = self.follows(&answer, breaks)?;
        if breaks {
            self.acks.history_gone(out);
            self.history += 1;
        }
        self.mark(&answer, breaks);
        self.begun = true;
        self.window =
            Window::new(answer.window.events.min(self.requested.events), answer.window.bytes.min(self.requested.bytes));
        self.link = Link::Open { wire };
        self.inbox.begin(answer.after, answer.nth, answer.pending, self.window, self.merged.unwrap_or(1));
        let mut no_ack_through = Some(answer.nth);
        match answer.gap {
            None => self.stand_at(answer.after, answer.nth, ahead, out),
            Some(gap) => {
                no_ack_through = answer.nth.0.checked_sub(1).map(Nth);
                let nth = gap.nth_before();
                if self.shown.is_none() {
                    let place = self.start.known().filter(|place| place.position == gap.after);
                    self.shown = Some(place.cloned().unwrap_or_else(|| Place::new(gap.after, nth)));
                }
                if !self.acks.has_begun() {
                    self.acks.begin(Place::new(gap.after, nth), if breaks { self.history - 1 } else { self.history });
                }
                self.inbox.opening_gap(gap);
            }
        }
        self.acks.opened(wire, self.history, no_ack_through);
        // Members of a merged subscription are not paced: the mark that the server keeps on disk counts for them.
        let is_paced = self.kept_by_server && self.merged.is_none() && self.features.has(Features::TAKING);
        if let Some(nth) = self.pace.begin(is_paced, answer.nth, out.now()) {
            out.send(ClientFrame::Taking { id: wire, nth });
        }
        if !self.is_leaving() {
            if !self.acks.allows(self.history, answer.nth.saturating_add(1)) {
                self.acks.save(self.history, self.hand_through(answer.nth), out);
            }
            self.pump(out);
        }
        self.flush_acks(out);
        Ok(())
    }

    /// Whether the answer follows on what was handed over. `Ok(true)` if it begins further on, which only a cursor on
    /// the server may cause.
    fn follows(&self, answer: &Subscribed, breaks: bool) -> Result<bool, Misfit> {
        if let Some(gap) = &answer.gap
            && gap.nth_through != answer.nth
        {
            return Err(Misfit::Hole("a subscription does not begin behind its gap"));
        }
        let stored = if let Start::After(known) = &self.start { Some(known) } else { None };
        let stored = stored.filter(|_| !self.begun && self.acks.has_begun());
        let Some(known) = self.handed.as_ref().or(stored).filter(|_| !breaks) else { return Ok(false) };
        if answer.nth < known.nth {
            return Err(Misfit::Hole("a subscription begins before what was handed over"));
        }
        if answer.nth == known.nth || answer.gap.is_some() {
            return Ok(false);
        }
        if !self.kept_by_server {
            return Err(Misfit::Hole("a subscription begins behind events that were not handed over"));
        }
        Ok(true)
    }

    fn mark(&mut self, answer: &Subscribed, breaks: bool) {
        if self.begun && !breaks {
            // While we were away another reader of the same name may have been given what comes next, whether or not it
            // acknowledged any of it: only the server's mark tells. That it covers some that we are the first to get is
            // the lesser evil.
            self.delivered_through.raise(answer.delivered_through);
            return;
        }
        let stored = std::mem::take(&mut self.stored_delivered_through);
        self.delivered_through = answer.delivered_through;
        if breaks && let Some(shown) = self.shown.as_ref().or(self.start.known()).filter(|_| self.may_lack_lineage()) {
            // The last common position was not found, perhaps, because we could not name it: then the log may hold once
            // more what the app was shown, under the nth of that time. What did not exist when we subscribed it was not
            // shown.
            let existing = answer.nth.saturating_add(answer.pending);
            self.delivered_through.raise(DeliveredThrough(shown.nth.min(existing)));
        }
        if stored == DeliveredThrough::ANYTHING {
            // What did not exist when we subscribed was handed to nobody before.
            self.delivered_through.raise(DeliveredThrough(answer.nth.saturating_add(answer.pending)));
        } else if !breaks || self.is_place_brought {
            // With a place that the app brought along, a mark comes from a cursor that was moved there: it may be of this
            // history, whatever the place is of.
            self.delivered_through.raise(stored);
        }
    }

    /// Whether the app may have been shown events of epochs that its place does not name. A place that this library kept
    /// names them all; one that the app brought along may have been cut short.
    fn may_lack_lineage(&self) -> bool {
        let is_full = |place: &Place| place.earlier.len() >= EARLIER_EPOCHS_MAX;
        self.is_place_brought || self.handed.as_ref().is_some_and(is_full)
    }

    /// A stream without a gap begins here.
    fn stand_at(&mut self, after: Position, nth: Nth, ahead: bool, out: &mut Outputs) {
        let mut known = self.handed.take().or_else(|| self.start.known().cloned()).unwrap_or_default();
        if ahead || self.shown.is_none() {
            // Who begins where it asked to begin is shown the place that it named: it may hold it against its own.
            let is_there = known.nth == nth && known.position.seq == after.seq;
            self.shown = Some(if is_there { known.clone() } else { known.advanced(after, nth) });
        }
        known.advance(after, nth);
        self.handed_history = self.history;
        if ahead {
            self.in_hand.drop_all();
            self.acks.overtaken(known.clone(), self.history, out);
        } else if !self.acks.has_begun() {
            self.acks.begin(known.clone(), self.history);
        }
        self.handed = Some(known);
    }
}
