//! Events as packets. What is the same for all sockets of a namespace is made once and shared: the packet of an event,
//! with or without its offset. Bounded by slots and by bytes.

use bytes::Bytes;
use parking_lot::Mutex;
use redeliver_server::{FeedEvent, Position, TopicName};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::Args;
use crate::engine::SharedFrame;
use crate::offset::Offset;
use crate::packet::{AckId, NamespaceName, PacketWriter, RESERVED_NAMES};

/// How an event goes out to a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its name and its arguments.
    Plain,
    /// Name, arguments, and the event's offset in this turn.
    WithOffset(u32),
    /// As one object that names the topic; with the offset, if there is a turn.
    Envelope { topic: TopicName, turn: Option<u32> },
}

/// The packets of one namespace's newest events.
#[derive(Debug)]
pub(crate) struct Frames {
    namespace: NamespaceName,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    bytes: usize,
}

#[derive(Debug)]
struct Slot {
    position: Position,
    content: EventPacket,
    frames: Vec<(Form, SharedFrame)>,
}

/// An event's name and arguments, as they stand in packets.
#[derive(Clone, Debug)]
struct EventPacket {
    name: String,
    args: Args,
}

impl Frames {
    pub(crate) fn new(namespace: NamespaceName) -> Frames {
        Frames { namespace, slots: Mutex::default() }
    }

    /// An event's packet, the same for all who ask for this form.
    pub(crate) fn shared(&self, event: &FeedEvent, form: Form) -> SharedFrame {
        let mut slots = self.slots.lock();
        let slot = slots.slot(event);
        if let Some((_, frame)) = slot.frames.iter().find(|(known, _)| *known == form) {
            return frame.clone();
        }
        let frame = slot.content.frame(&self.namespace, event, &form);
        if slot.frames.len() < FORMS_MAX {
            slot.frames.push((form, frame.clone()));
        }
        frame
    }

    /// An event's packet with an ack id of one socket's own.
    pub(crate) fn asking(&self, event: &FeedEvent, envelope: Option<&TopicName>, id: AckId) -> SharedFrame {
        let content = self.slots.lock().slot(event).content.clone();
        let content = match envelope {
            Some(topic) => content.in_envelope(event, topic),
            None => content,
        };
        content.write(&self.namespace, Some(id), None)
    }

    /// The packet of something that is not in the log, with the offset of the place where it is told.
    pub(crate) fn unlogged(&self, name: &str, args: &Args, offset: Option<Offset>) -> SharedFrame {
        EventPacket { name: safe_name(name), args: args.clone() }.write(&self.namespace, None, offset)
    }

    /// An answer to a client's event.
    pub(crate) fn ack(&self, id: AckId, args: &Args) -> SharedFrame {
        let mut writer = PacketWriter::ack(&self.namespace, id, args.attachments().len());
        put_args(&mut writer, args);
        SharedFrame::new(&writer.finish(), args.attachments())
    }
}

impl Slots {
    fn slot(&mut self, event: &FeedEvent) -> &mut Slot {
        if self.slots.is_empty() || self.bytes > BYTES_MAX {
            self.slots = std::iter::repeat_with(|| None).take(SLOTS).collect();
            self.bytes = 0;
        }
        let at = usize::try_from(event.position.seq.0 % SLOTS as u64).unwrap_or_default();
        let slot = &mut self.slots[at];
        let is_other = slot.as_ref().is_none_or(|slot| slot.position != event.position);
        if is_other {
            // About: a slot may hold a few forms.
            self.bytes += event.payload.len() * 2 + SLOT_OVERHEAD_BYTES;
            self.bytes -= slot.as_ref().map_or(0, Slot::bytes).min(self.bytes);
        }
        if is_other {
            *slot = None;
        }
        slot.get_or_insert_with(|| Slot {
            position: event.position,
            content: EventPacket {
                name: safe_name(event.name.as_str()),
                args: Args::from_payload(event.kind, &event.payload),
            },
            frames: Vec::new(),
        })
    }
}

impl Slot {
    fn bytes(&self) -> usize {
        let attached: usize = self.content.args.attachments().iter().map(Bytes::len).sum();
        (self.content.args.list().len() + attached) * 2 + SLOT_OVERHEAD_BYTES
    }
}

impl EventPacket {
    fn frame(&self, namespace: &NamespaceName, event: &FeedEvent, form: &Form) -> SharedFrame {
        let offset = |turn| Offset::new(event.position, turn);
        match form {
            Form::Plain => self.write(namespace, None, None),
            Form::WithOffset(turn) => self.write(namespace, None, Some(offset(*turn))),
            Form::Envelope { topic, turn } => {
                self.clone().in_envelope(event, topic).write(namespace, None, turn.map(offset))
            }
        }
    }

    /// Wraps the packet into the only argument of an `event`, which says what it is and where it stands.
    fn in_envelope(self, event: &FeedEvent, topic: &TopicName) -> EventPacket {
        #[derive(Serialize)]
        struct Envelope<'a> {
            topic: &'a str,
            seq: u64,
            name: &'a str,
            time: u64,
            data: Option<Box<RawValue>>,
        }
        let only = if self.args.len() == 1 { self.args.split_first().map(|(only, _)| only) } else { None };
        let envelope = Envelope {
            topic: topic.as_str(),
            seq: event.position.seq.0,
            name: event.name.as_str(),
            time: event.time.0,
            data: only.or_else(|| RawValue::from_string(self.args.to_json()).ok()),
        };
        // Numbers, names and valid JSON can be written.
        let text = serde_json::to_vec(&envelope).unwrap_or_default();
        let args = Args::from_packet(&text.into(), self.args.attachments().to_vec());
        EventPacket { name: ENVELOPE.to_owned(), args }
    }

    fn write(&self, namespace: &NamespaceName, id: Option<AckId>, offset: Option<Offset>) -> SharedFrame {
        let mut writer = PacketWriter::event(namespace, id, self.args.attachments().len(), &self.name);
        put_args(&mut writer, &self.args);
        if let Some(offset) = offset {
            // An offset has no character that JSON would escape.
            writer.arg(&format!("\"{offset}\""));
        }
        SharedFrame::new(&writer.finish(), self.args.attachments())
    }
}

fn put_args(writer: &mut PacketWriter, args: &Args) {
    let list = std::str::from_utf8(args.list()).unwrap_or_default();
    if !list.is_empty() {
        writer.arg(list);
    }
}

/// Clients drop a connection on which an event has one of their own names. Native clients know no such names, so an
/// event may have one.
fn safe_name(name: &str) -> String {
    if RESERVED_NAMES.contains(&name) { format!("event:{name}") } else { name.to_owned() }
}

/// The name of events that come in an envelope.
pub(crate) const ENVELOPE: &str = "event";

/// Newest events whose packets are kept.
const SLOTS: usize = 256;

/// Forms of one event that are kept.
const FORMS_MAX: usize = 8;

/// Bytes of packets that are kept for one namespace, about. Beyond, all are made anew.
const BYTES_MAX: usize = 8 * 1024 * 1024;

const SLOT_OVERHEAD_BYTES: usize = 256;
