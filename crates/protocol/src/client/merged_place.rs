//! The place that several topics read as one have together: what an app stores is one place for all of them, so what is shown
//! before an event is the place of the one that was shown before it, whichever topic that came by.
//!
//! Never hides that a topic began elsewhere than was asked: then the chain of places breaks, and an app that compares them
//! stops.

use std::collections::BTreeMap;

use super::{StreamItem, SubscribeRequest};
use crate::history::{Place, Start};
use crate::seq::{Nth, Position, Seq, SubscriptionId};

/// What the app was shown of a merged subscription, last of all and by each member.
#[derive(Debug, Default)]
pub(super) struct MergedPlace {
    /// The place that was asked for, until something was shown.
    shown: Option<Place>,
    asked: Option<Seq>,
    of_member: BTreeMap<SubscriptionId, Seq>,
}

impl MergedPlace {
    /// Takes the place that all members are to start after, if there is one. It is a position: the nth in it is that of one of
    /// the topics, so each is asked for without it.
    pub(super) fn asked_of(members: &mut [(SubscriptionId, SubscribeRequest)]) -> MergedPlace {
        let Some(place) = members.first().and_then(|(_, request)| request.start.known().cloned()) else {
            return MergedPlace::default();
        };
        if members.iter().any(|(_, request)| request.start.known() != Some(&place)) {
            return MergedPlace::default();
        }
        for (_, request) in members {
            if let Start::After(known)
            | Start::Resume { at_least: Some(known) }
            | Start::ResumeOr { at_least: Some(known), .. } = &mut request.start
            {
                known.nth = Nth::ZERO;
            }
        }
        let asked = Some(place.position.seq);
        MergedPlace { shown: Some(place), asked, of_member: BTreeMap::new() }
    }

    /// A member shows this. What comes before it is put in terms of the whole.
    pub(super) fn show(&mut self, member: SubscriptionId, mut item: StreamItem) -> StreamItem {
        match &mut item {
            StreamItem::Event { epoch, record, before, .. } => {
                let (position, nth) = (Position::new(*epoch, record.seq), record.nth);
                self.follow(member, before, position);
                self.shown = Some(before.advanced(position, nth));
            }
            // Events of other topics may lie within its range, so that the place does not move.
            StreamItem::Gap { gap, before } => {
                self.follow(member, before, gap.through);
                self.shown = Some(before.clone());
            }
            StreamItem::Subscribed { .. } | StreamItem::CaughtUp { .. } | StreamItem::Volatile { .. } => {}
        }
        item
    }

    fn follow(&mut self, member: SubscriptionId, before: &mut Place, position: Position) {
        let last = self.of_member.insert(member, position.seq).or(self.asked);
        // By seqs: the same place may be told as one of a later epoch, and where the log has gone back a gap is shown.
        if last.is_none_or(|last| last == before.position.seq)
            && let Some(shown) = &self.shown
        {
            before.clone_from(shown);
        }
    }
}
