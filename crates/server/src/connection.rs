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
use crate::session_driver::{Peer, SessionDriver, Worked};
use crate::shared::{Presence, Shared};
use crate::turn::Turn;

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
    /// Does what can be done in one turn, until the end: the session's last word, or nothing if the peer is gone. When
    /// the turn is over and more is to be done, the task is woken again at once, behind the others that wait.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Close>> {
        // Once in a turn: for what comes meanwhile, the task is woken again.
        self.driver.drain_inbox(cx);
        let mut turn = Turn::begin();
        loop {
            if let Worked::Closed(close) = self.driver.work(&mut turn, &mut self.socket) {
                return Poll::Ready(Some(close));
            }
            // Also when the turn is over: what was sent leaves now, and a peer that has gone is seen.
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
                if turn.step() {
                    continue;
                }
            } else if self.driver.poll_answers(cx).is_ready() && turn.step() {
                // Last, for the work may have begun to ask something.
                continue;
            }
            let is_over = turn.is_over();
            if !self.poll_due(cx, is_over) {
                return Poll::Pending;
            }
            if is_over {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Tells the session of a deadline that has passed. Returns whether to look at the session again: always if the turn
    /// is over, else if a deadline had passed. Otherwise the task is woken at the next one.
    fn poll_due(&mut self, cx: &mut Context<'_>, is_over: bool) -> bool {
        let stuck_at = self.socket.waiting_since().map(|since| since + self.write_timeout);
        let tick_at = self.driver.poll_timeout().map(|due| self.clock.at(due));
        if !is_over {
            let due = stuck_at.into_iter().chain(tick_at).min();
            if self.alarm.poll(cx, due, self.clock.at(self.driver.now())).is_pending() {
                return false;
            }
        }
        let now = Instant::now();
        if stuck_at.is_some_and(|at| at <= now) {
            self.driver.handle(Input::Stuck);
        } else if tick_at.is_some_and(|at| at <= now) {
            self.driver.handle(Input::Tick);
        }
        true
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
        let message = encode_server(frame);
        // A reader waits for it before it delivers anything more.
        if matches!(frame, ServerFrame::Taken { .. }) {
            self.send_between(&message);
        } else {
            WebSocket::send(self, message);
        }
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
            let code = if code == close_code::TOO_LARGE { CloseCode::TOO_LARGE } else { CloseCode::MALFORMED };
            Some(Input::End(Close::new(code, rule.to_owned(), RetryAdvice::Never)))
        }
        SocketEvent::Ended => None,
    }
}

/// The WebSocket close code for people who look at the connection with other tools. redeliver's own Close, with code,
/// reason and advice, went before it.
fn websocket_code(code: CloseCode) -> u16 {
    match code {
        CloseCode::DONE => close_code::NORMAL,
        CloseCode::DRAINING => close_code::GOING_AWAY,
        CloseCode::TOO_LARGE => close_code::TOO_LARGE,
        CloseCode::OVERLOADED => close_code::TRY_AGAIN_LATER,
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
    use std::io;
    use std::sync::Arc;

    use bytes::{BufMut, BytesMut};
    use redeliver_protocol::codec::{encode_client, encode_hello};
    use redeliver_protocol::features::Features;
    use redeliver_protocol::frame::{ClientFrame, Hello};
    use redeliver_protocol::seq::{EmitNumber, InstanceId};
    use tokio::io::ReadBuf;

    use super::*;
    use crate::in_process::InProcess;
    use crate::server::Server;
    use crate::session_driver::Origin;

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

    /// A peer that never stops to talk, and takes all that it is told: there is always more to do for it.
    struct Endless {
        said: BytesMut,
        again: Bytes,
    }

    impl Endless {
        fn new() -> Endless {
            let hello = Hello {
                instance: InstanceId::default(),
                publisher: None,
                settled: EmitNumber::ZERO,
                subscriber: None,
                auth: None,
                client_name: "endless".to_owned(),
                features: Features::NONE,
            };
            let ping = encode_client(&ClientFrame::Ping { token: 7 });
            let mut again = BytesMut::new();
            (0..50).for_each(|_| Endless::put_masked(&mut again, &ping));
            let mut said = BytesMut::new();
            Endless::put_masked(&mut said, &encode_hello(&hello));
            Endless { said, again: again.freeze() }
        }

        /// A client's frame, with a mask of zeros.
        fn put_masked(out: &mut BytesMut, message: &[u8]) {
            out.put_u8(0x82);
            out.put_u8(0x80 | u8::try_from(message.len()).expect("short"));
            out.put_u32(0);
            out.put_slice(message);
        }
    }

    impl AsyncRead for Endless {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if self.said.is_empty() {
                let again = self.again.clone();
                self.said.extend_from_slice(&again);
            }
            let bytes = self.said.len().min(buf.remaining());
            buf.put_slice(&self.said.split_to(bytes));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Serves endless peers on one thread, and ends the server while they talk.
    async fn serve_endless_peers() -> bool {
        let server = Server::builder().in_memory().open().await.expect("opens");
        let shared = &server.handle.shared;
        for _ in 0..3 {
            let driver = SessionDriver::new(shared, Arc::new(InProcess), Origin::default());
            tokio::spawn(Serving::new(driver, Endless::new(), &[], shared, shared.enter()));
        }
        while server.connections().len() < 3 {
            tokio::task::yield_now().await;
        }
        server.emit_json("t", "n", &1).await.expect("stored all the same");
        server.shutdown(Duration::from_secs(20)).await.is_ok()
    }

    #[test]
    fn peers_that_never_stop_leave_room_for_others_and_a_shutdown_ends_them() {
        let (ended, has_ended) = std::sync::mpsc::channel();
        // A thread of its own: without its turns, a runtime's own deadlines would not come either.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let _ = ended.send(runtime.block_on(serve_endless_peers()));
        });
        assert_eq!(has_ended.recv_timeout(Duration::from_secs(30)), Ok(true), "one peer holds the thread");
    }
}
