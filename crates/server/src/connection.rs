//! One connection, one task: bytes in, session, bytes out. Generic over the byte stream, so that TCP, pipes and whatever an
//! app upgrades run the same code. Polled by hand, since a thousand readers are woken for each event: what a wake finds is
//! read from the log and written in the same turn.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::{encode_close, encode_server, events_head};
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::ServerFrame;
use redeliver_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use redeliver_protocol::seq::{Epoch, SubscriptionId};
use redeliver_protocol::server::Input;
use redeliver_websocket::{SocketEvent, WebSocket, close_code};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::Clock;
use crate::session_driver::{Peer, SessionDriver};
use crate::shared::{Presence, Shared};

/// Serves one peer until it or the session ends. A future of its own making, and lean: there is one for each idle reader.
pub(crate) struct Serving<S> {
    /// Until its end.
    connection: Option<Connection<S>>,
    finishing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Last, when the connection holds nothing of the server any more.
    _presence: Presence,
}

struct Connection<S> {
    driver: SessionDriver,
    socket: WebSocket<S>,
    alarm: Alarm,
    clock: Clock,
    write_timeout: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Serving<S> {
    /// For a peer whose handshake is done and that may have sent its first bytes already.
    pub(crate) fn new(driver: SessionDriver, io: S, early: &[u8], shared: &Shared, presence: Presence) -> Serving<S> {
        let mut socket = WebSocket::new(io, HELLO_BYTES_MAX, FRAME_BYTES_MAX);
        socket.put_back(early);
        let alarm = Alarm::new(Instant::now());
        let connection =
            Connection { driver, socket, alarm, clock: shared.clock, write_timeout: shared.config.write_timeout };
        Serving { connection: Some(connection), finishing: None, _presence: presence }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Future for Serving<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            let ending = ready!(connection.poll(cx));
            let finishing = self.connection.take().map(|connection| {
                let Connection { driver, mut socket, .. } = connection;
                // The session's places are given up first: nobody waits for a peer that takes its time to go.
                drop(driver);
                let code = ending.map(|close| {
                    socket.send(encode_close(&close));
                    websocket_code(close.code)
                });
                Box::pin(socket.finish(code, LINGER)) as Pin<Box<dyn Future<Output = ()> + Send>>
            });
            self.finishing = finishing;
        }
        match &mut self.finishing {
            Some(finishing) => finishing.as_mut().poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Does what can be done now, until the end: the session's last word, or nothing if the peer is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Close>> {
        // Once in a turn: for what comes meanwhile, the task is woken again.
        self.driver.drain_inbox(cx);
        loop {
            if let Some(close) = self.driver.work(&mut self.socket) {
                return Poll::Ready(Some(close));
            }
            if let Poll::Ready(event) = self.socket.poll(cx, self.driver.wants_message()) {
                match event {
                    SocketEvent::Drained => self.driver.handle_in_turn(Input::Drained),
                    event @ (SocketEvent::Message(_)
                    | SocketEvent::Text(_)
                    | SocketEvent::Broken(..)
                    | SocketEvent::Ended) => match translate(event) {
                        Some(input) => self.driver.handle(input),
                        None => return Poll::Ready(None),
                    },
                }
                continue;
            }
            // Last, for the work may have begun to ask something.
            if self.driver.poll_answers(cx).is_ready() {
                continue;
            }
            let stuck_at = self.socket.waiting_since().map(|since| since + self.write_timeout);
            let tick_at = self.driver.poll_timeout().map(|due| self.clock.at(due));
            let due = stuck_at.into_iter().chain(tick_at).min();
            if self.alarm.poll(cx, due, self.clock.at(self.driver.now())).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if stuck_at.is_some_and(|at| at <= now) {
                self.driver.handle(Input::Stuck);
            } else if tick_at.is_some_and(|at| at <= now) {
                self.driver.handle(Input::Tick);
            }
        }
    }
}

/// A timer that costs next to nothing in a turn in which it is not due: deadlines mostly move away, and it follows only when
/// it goes off.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// The timer's deadline: looked at more often than the timer itself.
    deadline: Instant,
    /// The task that is woken at the timer's deadline, while that lies ahead.
    sleeper: Option<Waker>,
}

impl Alarm {
    fn new(deadline: Instant) -> Alarm {
        Alarm { sleep: Box::pin(sleep_until(deadline)), deadline, sleeper: None }
    }

    /// Ready when `due` has come; nothing is never due. `now` is when this turn began, or any moment in it.
    fn poll(&mut self, cx: &mut Context<'_>, due: Option<Instant>, now: Instant) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        let is_set = self.sleeper.as_ref().is_some_and(|sleeper| sleeper.will_wake(cx.waker()));
        if !is_set || due < self.deadline {
            self.reset(due);
            self.sleeper = Some(cx.waker().clone());
        } else if now + TIMER_STEP < self.deadline || !self.sleep.is_elapsed() {
            // It cannot have gone off before this turn, or it has not: whatever comes later wakes the task.
            return Poll::Pending;
        }
        loop {
            // Without the budget of a turn, which would let a poll pass without setting the timer.
            ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
            if due <= self.deadline {
                self.sleeper = None;
                return Poll::Ready(());
            }
            self.reset(due);
        }
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.deadline = deadline;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer for WebSocket<S> {
    fn send(&mut self, frame: &ServerFrame) {
        WebSocket::send(self, encode_server(frame));
    }

    fn send_events(&mut self, id: SubscriptionId, epoch: Epoch, count: u32, records: Bytes) {
        self.send_with_prefix(&events_head(id, epoch, count, records.len()), records);
    }
}

/// What the session is told of an event on the socket; nothing if there is no peer any more.
fn translate(event: SocketEvent) -> Option<Input> {
    match event {
        SocketEvent::Message(message) => Some(Input::Message(message)),
        SocketEvent::Text(_) => Some(Input::NotBinary("a text message")),
        SocketEvent::Drained => Some(Input::Drained),
        SocketEvent::Broken(code, rule) => {
            let code = if code == close_code::TOO_LARGE { CloseCode::TooLarge } else { CloseCode::Malformed };
            Some(Input::End(Close { code, reason: rule.to_owned(), retry: RetryAdvice::Never }))
        }
        SocketEvent::Ended => None,
    }
}

/// The WebSocket close code for people who look at the connection with other tools. redeliver's own Close, with code,
/// reason and advice, went before it.
fn websocket_code(code: CloseCode) -> u16 {
    match code {
        CloseCode::Done => close_code::NORMAL,
        CloseCode::Draining => close_code::GOING_AWAY,
        CloseCode::TooLarge => close_code::TOO_LARGE,
        CloseCode::Overloaded => close_code::TRY_AGAIN_LATER,
        CloseCode(100..200) => close_code::PROTOCOL_ERROR,
        CloseCode(200..500) => close_code::POLICY,
        CloseCode(_) => close_code::INTERNAL_ERROR,
    }
}

/// More than a timer may go off too early, and than clocks differ.
const TIMER_STEP: Duration = Duration::from_millis(5);

/// How long an ended connection may take to write its close and be read by the peer.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_follows_its_deadline_in_both_directions() {
        let begun = Instant::now();
        let mut alarm = Alarm::new(begun);
        let at = |seconds| Some(begun + Duration::from_secs(seconds));
        std::future::poll_fn(|cx| {
            assert!(alarm.poll(cx, None, Instant::now()).is_pending());
            assert!(alarm.poll(cx, at(100), Instant::now()).is_pending());
            assert!(alarm.poll(cx, at(10), Instant::now()).is_pending(), "it comes nearer");
            assert!(alarm.poll(cx, at(20), Instant::now()).is_pending(), "it goes away");
            Poll::Ready(())
        })
        .await;
        std::future::poll_fn(|cx| alarm.poll(cx, at(20), Instant::now())).await;
        assert_eq!(Some(Instant::now()), at(20), "neither at its first deadline nor never");
        std::future::poll_fn(|cx| alarm.poll(cx, at(50), Instant::now())).await;
        assert_eq!(Some(Instant::now()), at(50));
    }
}
