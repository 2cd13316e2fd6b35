//! One connection, one task: bytes in, session, bytes out. Generic over the byte stream, so that TCP, pipes and whatever an
//! app upgrades run the same code.

use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::{encode_close, encode_server, events_head};
use redeliver_protocol::config::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use redeliver_protocol::error::{Close, RetryAdvice};
use redeliver_protocol::frame::ServerFrame;
use redeliver_protocol::seq::{Epoch, SubscriptionId};
use redeliver_protocol::server::Input;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::desk::{Desk, Peer};
use crate::wire::{Wire, WireEvent};

/// Serves one peer until it or the session ends.
pub(crate) async fn serve<S>(mut desk: Desk, io: S, clock: Clock, write_timeout: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut wire = Wire::new(io, HELLO_BYTES_MAX, FRAME_BYTES_MAX);
    let timer = sleep_until(Instant::now());
    tokio::pin!(timer);
    loop {
        if let Some(close) = desk.work(&mut wire) {
            // The session's places are given up first: nobody waits for a peer that takes its time to go.
            drop(desk);
            wire.send(encode_close(&close));
            return wire.finish(Some(close.code), LINGER).await;
        }
        let stuck_at = wire.waiting_since().map(|since| since + write_timeout);
        let tick_at = desk.poll_timeout().map(|due| clock.at(due));
        let due = stuck_at.into_iter().chain(tick_at).min();
        if let Some(due) = due
            && timer.deadline() != due
        {
            timer.as_mut().reset(due);
        }
        let wants_message = desk.wants_message();
        tokio::select! {
            event = std::future::poll_fn(|cx| wire.poll(cx, wants_message)) => {
                let Some(input) = translate(event) else {
                    drop(desk);
                    return wire.finish(None, LINGER).await;
                };
                desk.handle(input);
            }
            () = desk.listen() => {}
            () = timer.as_mut(), if due.is_some() => {
                let now = Instant::now();
                // Asked anew: bytes may have left since the timer was set.
                let is_stuck = wire.waiting_since().is_some_and(|since| since + write_timeout <= now);
                if is_stuck {
                    desk.handle(Input::Stuck);
                } else if tick_at.is_some_and(|at| at <= now) {
                    desk.handle(Input::Tick);
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer for Wire<S> {
    fn send(&mut self, frame: &ServerFrame) {
        Wire::send(self, encode_server(frame));
    }

    fn send_events(&mut self, id: SubscriptionId, epoch: Epoch, count: u32, records: Bytes) {
        Wire::send_events(self, events_head(id, epoch, count, records.len()), records);
    }
}

/// What the session is told of an event on the wire; nothing if there is no peer any more.
fn translate(event: WireEvent) -> Option<Input> {
    match event {
        WireEvent::Message(message) => Some(Input::Message(message)),
        WireEvent::Text(_) => Some(Input::NotBinary("a text message")),
        WireEvent::Drained => Some(Input::Drained),
        WireEvent::Broken(code, reason) => Some(Input::End(Close { code, reason, retry: RetryAdvice::Never })),
        WireEvent::Ended => None,
    }
}

/// How long an ended connection may take to write its close and be read by the peer.
const LINGER: Duration = Duration::from_secs(2);
