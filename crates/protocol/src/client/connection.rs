//! The life of a client's connections: dial, greet, hear the heart beat, lose, wait, dial again, end.
//!
//! Decides nothing about events: the session tells the other parts that a connection has come or gone.

use std::time::Duration;

use super::fault::Fault;
use super::outputs::{Outputs, Timer};
use super::{ConnectionState, Output};
use crate::backoff::Backoff;
use crate::cause::Cause;
use crate::config::ClientConfig;
use crate::error::{Close, CloseCode, RetryAdvice};
use crate::features::{FEATURES, Features};
use crate::frame::ClientFrame;
use crate::seq::Epoch;
use crate::time::Instant;

/// The present connection, or the wait for the next one.
#[derive(Debug)]
pub(super) struct Connection {
    phase: Phase,
    /// As last told to the shell.
    state: ConnectionState,
    /// What Hello names: with these the present connection is spoken, or the next one tried.
    features: Features,
    /// What every new server is greeted with first.
    features_wanted: Features,
    connect_timeout: Duration,
    reconnects: Backoff,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There is none, and the next try is some way off.
    Waiting,
    /// The shell makes one.
    Dialing,
    /// Hello is sent. Emits may follow it at once unless some were sent on an earlier connection and never answered: if
    /// the server has forgotten this publisher, it would store those a second time.
    Greeting { emits_may_follow: bool },
    /// Welcome has come.
    Talking { since: Instant, heartbeat: Duration, heard: Instant, pinged: Option<Instant> },
    /// There will be none any more.
    Ended,
}

impl Connection {
    pub(super) fn new(config: &ClientConfig, reconnects: Backoff) -> Connection {
        let features = config.features.and(FEATURES);
        Connection {
            phase: Phase::Waiting,
            state: ConnectionState::default(),
            features,
            features_wanted: features,
            connect_timeout: config.connect_timeout,
            reconnects,
        }
    }

    /// Whether frames can be sent: Hello is, at least.
    pub(super) fn is_up(&self) -> bool {
        match self.phase {
            Phase::Greeting { .. } | Phase::Talking { .. } => true,
            Phase::Waiting | Phase::Dialing | Phase::Ended => false,
        }
    }

    pub(super) fn is_dialing(&self) -> bool {
        self.phase == Phase::Dialing
    }

    pub(super) fn is_welcomed(&self) -> bool {
        matches!(self.phase, Phase::Talking { .. })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    pub(super) fn may_send_emits(&self) -> bool {
        self.is_welcomed() || self.phase == Phase::Greeting { emits_may_follow: true }
    }

    pub(super) fn features(&self) -> Features {
        self.features
    }

    /// Whether the server is there and has this feature.
    pub(super) fn can(&self, feature: Features) -> bool {
        self.is_welcomed() && self.features.has(feature)
    }

    pub(super) fn state(&self) -> &ConnectionState {
        &self.state
    }

    pub(super) fn dial(&mut self, now: Instant, out: &mut Outputs) {
        self.phase = Phase::Dialing;
        out.set_timer(Timer::Connect, now + self.connect_timeout);
        self.tell(ConnectionState::Connecting, out);
        out.push(Output::Connect);
    }

    /// The connection stands and Hello goes out.
    pub(super) fn greet(&mut self, emits_may_follow: bool) {
        self.phase = Phase::Greeting { emits_may_follow };
    }

    /// Takes the server's Welcome. Returns whether emits could follow Hello.
    pub(super) fn welcome(
        &mut self,
        heartbeat: Duration,
        epoch: Epoch,
        now: Instant,
        out: &mut Outputs,
    ) -> Result<bool, Fault> {
        let Phase::Greeting { emits_may_follow } = self.phase else {
            return Err(Fault::unexpected("Welcome came twice"));
        };
        let heartbeat = heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        self.phase = Phase::Talking { since: now, heartbeat, heard: now, pinged: None };
        out.clear_timer(Timer::Connect);
        out.set_timer(Timer::Heartbeat, now + heartbeat);
        self.tell(ConnectionState::Connected { epoch }, out);
        Ok(emits_may_follow)
    }

    /// Something came from the server.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Phase::Talking { heard, pinged, .. } = &mut self.phase {
            *heard = now;
            *pinged = None;
        }
    }

    /// A silent server is asked; one that stays silent as long again is gone. (After a pause of our own, however long,
    /// it is asked first: the answer may lie unread.)
    pub(super) fn heartbeat(&mut self, now: Instant, out: &mut Outputs) -> Result<(), Fault> {
        let Phase::Talking { heartbeat, heard, pinged, .. } = &mut self.phase else { return Ok(()) };
        let heartbeat = *heartbeat;
        let due = match *pinged {
            Some(pinged) if now >= pinged + heartbeat => {
                return Err(Fault::silence("the server has fallen silent"));
            }
            Some(pinged) => pinged + heartbeat,
            None if now >= *heard + heartbeat => {
                *pinged = Some(now);
                out.send(ClientFrame::Ping { token: now.since_origin().as_secs() });
                now + heartbeat
            }
            None => *heard + heartbeat,
        };
        out.set_timer(Timer::Heartbeat, due);
        Ok(())
    }

    /// Whether it stood for longer than the pause that a failure would have cost: no loop can be tighter than that.
    pub(super) fn has_stood(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Talking { since, .. } if now.since(since) >= self.reconnects.bound())
    }

    /// The connection is gone. `advised` is the pause that the server asked for.
    pub(super) fn lost(&mut self, reason: Cause, advised: Option<Duration>, now: Instant, out: &mut Outputs) {
        if self.has_stood(now) {
            self.reconnects.reset();
        }
        let mut retry_in = self.reconnects.next_pause();
        if let Some(advised) = advised {
            retry_in = retry_in.max(self.reconnects.spread(advised.min(ADVISED_MAX)));
        }
        // The next server may be a newer one.
        self.features = self.features_wanted;
        self.phase = Phase::Waiting;
        out.set_timer(Timer::Reconnect, now + retry_in);
        self.tell(ConnectionState::Waiting { reason, retry_in }, out);
    }

    /// The next Hello names no more than what the server has.
    pub(super) fn use_less(&mut self, has: Features) {
        self.features = self.features.and(has);
    }

    /// Ends the present connection, if there is one, with this code, and makes no other.
    pub(super) fn end(&mut self, code: CloseCode, out: &mut Outputs) {
        if self.is_up() || self.is_dialing() {
            out.push(Output::Disconnect(Close::new(code, String::new(), RetryAdvice::Never)));
        }
        self.phase = Phase::Ended;
        out.clear_timers();
    }

    /// Tells the shell the state, if it is another one.
    pub(super) fn tell(&mut self, state: ConnectionState, out: &mut Outputs) {
        if self.state != state {
            self.state = state.clone();
            out.push(Output::State(state));
        }
    }
}

/// Ends the present connection without reproach.
pub(super) fn say_goodbye(reason: &str, retry: RetryAdvice, out: &mut Outputs) {
    out.push(Output::Disconnect(Close::new(CloseCode::DONE, reason.to_owned(), retry)));
}

/// Bounds of the heartbeat that a server may ask for: below, the pings would be the traffic; above, nothing would ever
/// be found out.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// The longest time for which a server can send a client away.
const ADVISED_MAX: Duration = Duration::from_secs(600);
