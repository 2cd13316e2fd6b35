//! What is stored of a socket so that it can go on after anything, and what is decided when it comes back. Pure: knows
//! neither the store nor the wire.

use std::fmt;

use bytes::Bytes;
use redeliver_protocol::time::Timestamp;
use redeliver_server::{Epoch, GapRange, Position, STATE_KEY_BYTES_MAX, Seq};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ChangeError;
use crate::offset::Offset;
use crate::rooms::Memberships;

/// A socket as it is stored.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SocketSession {
    version: u8,
    pub(crate) sid: String,
    /// What a client shows to go on. Whoever knows it and has the same identity is this socket.
    pub(crate) pid: String,
    pub(crate) namespace: String,
    /// The name of the identity that it belongs to.
    pub(crate) identity: String,
    pub(crate) rooms: Memberships,
    /// The app's own.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) data: Value,
    epoch: [u8; 16],
    seq: Seq,
    turn: u32,
    saved_ms: u64,
}

impl SocketSession {
    /// A socket that begins here.
    pub(crate) fn new(sid: String, pid: String, namespace: &str, identity: &str, start: Position) -> SocketSession {
        SocketSession {
            version: VERSION,
            sid,
            pid,
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            rooms: Memberships::default(),
            data: Value::Null,
            epoch: start.epoch.0,
            seq: start.seq,
            turn: 0,
            saved_ms: 0,
        }
    }

    /// How far the client is known to have come.
    pub(crate) fn confirmed(&self) -> Offset {
        Offset::new(Position::new(Epoch(self.epoch), self.seq), self.turn)
    }

    /// The client has come so far. Returns whether that is news.
    pub(crate) fn confirm(&mut self, offset: Offset) -> bool {
        if offset == self.confirmed() {
            return false;
        }
        self.set_confirmed(offset);
        self.rooms.arrived(self.seq, self.turn);
        true
    }

    fn set_confirmed(&mut self, offset: Offset) {
        self.epoch = offset.position.epoch.0;
        self.seq = offset.position.seq;
        self.turn = offset.turn;
    }

    /// When it was stored.
    pub(crate) fn saved(&self) -> Timestamp {
        Timestamp(self.saved_ms)
    }

    /// What is stored.
    ///
    /// # Errors
    ///
    /// The rooms and the data are too much for one socket.
    pub(crate) fn encode(&mut self, now: Timestamp) -> Result<Bytes, ChangeError> {
        self.saved_ms = now.0;
        let bytes = serde_json::to_vec(self).map_err(|_| ChangeError::TooLarge)?;
        if bytes.len() > STORED_BYTES_MAX { Err(ChangeError::TooLarge) } else { Ok(bytes.into()) }
    }

    /// Reads what is stored; nothing if it is of another version, or damaged.
    pub(crate) fn decode(stored: &[u8]) -> Option<SocketSession> {
        serde_json::from_slice::<SocketSession>(stored).ok().filter(|session| session.version == VERSION)
    }
}

impl fmt::Debug for SocketSession {
    /// Leaves out what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketSession")
            .field("sid", &self.sid)
            .field("namespace", &self.namespace)
            .field("identity", &self.identity)
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

/// What a client shows that comes back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown<'a> {
    pub(crate) pid: Option<&'a str>,
    pub(crate) offset: Option<&'a str>,
    /// Whether it named a durable subscriber, and may be it: then it goes on also without its pid.
    pub(crate) subscriber: bool,
}

/// What becomes of a socket that comes back.
#[derive(Debug, PartialEq)]
pub(crate) enum Decision {
    /// It goes on after this position.
    Resume { session: Box<SocketSession>, after: Position },
    /// It begins anew.
    Anew(Why),
}

impl Decision {
    /// Whether the socket goes on as the one of this pid.
    pub(crate) fn is_of(&self, pid: Option<&str>) -> bool {
        match self {
            Decision::Resume { session, .. } => pid == Some(session.pid.as_str()),
            Decision::Anew(_) => false,
        }
    }
}

/// Why a socket begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It showed nothing.
    First,
    /// What it showed is not known, or no longer.
    Unknown,
    /// It is another's.
    Foreign,
}

/// Decides for a client that shows this, in this namespace, with this identity.
pub(crate) fn decide(stored: Option<SocketSession>, shown: Shown<'_>, namespace: &str, identity: &str) -> Decision {
    if shown.pid.is_none() && !shown.subscriber {
        return Decision::Anew(Why::First);
    }
    let Some(mut session) = stored else { return Decision::Anew(Why::Unknown) };
    let has_pid = shown.pid == Some(session.pid.as_str());
    if session.namespace != namespace || session.identity != identity || !(has_pid || shown.subscriber) {
        return Decision::Anew(Why::Foreign);
    }
    // An offset counts only together with the pid that it was handed out under: a subscriber's page that was loaded
    // again has none, and another page's would skip what this one has not seen.
    let offset = shown.offset.filter(|_| has_pid).and_then(Offset::parse);
    let confirmed = session.confirmed();
    let place = match offset {
        Some(offset) if session.rooms.resume(offset.position.seq, offset.turn) => offset,
        Some(_) | None => {
            if !session.rooms.resume(confirmed.position.seq, confirmed.turn) {
                return Decision::Anew(Why::Unknown);
            }
            confirmed
        }
    };
    // Not in the name of a turn that has just begun: nothing of that one has arrived.
    session.set_confirmed(place);
    Decision::Resume { after: place.position, session: Box::new(session) }
}

/// The oldest seq after which a socket's events must be read.
pub(crate) fn read_after(rooms: &Memberships, place: Seq) -> Seq {
    rooms.follows().map(|follow| follow.after).min().unwrap_or(place).min(place)
}

/// How many events of a gap are missing, at most: a topic has no more than there are numbers between.
pub(crate) fn most_missing(gap: &GapRange) -> u64 {
    let is_one_history = gap.after.epoch == gap.through.epoch;
    let between = gap.through.seq.0.saturating_sub(gap.after.seq.0);
    if gap.count_is_exact || !is_one_history { gap.count } else { gap.count.min(between) }
}

/// The key under which a pid's session is stored.
pub(crate) fn pid_key(pid: &str) -> Option<Bytes> {
    // Only what could have been handed out: nobody reads other keys through this.
    let valid = pid.len() == PID_CHARS && pid.bytes().all(|byte| byte.is_ascii_hexdigit());
    valid.then(|| Bytes::from(format!("{PID_KEYS}{pid}")))
}

/// The key under which a durable subscriber's session is stored; none if the names are too long for one.
pub(crate) fn subscriber_key(namespace: &str, subscriber: &str) -> Option<Bytes> {
    let key = format!("{SUBSCRIBER_KEYS}{}:{namespace}:{subscriber}", namespace.len());
    (key.len() <= STATE_KEY_BYTES_MAX).then(|| Bytes::from(key))
}

/// The key under which the session of one of a durable subscriber's devices is stored; none if the names are too long
/// for one.
pub(crate) fn device_key(namespace: &str, subscriber: &str, device: &str) -> Option<Bytes> {
    let (namespace_len, subscriber_len) = (namespace.len(), subscriber.len());
    let key = format!("{DEVICE_KEYS}{namespace_len}:{namespace}:{subscriber_len}:{subscriber}:{device}");
    (key.len() <= STATE_KEY_BYTES_MAX).then(|| Bytes::from(key))
}

/// Whether the session under this key belongs to a name that a client chose, rather than to a pid.
pub(crate) fn is_named(key: &[u8]) -> bool {
    let is_pid = |device: &[u8]| device.len() == PID_CHARS && device.iter().all(u8::is_ascii_hexdigit);
    let device = key.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    key.starts_with(SUBSCRIBER_KEYS.as_bytes()) || (key.starts_with(DEVICE_KEYS.as_bytes()) && !is_pid(device))
}

/// What all keys of sessions begin with.
pub(crate) const KEYS: &str = "sio/";
const PID_KEYS: &str = "sio/p/";
const SUBSCRIBER_KEYS: &str = "sio/s/";
const DEVICE_KEYS: &str = "sio/d/";

const VERSION: u8 = 1;

/// 128 bits in hex.
const PID_CHARS: usize = 32;

/// Most bytes of a stored socket, below the store's bound for one value.
const STORED_BYTES_MAX: usize = 60 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rooms::room_topic;

    const PID: &str = "0123456789abcdef0123456789abcdef";

    fn at(seq: u64) -> Position {
        Position::new(Epoch([3; 16]), Seq(seq))
    }

    fn session() -> SocketSession {
        let mut session = SocketSession::new("sid".to_owned(), PID.to_owned(), "/", "ali", at(10));
        session.rooms.join(&room_topic("/", "a").unwrap(), Seq(10), false).unwrap();
        session
    }

    fn stored(session: &SocketSession) -> Option<SocketSession> {
        SocketSession::decode(&session.clone().encode(Timestamp(7)).unwrap())
    }

    fn resumed(session: &SocketSession, shown: Shown<'_>) -> Option<(Position, SocketSession)> {
        match decide(stored(session), shown, "/", "ali") {
            Decision::Resume { session, after } => Some((after, *session)),
            Decision::Anew(_) => None,
        }
    }

    #[test]
    fn a_pid_goes_on_after_its_offset() {
        let offset = Offset::new(at(15), 0).to_string();
        let (after, session) =
            resumed(&session(), Shown { pid: Some(PID), offset: Some(&offset), subscriber: false }).unwrap();
        assert_eq!(after, at(15));
        let room = room_topic("/", "a").unwrap();
        assert!(
            session.rooms.gives(&room, Some(Seq(15))).is_none() && session.rooms.gives(&room, Some(Seq(16))).is_some()
        );
    }

    #[test]
    fn what_is_no_offset_falls_back_to_what_was_confirmed() {
        let mut confirmed = session();
        confirmed.confirm(Offset::new(at(12), 0));
        for offset in [None, Some("a volatile event's last word"), Some("rd1.x")] {
            let shown = Shown { pid: Some(PID), offset, subscriber: false };
            assert_eq!(resumed(&confirmed, shown).unwrap().0, at(12));
        }
    }

    #[test]
    fn another_identity_or_namespace_does_not_get_in_by_a_pid() {
        let shown = Shown { pid: Some(PID), ..Shown::default() };
        assert_eq!(decide(stored(&session()), shown, "/", "eve"), Decision::Anew(Why::Foreign));
        assert_eq!(decide(stored(&session()), shown, "/n", "ali"), Decision::Anew(Why::Foreign));
        assert_eq!(decide(None, shown, "/", "ali"), Decision::Anew(Why::Unknown));
        assert_eq!(decide(stored(&session()), Shown::default(), "/", "ali"), Decision::Anew(Why::First));
        let other = "f".repeat(32);
        let shown = Shown { pid: Some(&other), ..Shown::default() };
        assert_eq!(decide(stored(&session()), shown, "/", "ali"), Decision::Anew(Why::Foreign));
    }

    #[test]
    fn a_subscriber_goes_on_without_a_pid_and_trusts_no_offset_then() {
        let offset = Offset::new(at(15), 0).to_string();
        let shown = Shown { pid: None, offset: Some(&offset), subscriber: true };
        assert_eq!(resumed(&session(), shown).unwrap().0, at(10));
    }

    #[test]
    fn an_offset_of_an_unknown_turn_is_none() {
        let offset = Offset::new(at(15), 9).to_string();
        let shown = Shown { pid: Some(PID), offset: Some(&offset), subscriber: false };
        assert_eq!(resumed(&session(), shown).unwrap().0, at(10));
    }

    #[test]
    fn what_is_damaged_or_too_large_is_not_taken() {
        assert_eq!(SocketSession::decode(b"{}"), None);
        assert_eq!(SocketSession::decode(br#"{"version":2}"#), None);
        let mut large = session();
        large.data = Value::from("x".repeat(STORED_BYTES_MAX));
        assert_eq!(large.encode(Timestamp(0)), Err(ChangeError::TooLarge));
    }

    #[test]
    fn only_what_could_be_a_pid_is_looked_for() {
        assert!(pid_key(PID).is_some());
        assert!(pid_key("../x").is_none() && pid_key(&"g".repeat(32)).is_none() && pid_key("").is_none());
    }
}
