//! Stories of reading, as the server sees them: where it starts, how much comes, and what is told when something is gone.

use std::time::Duration;

use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{CloseCode, RefusalCode};
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::{Gap, GapCause, Place, ReadOutcome, Start};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq, SubscriptionId};
use redeliver_protocol::server::{Input, Output, Reply};

use crate::hub::{Held, timestamp};
use crate::world::{Pair, ack, event, nths, records, resume, subscribe, text, topic_name, unsubscribe};

fn caught_up(id: u32, seq: u64) -> ServerFrame {
    ServerFrame::CaughtUp { id: SubscriptionId(id), seq: Seq(seq) }
}

fn windowed(id: u32, topic: &str, events: u32, bytes: u32) -> ClientFrame {
    ClientFrame::Subscribe(Subscribe { window: Window::new(events, bytes), ..subscribe(id, topic) })
}

fn known(epoch: u8, seq: u64, nth: u64) -> Place {
    Place { position: Position::new(Epoch([epoch; 16]), Seq(seq)), nth: Nth(nth), earlier: [].into() }
}

#[test]
fn the_position_comes_before_any_event_and_caught_up_once_behind_the_last() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    pair.emit("others", "not for this reader");
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    pair.emit("orders", "4");
    let frames = pair.frames(peer);
    let ServerFrame::Subscribed(subscribed) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!((subscribed.after.seq, subscribed.nth, subscribed.pending), (Seq(0), Nth(0), 3));
    assert_eq!(frames[2], caught_up(1, 4));
    assert_eq!(frames.iter().filter(|frame| matches!(frame, ServerFrame::CaughtUp { .. })).count(), 1);
    assert_eq!(nths(&frames), [1, 2, 3, 4]);
    assert_eq!(records(&frames).last().map(|record| record.seq), Some(Seq(5)));
}

#[test]
fn a_reader_at_the_head_is_caught_up_at_once() {
    let mut pair = Pair::new();
    pair.emit("orders", "old");
    let peer = pair.guest(1, None);
    let request = Subscribe { start: Start::Latest, ..subscribe(1, "orders") };
    pair.send(peer, ClientFrame::Subscribe(request));
    let frames = pair.frames(peer);
    assert!(matches!(frames[0], ServerFrame::Subscribed(_)));
    assert_eq!(frames[1..], [caught_up(1, 1)]);
    pair.emit("orders", "new");
    assert_eq!(nths(&pair.frames(peer)), [2]);
}

#[test]
fn a_topic_that_does_not_exist_yet_can_be_followed() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    let place = pair.subscribed(peer, subscribe(1, "orders"));
    assert_eq!((place.nth, place.pending), (Nth(0), 0));
    pair.emit("orders", "the first");
    assert_eq!(nths(&pair.frames(peer)), [1]);
}

#[test]
fn every_start_begins_where_it_says() {
    let mut pair = Pair::new();
    for second in 0..10 {
        pair.emit(if second % 2 == 0 { "orders" } else { "others" }, "x");
        pair.pass(Duration::from_secs(1));
    }
    // Orders have the seqs 1, 3, 5, 7, 9.
    let peer = pair.guest(1, None);
    let times = timestamp(pair.now);
    let starts = [
        (Start::Earliest, vec![1, 2, 3, 4, 5]),
        (Start::Latest, vec![]),
        (Start::Resume { at_least: None }, vec![]),
        (Start::After(known(1, 5, 3)), vec![4, 5]),
        (Start::After(known(1, 6, 3)), vec![4, 5]),
        (Start::AfterSeq(Seq(2)), vec![2, 3, 4, 5]),
        (Start::AfterSeq(Seq(1_000_000)), vec![]),
        (Start::Since(times.before(Duration::from_secs(4))), vec![4, 5]),
        (Start::Within(Duration::from_secs(2)), vec![5]),
        (Start::Last(2), vec![4, 5]),
        (Start::Last(99), vec![1, 2, 3, 4, 5]),
    ];
    for (id, (start, expected)) in (1..).zip(starts) {
        let request = Subscribe { start: start.clone(), ..subscribe(id, "orders") };
        pair.send(peer, ClientFrame::Subscribe(request));
        assert_eq!(nths(&pair.frames(peer)), expected, "{start:?}");
    }
}

#[test]
fn the_window_in_events_closes_and_every_ack_opens_it_by_as_much() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 4, 1 << 20));
    assert_eq!(nths(&pair.frames(peer)), [1, 2, 3, 4]);
    pair.send(peer, ack(1, 1, 1));
    assert_eq!(nths(&pair.frames(peer)), [5]);
    pair.send(peer, ack(1, 4, 4));
    assert_eq!(nths(&pair.frames(peer)), [6, 7, 8]);
    pair.send(peer, ack(1, 4, 4));
    assert_eq!(nths(&pair.frames(peer)), Vec::<u64>::new());
    pair.send(peer, ack(1, 8, 8));
    assert_eq!(nths(&pair.frames(peer)), [9, 10]);
}

#[test]
fn the_window_in_bytes_closes_too() {
    let mut pair = Pair::new();
    for _ in 0..10 {
        pair.emit("orders", &"x".repeat(1000));
    }
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 100, 2500));
    assert_eq!(nths(&pair.frames(peer)), [1, 2]);
    pair.send(peer, ack(1, 2, 2));
    assert_eq!(nths(&pair.frames(peer)), [3, 4]);
}

#[test]
fn one_event_always_fits_however_small_the_window_and_no_second_beside_it() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        pair.emit("orders", &"x".repeat(100_000));
    }
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 0, 0));
    let frames = pair.frames(peer);
    let ServerFrame::Subscribed(subscribed) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(subscribed.window, Window::new(1, 1));
    assert_eq!(nths(&frames), [1]);
    for (seq, next) in [(1, vec![2]), (2, vec![3]), (3, vec![])] {
        pair.send(peer, ack(1, seq, seq));
        assert_eq!(nths(&pair.frames(peer)), next);
    }
}

#[test]
fn a_large_event_waits_until_the_window_is_empty_and_is_not_read_over_and_over() {
    let mut pair = Pair::new();
    pair.emit("orders", "small");
    pair.emit("orders", &"x".repeat(10_000));
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 100, 1000));
    assert_eq!(nths(&pair.frames(peer)), [1]);
    let reads = |pair: &Pair| pair.hub.trace.iter().filter(|(_, o)| matches!(o, Output::Read { .. })).count();
    let before = reads(&pair);
    for _ in 0..20 {
        pair.emit("orders", "wake");
    }
    assert_eq!(reads(&pair), before);
    pair.send(peer, ack(1, 1, 1));
    assert_eq!(nths(&pair.frames(peer)), [2]);
}

#[test]
fn the_server_takes_its_own_window_if_that_is_smaller() {
    let limits = {
        let mut limits = Limits::default();
        limits.window_events_max = 3;
        limits.window_bytes_max = 5000;
        limits
    };
    let mut config = ServerConfig::default();
    config.limits = limits;
    let mut pair = Pair::with(config);
    pair.emit_many("orders", 1..=10);
    let peer = pair.guest(1, None);
    let place = pair.subscribed(peer, subscribe(1, "orders"));
    assert_eq!(place.window, Window::new(3, 5000));
    assert_eq!(nths(&pair.frames(peer)), [1, 2, 3]);
}

#[test]
fn a_batch_ends_where_its_size_does_and_the_next_follows() {
    let mut config = ServerConfig::default();
    config.batch_bytes_max = 1000;
    let mut pair = Pair::with(config);
    for _ in 0..10 {
        pair.emit("orders", &"x".repeat(300));
    }
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    let frames = pair.frames(peer);
    let sizes: Vec<_> = frames
        .iter()
        .filter_map(|frame| match frame {
            ServerFrame::Events(events) => Some((events.count, events.records.len() <= 1000)),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [(2, true); 5]);
    assert_eq!(nths(&frames), (1..=10).collect::<Vec<_>>());
}

#[test]
fn no_more_is_read_than_the_socket_takes() {
    let mut config = ServerConfig::default();
    (config.batch_bytes_max, config.output_bytes_max) = (1000, 4000);
    let mut pair = Pair::with(config);
    for _ in 0..100 {
        pair.emit("orders", &"x".repeat(900));
    }
    let peer = pair.guest(1, None);
    pair.stall(peer, true);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    let reads = |pair: &Pair| pair.hub.trace.iter().filter(|(_, o)| matches!(o, Output::Read { .. })).count();
    assert!(reads(&pair) <= 5, "{} reads", reads(&pair));
    pair.stall(peer, false);
    assert_eq!(nths(&pair.frames(peer)).len(), 100);
}

#[test]
fn answers_are_not_held_up_by_events_that_nobody_reads() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=2000);
    let peer = pair.guest(1, None);
    pair.stall(peer, true);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    pair.send(peer, crate::world::emit(1, &["a"]));
    assert_eq!(pair.hub.log.head().seq, Seq(2001));
    pair.stall(peer, false);
    let frames = pair.frames(peer);
    assert!(frames.iter().any(|frame| matches!(frame, ServerFrame::Emitted { .. })));
}

#[test]
fn many_subscriptions_are_served_in_turn() {
    let mut config = ServerConfig::default();
    config.batch_bytes_max = 1;
    let mut pair = Pair::with(config);
    for topic in ["a", "b", "c"] {
        pair.emit_many(topic, 1..=5);
    }
    let peer = pair.guest(1, None);
    pair.hub.hold(Held::Reads);
    pair.send_all(peer, [1, 2, 3].map(|id| ClientFrame::Subscribe(subscribe(id, ["a", "b", "c"][id as usize - 1]))));
    pair.release(Held::Reads);
    let order: Vec<_> = pair
        .frames(peer)
        .iter()
        .filter_map(|frame| match frame {
            ServerFrame::Events(events) => Some(events.id.0),
            _ => None,
        })
        .collect();
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3]);
}

#[test]
fn an_event_that_comes_while_a_read_finds_nothing_is_read_again() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    pair.frames(peer);
    let connection = *pair.hub.connections.keys().next().unwrap();
    // A needless wake begins a read that will find the end; the event is committed before its answer is taken.
    pair.hub.hold(Held::Reads);
    pair.hub.input(connection, Input::Reply(Reply::Grew { id: SubscriptionId(1) }));
    pair.pass(Duration::ZERO);
    assert_eq!(pair.hub.held(Held::Reads), 1);
    pair.hub.append(event("orders", "just then"), pair.now);
    pair.hub.input(connection, Input::Reply(Reply::Read { id: SubscriptionId(1), outcome: ReadOutcome::End }));
    pair.pass(Duration::ZERO);
    assert_eq!(pair.hub.held(Held::Reads), 2, "the wake was lost");
}

#[test]
fn a_read_that_reached_the_end_is_not_followed_by_another_unless_a_wake_came_meanwhile() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    pair.frames(peer);
    let reads = |pair: &Pair| pair.hub.trace.iter().filter(|(_, o)| matches!(o, Output::Read { .. })).count();
    let before = reads(&pair);
    pair.emit("orders", "one");
    assert_eq!((nths(&pair.frames(peer)), reads(&pair)), (vec![1], before + 1));
    // The answer to a read says that it reached the end, and the topic has grown since.
    let connection = *pair.hub.connections.keys().next().unwrap();
    pair.hub.hold(Held::Reads);
    pair.emit("orders", "two");
    let ReadOutcome::Batch(batch) = pair.hub.log.read(&topic_name("orders"), Seq(1), 100, 1000) else { panic!() };
    assert!(batch.is_end);
    pair.emit("orders", "three");
    pair.hub.input(connection, Input::Reply(Reply::Read { id: SubscriptionId(1), outcome: ReadOutcome::Batch(batch) }));
    pair.pass(Duration::ZERO);
    assert_eq!(pair.hub.held(Held::Reads), 2, "the wake was lost");
}

#[test]
fn a_wake_that_was_lost_delays_an_event_by_a_heartbeat_and_no_longer() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    pair.frames(peer);
    pair.hub.loses_wakes = true;
    pair.emit("orders", "unheard");
    assert_eq!(nths(&pair.frames(peer)), Vec::<u64>::new());
    pair.pass(pair.hub.config.heartbeat);
    assert_eq!(nths(&pair.frames(peer)), [1]);
}

#[test]
fn needless_and_late_wakes_do_no_harm() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.emit("orders", "one");
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    for _ in 0..10 {
        pair.input(peer, Input::Reply(Reply::Grew { id: SubscriptionId(1) }));
        pair.input(peer, Input::Reply(Reply::Grew { id: SubscriptionId(2) }));
    }
    assert_eq!(nths(&pair.frames(peer)), [1]);
    pair.send(peer, unsubscribe(1));
    pair.input(peer, Input::Reply(Reply::Grew { id: SubscriptionId(1) }));
    pair.emit("orders", "two");
    assert_eq!(pair.frames(peer), [ServerFrame::Unsubscribed { id: SubscriptionId(1) }]);
}

#[test]
fn what_is_gone_at_the_start_is_told_with_the_exact_count_and_then_it_goes_on() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    pair.hub.log.floor = Seq(7);
    let peer = pair.guest(1, None);
    let request = Subscribe { start: Start::After(known(1, 4, 4)), ..subscribe(1, "orders") };
    let place = pair.subscribed(peer, request);
    let gap = place.gap.expect("a gap");
    assert_eq!((gap.after.seq, gap.through.seq, gap.nth_through), (Seq(4), Seq(7), Nth(7)));
    assert_eq!((gap.count, gap.count_is_exact, gap.cause), (3, true, GapCause::RetentionAge));
    assert_eq!((place.after.seq, place.nth), (Seq(7), Nth(7)));
    assert_eq!(nths(&pair.frames(peer)), [8, 9, 10]);
    // Its end is acknowledged like an event.
    pair.send(peer, ack(1, 7, 7));
    assert_eq!(pair.frames(peer), [ServerFrame::Acked { id: SubscriptionId(1), seq: Seq(7) }]);
}

#[test]
fn what_goes_while_a_reader_is_slow_is_told_in_its_place_and_the_nths_go_on_behind_it() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 2, 1 << 20));
    assert_eq!(nths(&pair.frames(peer)), [1, 2]);
    pair.hub.log.floor = Seq(6);
    pair.send(peer, ack(1, 2, 2));
    let frames = pair.frames(peer);
    let gap = frames.iter().find_map(|frame| match frame {
        ServerFrame::Gap { gap, .. } => Some(gap),
        _ => None,
    });
    let gap = gap.expect("a gap");
    assert_eq!((gap.after.seq, gap.through.seq, gap.count), (Seq(2), Seq(6), 4));
    assert_eq!(nths(&frames), [7, 8]);
    // In the middle of what is gone there is nothing to acknowledge.
    pair.send(peer, ack(1, 4, 4));
    assert_eq!(pair.closed(peer).code, CloseCode::LIMIT_BROKEN);
}

#[test]
fn a_gap_up_to_the_head_catches_the_reader_up() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=4);
    let peer = pair.guest(1, None);
    pair.send(peer, windowed(1, "orders", 2, 1 << 20));
    pair.frames(peer);
    pair.hub.log.floor = Seq(4);
    pair.send(peer, ack(1, 2, 2));
    let frames = pair.frames(peer);
    assert!(matches!(frames[1], ServerFrame::Gap { .. }), "{frames:?}");
    assert_eq!(frames[2..], [caught_up(1, 4)]);
}

#[test]
fn a_read_that_finds_the_end_catches_the_reader_up_whatever_was_pending() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=2);
    let peer = pair.guest(1, None);
    pair.hub.hold(Held::Reads);
    pair.subscribed(peer, subscribe(1, "orders"));
    for _ in 0..2 {
        pair.input(peer, Input::Reply(Reply::Read { id: SubscriptionId(1), outcome: ReadOutcome::End }));
        pair.input(peer, Input::Reply(Reply::Grew { id: SubscriptionId(1) }));
    }
    assert_eq!(pair.frames(peer), [caught_up(1, 2)]);
}

#[test]
fn a_position_out_of_another_history_is_answered_with_a_gap_and_what_is_there() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=5);
    pair.wipe();
    pair.emit_many("orders", 101..=102);
    let peer = pair.guest(1, None);
    let request = Subscribe { start: Start::After(known(1, 5, 5)), ..subscribe(1, "orders") };
    let place = pair.subscribed(peer, request);
    let gap = place.gap.expect("a gap");
    assert_eq!((gap.cause, gap.after), (GapCause::EpochChanged, known(1, 5, 5).position));
    let frames = pair.frames(peer);
    assert_eq!(records(&frames).iter().map(text).collect::<Vec<_>>(), ["101", "102"]);
    // The gap's end lies before the reader's old seq, and is acknowledged nevertheless.
    pair.send(peer, ack(1, place.after.seq.0, place.nth.0));
    assert!(matches!(pair.frames(peer)[..], [ServerFrame::Acked { .. }]));
}

#[test]
fn batches_never_mix_epochs() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=2);
    pair.restart();
    pair.emit_many("orders", 3..=4);
    let peer = pair.guest(1, None);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    let batches: Vec<_> = pair
        .frames(peer)
        .into_iter()
        .filter_map(|frame| match frame {
            ServerFrame::Events(events) => Some((events.epoch.0[0], events.count)),
            _ => None,
        })
        .collect();
    assert_eq!(batches, [(1, 2), (2, 2)]);
}

#[test]
fn a_hole_of_our_own_making_is_never_shown_to_the_reader() {
    for (first_nth, count, last_seq) in [(2, 1, 2), (1, 0, 1), (1, 3, 2)] {
        let mut pair = Pair::new();
        let peer = pair.guest(1, None);
        pair.hub.hold(Held::Reads);
        pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
        pair.frames(peer);
        let batch = redeliver_protocol::history::Batch {
            epoch: Epoch([1; 16]),
            count,
            first_nth: Nth(first_nth),
            last_seq: Seq(last_seq),
            records: vec![0; 50].into(),
            except: None,
            is_end: false,
        };
        pair.input(peer, Input::Reply(Reply::Read { id: SubscriptionId(1), outcome: ReadOutcome::Batch(batch) }));
        assert_eq!(pair.closed(peer).code, CloseCode::INTERNAL);
    }
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.hub.hold(Held::Reads);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    let gap = Gap {
        after: Position::default(),
        through: Position::default(),
        nth_through: Nth(0),
        count: 0,
        count_is_exact: true,
        cause: GapCause::Purged,
    };
    pair.input(peer, Input::Reply(Reply::Read { id: SubscriptionId(1), outcome: ReadOutcome::Gap(gap) }));
    assert_eq!(pair.closed(peer).code, CloseCode::INTERNAL);
}

#[test]
fn a_subscription_that_may_not_be_is_refused_and_the_connection_goes_on() {
    let mut config = ServerConfig::default();
    config.limits.subscriptions_max = 2;
    let mut pair = Pair::with(config);
    pair.hub.log.forbidden.insert(topic_name("secrets"));
    let peer = pair.guest(1, None);
    pair.frames(peer);
    let refused = |frames: Vec<ServerFrame>| match &frames[..] {
        [ServerFrame::SubscribeRefused { id, code, .. }] => (id.0, *code),
        other => panic!("{other:?}"),
    };
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "secrets")));
    assert_eq!(refused(pair.frames(peer)), (1, RefusalCode::FORBIDDEN));
    pair.send(peer, ClientFrame::Subscribe(resume(2, "orders")));
    assert_eq!(refused(pair.frames(peer)), (2, RefusalCode::NO_SUBSCRIBER));
    pair.send_all(peer, [3, 4].map(|id| ClientFrame::Subscribe(subscribe(id, "orders"))));
    pair.frames(peer);
    pair.send(peer, ClientFrame::Subscribe(subscribe(5, "orders")));
    assert_eq!(refused(pair.frames(peer)), (5, RefusalCode::TOO_MANY_SUBSCRIPTIONS));
    pair.send(peer, unsubscribe(3));
    pair.frames(peer);
    pair.subscribed(peer, subscribe(6, "orders"));
}

#[test]
fn a_number_that_is_in_use_is_a_fault_and_one_that_is_free_again_is_not() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.subscribed(peer, subscribe(1, "orders"));
    pair.send(peer, unsubscribe(1));
    pair.subscribed(peer, subscribe(1, "others"));
    pair.frames(peer);
    pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

#[test]
fn an_unsubscribe_while_the_place_is_still_looked_for_is_answered_when_it_is_found() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, Some("billing"));
    pair.frames(peer);
    for request in [subscribe(1, "orders"), resume(2, "orders")] {
        let id = request.id;
        pair.hub.hold(Held::Opens);
        pair.send(peer, ClientFrame::Subscribe(request));
        pair.send(peer, ClientFrame::Unsubscribe { id });
        assert_eq!(pair.frames(peer), []);
        pair.release(Held::Opens);
        assert_eq!(pair.frames(peer), [ServerFrame::Unsubscribed { id }]);
    }
    assert!(pair.hub.owners.is_empty() && pair.hub.watchers.is_empty());
}

#[test]
fn an_answer_to_a_read_of_a_subscription_that_has_ended_is_passed_over() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let peer = pair.guest(1, None);
    pair.hub.hold(Held::Reads);
    pair.subscribed(peer, subscribe(1, "orders"));
    pair.send(peer, unsubscribe(1));
    // The same number, free again, follows something else meanwhile.
    pair.subscribed(peer, subscribe(1, "others"));
    pair.frames(peer);
    pair.release(Held::Reads);
    assert_eq!(pair.frames(peer), [caught_up(1, 3)][1..]);
    pair.emit("others", "mine");
    assert_eq!(nths(&pair.frames(peer)), [1]);
}
