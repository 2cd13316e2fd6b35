//! Where a durable reader starts that its server does not know yet, with servers that can be told and with those that
//! cannot.

use std::ops::RangeInclusive;
use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, Input as ToClient, StreamItem, SubscribeRequest, SubscriptionEnd};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::features::Features;
use redeliver_protocol::history::{GapCause, Start};
use redeliver_protocol::seq::SubscriptionId;

use crate::world::{Client, Pair, request, resume};

const A_WHILE: Duration = Duration::from_secs(60);

fn first(start: Start) -> SubscribeRequest {
    request("orders", Start::first(start), CursorKeeper::Server)
}

/// A client of a server without the feature behaves as one that does not name it.
fn without_first_start() -> ClientConfig {
    let mut config = ClientConfig::default();
    config.features = config.features.without(Features::FIRST_START);
    config
}

/// The numbers and marks that a client was handed since the last call, all of which it handles.
fn take(pair: &mut Pair, client: Client) -> Vec<(u64, bool)> {
    let places = pair.real(client).delivered.iter().filter_map(|(_, item)| item.place());
    let last = places.last().map(|place| place.after);
    let taken = pair.records(client, 1).into_iter().map(|(record, mark)| (record.nth.0, mark)).collect();
    pair.real(client).delivered.clear();
    if let Some(last) = last {
        pair.handled(client, 1, last.position, last.nth.0);
    }
    taken
}

fn fresh(nths: RangeInclusive<u64>) -> Vec<(u64, bool)> {
    nths.map(|nth| (nth, false)).collect()
}

fn again(nths: RangeInclusive<u64>) -> Vec<(u64, bool)> {
    nths.map(|nth| (nth, true)).collect()
}

fn nothing() -> RangeInclusive<u64> {
    RangeInclusive::new(6, 5)
}

fn gaps(pair: &mut Pair, client: Client) -> Vec<GapCause> {
    let delivered = pair.real(client).delivered.iter();
    delivered
        .filter_map(|(_, item)| if let StreamItem::Gap { gap, .. } = item { Some(gap.cause) } else { None })
        .collect()
}

#[test]
fn a_durable_reader_that_the_server_does_not_know_starts_as_it_says_and_a_known_one_where_it_was() {
    let starts = [
        (Start::Earliest, 1..=5, ClientConfig::default()),
        (Start::Last(2), 4..=5, ClientConfig::default()),
        (Start::Latest, nothing(), ClientConfig::default()),
        (Start::Earliest, 1..=5, without_first_start()),
        (Start::Latest, nothing(), without_first_start()),
    ];
    for (start, expected, config) in starts {
        let mut pair = Pair::new();
        pair.emit_many("orders", 1..=5);
        let client = pair.client_with(1, 1, Some("billing"), config.clone());
        pair.follow(client, 1, first(start.clone()));
        assert!(gaps(&mut pair, client).is_empty(), "{start:?}");
        assert_eq!(take(&mut pair, client), fresh(expected), "{start:?}");
        pair.emit_many("orders", 6..=7);
        pair.pass(A_WHILE);
        assert_eq!(take(&mut pair, client), fresh(6..=7), "{start:?}");
        pair.tell(client, ToClient::Shutdown);
        pair.pass(A_WHILE);
        pair.emit_many("orders", 8..=8);
        let client = pair.client_with(2, 2, Some("billing"), config);
        pair.follow(client, 1, first(start.clone()));
        assert!(gaps(&mut pair, client).is_empty(), "{start:?}");
        let seen: Vec<_> = take(&mut pair, client).into_iter().map(|(nth, _)| nth).collect();
        assert_eq!(seen, [8], "{start:?}: it is known now");
    }
}

#[test]
fn a_first_start_that_an_older_server_cannot_be_asked_for_is_refused_and_never_guessed() {
    let mut pair = Pair::new();
    let client = pair.client_with(1, 1, Some("billing"), without_first_start());
    pair.follow(client, 1, first(Start::Last(2)));
    let ended = &pair.real(client).ended;
    assert!(matches!(&ended[..], [(_, SubscriptionEnd::Refused(RefusalCode::UNSUPPORTED, _))]), "{ended:?}");
}

#[test]
fn a_place_that_the_app_brings_wins_over_the_first_start() {
    for config in [ClientConfig::default(), without_first_start()] {
        let mut pair = Pair::new();
        pair.emit_many("orders", 1..=5);
        let client = pair.client_with(1, 1, None, ClientConfig::default());
        pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
        let place = pair.real(client).delivered.iter().filter_map(|(_, item)| item.place()).nth(2).unwrap().after;
        let client = pair.client_with(2, 2, Some("billing"), config);
        pair.follow(client, 1, first(Start::After(place)));
        assert_eq!(take(&mut pair, client), fresh(4..=5));
    }
}

#[test]
fn a_reader_whose_cursor_nobody_else_keeps_starts_with_its_first_start() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let client = pair.client_as(1, None);
    let keeper = CursorKeeper::Client { stored: None };
    pair.follow(client, 1, request("orders", Start::first(Start::Earliest), keeper));
    assert_eq!(take(&mut pair, client), fresh(1..=3));
}

#[test]
fn a_first_start_needs_the_feature() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, Some("billing"));
    let mut request = resume(1, "orders");
    request.start = Start::first(Start::Earliest);
    pair.send(peer, redeliver_protocol::frame::ClientFrame::Subscribe(request));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

#[test]
fn a_rewound_reader_gets_all_from_there_whatever_is_cut_and_marked_and_leaves_its_cursor_there() {
    for is_cut in [false, true] {
        let mut pair = Pair::new();
        pair.emit_many("orders", 1..=9);
        let client = pair.client_as(1, Some("billing"));
        pair.follow(client, 1, first(Start::Earliest));
        assert_eq!(take(&mut pair, client), fresh(1..=9));
        pair.tell(client, ToClient::Shutdown);
        pair.pass(A_WHILE);

        let client = pair.client_as(2, Some("billing"));
        pair.real(client).acks_at_once = false;
        let mut rewound = request("orders", Start::Earliest, CursorKeeper::Server);
        rewound.window.events = 3;
        pair.follow(client, 1, rewound);
        if is_cut {
            pair.cut(client);
            pair.pass(A_WHILE);
        }
        assert_eq!(take(&mut pair, client), again(1..=3));
        pair.pass(A_WHILE);
        if is_cut {
            pair.cut(client);
            pair.pass(A_WHILE);
        }
        assert_eq!(take(&mut pair, client), again(4..=6));
        pair.pass(A_WHILE);
        pair.kill(client);

        let client = pair.client_as(3, Some("billing"));
        pair.follow(client, 1, first(Start::Earliest));
        assert_eq!(take(&mut pair, client), again(7..=9), "the rewind moved the cursor");
    }
}

#[test]
fn a_rewound_reader_with_an_own_store_is_told_what_it_was_given_before() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=4);
    let client = pair.client(1);
    let keeper = CursorKeeper::Client { stored: None };
    pair.follow(client, 1, request("orders", Start::Earliest, keeper));
    assert_eq!(take(&mut pair, client), fresh(1..=4));
    pair.tell(client, ToClient::Shutdown);
    pair.pass(A_WHILE);
    let from = pair.real(client).store.get(&SubscriptionId(1)).cloned().expect("a cursor");
    pair.emit_many("orders", 5..=6);

    let client = pair.client(2);
    pair.follow(client, 1, request("orders", Start::Last(4), CursorKeeper::Rewound { from }));
    let taken: Vec<_> = again(3..=4).into_iter().chain(fresh(5..=6)).collect();
    assert_eq!(take(&mut pair, client), taken);
    pair.pass(A_WHILE);
    let stored = pair.real(client).store.get(&SubscriptionId(1)).cloned().expect("a cursor");
    assert_eq!(stored.place.nth.0, 6);
}
