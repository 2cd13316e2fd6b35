//! The least of Socket.IO that a load needs, over WebSocket alone: connect, recover, subscribe, emit, answer pings. One
//! handler for any server that has the events `subscribe` and `emit`; it takes each next event of a topic and nothing else.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::fleet::Handler;
use crate::payload::Stamp;
use crate::wire::{NAME, put_text, topic_name};

/// A client's request for a WebSocket of Engine.IO. It calls itself what browsers do: clients in other languages are given
/// no offsets.
pub const UPGRADE: &[u8] = b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\n\
User-Agent: Mozilla/5.0 (bench)\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cmVkZWxpdmVyYmVuY2hlcw==\r\n\r\n";

/// One socket: a reader of one topic, or the emitter.
#[derive(Clone, Debug, Default)]
pub struct Socket {
    /// The topic that it follows. Nothing: it emits.
    topic: Option<u64>,
    /// The number that the topic's next event has.
    next: u64,
    sid: String,
    pid: Option<String>,
    offset: Option<String>,
    /// Whether it comes back: the server must know it again.
    returns: bool,
}

/// All sockets of a fleet, by connection.
#[derive(Debug)]
pub struct Sockets {
    /// Who they are.
    each: Vec<Socket>,
    /// To how many topics the emitter's events go in turn.
    topics: u64,
    /// Readers that follow their topic or were known again, and emitters that are connected.
    pub ready: usize,
    /// Events that arrived.
    pub arrived: u64,
    /// Events that were acknowledged to the emitter.
    pub acked: u64,
    sent: u64,
}

impl Sockets {
    /// Readers of topics in turn; each must be connected in this order.
    #[must_use]
    pub fn readers(count: usize, topics: u64) -> Sockets {
        let reader = |topic| Socket { topic: Some(topic), next: topic, ..Socket::default() };
        let each = (0..count as u64).map(|at| reader(at % topics)).collect();
        Sockets { each, topics, ready: 0, arrived: 0, acked: 0, sent: 0 }
    }

    /// The same readers, about to come back on connections of their own.
    #[must_use]
    pub fn returning(&self) -> Sockets {
        let back = |socket: &Socket| Socket { returns: true, ..socket.clone() };
        let each = self.each.iter().filter(|socket| socket.topic.is_some()).map(back).collect();
        Sockets { each, topics: self.topics, ready: 0, arrived: 0, acked: 0, sent: 0 }
    }

    /// Makes room for the emitter, which must be connected next.
    pub fn add_emitter(&mut self) {
        self.each.push(Socket::default());
    }

    /// How many events were emitted.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Appends the emit of the next event, to the next topic.
    pub fn put_emit(&mut self, out: &mut Vec<u8>) {
        let topic = topic_name(self.sent % self.topics);
        let payload = payload(self.sent);
        put_text(out, &format!("42{}[\"emit\",\"{topic}\",\"{NAME}\",\"{payload}\"]", self.sent));
        self.sent += 1;
    }

    fn connected(&mut self, connection: usize, json: &str, out: &mut Vec<u8>) -> Result<()> {
        let connected: Connected = serde_json::from_str(json).context("a CONNECT packet")?;
        let socket = &mut self.each[connection];
        let Some(topic) = socket.topic else {
            self.ready += 1;
            return Ok(());
        };
        if socket.returns {
            ensure!(connected.sid == socket.sid, "a socket was not known again: it missed what it missed");
            self.ready += 1;
        } else {
            put_text(out, &format!("420[\"subscribe\",\"{}\"]", topic_name(topic)));
        }
        (socket.sid, socket.pid) = (connected.sid, connected.pid.or(socket.pid.take()));
        Ok(())
    }

    fn acknowledged(&mut self, connection: usize, text: &str) -> Result<()> {
        let at = text.find('[').context("an ACK packet without arguments")?;
        let (answer,): (Answer,) = serde_json::from_str(&text[at..]).with_context(|| format!("the answer {text}"))?;
        ensure!(answer.ok, "the server refused: {text}");
        if self.each[connection].topic.is_some() {
            self.ready += 1;
        } else {
            ensure!(text[..at] == self.acked.to_string(), "emits were answered out of their order");
            self.acked += 1;
        }
        Ok(())
    }

    fn event(&mut self, connection: usize, json: &str) -> Result<()> {
        let arguments: Vec<&str> = serde_json::from_str(json).with_context(|| format!("the event {json}"))?;
        let (name, sent, offset) = match arguments[..] {
            [name, sent] => (name, sent, None),
            [name, sent, offset] => (name, sent, Some(offset)),
            _ => bail!("an event of {} arguments arrived", arguments.len()),
        };
        let socket = &mut self.each[connection];
        ensure!(name == NAME && sent == payload(socket.next), "{json} arrived in the place of {}", socket.next);
        socket.next += self.topics;
        if let Some(offset) = offset {
            let kept = socket.offset.get_or_insert_default();
            kept.clear();
            kept.push_str(offset);
        }
        self.arrived += 1;
        Ok(())
    }
}

impl Handler for Sockets {
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let text = std::str::from_utf8(message).context("a text that is none")?;
        if let Some(json) = text.strip_prefix("42") {
            self.event(connection, json)
        } else if let Some(ack) = text.strip_prefix("43") {
            self.acknowledged(connection, ack)
        } else if text.starts_with('2') {
            put_text(out, "3");
            Ok(())
        } else if text.starts_with('0') {
            let socket = &self.each[connection];
            let auth = match (&socket.pid, socket.returns) {
                (Some(pid), true) => serde_json::json!({ "pid": pid, "offset": socket.offset }).to_string(),
                _ => String::new(),
            };
            put_text(out, &format!("40{auth}"));
            Ok(())
        } else if let Some(json) = text.strip_prefix("40") {
            self.connected(connection, json, out)
        } else {
            bail!("the server said {text}");
        }
    }
}

#[derive(Debug, Deserialize)]
struct Connected {
    sid: String,
    pid: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
}

/// 128 characters that no other number has.
fn payload(index: u64) -> String {
    let mut bytes = [0; PAYLOAD_CHARS / 2];
    Stamp { source: 0, index, due_ns: 0 }.write(&mut bytes);
    let mut text = String::with_capacity(PAYLOAD_CHARS);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// As many as the other workloads have bytes.
const PAYLOAD_CHARS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(sockets: &mut Sockets, text: &str) -> Result<String> {
        let mut out = Vec::new();
        sockets.message(0, text.as_bytes(), &mut out)?;
        Ok(String::from_utf8_lossy(out.get(6..).unwrap_or_default()).into_owned())
    }

    #[test]
    fn a_reader_connects_subscribes_and_takes_each_next_event_only() {
        let mut sockets = Sockets::readers(1, 1);
        assert_eq!(said(&mut sockets, "0{\"sid\":\"e\"}").unwrap(), "40");
        let subscribe = said(&mut sockets, "40{\"sid\":\"s\",\"pid\":\"p\"}").unwrap();
        assert_eq!(subscribe, "420[\"subscribe\",\"bench/0000000\"]");
        said(&mut sockets, "430[{\"ok\":true}]").unwrap();
        assert_eq!(said(&mut sockets, "2").unwrap(), "3");
        said(&mut sockets, &format!("42[\"{NAME}\",\"{}\",\"o1\"]", payload(0))).unwrap();
        assert_eq!((sockets.ready, sockets.arrived), (1, 1));
        let again = said(&mut sockets, &format!("42[\"{NAME}\",\"{}\",\"o1\"]", payload(0)));
        assert!(again.is_err(), "the same event a second time");
    }

    #[test]
    fn a_reader_that_comes_back_shows_what_it_has_and_must_be_known() {
        let mut sockets = Sockets::readers(1, 1);
        said(&mut sockets, "40{\"sid\":\"s\",\"pid\":\"p\"}").unwrap();
        said(&mut sockets, &format!("42[\"{NAME}\",\"{}\",\"o1\"]", payload(0))).unwrap();
        let mut back = sockets.returning();
        assert_eq!(said(&mut back, "0{}").unwrap(), "40{\"offset\":\"o1\",\"pid\":\"p\"}");
        assert!(said(&mut back, "40{\"sid\":\"other\"}").is_err(), "a socket that is not known again");
        assert_eq!(said(&mut back, "40{\"sid\":\"s\",\"pid\":\"p\"}").unwrap(), "", "it need not subscribe again");
        said(&mut back, &format!("42[\"{NAME}\",\"{}\"]", payload(1))).unwrap();
        assert_eq!((back.ready, back.arrived), (1, 1));
    }
}
