//! The life of a client's connections: dial, greet, hear the heart beat, lose, wait, dial again, end.
//!
//! Nothing here decides what becomes of events; it only tells the outbox and the subscriptions that a connection has
//! come or gone.

use std::time::Duration;

use super::session::{ClientSession, Timer};
use super::subscription::Subscription;
use super::{ConnectionState, Output, SubscriptionEnd};
use crate::error::{Close, CloseCode, RetryAdvice};
use crate::features::{FEATURES, Features};
use crate::frame::{ClientFrame, Hello, Welcome};
use crate::history::PublisherState;
use crate::seq::EmitNumber;
use crate::time::Instant;

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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

impl ClientSession {
    pub(super) fn has_connection(&self) -> bool {
        match self.phase {
            Phase::Greeting { .. } | Phase::Talking { .. } => true,
            Phase::Waiting | Phase::Dialing | Phase::Ended => false,
        }
    }

    pub(super) fn is_welcomed(&self) -> bool {
        matches!(self.phase, Phase::Talking { .. })
    }

    pub(super) fn may_send_emits(&self) -> bool {
        self.is_welcomed() || self.phase == Phase::Greeting { emits_may_follow: true }
    }

    pub(super) fn dial(&mut self, now: Instant) {
        self.phase = Phase::Dialing;
        self.timers.set(Timer::Connect, now + self.config.connect_timeout);
        self.tell(ConnectionState::Connecting);
        self.out.push_back(Output::Connect);
    }

    /// The connection stands: everything that the server needs to go on goes out at once, without waiting for Welcome.
    pub(super) fn connected(&mut self) {
        if self.phase != Phase::Dialing {
            return;
        }
        self.phase = Phase::Greeting { emits_may_follow: !self.outbox.has_unanswered() };
        self.out.push_back(Output::SendHello(Hello {
            instance: self.identity.instance,
            publisher: Some(self.identity.publisher),
            settled: self.outbox.settled(),
            subscriber: self.identity.subscriber.clone(),
            auth: self.identity.auth.clone(),
            client_name: self.identity.client_name.clone(),
            features: self.features,
        }));
        for id in self.subscription_ids() {
            let needs_server = |subscription: &Subscription| subscription.needs_server();
            if self.rows.of(id).is_none() && self.subscriptions.get(&id).is_some_and(needs_server) {
                self.subscribe(id);
            }
            self.go_on(id);
        }
        for id in self.rows.ids() {
            self.subscribe_row(id);
        }
    }

    pub(super) fn welcome(&mut self, welcome: &Welcome, now: Instant) {
        let Phase::Greeting { emits_may_follow } = self.phase else {
            self.drop_connection(CloseCode::Unexpected, "Welcome came twice", now);
            return;
        };
        let heartbeat = welcome.heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        self.phase = Phase::Talking { since: now, heartbeat, heard: now, pinged: None };
        self.timers.clear(Timer::Connect);
        self.timers.set(Timer::Heartbeat, now + heartbeat);
        self.outbox.limit(welcome.limits);
        self.tell(ConnectionState::Connected { epoch: welcome.epoch });
        self.publisher_found(welcome, emits_may_follow, now);
        self.send_requests(now);
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
    pub(super) fn heartbeat(&mut self, now: Instant) {
        let Phase::Talking { heartbeat, heard, pinged, .. } = &mut self.phase else { return };
        let heartbeat = *heartbeat;
        let due = match *pinged {
            Some(pinged) if now >= pinged + heartbeat => {
                self.drop_connection(CloseCode::HeartbeatTimeout, "the server has fallen silent", now);
                return;
            }
            Some(pinged) => pinged + heartbeat,
            None if now >= *heard + heartbeat => {
                *pinged = Some(now);
                self.out.push_back(Output::Send(ClientFrame::Ping { token: now.since_origin().as_secs() }));
                now + heartbeat
            }
            None => *heard + heartbeat,
        };
        self.timers.set(Timer::Heartbeat, due);
    }

    /// The shell says that the connection is gone, or could not be made.
    pub(super) fn disconnected(&mut self, reason: String, now: Instant) {
        if self.has_connection() || self.phase == Phase::Dialing {
            // What was not written by now never will be.
            self.out.retain(|output| !matches!(output, Output::Send(_) | Output::SendHello(_)));
            self.lost(reason, None, now);
        }
    }

    /// The server says goodbye. `has` is what it has of the features.
    pub(super) fn closed(&mut self, close: Close, has: Option<Features>, now: Instant) {
        if close.code == CloseCode::VersionMismatch
            && let Some(has) = has.filter(|has| !self.is_welcomed() && !has.has(self.features))
        {
            self.greet_with_less(has, &close, now);
            return;
        }
        let advised = match close.retry {
            RetryAdvice::Never => {
                self.end(Some(close));
                return;
            }
            RetryAdvice::Now => None,
            RetryAdvice::After(advised) => Some(advised.min(ADVISED_MAX)),
        };
        self.out.push_back(Output::Disconnect(Close {
            code: CloseCode::Done,
            reason: String::new(),
            retry: RetryAdvice::Never,
        }));
        self.lost(format!("the server closed: {}: {}", close.code, close.reason), advised, now);
    }

    /// Ends the connection from here; another try follows.
    pub(super) fn drop_connection(&mut self, code: CloseCode, reason: &str, now: Instant) {
        self.out.push_back(Output::Disconnect(Close { code, reason: reason.to_owned(), retry: RetryAdvice::Now }));
        self.lost(reason.to_owned(), None, now);
    }

    /// The client ends, for good: what was sent and not answered has an unknown outcome.
    pub(super) fn end(&mut self, close: Option<Close>) {
        if self.has_connection() || self.phase == Phase::Dialing {
            self.out.push_back(Output::Disconnect(Close {
                code: CloseCode::Done,
                reason: String::new(),
                retry: RetryAdvice::Never,
            }));
        }
        self.phase = Phase::Ended;
        self.timers.clear_all();
        self.requests_end();
        self.outbox.end(&mut self.out);
        for id in self.subscription_ids() {
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.abandon(&mut self.out);
            }
            self.remove(id, SubscriptionEnd::ClientEnded);
        }
        self.tell(ConnectionState::Ended { close });
        self.out.push_back(Output::Ended);
    }

    /// A shutdown is complete when every emit is answered and every subscription has ended.
    pub(super) fn finish_if_done(&mut self) {
        let done = self.shutting_down && self.subscriptions.is_empty() && self.outbox.len() == 0;
        if done && self.phase != Phase::Ended {
            self.end(None);
        }
    }

    fn publisher_found(&mut self, welcome: &Welcome, emits_may_follow: bool, now: Instant) {
        let lost = match welcome.publisher {
            PublisherState::Reached(reached) => self.outbox.lost_beyond(reached),
            PublisherState::New | PublisherState::Forgotten if self.outbox.settled().0 == 0 => None,
            PublisherState::New | PublisherState::Forgotten => {
                // No server forgets a publisher that was busy lately, and no head goes back: the log is another one.
                let busy = self.settled_at.is_some_and(|settled| now.since(settled) < PUBLISHER_IDLE_MIN);
                let lost = if busy || welcome.head < self.outbox.seq_max() {
                    self.outbox.lost_beyond(EmitNumber::ZERO)
                } else {
                    None
                };
                // If emits could follow Hello, all that wait for an answer were first sent behind it: they get one.
                if !emits_may_follow {
                    self.forgotten(now);
                }
                lost
            }
        };
        if let Some((from, through)) = lost {
            self.out.push_back(Output::EmitsLost { from, through });
        }
    }

    /// The server knows this publisher no more. It goes on behind what Hello called settled, so if that moves now, only
    /// a new Hello makes both agree again; the numbers between are never used for anything else.
    fn forgotten(&mut self, now: Instant) {
        self.outbox.forget_unanswered(&mut self.out);
        self.out.push_back(Output::Disconnect(Close {
            code: CloseCode::Done,
            reason: "greeting again with other numbers".to_owned(),
            retry: RetryAdvice::Now,
        }));
        self.forget_connection();
        self.dial(now);
    }

    /// The server is of an earlier time. It is greeted again with what it has, unless emits are under way that it cannot
    /// carry: those wait for a server that can.
    fn greet_with_less(&mut self, has: Features, close: &Close, now: Instant) {
        self.out.push_back(Output::Disconnect(Close {
            code: CloseCode::Done,
            reason: "greeting again with fewer features".to_owned(),
            retry: RetryAdvice::Now,
        }));
        if has.has(self.outbox.needs()) {
            self.features = self.features.and(has);
            self.forget_connection();
            self.dial(now);
        } else {
            self.lost(format!("emits under way need a newer server: {}", close.reason), None, now);
        }
    }

    fn lost(&mut self, reason: String, advised: Option<Duration>, now: Instant) {
        if let Phase::Talking { since, .. } = self.phase
            && now.since(since) >= self.reconnects.bound()
        {
            // It stood for longer than the pause that a failure would have cost: no loop can be tighter than that.
            self.reconnects.reset();
        }
        let mut retry_in = self.reconnects.next_pause();
        if let Some(advised) = advised {
            retry_in = retry_in.max(self.reconnects.spread(advised));
        }
        self.forget_connection();
        // The next server may be a newer one.
        self.features = self.config.features.and(FEATURES);
        self.phase = Phase::Waiting;
        self.timers.set(Timer::Reconnect, now + retry_in);
        self.tell(ConnectionState::Waiting { reason, retry_in });
        for id in self.subscription_ids() {
            self.go_on(id);
        }
        self.finish_if_done();
    }

    fn forget_connection(&mut self) {
        for timer in [Timer::Connect, Timer::Heartbeat, Timer::RetryEmits] {
            self.timers.clear(timer);
        }
        self.wires.clear();
        self.wire_last = 0;
        self.rows.disconnected();
        self.outbox.disconnected();
        self.requests_gone();
        for id in self.subscription_ids() {
            self.timers.clear(Timer::Resubscribe(self.rows.of(id).unwrap_or(id)));
            if let Some(subscription) = self.subscriptions.get_mut(&id) {
                subscription.disconnected();
            }
        }
    }

    fn tell(&mut self, state: ConnectionState) {
        if self.state != state {
            self.state = state.clone();
            self.out.push_back(Output::State(state));
        }
    }
}

/// Bounds of the heartbeat that a server may ask for: below, the pings would be the traffic; above, nothing would ever
/// be found out.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// The longest time for which a server can send a client away.
const ADVISED_MAX: Duration = Duration::from_secs(600);

/// No server forgets a publisher that has emitted within this time (30 days are usual).
const PUBLISHER_IDLE_MIN: Duration = Duration::from_secs(24 * 3600);
