//! Stories of the beginning and the end of a conversation, as the server sees them.

use std::time::Duration;

use bytes::Bytes;
use redeliver_protocol::codec::{self, FromServer};
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::seq::Seq;

use crate::hub::{Held, close_with};
use crate::world::{Pair, emit, hello, nths, subscribe};

#[test]
fn a_hello_is_answered_with_welcome_and_the_limits() {
    let mut pair = Pair::new();
    pair.emit("orders", "one");
    let peer = pair.guest(1, None);
    let heard = pair.heard(peer);
    let [FromServer::Frame(ServerFrame::Welcome(welcome))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((welcome.head, welcome.heartbeat), (Seq(1), Duration::from_secs(15)));
    assert_eq!(welcome.limits, pair.hub.config.limits);
}
