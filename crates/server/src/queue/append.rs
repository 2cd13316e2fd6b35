//! Events on their way to the writer, and who is told what became of them. Never looks at the queue.

use std::sync::Arc;

use redeliver_log::EmitSource;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::history::{EmitFate, EmitRun};
use redeliver_protocol::seq::EmitNumber;
use redeliver_protocol::server::{Input, Reply};
use tokio::sync::oneshot;

use super::{COMMIT_BYTES_MAX, COMMIT_EVENTS_MAX, Events};
use crate::inbox::Inbox;

/// What becomes of the emits of a caller within the process.
pub(crate) type Runs = oneshot::Receiver<Vec<EmitRun>>;

/// Events to be appended for one answer.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) publisher: Option<EmitSource>,
    pub(crate) first: EmitNumber,
    pub(crate) events: Events,
    /// Whether the events are stored in one commit or not at all.
    pub(crate) is_whole: bool,
    /// Set if these were refused already, and only the answer keeps its place in the order. There are no events then.
    pub(crate) refused: Option<EmitRun>,
    pub(super) bytes: usize,
    pub(crate) answer: Answer,
}

/// Who is told what became of an append.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A connection.
    Connection(Arc<Inbox>),
    /// A caller within the process.
    Caller(oneshot::Sender<Vec<EmitRun>>),
}

impl Answer {
    pub(crate) fn give(self, runs: Vec<EmitRun>) {
        match self {
            Answer::Connection(inbox) => inbox.push(Input::Reply(Reply::Appended(runs))),
            // The caller may have gone; its event is stored all the same.
            Answer::Caller(caller) => drop(caller.send(runs)),
        }
    }
}

impl Append {
    pub(super) fn new(
        publisher: Option<EmitSource>,
        first: EmitNumber,
        events: Events,
        bytes: usize,
        answer: Answer,
    ) -> Append {
        Append { publisher, first, events, is_whole: false, refused: None, bytes, answer }
    }

    pub(super) fn refused(first: EmitNumber, count: u32, code: RefusalCode, answer: Answer) -> Append {
        let run = EmitRun { first, count, fate: EmitFate::Refused(code) };
        Append { publisher: None, first, events: Vec::new(), is_whole: false, refused: Some(run), bytes: 0, answer }
    }
}

/// Cuts events of so many bytes into rows that fit into one commit each, at least one event to a row. Each with its bytes.
pub(super) fn parts(mut events: Events, mut bytes: usize) -> impl Iterator<Item = (Events, usize)> {
    std::iter::from_fn(move || {
        if events.is_empty() {
            return None;
        }
        if events.len() <= COMMIT_EVENTS_MAX && bytes <= COMMIT_BYTES_MAX {
            return Some((std::mem::take(&mut events), bytes));
        }
        let (mut count, mut part_bytes) = (1, event_bytes(&events[0]));
        for event in events.iter().take(COMMIT_EVENTS_MAX).skip(1) {
            let more = event_bytes(event);
            if part_bytes + more > COMMIT_BYTES_MAX {
                break;
            }
            (count, part_bytes) = (count + 1, part_bytes + more);
        }
        let rest = events.split_off(count);
        bytes -= part_bytes;
        Some((std::mem::replace(&mut events, rest), part_bytes))
    })
}

pub(super) fn event_bytes(event: &Result<NewEvent, RefusalCode>) -> usize {
    EVENT_OVERHEAD_BYTES + event.as_ref().map_or(0, NewEvent::size_bytes)
}

/// What an event costs besides its content, about, in bytes.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 64;
