//! An Engine.IO session without its IO: which transport it is on, what waits for a poll, when to ping and when to give
//! up. Pure: told the time, never asks; does nothing but say what is to be done.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::time::Instant;
use redeliver_websocket::Utf8Bytes;

use super::packet::{ClientPacket, Message};
use super::payload::{Packets, Polled, encode};

/// Periods and bounds of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) ping_interval: Duration,
    pub(super) ping_timeout: Duration,
    pub(super) upgrade_timeout: Duration,
    pub(super) body_bytes_max: usize,
}

/// What a session tells its owner.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A ping with this number was just put behind all that was sent so far.
    Pinged(u64),
    /// The ping with this number was answered: all that was sent before it has arrived.
    Pong(u64),
    /// All that was sent has left.
    Drained,
    /// It is over. Nothing comes after this.
    Closed(EngineCloseReason),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EngineCloseReason {
    /// The client closed it, or its connection ended.
    TransportClose,
    /// The client broke the rules of the transport, or does not read.
    TransportError,
    /// A ping was not answered in time.
    PingTimeout,
    /// A packet could not be understood.
    ParseError,
    /// Its owner closed it.
    Forced,
}

impl EngineCloseReason {
    /// The reason as Socket.IO's JavaScript server names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            EngineCloseReason::TransportClose => "transport close",
            EngineCloseReason::TransportError => "transport error",
            EngineCloseReason::PingTimeout => "ping timeout",
            EngineCloseReason::ParseError => "parse error",
            EngineCloseReason::Forced => "forced close",
        }
    }
}

impl std::fmt::Display for EngineCloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct EngineSession {
    terms: Terms,
    transport: Transport,
    heartbeat: Heartbeat,
    pings: u64,
    /// What waits for a poll. Empty on a WebSocket.
    queue: VecDeque<Message>,
    queue_bytes: usize,
    /// When a poll last took something, or the first of what waits was put in.
    taken_at: Instant,
    /// Packets of the last POST that were not asked for yet.
    packets: Option<Packets>,
    poll: Option<Poll>,
    end: Option<End>,
}

#[derive(Debug, PartialEq)]
enum Transport {
    Polling { probe: Option<Probe> },
    WebSocket,
}

/// A WebSocket that the client tries out.
#[derive(Debug, PartialEq)]
struct Probe {
    since: Instant,
    is_pinged: bool,
}

/// A GET that waits.
#[derive(Debug)]
struct Poll {
    /// From when on a probe may send it home empty.
    noop_at: Instant,
}

#[derive(Debug)]
enum Heartbeat {
    PingAt(Instant),
    PongBy(Instant),
}

/// How it ended, and what a client that still polls is to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct End {
    pub(super) reason: EngineCloseReason,
    /// For a GET that waits.
    pub(super) last_response: Bytes,
    /// Whether a GET that comes too late for it may have it still.
    pub(super) lingers: bool,
}

/// What a WebSocket under probe is to get.
#[derive(Debug)]
pub(super) enum ProbeStep {
    /// `3probe`.
    Answer,
    /// It is the transport from here on; these messages go first.
    Adopt(VecDeque<Message>),
    /// It is no use.
    Drop,
}

/// The request must be refused.
#[derive(Debug, PartialEq)]
pub(super) struct Refused;

impl EngineSession {
    pub(super) fn over_polling(terms: Terms, now: Instant) -> EngineSession {
        EngineSession::new(terms, now, Transport::Polling { probe: None })
    }

    pub(super) fn over_websocket(terms: Terms, now: Instant) -> EngineSession {
        EngineSession::new(terms, now, Transport::WebSocket)
    }

    fn new(terms: Terms, now: Instant, transport: Transport) -> EngineSession {
        EngineSession {
            transport,
            heartbeat: Heartbeat::PingAt(now + terms.ping_interval),
            terms,
            pings: 0,
            queue: VecDeque::new(),
            queue_bytes: 0,
            taken_at: now,
            packets: None,
            poll: None,
            end: None,
        }
    }

    /// How it ended, if it did.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(super) fn is_polling(&self) -> bool {
        matches!(self.transport, Transport::Polling { .. })
    }

    /// Bytes that wait for a poll.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Since when something waits for a poll and none takes of it.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        (!self.queue.is_empty()).then_some(self.taken_at)
    }

    /// Puts a message behind what waits for a poll. On a WebSocket it is given back, to be written.
    pub(super) fn send(&mut self, message: Message, now: Instant) -> Option<Message> {
        match self.transport {
            Transport::WebSocket => Some(message),
            Transport::Polling { .. } => {
                if self.queue.is_empty() {
                    self.taken_at = now;
                }
                self.queue_bytes += message.cost();
                self.queue.push_back(message);
                None
            }
        }
    }

    /// A GET has come and waits.
    ///
    /// # Errors
    ///
    /// If it must be refused. If another one waits, that ends the session.
    pub(super) fn get(&mut self, now: Instant) -> Result<(), Refused> {
        let Transport::Polling { probe } = &self.transport else { return Err(Refused) };
        if self.end.is_some() {
            return Err(Refused);
        }
        if self.poll.is_some() {
            self.fail(EngineCloseReason::TransportError);
            return Err(Refused);
        }
        // A client that probes may be about to switch: to answer at once would cross its last word.
        let noop_at = if probe.is_some() { now + CROSSING } else { now };
        self.poll = Some(Poll { noop_at });
        Ok(())
    }

    /// The body with which the GET that waits is to be answered now, if it is.
    pub(super) fn answer_get(&mut self, now: Instant) -> Option<Bytes> {
        let poll = self.poll.as_ref()?;
        if !self.queue.is_empty() {
            self.poll = None;
            self.taken_at = now;
            let body = encode(&mut self.queue, self.terms.body_bytes_max);
            self.queue_bytes = self.queue.iter().map(Message::cost).sum();
            if self.queue.is_empty() {
                // A burst's memory is not kept.
                self.queue = VecDeque::new();
            }
            return Some(body);
        }
        let Transport::Polling { probe: Some(Probe { is_pinged: true, .. }) } = &self.transport else { return None };
        if poll.noop_at > now {
            return None;
        }
        self.poll = None;
        Some(Bytes::from_static(NOOP))
    }

    /// The GET that waited is gone: its client is, too, or what it was to get might be lost.
    pub(super) fn get_aborted(&mut self) {
        self.poll = None;
        self.fail(EngineCloseReason::TransportClose);
    }

    /// A POST has come while another one is on its way.
    pub(super) fn post_twice(&mut self) {
        self.fail(EngineCloseReason::TransportError);
    }

    /// A POST's body did not come, or was too large.
    pub(super) fn post_failed(&mut self) {
        self.fail(EngineCloseReason::TransportError);
    }

    /// A POST's body is here. To be given when what the one before brought was asked for.
    ///
    /// # Errors
    ///
    /// If it must be refused. If it is malformed, that ends the session.
    pub(super) fn post(&mut self, body: Bytes) -> Result<(), Refused> {
        if !self.is_polling() || self.end.is_some() {
            return Err(Refused);
        }
        let Some(packets) = Packets::parse(body) else {
            self.fail(EngineCloseReason::ParseError);
            return Err(Refused);
        };
        self.packets = Some(packets);
        Ok(())
    }

    /// The next event of what POSTs have brought.
    pub(super) fn next_posted(&mut self, now: Instant) -> Option<EngineEvent> {
        while self.end.is_none()
            && let Some(packets) = &mut self.packets
        {
            match packets.next() {
                Some(Polled::Binary(bytes)) => return Some(EngineEvent::Binary(bytes)),
                Some(Polled::Text(packet)) => {
                    if let Some(event) = self.take(packet, now) {
                        return Some(event);
                    }
                }
                None => self.packets = None,
            }
        }
        None
    }

    /// A WebSocket has come for this session; whether it may try.
    pub(super) fn probe_opened(&mut self, now: Instant) -> bool {
        match &mut self.transport {
            Transport::Polling { probe: probe @ None } if self.end.is_none() => {
                *probe = Some(Probe { since: now, is_pinged: false });
                true
            }
            Transport::Polling { .. } | Transport::WebSocket => false,
        }
    }

    /// A text came over the WebSocket under probe.
    pub(super) fn probe_text(&mut self, text: Utf8Bytes) -> ProbeStep {
        let Transport::Polling { probe } = &mut self.transport else { return ProbeStep::Drop };
        match (ClientPacket::parse(text), probe) {
            (Some(ClientPacket::Probe), Some(probe)) if !probe.is_pinged => {
                probe.is_pinged = true;
                ProbeStep::Answer
            }
            (Some(ClientPacket::Upgrade), Some(Probe { is_pinged: true, .. })) => {
                self.transport = Transport::WebSocket;
                // A client switches when its polls have ended. One that waits is not the client's any more.
                self.poll = None;
                self.queue_bytes = 0;
                ProbeStep::Adopt(std::mem::take(&mut self.queue))
            }
            (_, probe) => {
                *probe = None;
                ProbeStep::Drop
            }
        }
    }

    /// The WebSocket under probe has ended. The session goes on polling.
    pub(super) fn probe_ended(&mut self) {
        if let Transport::Polling { probe } = &mut self.transport {
            *probe = None;
        }
    }

    /// Whether the probe has taken too long; then it is over.
    pub(super) fn probe_expired(&mut self, now: Instant) -> bool {
        match &mut self.transport {
            Transport::Polling { probe: probe @ Some(_) }
                if probe.as_ref().is_some_and(|probe| probe.since + self.terms.upgrade_timeout <= now) =>
            {
                *probe = None;
                true
            }
            Transport::Polling { .. } | Transport::WebSocket => false,
        }
    }

    /// A text came over the WebSocket.
    pub(super) fn text(&mut self, text: Utf8Bytes, now: Instant) -> Option<EngineEvent> {
        match ClientPacket::parse(text) {
            Some(ClientPacket::Probe | ClientPacket::Upgrade) | None => {
                self.fail(EngineCloseReason::ParseError);
                None
            }
            Some(packet) => self.take(packet, now),
        }
    }

    /// Ends it, for a reason other than its owner's or its client's wish.
    pub(super) fn fail(&mut self, reason: EngineCloseReason) {
        self.finish(End { reason, last_response: Bytes::from_static(CLOSE), lingers: false });
    }

    /// Ends it because its owner wants so. What waits for a poll goes before the close.
    pub(super) fn close(&mut self) {
        self.queue.push_back(Message::Packet(Bytes::from_static(CLOSE)));
        let last_response = encode(&mut self.queue, usize::MAX);
        self.finish(End { reason: EngineCloseReason::Forced, last_response, lingers: true });
    }

    /// The number of a ping that is due now. It must be sent.
    pub(super) fn ping(&mut self, now: Instant) -> Option<u64> {
        let Heartbeat::PingAt(at) = self.heartbeat else { return None };
        if at > now || self.end.is_some() {
            return None;
        }
        // Counted from when it was due, so that a timer's slack does not add up; but a server that was stopped gives
        // its clients the whole time.
        let sent_at = if now.since(at) > SLACK { now } else { at };
        self.heartbeat = Heartbeat::PongBy(sent_at + self.terms.ping_timeout);
        self.pings += 1;
        Some(self.pings)
    }

    /// Ends it if a pong is overdue. To be asked when all that came was heard.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Heartbeat::PongBy(by) = self.heartbeat
            && by <= now
        {
            self.fail(EngineCloseReason::PingTimeout);
        }
    }

    /// When to come back, if nothing happens before. Who does not read cannot miss a pong.
    pub(super) fn deadline(&self, reads: bool) -> Instant {
        let heartbeat = match self.heartbeat {
            Heartbeat::PongBy(_) if !reads => Instant::ORIGIN + Duration::MAX,
            Heartbeat::PingAt(due) | Heartbeat::PongBy(due) => due,
        };
        let Transport::Polling { probe: Some(probe) } = &self.transport else { return heartbeat };
        let noop_at = self.poll.as_ref().filter(|_| probe.is_pinged).map(|poll| poll.noop_at);
        let due = heartbeat.min(probe.since + self.terms.upgrade_timeout);
        noop_at.map_or(due, |noop_at| due.min(noop_at))
    }

    fn take(&mut self, packet: ClientPacket, now: Instant) -> Option<EngineEvent> {
        match packet {
            ClientPacket::Message(text) => Some(EngineEvent::Text(text)),
            ClientPacket::Pong => match self.heartbeat {
                Heartbeat::PongBy(_) => {
                    self.heartbeat = Heartbeat::PingAt(now + self.terms.ping_interval);
                    Some(EngineEvent::Pong(self.pings))
                }
                // Nobody asked: it confirms nothing and delays no ping.
                Heartbeat::PingAt(_) => None,
            },
            ClientPacket::Close => {
                // Its poll may be a moment behind the POST that brought this: both are on their way at once.
                let lingers = self.is_polling() && self.poll.is_none();
                let last_response = Bytes::from_static(NOOP);
                self.finish(End { reason: EngineCloseReason::TransportClose, last_response, lingers });
                None
            }
            ClientPacket::Probe | ClientPacket::Upgrade => None,
        }
    }

    fn finish(&mut self, end: End) {
        if self.end.is_none() {
            self.end = Some(end);
            self.queue = VecDeque::new();
            self.queue_bytes = 0;
            self.packets = None;
        }
    }
}

const CLOSE: &[u8] = b"1";
const NOOP: &[u8] = b"6";

/// How long a poll that comes during a probe waits for the upgrade. Clients that send `2probe` and `5` at once have
/// their next request answered as after the upgrade.
const CROSSING: Duration = Duration::from_millis(50);

/// Lateness of a timer that is no sign of a stopped server.
const SLACK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
