//! Which events are marked after a worker was killed: those that its app may have taken, and no window around them.

use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, Input as ToClient};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::features::{FEATURES, Features};
use redeliver_protocol::frame::ClientFrame;
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::SubscriptionId;

use crate::world::{Client, Pair, request};

const A_WHILE: Duration = Duration::from_secs(1);

/// A new process of a worker that says when it wants more.
fn worker(pair: &mut Pair, number: u8, features: Features) -> Client {
    let mut config = ClientConfig::default();
    config.features = features;
    let client = pair.client_with(number, number, Some("billing"), config);
    pair.real(client).acks_at_once = false;
    pair.follow(client, 1, request("orders", Start::first(Start::Earliest), CursorKeeper::Server));
    client
}

/// What the app has taken since the last call: nth and mark.
fn take(pair: &mut Pair, client: Client) -> Vec<(u64, bool)> {
    let taken = pair.records(client, 1).into_iter().map(|(record, mark)| (record.nth.0, mark)).collect();
    let real = pair.real(client);
    let counted = real.delivered.drain(..).filter(|(_, item)| item.place().is_some()).count();
    real.taken += counted as u64;
    taken
}

/// The app wants more, takes it, works on it for so long, and acknowledges it.
fn step(pair: &mut Pair, client: Client, works: Duration, acknowledges: bool) -> Vec<(u64, bool)> {
    let wanted = ToClient::Wanted { id: SubscriptionId(1), taken: pair.real(client).taken };
    pair.tell(client, wanted);
    let places: Vec<_> = pair.real(client).delivered.iter().filter_map(|(_, item)| item.place()).collect();
    let taken = take(pair, client);
    pair.pass(works);
    if let Some(last) = places.last().filter(|_| acknowledges) {
        pair.handled(client, 1, last.after.position, last.after.nth.0);
    }
    taken
}

#[test]
fn a_slow_worker_that_is_killed_again_and_again_gets_what_it_had_in_hand_marked_and_nothing_else() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=500);
    let (mut in_hand, mut last) = (None, 0);
    for kill in 1..=50 {
        let client = worker(&mut pair, kill, FEATURES);
        pair.pass(A_WHILE);
        assert_eq!(take(&mut pair, client), [], "nothing is handed over that nobody wants");
        for number in 0..4 {
            // Every other worker is killed with an event in hand, the others between two.
            let acknowledges = number < 3 || kill % 2 == 0;
            let taken = step(&mut pair, client, Duration::from_millis(100), acknowledges);
            let next = last + 1;
            assert_eq!(taken, [(next, in_hand == Some(next))], "kill {kill}");
            in_hand = (!acknowledges).then_some(next);
            last = if acknowledges { next } else { last };
        }
        pair.pass(A_WHILE);
        pair.kill(client);
    }
}

#[test]
fn a_fast_worker_is_handed_more_and_more_at_once_and_a_slow_one_a_single_event_again() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=500);
    let client = worker(&mut pair, 1, FEATURES);
    let sizes: Vec<_> = (0..4).map(|_| step(&mut pair, client, Duration::ZERO, true).len()).collect();
    assert!(sizes[0] == 1 && sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
    step(&mut pair, client, A_WHILE, true);
    assert_eq!(step(&mut pair, client, Duration::ZERO, true).len(), 1);
}

#[test]
fn a_reader_that_names_nothing_leaves_the_window_marked_also_behind_one_that_did() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let client = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, client, Duration::ZERO, false), [(1, false)]);
    pair.kill(client);
    // It takes all ten, and handles none.
    let old = worker(&mut pair, 2, FEATURES.without(Features::TAKING));
    assert_eq!(take(&mut pair, old).len(), 10);
    pair.kill(old);
    let client = worker(&mut pair, 3, FEATURES);
    assert_eq!(step(&mut pair, client, Duration::ZERO, true), [(1, true)]);
    assert_eq!(step(&mut pair, client, Duration::ZERO, true)[0], (2, true), "the old reader was given it");
}

#[test]
fn after_a_restart_of_the_server_the_mark_on_disk_counts_which_covers_all_that_was_taken() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let client = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, client, Duration::ZERO, false), [(1, false)]);
    pair.kill(client);
    pair.restart();
    let client = worker(&mut pair, 2, FEATURES);
    pair.pass(A_WHILE);
    assert_eq!(step(&mut pair, client, Duration::ZERO, true), [(1, true)]);
}

#[test]
fn a_reader_that_outlives_the_server_is_shown_no_mark_and_leaves_what_it_had_in_hand() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=20);
    let client = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, client, A_WHILE, true), [(1, false)]);
    for nth in 2..=5 {
        pair.restart();
        pair.pass(A_WHILE * 20);
        assert_eq!(step(&mut pair, client, A_WHILE, false), [(nth, false)], "it is the first to get it");
    }
    pair.kill(client);
    let client = worker(&mut pair, 2, FEATURES);
    let taken: Vec<_> = (2..=8).map(|_| step(&mut pair, client, A_WHILE, true)).collect();
    assert_eq!(taken, (2..=8).map(|nth| vec![(nth, nth <= 5)]).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_was_cut_off_is_shown_no_mark_for_what_it_named_and_never_got() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=100);
    let client = worker(&mut pair, 1, FEATURES);
    let taken: usize = (0..3).map(|_| step(&mut pair, client, Duration::ZERO, true).len()).sum();
    // The answer to what it names now does not come.
    pair.stall_client(client);
    assert_eq!(step(&mut pair, client, Duration::ZERO, true), []);
    pair.cut(client);
    pair.pass(A_WHILE * 20);
    let mut again = take(&mut pair, client);
    again.extend(step(&mut pair, client, Duration::ZERO, true));
    assert_eq!(again[0].0, taken as u64 + 1);
    assert!(again.len() > 1 && again.iter().all(|(_, mark)| !mark), "{again:?}");
    pair.pass(A_WHILE);
    pair.kill(client);
    let next = worker(&mut pair, 2, FEATURES);
    let taken = taken + again.len();
    assert_eq!(step(&mut pair, next, Duration::ZERO, true), [(taken as u64 + 1, false)]);
}

#[test]
fn a_reader_that_comes_back_after_another_and_a_restart_is_shown_what_the_other_may_have_been_given() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=20);
    let old = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, old, A_WHILE, false), [(1, false)]);
    pair.stall_client(old);
    let new = worker(&mut pair, 2, FEATURES);
    let taken: Vec<_> = (1..=3).flat_map(|_| step(&mut pair, new, Duration::from_millis(1), false)).collect();
    assert_eq!(taken, [(1, true), (2, false), (3, false)]);
    pair.kill(new);
    pair.restart();
    pair.pass(A_WHILE * 60);
    let mut taken = take(&mut pair, old);
    taken.extend((2..=3).flat_map(|_| step(&mut pair, old, A_WHILE, false)));
    assert_eq!(taken, [(2, true), (3, true)]);
}

#[test]
fn a_new_subscription_of_the_same_client_is_shown_what_the_one_before_it_had_in_hand() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let client = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, client, A_WHILE, false), [(1, false)]);
    pair.cut(client);
    pair.tell(client, ToClient::Unsubscribe { id: SubscriptionId(1) });
    pair.follow(client, 2, request("orders", Start::first(Start::Earliest), CursorKeeper::Server));
    pair.restart();
    pair.pass(A_WHILE * 60);
    pair.tell(client, ToClient::Wanted { id: SubscriptionId(2), taken: 0 });
    let taken: Vec<_> = pair.records(client, 2).into_iter().map(|(record, mark)| (record.nth.0, mark)).collect();
    assert_eq!(taken, [(1, true)]);
}

#[test]
fn an_app_that_waits_gets_the_next_event_at_once_and_is_shown_no_mark_if_it_dies_before() {
    let mut pair = Pair::new();
    let client = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, client, A_WHILE, true), []);
    let named = |pair: &mut Pair| {
        let sent = pair.real(client).sent.iter();
        sent.filter(|frame| matches!(frame, ClientFrame::Taking { .. })).count()
    };
    let before = named(&mut pair);
    pair.emit("orders", "1");
    assert_eq!((take(&mut pair, client), named(&mut pair)), (vec![(1, false)], before), "it was named before it came");
    pair.kill(client);

    let client = worker(&mut pair, 2, FEATURES);
    assert_eq!(step(&mut pair, client, A_WHILE, true), [(1, true)]);
    assert_eq!(step(&mut pair, client, A_WHILE, true), []);
    pair.kill(client);
    pair.emit("orders", "2");
    let client = worker(&mut pair, 3, FEATURES);
    assert_eq!(step(&mut pair, client, A_WHILE, true), [(2, false)]);
}

#[test]
fn a_reader_that_has_lost_its_topic_hands_nothing_more_over() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=10);
    let old = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, old, Duration::ZERO, false), [(1, false)]);
    pair.stall_client(old);
    let new = worker(&mut pair, 2, FEATURES);
    assert_eq!(step(&mut pair, new, Duration::ZERO, false), [(1, true)], "the old one has it in hand");
    assert_eq!(step(&mut pair, old, Duration::ZERO, false), [], "its successor was not told of more");
}

#[test]
fn a_reader_that_has_lost_its_topic_is_not_sent_what_it_named_beforehand() {
    let mut pair = Pair::new();
    let old = worker(&mut pair, 1, FEATURES);
    assert_eq!(step(&mut pair, old, A_WHILE, false), []);
    pair.hub.tells_late = true;
    let new = worker(&mut pair, 2, FEATURES);
    pair.emit("orders", "1");
    assert_eq!(take(&mut pair, old), [], "its successor was not told of it");
    assert_eq!(step(&mut pair, new, A_WHILE, true), [(1, false)]);
}

#[test]
fn a_reader_names_what_it_hands_over_before_it_does() {
    let mut pair = Pair::new();
    pair.emit_many("orders", 1..=3);
    let client = worker(&mut pair, 1, FEATURES);
    let taken = step(&mut pair, client, Duration::ZERO, true);
    let named = |frame: &ClientFrame| if let ClientFrame::Taking { nth, .. } = frame { Some(nth.0) } else { None };
    let named: Vec<_> = pair.real(client).sent.iter().filter_map(named).collect();
    assert_eq!((named, taken.len()), (vec![0, 1], 1));
}
