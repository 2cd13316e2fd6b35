//! Acks on their way from the app to whoever keeps the cursor, and back as confirmations.
//!
//! The order is always: handler, saved cursor, ack on the wire. Who confirms is who keeps the cursor: nobody else's
//! word makes it durable. Without a keeper an ack counts at once, because there is nothing that could outlive this
//! process; with the client's own store when the store has it; with the server when `Acked` comes.

use super::outputs::Outputs;
use super::{CursorKeeper, Output};
use crate::frame::ClientFrame;
use crate::history::{Cursor, Place};
use crate::redelivery::DeliveredThrough;
use crate::seq::{Nth, Position, Seq, SubscriptionId};

#[derive(Debug)]
pub(super) struct Acks {
    id: SubscriptionId,
    keeper: Keeper,
    /// What the app has acknowledged; where the reader began, before that. And in which history.
    acked: Option<(Place, u32)>,
    /// Events and bytes acknowledged since the last ack (or cursor) went out.
    gathered: (usize, usize),
    /// The app's last ack has not gone out, or its cursor not been saved.
    dirty: bool,
    stream: Option<Stream>,
}

#[derive(Debug)]
enum Keeper {
    Nobody,
    Client(Saver),
    Server { unconfirmed: bool },
}

/// The stream that stands on the present connection.
#[derive(Debug)]
struct Stream {
    wire: SubscriptionId,
    history: u32,
    /// The server has all acks up to this nth, or needs none.
    sent: Option<Nth>,
}

/// The client's own store, seen from here: at most one cursor is on its way there.
#[derive(Debug, Default)]
struct Saver {
    /// What the store durably allows to be handed over: in this history, up to this nth.
    marked: Option<(u32, DeliveredThrough)>,
    saving: Option<Saving>,
    /// An ack of the app lies in the cursor that is on its way, or in the last one that was saved.
    confirms: bool,
    last: LastSave,
}

#[derive(Debug)]
struct Saving {
    position: Position,
    nth: Nth,
    history: u32,
    marked: (u32, DeliveredThrough),
    confirms: bool,
    last: bool,
}

/// Where the exact cursor of a clean end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastSave {
    #[default]
    NotWanted,
    Wanted,
    Done,
}

impl Acks {
    pub(super) fn new(id: SubscriptionId, keeper: &CursorKeeper) -> Acks {
        let (keeper, acked) = match keeper {
            CursorKeeper::Nobody => (Keeper::Nobody, None),
            CursorKeeper::Server => (Keeper::Server { unconfirmed: false }, None),
            CursorKeeper::Rewound { .. } => (Keeper::Client(Saver::default()), None),
            CursorKeeper::Client { stored } => {
                (Keeper::Client(Saver::default()), stored.as_ref().map(|cursor| (cursor.place.clone(), 0)))
            }
        };
        Acks { id, keeper, acked, gathered: (0, 0), dirty: false, stream: None }
    }

    pub(super) fn place(&self) -> Option<&Place> {
        self.acked.as_ref().map(|(known, _)| known)
    }

    /// Whether the reader's place is known: from the first Subscribed on, or from a stored cursor.
    pub(super) fn has_begun(&self) -> bool {
        self.acked.is_some()
    }

    /// The reader begins here; nothing before it is to be acknowledged.
    pub(super) fn begin(&mut self, at: Place, history: u32) {
        self.acked = Some((at, history));
    }

    /// A stream stands. `sent` is how far no ack is needed.
    pub(super) fn opened(&mut self, wire: SubscriptionId, history: u32, sent: Option<Nth>) {
        // What the server has not confirmed is told again, also if it lies before the start of this stream.
        let again = self.is_unconfirmed();
        self.dirty |= again;
        let sent = if again { None } else { sent };
        self.stream = Some(Stream { wire, history, sent });
    }

    /// The stream is gone.
    pub(super) fn closed(&mut self) {
        self.stream = None;
    }

    /// The keeper's cursor stands here, further than all that was handed over: that is all confirmed, acknowledged or not.
    pub(super) fn overtaken(&mut self, by: Place, history: u32, out: &mut Outputs) {
        let seq = by.position.seq;
        self.begin(by, history);
        self.dirty = false;
        if let Keeper::Server { unconfirmed } = &mut self.keeper {
            *unconfirmed = false;
        }
        out.push(Output::AckConfirmed { id: self.id, seq });
    }

    /// The history in which the app's acks lie is gone from the server: nothing can confirm them any more, and there is
    /// nothing left to protect.
    pub(super) fn history_gone(&mut self, out: &mut Outputs) {
        if self.is_unconfirmed()
            && let Some((known, _)) = &self.acked
        {
            let seq = known.position.seq;
            self.dirty = false;
            self.confirmed(seq, out);
        }
    }

    /// The app has handled this, and all before it was passed in here already.
    pub(super) fn advance(&mut self, position: Position, nth: Nth, history: u32) {
        match &mut self.acked {
            Some((known, in_history)) => {
                known.advance(position, nth);
                *in_history = history;
            }
            None => self.begin(Place::new(position, nth), history),
        }
    }

    /// The app has handled so many events and bytes more. `history` is that of the present stream.
    pub(super) fn taken(&mut self, (events, bytes): (usize, usize), history: u32, out: &mut Outputs) {
        let Some((known, in_history)) = &self.acked else { return };
        let (seq, gone) = (known.position.seq, *in_history != history);
        self.gathered = (self.gathered.0 + events, self.gathered.1 + bytes);
        match &mut self.keeper {
            Keeper::Nobody => {
                self.dirty = true;
                out.push(Output::AckConfirmed { id: self.id, seq });
            }
            Keeper::Client(saver) => {
                self.dirty = true;
                saver.confirms = true;
            }
            Keeper::Server { .. } if gone => out.push(Output::AckConfirmed { id: self.id, seq }),
            Keeper::Server { unconfirmed } => {
                self.dirty = true;
                *unconfirmed = true;
            }
        }
    }

    pub(super) fn gathered(&self) -> (usize, usize) {
        self.gathered
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Sends what was gathered to the keeper. `through` bounds what is handed over until the next time (used with the
    /// client's own store).
    pub(super) fn flush(&mut self, history: u32, through: DeliveredThrough, out: &mut Outputs) {
        if !self.dirty {
            return;
        }
        if let Keeper::Client(_) = self.keeper {
            self.save(history, through, out);
            return;
        }
        let Some((known, in_history)) = &self.acked else { return };
        let (seq, nth, in_history) = (known.position.seq, known.nth, *in_history);
        if self.stream.is_some() {
            self.dirty = false;
            self.gathered = (0, 0);
        }
        self.send(seq, nth, in_history, out);
    }

    /// Whether the keeper durably knows that this event may be handed over.
    pub(super) fn allows(&self, history: u32, nth: Nth) -> bool {
        match &self.keeper {
            Keeper::Nobody | Keeper::Server { .. } => true,
            Keeper::Client(saver) => saver.marked.is_some_and(|(in_history, through)| {
                through == DeliveredThrough::ANYTHING || in_history == history && through.covers(nth)
            }),
        }
    }

    /// Whether anything at all may be handed over: the start must be saved first.
    pub(super) fn allows_start(&self) -> bool {
        match &self.keeper {
            Keeper::Nobody | Keeper::Server { .. } => true,
            Keeper::Client(saver) => saver.marked.is_some(),
        }
    }

    /// Saves the cursor in the client's own store, if there is one and none is on its way there: up to `through` of
    /// `history` may then be handed over.
    pub(super) fn save(&mut self, history: u32, through: DeliveredThrough, out: &mut Outputs) {
        let (Keeper::Client(saver), Some((known, in_history))) = (&mut self.keeper, &self.acked) else { return };
        if saver.saving.is_some() || saver.last == LastSave::Done {
            return;
        }
        // While the cursor still lies in the old history, no nth of it says anything about the new one.
        let delivered_through = if *in_history == history { through } else { DeliveredThrough::ANYTHING };
        saver.saving = Some(Saving {
            position: known.position,
            nth: known.nth,
            history: *in_history,
            marked: (history, delivered_through),
            confirms: std::mem::take(&mut saver.confirms),
            last: saver.last == LastSave::Wanted,
        });
        self.dirty = false;
        self.gathered = (0, 0);
        out.push(Output::SaveCursor { id: self.id, cursor: Cursor::new(known.clone(), delivered_through) });
    }

    /// The client's own store has the cursor.
    pub(super) fn saved(&mut self, seq: Seq, out: &mut Outputs) {
        let Keeper::Client(saver) = &mut self.keeper else { return };
        let Some(saving) = saver.saving.take_if(|saving| saving.position.seq == seq) else { return };
        saver.marked = Some(saving.marked);
        if saving.last {
            saver.last = LastSave::Done;
        }
        self.send(seq, saving.nth, saving.history, out);
        if saving.confirms {
            out.push(Output::AckConfirmed { id: self.id, seq });
        }
    }

    /// The server confirms acks up to here.
    pub(super) fn acked_by_server(&mut self, seq: Seq, out: &mut Outputs) {
        let Some((known, _)) = &self.acked else { return };
        let through = known.position.seq;
        if self.stream.as_ref().is_none_or(|stream| stream.sent.is_none()) {
            return;
        }
        if let Keeper::Server { unconfirmed } = &mut self.keeper
            && *unconfirmed
        {
            *unconfirmed = seq < through || self.dirty;
            out.push(Output::AckConfirmed { id: self.id, seq: seq.min(through) });
        }
    }

    /// The server has answered Unsubscribe: every ack before it counts.
    pub(super) fn all_acked_by_server(&mut self, out: &mut Outputs) {
        if let Some((known, _)) = &self.acked
            && self.is_unconfirmed()
        {
            let seq = known.position.seq;
            self.confirmed(seq, out);
        }
    }

    /// Whether the server still has to confirm an ack.
    pub(super) fn is_unconfirmed(&self) -> bool {
        match self.keeper {
            Keeper::Nobody | Keeper::Client(_) => false,
            Keeper::Server { unconfirmed } => unconfirmed,
        }
    }

    /// Brings the exact cursor of a clean end into the client's store. Returns whether that is done.
    pub(super) fn save_last(&mut self, history: u32, through: DeliveredThrough, out: &mut Outputs) -> bool {
        let Keeper::Client(saver) = &mut self.keeper else { return true };
        if self.acked.is_none() || saver.last == LastSave::Done {
            return true;
        }
        saver.last = LastSave::Wanted;
        self.save(history, through, out);
        false
    }

    fn confirmed(&mut self, seq: Seq, out: &mut Outputs) {
        if let Keeper::Server { unconfirmed } = &mut self.keeper
            && std::mem::take(unconfirmed)
        {
            out.push(Output::AckConfirmed { id: self.id, seq });
        }
    }

    fn send(&mut self, seq: Seq, nth: Nth, history: u32, out: &mut Outputs) {
        let Some(stream) = &mut self.stream else { return };
        if stream.history == history && stream.sent.is_none_or(|sent| nth > sent) {
            stream.sent = Some(nth);
            out.send(ClientFrame::Ack { id: stream.wire, seq, nth });
        }
    }
}
