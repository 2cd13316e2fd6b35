//! Stories of a reader or a publisher and its server, told from the client's side.

use std::time::Duration;

use redeliver_protocol::client::{
    ConnectionState, CursorKeeper, EmitOutcome, Input as ToClient, StreamItem, SubscribeRequest, SubscriptionEnd,
};
use redeliver_protocol::config::{ClientConfig, ServerConfig};
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::frame::{Ownership, Window};
use redeliver_protocol::history::{Gap, GapCause, Start};
use redeliver_protocol::seq::{Position, Seq, SubscriptionId};

use crate::world::{Client, Pair, request, text, topic_name};

const A_WHILE: Duration = Duration::from_secs(60);

fn durable(topic: &str) -> SubscribeRequest {
    request(topic, Start::Resume { at_least: None }, CursorKeeper::Server)
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// What a client was handed since the last call: payloads with their marks.
fn take_marked(pair: &mut Pair, client: Client) -> Vec<(String, bool)> {
    let records = pair.records(client, 1);
    pair.real(client).delivered.clear();
    records.iter().map(|(record, mark)| (text(record), *mark)).collect()
}

fn with_marks(range: std::ops::RangeInclusive<u64>, mark: bool) -> Vec<(String, bool)> {
    numbers(range).into_iter().map(|payload| (payload, mark)).collect()
}

fn gaps(pair: &mut Pair, client: Client) -> Vec<Gap> {
    let delivered = pair.real(client).delivered.iter();
    let gaps = delivered.filter_map(|(_, delivery)| match delivery {
        StreamItem::Gap { gap, .. } => Some(gap.clone()),
        StreamItem::Subscribed { .. }
        | StreamItem::Event { .. }
        | StreamItem::CaughtUp { .. }
        | StreamItem::Volatile { .. } => None,
    });
    gaps.collect()
}

/// The app handles the event with this nth, of those it was handed.
fn handle(pair: &mut Pair, client: Client, nth: u64) {
    let found = pair.real(client).delivered.iter().rev().find_map(|(_, delivery)| match delivery {
        StreamItem::Event { epoch, record, .. } if record.nth.0 == nth => Some(Position::new(*epoch, record.seq)),
        StreamItem::Event { .. }
        | StreamItem::Subscribed { .. }
        | StreamItem::Gap { .. }
        | StreamItem::CaughtUp { .. }
        | StreamItem::Volatile { .. } => None,
    });
    pair.handled(client, 1, found.expect("it was handed over"), nth);
}

#[test]
fn a_reader_that_missed_events_gets_them_in_order() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit("orders", "one");
    pair.set_up(false);
    pair.emit("orders", "two");
    pair.emit("orders", "three");
    pair.set_up(true);
    pair.pass(Duration::from_secs(30));
    assert_eq!(pair.payloads(client, 1), ["one", "two", "three"]);
}

#[test]
fn a_reader_that_never_got_an_event_misses_none_after_a_reconnect() {
    for keeper in [CursorKeeper::Nobody, CursorKeeper::Server, CursorKeeper::Client { stored: None }] {
        let mut pair = Pair::new();
        pair.emit_many("orders", 1..=3);
        let client = pair.client_as(1, Some("billing"));
        pair.follow(client, 1, request("orders", Start::Latest, keeper.clone()));
        pair.set_up(false);
        pair.emit_many("orders", 4..=6);
        pair.set_up(true);
        pair.pass(A_WHILE);
        assert_eq!(pair.payloads(client, 1), numbers(4..=6), "{keeper:?}");
    }
}

#[test]
fn hours_of_idleness_change_nothing_about_a_recovery() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit_many("orders", 1..=2);
    pair.pass(Duration::from_secs(5 * 3600));
    pair.set_up(false);
    pair.emit_many("orders", 3..=4);
    pair.pass(Duration::from_secs(5 * 3600));
    pair.set_up(true);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=4));
    assert_eq!(gaps(&mut pair, client), []);
}

#[test]
fn a_reader_hears_when_it_has_caught_up_and_again_after_a_reconnect() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    assert!(matches!(pair.real(client).delivered.last(), Some((_, StreamItem::CaughtUp { seq: Seq(3) }))));
    pair.cut(client);
    pair.emit_many("orders", 4..=5);
    pair.pass(A_WHILE);
    assert!(matches!(pair.real(client).delivered.last(), Some((_, StreamItem::CaughtUp { seq: Seq(5) }))));
}

#[test]
fn restarts_of_the_server_give_batches_of_several_epochs_and_no_gap() {
    let mut pair = Pair::new();
    for round in 0..5 {
        pair.emit_many("orders", round * 3 + 1..=round * 3 + 3);
        pair.restart();
    }
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    assert_eq!(pair.payloads(client, 1), numbers(1..=15));
    pair.restart();
    pair.emit_many("orders", 16..=18);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=18));
    assert_eq!(gaps(&mut pair, client), []);
}

#[test]
fn a_small_window_lets_everything_through_in_the_end() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=100);
    let client = pair.client_as(1, Some("billing"));
    let window = Window::new(3, 1);
    pair.follow(client, 1, SubscribeRequest { window, ..durable("orders") });
    pair.emit_many("orders", 101..=200);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(101..=200));
}

#[test]
fn an_app_that_handles_nothing_gets_a_window_and_the_rest_when_it_goes_on_also_over_a_cut() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.real(client).acks_at_once = false;
    let window = Window::new(10, 1 << 20);
    let wanted = request("orders", Start::Earliest, CursorKeeper::Nobody);
    pair.follow(client, 1, SubscribeRequest { window, ..wanted });
    pair.emit_many("orders", 1..=40);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=10));
    pair.cut(client);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=10));
    for nth in 1..=40 {
        handle(&mut pair, client, nth);
        pair.pass(Duration::from_secs(1));
    }
    assert_eq!(pair.payloads(client, 1), numbers(1..=40));
}

#[test]
fn a_half_open_server_is_noticed_and_nothing_is_missed() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit("orders", "1");
    pair.stall_client(client);
    pair.emit_many("orders", 2..=4);
    assert_eq!(pair.payloads(client, 1), numbers(1..=1));
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=4));
}

#[test]
fn a_clients_own_half_open_connection_does_not_keep_it_out() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    pair.follow(client, 1, durable("orders"));
    pair.emit("orders", "1");
    pair.cut_unnoticed(client);
    pair.emit("orders", "2");
    pair.pass(Duration::from_secs(5));
    assert_eq!(pair.payloads(client, 1), numbers(1..=2));
    assert_eq!(pair.real(client).ended, []);
    assert!(!pair.real(client).has_ended);
}

#[test]
fn a_newcomer_takes_over_and_the_old_reader_ends() {
    let mut pair = Pair::new();
    let old = pair.client_as(1, Some("billing"));
    pair.follow(old, 1, durable("orders"));
    pair.emit_many("orders", 1..=3);
    let new = pair.client_as(2, Some("billing"));
    pair.follow(new, 1, durable("orders"));
    pair.emit_many("orders", 4..=6);
    pair.pass(A_WHILE);
    assert_eq!(pair.real(old).ended, [(SubscriptionId(1), SubscriptionEnd::TakenOver)]);
    assert_eq!(pair.payloads(old, 1), numbers(1..=3));
    let seen: Vec<_> = pair.payloads(new, 1);
    assert_eq!(seen[seen.len() - 3..], numbers(4..=6)[..]);
    assert_eq!(pair.real(new).ended, []);
}

#[test]
fn an_old_reader_that_was_away_during_the_takeover_does_not_take_the_topic_back() {
    let mut pair = Pair::new();
    let old = pair.client_as(1, Some("billing"));
    pair.follow(old, 1, durable("orders"));
    pair.emit("orders", "1");
    pair.pass(Duration::from_secs(1));
    pair.cut(old);
    let new = pair.client_as(2, Some("billing"));
    pair.follow(new, 1, durable("orders"));
    pair.pass(A_WHILE);
    pair.emit("orders", "2");
    assert_eq!(pair.payloads(new, 1), ["2"]);
    assert_eq!(pair.real(new).ended, []);
    assert_eq!(pair.payloads(old, 1), ["1"]);
    // It stands by, and goes on when the newcomer is gone.
    pair.pass(Duration::from_secs(1));
    pair.tell(new, ToClient::Shutdown);
    assert!(pair.real(new).has_ended);
    pair.emit("orders", "3");
    assert_eq!(pair.payloads(old, 1), ["1", "3"]);
}

#[test]
fn a_reader_on_standby_is_promoted_when_the_owner_goes() {
    let mut pair = Pair::new();
    let owner = pair.client_as(1, Some("billing"));
    pair.follow(owner, 1, durable("orders"));
    let second = pair.client_as(2, Some("billing"));
    let standby = SubscribeRequest { ownership: Ownership::Standby, ..durable("orders") };
    pair.follow(second, 1, standby);
    pair.emit_many("orders", 1..=3);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.payloads(second, 1), Vec::<String>::new());
    pair.kill(owner);
    pair.emit_many("orders", 4..=5);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(second, 1), numbers(4..=5));
}

#[test]
fn with_the_servers_cursor_a_killed_process_gets_what_was_not_acknowledged_again_and_marked() {
    let mut pair = Pair::new();
    let first = pair.client_as(1, Some("billing"));
    pair.real(first).acks_at_once = false;
    pair.follow(first, 1, durable("orders"));
    pair.emit_many("orders", 1..=6);
    handle(&mut pair, first, 4);
    pair.pass(Duration::from_secs(1));
    pair.kill(first);
    let second = pair.client_as(2, Some("billing"));
    pair.follow(second, 1, durable("orders"));
    assert_eq!(take_marked(&mut pair, second), with_marks(5..=6, true));

    // A cut is no new process: what comes now was never handed over.
    let before = pair.real(second).hellos.len();
    pair.cut(second);
    pair.pass(A_WHILE);
    assert!(pair.real(second).hellos.len() > before);
    assert_eq!(take_marked(&mut pair, second), []);
}

#[test]
fn with_the_servers_cursor_a_clean_end_leaves_nothing_marked() {
    let mut pair = Pair::new();
    let first = pair.client_as(1, Some("billing"));
    pair.follow(first, 1, durable("orders"));
    pair.emit_many("orders", 1..=6);
    pair.tell(first, ToClient::Shutdown);
    assert!(pair.real(first).has_ended);
    assert_eq!(pair.real(first).confirmed.get(&SubscriptionId(1)), Some(&Seq(6)));
    pair.emit_many("orders", 7..=9);
    let second = pair.client_as(2, Some("billing"));
    pair.follow(second, 1, durable("orders"));
    assert_eq!(take_marked(&mut pair, second), with_marks(7..=9, false));
}

#[test]
fn with_an_own_store_a_killed_process_gets_what_was_not_acknowledged_again_and_marked() {
    let mut pair = Pair::new();
    let first = pair.client(1);
    pair.real(first).acks_at_once = false;
    pair.follow(first, 1, request("orders", Start::Earliest, CursorKeeper::Client { stored: None }));
    pair.emit_many("orders", 1..=6);
    handle(&mut pair, first, 4);
    pair.pass(Duration::from_secs(1));
    let stored = pair.real(first).store.get(&SubscriptionId(1)).cloned();
    pair.kill(first);
    let second = pair.client(2);
    pair.follow(second, 1, request("orders", Start::Earliest, CursorKeeper::Client { stored }));
    assert_eq!(take_marked(&mut pair, second), with_marks(5..=6, true));
}

#[test]
fn with_an_own_store_a_clean_end_leaves_nothing_marked() {
    let mut pair = Pair::new();
    let first = pair.client(1);
    pair.follow(first, 1, request("orders", Start::Earliest, CursorKeeper::Client { stored: None }));
    pair.emit_many("orders", 1..=6);
    pair.tell(first, ToClient::Shutdown);
    let stored = pair.real(first).store.get(&SubscriptionId(1)).cloned();
    pair.emit_many("orders", 7..=9);
    let second = pair.client(2);
    pair.follow(second, 1, request("orders", Start::Latest, CursorKeeper::Client { stored }));
    assert_eq!(take_marked(&mut pair, second), with_marks(7..=9, false));
}

#[test]
fn a_shutdown_without_a_server_waits_for_it_and_then_ends_clean() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    pair.follow(client, 1, durable("orders"));
    pair.emit_many("orders", 1..=3);
    pair.set_up(false);
    let ticket = pair.publish(client, "invoices", "x");
    pair.tell(client, ToClient::Shutdown);
    pair.pass(A_WHILE);
    assert!(!pair.real(client).has_ended);
    pair.set_up(true);
    pair.pass(A_WHILE);
    assert!(pair.real(client).has_ended);
    assert!(matches!(pair.real(client).receipts.get(&ticket), Some(EmitOutcome::Stored { .. })));
    assert_eq!(pair.real(client).confirmed.get(&SubscriptionId(1)), Some(&Seq(3)));
}

#[test]
fn retention_that_passed_a_reader_is_one_gap_with_the_exact_count() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit_many("orders", 1..=10);
    pair.set_up(false);
    pair.emit_many("orders", 11..=60);
    pair.hub.log.floor = Seq(40);
    pair.set_up(true);
    pair.pass(A_WHILE);
    let told = gaps(&mut pair, client);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].count, told[0].count_is_exact, told[0].cause), (30, true, GapCause::RetentionAge));
    assert_eq!(pair.payloads(client, 1), [numbers(1..=10), numbers(41..=60)].concat());
    pair.cut(client);
    pair.pass(A_WHILE);
    assert_eq!(gaps(&mut pair, client).len(), 1, "it was told once");
}

#[test]
fn a_restored_log_is_told_to_reader_and_publisher_also_when_it_has_grown_past_them() {
    for grown in [0, 1, 50] {
        let mut pair = Pair::new();
        let client = pair.client_as(1, Some("billing"));
        pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
        for number in 1..=10 {
            pair.publish(client, "orders", &number.to_string());
        }
        pair.set_up(false);
        pair.restore(6);
        pair.emit_many("orders", 100..100 + grown);
        pair.set_up(true);
        pair.pass(A_WHILE);
        let told = gaps(&mut pair, client);
        assert_eq!(told.len(), 1, "after {grown} more");
        assert_eq!(told[0].cause, GapCause::EpochChanged);
        let lost: Vec<_> = pair.real(client).lost.iter().map(|(from, through)| (from.0, through.0)).collect();
        assert_eq!(lost, [(7, 10)]);
        let seen = pair.payloads(client, 1);
        let new: Vec<_> = (100..100 + grown).map(|number| number.to_string()).collect();
        assert!(seen.ends_with(&new), "{seen:?}");
        pair.publish(client, "orders", "last");
        assert_eq!(pair.payloads(client, 1).last().map(String::as_str), Some("last"));
    }
}

#[test]
fn a_reader_that_knows_earlier_epochs_loses_only_what_the_restored_log_lost() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit_many("orders", 1..=5);
    pair.restart();
    pair.pass(A_WHILE);
    pair.emit_many("orders", 6..=9);
    // The backup is from before the restart: seqs 6 to 9 were never in it.
    pair.set_up(false);
    pair.restore(5);
    pair.emit_many("orders", 60..=61);
    pair.set_up(true);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), [numbers(1..=9), numbers(60..=61)].concat(), "1 to 5 are not repeated");
    assert_eq!(gaps(&mut pair, client)[0].cause, GapCause::EpochChanged);
}

#[test]
fn a_wiped_log_is_told_to_reader_and_publisher_also_when_it_has_grown_past_them() {
    for grown in [0, 3, 50] {
        let mut pair = Pair::new();
        let client = pair.client_as(1, Some("billing"));
        let keeper = CursorKeeper::Client { stored: None };
        pair.follow(client, 1, request("orders", Start::Earliest, keeper));
        for number in 1..=5 {
            pair.publish(client, "orders", &number.to_string());
        }
        pair.set_up(false);
        pair.wipe();
        pair.emit_many("orders", 100..100 + grown);
        pair.set_up(true);
        pair.pass(A_WHILE);
        assert_eq!(gaps(&mut pair, client).len(), 1);
        let lost: Vec<_> = pair.real(client).lost.iter().map(|(from, through)| (from.0, through.0)).collect();
        assert_eq!(lost, [(1, 5)], "after {grown} more");
        let marked = pair.records(client, 1).iter().filter(|(_, mark)| *mark).count();
        assert_eq!(marked, 0, "the new history's events were never handed over");
        pair.publish(client, "orders", "last");
        pair.pass(A_WHILE);
        let seen = pair.payloads(client, 1);
        assert_eq!((seen.len() as u64, seen.last().map(String::as_str)), (5 + grown + 1, Some("last")));
    }
}

#[test]
fn a_durable_reader_of_a_wiped_log_goes_on_with_its_servers_cursor() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    pair.follow(client, 1, durable("orders"));
    pair.emit_many("orders", 1..=5);
    pair.set_up(false);
    pair.wipe();
    pair.emit_many("orders", 100..=101);
    pair.set_up(true);
    pair.pass(A_WHILE);
    pair.emit("orders", "102");
    assert_eq!(pair.payloads(client, 1), [numbers(1..=5), numbers(100..=102)].concat());
    pair.pass(A_WHILE);
    pair.tell(client, ToClient::Shutdown);
    assert!(pair.real(client).has_ended, "all acks are confirmed");
    pair.emit("orders", "103");
    let next = pair.client_as(2, Some("billing"));
    pair.follow(next, 1, durable("orders"));
    assert_eq!(take_marked(&mut pair, next), with_marks(103..=103, false));
}

#[test]
fn emits_keep_their_order_through_a_full_disk() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    for number in 1..=20 {
        if number == 5 {
            pair.hub.log.refusing = Some(RefusalCode::STORAGE_FULL);
        }
        pair.publish(client, "orders", &number.to_string());
        if number == 15 {
            pair.pass(A_WHILE);
            pair.hub.log.refusing = None;
        }
    }
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=20));
    assert_eq!(pair.real(client).receipts.len(), 20);
}

#[test]
fn a_final_refusal_in_the_middle_does_not_hold_the_others_up() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.hub.log.forbidden.insert(topic_name("secret"));
    pair.publish(client, "orders", "1");
    let refused = pair.publish(client, "secret", "x");
    pair.publish(client, "orders", "2");
    assert_eq!(pair.real(client).receipts.get(&refused), Some(&EmitOutcome::Refused(RefusalCode::FORBIDDEN)));
    pair.restart();
    pair.pass(A_WHILE);
    pair.publish(client, "orders", "3");
    assert_eq!(pair.payloads(client, 1), numbers(1..=3));
}

#[test]
fn a_publisher_that_runs_again_from_its_first_number_stores_nothing_twice() {
    let mut pair = Pair::new();
    let config = ClientConfig::default();
    let first = pair.client_with(1, 9, None, config.clone());
    for number in 1..=5 {
        pair.publish(first, "orders", &number.to_string());
    }
    pair.kill(first);
    let second = pair.client_with(2, 9, None, config);
    pair.follow(second, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    let tickets: Vec<_> = (1..=8).map(|number: u64| pair.publish(second, "orders", &number.to_string())).collect();
    assert_eq!(pair.payloads(second, 1), numbers(1..=8));
    for (at, ticket) in tickets.iter().enumerate() {
        let expected = at < 5;
        let outcome = pair.real(second).receipts[ticket];
        assert!(matches!(outcome, EmitOutcome::Stored { duplicate, .. } if duplicate == expected), "{outcome:?}");
    }
}

#[test]
fn the_newest_connection_of_a_publisher_fences_the_older_one_which_ends() {
    let mut pair = Pair::new();
    let old = pair.client_with(1, 9, None, ClientConfig::default());
    pair.publish(old, "orders", "1");
    let new = pair.client_with(2, 9, None, ClientConfig::default());
    pair.pass(A_WHILE);
    assert!(pair.real(old).has_ended);
    assert!(!pair.real(new).has_ended);
    assert!(matches!(pair.real(old).session.state(), ConnectionState::Ended { close: Some(_) }));
}

#[test]
fn more_emits_than_the_server_takes_at_once_all_arrive_in_order() {
    let mut config = ServerConfig::default();
    config.limits.emits_in_flight_max = 4;
    config.limits.emit_bytes_in_flight_max = 64;
    let mut pair = Pair::with(config);
    pair.set_up(false);
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    for number in 1..=100 {
        pair.publish(client, "orders", &number.to_string());
    }
    pair.set_up(true);
    pair.pass(A_WHILE);
    assert_eq!(pair.payloads(client, 1), numbers(1..=100));
}
