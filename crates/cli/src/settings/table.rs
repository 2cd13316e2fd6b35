//! The rows: every key of the configuration file with its meaning, its bounds and the value that it sets.
//!
//! A row is all that a setting takes. What has no row must be among the exceptions of the test beside, with a reason.

use std::path::PathBuf;
use std::time::Duration;

use redeliver_server::{EVENT_BYTES_MAX, EVENT_TOPICS_MAX};

use super::{Configuration, Kind, Number, Setting, Time};

/// In the order in which they are shown: those outside of all sections first, then section by section.
pub(super) static SETTINGS: &[Setting] = &[
    text("listen", |c| &mut c.listen, "where to listen, as HOST:PORT; port 0 takes a free one"),
    text("data", |c| &mut c.data, "the data directory; it is created if it does not exist"),
    time("heartbeat", Duration::from_secs(1), |c| always(&mut c.session.heartbeat), HEARTBEAT),
    Setting { key: "allowed_origins", kind: Kind::Origins(|c| &mut c.allowed_origins), means: ORIGINS },
    text("admin.listen", |c| &mut c.admin_listen, ADMIN),
    file("tls.cert", |c| &mut c.tls.cert, CERT),
    file("tls.key", |c| &mut c.tls.key, "its private key, in PEM"),
    file("tls.client_ca", |c| &mut c.tls.client_ca, CLIENT_CA),
    time("retention.age", SECOND, |c| Time::Optional(&mut c.log.retention.age), "events that are older go"),
    size("retention.bytes", 1, NO_BOUND, |c| Number::Optional(&mut c.log.retention.bytes), RETENTION_BYTES),
    count("retention.count", 1, |c| Number::Optional(&mut c.log.retention.count), RETENTION_COUNT),
    time("retention.publishers", HOUR, |c| always(&mut c.log.publisher_idle), PUBLISHERS),
    time("retention.cursors", HOUR, |c| always(&mut c.log.cursor_idle), CURSORS),
    count("limits.connections", 1, |c| Number::Usize(&mut c.connections_max), CONNECTIONS),
    count("limits.strangers", 1, |c| Number::Usize(&mut c.strangers.strangers_max), STRANGERS),
    count("limits.strangers_per_address", 1, |c| Number::Usize(&mut c.strangers.per_address_max), PER_ADDRESS),
    time("limits.stranger_timeout", SECOND, |c| always(&mut c.strangers.deadline), STRANGER_TIMEOUT),
    size("limits.event_bytes", 1, EVENT_BYTES, |c| Number::U32(&mut c.session.limits.event_bytes_max), EVENT),
    Setting {
        key: "limits.event_topics",
        means: "topics of one event",
        kind: Kind::Count {
            least: 1,
            most: EVENT_TOPICS_MAX as u64,
            slot: |c| Number::U32(&mut c.session.limits.event_topics_max),
        },
    },
    count(
        "limits.subscriptions",
        1,
        |c| Number::U32(&mut c.session.limits.subscriptions_max),
        "subscriptions of one connection",
    ),
    count("limits.window_events", 1, |c| Number::U32(&mut c.session.limits.window_events_max), WINDOW_EVENTS),
    size("limits.window_bytes", 1, NO_BOUND, |c| Number::U32(&mut c.session.limits.window_bytes_max), WINDOW_BYTES),
    count("limits.emits_in_flight", 1, |c| Number::U32(&mut c.session.limits.emits_in_flight_max), IN_FLIGHT),
    size("limits.emit_bytes_in_flight", 1, NO_BOUND, emit_bytes_in_flight, IN_FLIGHT_BYTES),
    size("limits.queue_bytes", 1 << 20, NO_BOUND, |c| Number::Usize(&mut c.queue_bytes_max), QUEUE_BYTES),
    size("limits.output_bytes", 1024, NO_BOUND, |c| Number::Usize(&mut c.session.output_bytes_max), OUTPUT_BYTES),
    time("limits.hello_timeout", SECOND, |c| always(&mut c.session.hello_timeout), HELLO_TIMEOUT),
    time("limits.write_timeout", SECOND, |c| always(&mut c.session.write_timeout), WRITE_TIMEOUT),
    size("log.recent_bytes", 0, NO_BOUND, |c| Number::Usize(&mut c.log.recent_bytes_max), RECENT_BYTES),
    size("log.read_cache_bytes", 0, NO_BOUND, |c| Number::Usize(&mut c.log.read_cache_bytes_max), READ_CACHE_BYTES),
    size("log.tail_bytes", 1 << 20, NO_BOUND, |c| Number::Usize(&mut c.log.tail_bytes_max), TAIL_BYTES),
    size("log.fold_bytes", 1 << 16, NO_BOUND, |c| Number::Usize(&mut c.log.fold_bytes), FOLD_BYTES),
    Setting {
        key: "socketio.enabled",
        means: "whether Socket.IO clients are served, on the same port",
        kind: Kind::Flag(|c| &mut c.socketio_enabled),
    },
    text("socketio.path", |c| &mut c.socketio.path, "the path that Socket.IO clients ask for"),
    Setting { key: "socketio.recovery", means: RECOVERY, kind: Kind::Recovery(|c| &mut c.socketio.recovery) },
    time("socketio.ping_interval", TICK, |c| always(&mut c.socketio.ping_interval), "how often a client is pinged"),
    time("socketio.ping_timeout", TICK, |c| always(&mut c.socketio.ping_timeout), PING_TIMEOUT),
    time("socketio.connect_timeout", TICK, |c| always(&mut c.socketio.connect_timeout), CONNECT_TIMEOUT),
    size("socketio.payload_bytes", 1, NO_BOUND, |c| Number::Usize(&mut c.socketio.payload_bytes_max), PAYLOAD_BYTES),
    count("socketio.sessions", 1, |c| Number::Usize(&mut c.socketio.sessions_max), SESSIONS),
    time("socketio.session_idle", TICK, |c| always(&mut c.socketio.session_idle_max), SESSION_IDLE),
    time("socketio.subscriber_idle", TICK, |c| always(&mut c.socketio.subscriber_idle_max), SUBSCRIBER_IDLE),
    count("socketio.namespaces", 1, |c| Number::Usize(&mut c.socketio.namespaces_max), NAMESPACES),
    count("socketio.waiting_events", 1, |c| Number::Usize(&mut c.socketio.waiting_events_max), WAITING_EVENTS),
    time("socketio.ack_timeout", TICK, |c| always(&mut c.socketio.ack_timeout), ACK_TIMEOUT),
    count("socketio.ack_resends", 0, |c| Number::U32(&mut c.socketio.ack_resends_max), ACK_RESENDS),
    count("socketio.ack_window", 1, |c| Number::Usize(&mut c.socketio.ack_window), ACK_WINDOW),
];

const fn text(key: &'static str, slot: fn(&mut Configuration) -> &mut String, means: &'static str) -> Setting {
    Setting { key, means, kind: Kind::Text(slot) }
}

const fn file(key: &'static str, slot: fn(&mut Configuration) -> &mut Option<PathBuf>, means: &'static str) -> Setting {
    Setting { key, means, kind: Kind::File(slot) }
}

const fn size(
    key: &'static str,
    least: u64,
    most: u64,
    slot: fn(&mut Configuration) -> Number<'_>,
    means: &'static str,
) -> Setting {
    Setting { key, means, kind: Kind::Size { least, most, slot } }
}

const fn count(
    key: &'static str,
    least: u64,
    slot: fn(&mut Configuration) -> Number<'_>,
    means: &'static str,
) -> Setting {
    Setting { key, means, kind: Kind::Count { least, most: NO_BOUND, slot } }
}

const fn time(
    key: &'static str,
    least: Duration,
    slot: fn(&mut Configuration) -> Time<'_>,
    means: &'static str,
) -> Setting {
    Setting { key, means, kind: Kind::Time { least, slot } }
}

fn always(time: &mut Duration) -> Time<'_> {
    Time::Always(time)
}

fn emit_bytes_in_flight(configuration: &mut Configuration) -> Number<'_> {
    Number::U32(&mut configuration.session.limits.emit_bytes_in_flight_max)
}

/// What a number may be at most if only its type says so.
pub(super) const NO_BOUND: u64 = u64::MAX;
const EVENT_BYTES: u64 = EVENT_BYTES_MAX as u64;
const TICK: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const HEARTBEAT: &str = "a silent client is pinged this often, and is gone after twice this";
const ADMIN: &str = "where operators ask /healthz and /readyz, as HOST:PORT; \"off\": nowhere";
const CERT: &str = "the certificate and those behind it, in PEM: clients come with wss and https";
const CLIENT_CA: &str = "authorities in PEM: clients must have a certificate of one of them";
const ORIGINS: &str = "pages from which browsers may connect, besides this server's own; \"*\": all";
const RETENTION_BYTES: &str = "the oldest events go while the log holds more bytes of events";
const RETENTION_COUNT: &str = "the oldest events go while the log holds more events";
const PUBLISHERS: &str = "how long a publisher is remembered after its last emit";
const CURSORS: &str = "how long a subscriber's cursor is kept after its last change";
const CONNECTIONS: &str = "authenticated connections at once; more are answered 503";
const STRANGERS: &str = "peers at once that are not authenticated; beyond, the oldest makes room";
const PER_ADDRESS: &str = "those of one address (IPv6: /64); not for 127.0.0.1 and ::1";
const STRANGER_TIMEOUT: &str = "how long a peer may take until it is authenticated, over any protocol";
const EVENT: &str = "one event: payload, name and topics";
const WINDOW_EVENTS: &str = "largest window of a subscription, in events";
const WINDOW_BYTES: &str = "largest window of a subscription, in bytes";
const IN_FLIGHT: &str = "unanswered emits of one connection; beyond, the server stops reading it";
const IN_FLIGHT_BYTES: &str = "their bytes; beyond, the server stops reading it";
const QUEUE_BYTES: &str = "all emits that wait for the disk; more are refused as Overloaded";
const OUTPUT_BYTES: &str = "written to a connection, and not yet taken by the kernel";
const HELLO_TIMEOUT: &str = "how long a new connection may take to introduce itself";
const WRITE_TIMEOUT: &str = "a reader that takes no byte for this long is closed";
const RECENT_BYTES: &str = "newest events that are kept in memory";
const READ_CACHE_BYTES: &str = "what was read from the disk, kept for 10 s for others";
const TAIL_BYTES: &str = "unfolded part of the log, read again at a start; beyond, emits wait";
const FOLD_BYTES: &str = "the unfolded part's size from which on its oldest events are folded";
const RECOVERY: &str = "who is given offsets: auto (clients that can use them), on (all), or off (none)";
const PING_TIMEOUT: &str = "how long a client may take to answer a ping";
const CONNECT_TIMEOUT: &str = "how long a connection may be in no namespace, within stranger_timeout";
const PAYLOAD_BYTES: &str = "one message of a client";
const SESSIONS: &str = "clients at once; each counts as a connection as well";
const SESSION_IDLE: &str = "how long a client that is away may come back as the same socket";
const SUBSCRIBER_IDLE: &str = "how long the place of a named subscriber that is away is kept";
const NAMESPACES: &str = "namespaces of one connection";
const WAITING_EVENTS: &str = "events of one client that wait to be handled; beyond, it is not read";
const ACK_TIMEOUT: &str = "in ack mode: how long until an unanswered event is sent again";
const ACK_RESENDS: &str = "in ack mode: how often it is sent again before it counts as handled";
const ACK_WINDOW: &str = "in ack mode: events that may be unanswered at once";
