//! One long session, cut at every single message in either direction: whatever the place, everything arrives once and
//! in order, every emit is stored once, every ack is confirmed, and nothing is marked without a reason.

use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, EmitOutcome, Input as ToClient, StreamItem, SubscribeRequest};
use redeliver_protocol::frame::Window;
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::SubscriptionId;

use crate::world::{Client, Pair, request};

/// More than the session has messages in either direction.
const CUTS_MAX: usize = 200;
const EVENTS: u64 = 40;
const WINDOW: Window = Window::new(4, 1 << 20);

#[derive(Clone, Copy, Debug)]
enum Way {
    ToServer(usize),
    ToClient(usize),
}

impl Way {
    fn all() -> impl Iterator<Item = Way> {
        (0..CUTS_MAX).flat_map(|at| [Way::ToServer(at), Way::ToClient(at)])
    }

    fn cut(self) -> (Option<usize>, Option<usize>) {
        match self {
            Way::ToServer(at) => (Some(at), None),
            Way::ToClient(at) => (None, Some(at)),
        }
    }
}

/// A client that reads and emits, over a link that breaks there (and, after the repair, there again).
fn session(keeper: &CursorKeeper, way: Way) -> (Pair, Client) {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=EVENTS / 4);
    pair.next_cut = way.cut();
    let client = pair.client_as(1, Some("billing"));
    let wanted = request("orders", Start::Earliest, keeper.clone());
    pair.follow(client, 1, SubscribeRequest { window: WINDOW, ..wanted });
    for number in EVENTS / 4 + 1..=EVENTS {
        pair.publish(client, "orders", &number.to_string());
        if number % 8 == 0 {
            pair.pass(Duration::from_millis(30));
        }
        if number == EVENTS / 2 {
            pair.pass(Duration::from_secs(20));
            pair.next_cut = way.cut();
        }
    }
    pair.pass(Duration::from_secs(60));
    (pair, client)
}

fn holds(mut pair: Pair, client: Client, is_durable: bool, context: &str) {
    let expected: Vec<_> = (1..=EVENTS).map(|number| number.to_string()).collect();
    assert_eq!(pair.payloads(client, 1), expected, "{context}");
    let marked = pair.records(client, 1).iter().filter(|(_, mark)| *mark).count();
    let real = pair.real(client);
    // After a cut nobody can tell the mark of a server that keeps the cursor from one that another reader of this name left
    // meanwhile: then up to three windows are marked for nothing. Nobody else marks anything.
    let excused = if is_durable { 3 * WINDOW.events as usize * (real.hellos.len() - 1) } else { 0 };
    assert!(marked <= excused, "{context}: {marked} marked without a reason");
    assert!(real.delivered.iter().all(|(_, delivery)| !matches!(delivery, StreamItem::Gap { .. })), "{context}");
    assert_eq!(real.receipts.len() as u64, EVENTS * 3 / 4, "{context}");
    assert!(real.receipts.values().all(|outcome| matches!(outcome, EmitOutcome::Stored { .. })), "{context}");
    assert_eq!(pair.hub.log.head().seq.0, EVENTS, "{context}: an emit was stored twice");
    assert_eq!(pair.real(client).confirmed.get(&SubscriptionId(1)).map(|seq| seq.0), Some(EVENTS), "{context}");
}

#[test]
fn a_reader_nobody_keeps_gets_everything_once_whichever_message_is_the_last() {
    for way in Way::all() {
        let (pair, client) = session(&CursorKeeper::Nobody, way);
        holds(pair, client, false, &format!("{way:?}"));
    }
}

#[test]
fn a_reader_kept_by_the_server_gets_everything_once_whichever_message_is_the_last() {
    for way in Way::all() {
        let (pair, client) = session(&CursorKeeper::Server, way);
        holds(pair, client, true, &format!("{way:?}"));
    }
}

#[test]
fn a_reader_with_an_own_store_gets_everything_once_whichever_message_is_the_last() {
    for way in Way::all() {
        let (pair, client) = session(&CursorKeeper::Client { stored: None }, way);
        holds(pair, client, false, &format!("{way:?}"));
    }
}

#[test]
fn a_shutdown_completes_whichever_message_is_the_last() {
    for keeper in [CursorKeeper::Nobody, CursorKeeper::Server, CursorKeeper::Client { stored: None }] {
        for at in 0..12 {
            for way in [Way::ToServer(at), Way::ToClient(at)] {
                let (mut pair, client) = session(&keeper, Way::ToServer(CUTS_MAX));
                pair.publish(client, "orders", "last");
                let (to_server, to_client) = way.cut();
                pair.cut_after(client, to_server, to_client);
                pair.tell(client, ToClient::Shutdown);
                pair.pass(Duration::from_secs(60));
                assert!(pair.real(client).has_ended, "{keeper:?} {way:?}");
                let confirmed = pair.real(client).confirmed.get(&SubscriptionId(1)).map(|seq| seq.0);
                assert_eq!(confirmed, Some(EVENTS + 1), "{keeper:?} {way:?}");
                assert_eq!(pair.hub.log.head().seq.0, EVENTS + 1);
            }
        }
    }
}
