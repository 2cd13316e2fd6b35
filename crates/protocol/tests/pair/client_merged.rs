//! Stories of several topics read as one, told from the client's side: cut at every message, killed at any time, with every
//! keeper of the cursors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redeliver_protocol::client::{CursorKeeper, Input as ToClient, StreamItem, SubscribeRequest, SubscriptionEnd};
use redeliver_protocol::config::ClientConfig;
use redeliver_protocol::error::RefusalCode;
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Ownership, Window};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::{Position, Seq, SubscriptionId};

use crate::hub::Held;
use crate::world::{Client, Pair, event, request, text, topic_name};

const A_WHILE: Duration = Duration::from_secs(60);
const ROW: SubscriptionId = SubscriptionId(1);
const TOPICS: [&str; 3] = ["a", "b", "c"];
const EVENTS: u64 = 36;
const WINDOW: Window = Window::new(4, 1 << 20);

/// The app follows these topics as one row, 1, whose topics have the numbers 11, 12 …
fn follow(pair: &mut Pair, client: Client, wanted: impl IntoIterator<Item = SubscribeRequest>) {
    let members = (11..).map(SubscriptionId).zip(wanted).collect();
    pair.tell(client, ToClient::SubscribeMerged { id: ROW, members });
}

fn from_the_beginning(keeper: &CursorKeeper) -> impl Iterator<Item = SubscribeRequest> {
    TOPICS.into_iter().map(|topic| {
        let wanted = request(topic, Start::Earliest, keeper.clone());
        SubscribeRequest { window: WINDOW, ..wanted }
    })
}

fn resumed() -> impl Iterator<Item = SubscribeRequest> {
    TOPICS.into_iter().map(|topic| {
        let wanted = request(topic, Start::Resume { at_least: None }, CursorKeeper::Server);
        SubscribeRequest { window: WINDOW, ..wanted }
    })
}

/// Of which topics the event with this number is: never none of those that are followed.
fn topics_of(number: u64) -> Vec<&'static str> {
    let chosen = [[0, 9, 9], [1, 9, 9], [0, 1, 9], [2, 9, 9], [0, 9, 9], [2, 1, 0], [1, 2, 9]];
    let chosen = chosen[usize::try_from(number * number % 7).unwrap()];
    chosen.into_iter().filter_map(|topic| TOPICS.get(topic)).copied().collect()
}

fn emit(pair: &mut Pair, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        let topics = topics_of(number).into_iter().map(topic_name).collect();
        pair.hub.append(event("?", &number.to_string()).with_topics(topics), pair.now);
    }
    pair.settle();
}

/// What a client was handed, in order: text, mark, member, position, nth.
fn handed(
    pair: &mut Pair,
    client: Client,
) -> Vec<(String, bool, SubscriptionId, Position, redeliver_protocol::seq::Nth)> {
    let events = pair.real(client).delivered.iter().filter_map(|(id, delivery)| match delivery {
        StreamItem::Event { epoch, record, redelivered, .. } => {
            Some((text(record), *redelivered, *id, Position::new(*epoch, record.seq), record.nth))
        }
        _ => None,
    });
    events.collect()
}

fn texts(pair: &mut Pair, client: Client) -> Vec<String> {
    handed(pair, client).into_iter().map(|(text, ..)| text).collect()
}

fn numbers(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// The app handles the event with this text.
fn handle(pair: &mut Pair, client: Client, number: u64) {
    let wanted = number.to_string();
    let (.., id, position, nth) =
        handed(pair, client).into_iter().rev().find(|(text, ..)| *text == wanted).expect("it was handed over");
    pair.tell(client, ToClient::Ack { id, position, nth });
}

#[test]
fn a_row_hands_over_each_event_once_and_in_the_order_of_the_log() {
    let mut pair = Pair::new();
    emit(&mut pair, 1..=EVENTS / 2);
    let client = pair.client(1);
    follow(&mut pair, client, from_the_beginning(&CursorKeeper::Nobody));
    emit(&mut pair, EVENTS / 2 + 1..=EVENTS);
    pair.pass(A_WHILE);
    assert_eq!(texts(&mut pair, client), numbers(1..=EVENTS));
    let real = pair.real(client);
    let news: Vec<_> =
        real.delivered.iter().filter(|(id, _)| *id == ROW).map(|(_, delivery)| delivery.clone()).collect();
    let [StreamItem::Subscribed { after, pending, .. }, StreamItem::CaughtUp { seq }] = &news[..] else {
        panic!("{news:?}")
    };
    assert_eq!((after.seq, *seq), (Seq(0), Seq(EVENTS / 2)));
    assert!(*pending >= EVENTS / 2, "{pending}");
    assert_eq!(real.confirmed.get(&ROW), Some(&Seq(EVENTS)));
}

/// A row that is read over a link that breaks there (and, after the repair, there again).
fn session(keeper: &CursorKeeper, cut: (Option<usize>, Option<usize>)) -> (Pair, Client) {
    let mut pair = Pair::new();
    emit(&mut pair, 1..=EVENTS / 3);
    pair.next_cut = cut;
    let client = pair.client_as(1, Some("billing"));
    follow(&mut pair, client, from_the_beginning(keeper));
    for number in EVENTS / 3 + 1..=EVENTS {
        emit(&mut pair, [number]);
        if number % 6 == 0 {
            pair.pass(Duration::from_millis(30));
        }
        if number == EVENTS / 2 {
            pair.pass(Duration::from_secs(20));
            pair.next_cut = cut;
        }
    }
    pair.pass(A_WHILE);
    (pair, client)
}

#[test]
fn a_row_hands_over_everything_once_whichever_message_is_the_last() {
    for keeper in [CursorKeeper::Nobody, CursorKeeper::Server, CursorKeeper::Client { stored: None }] {
        for at in 0..150 {
            for cut in [(Some(at), None), (None, Some(at))] {
                let (mut pair, client) = session(&keeper, cut);
                let context = format!("{keeper:?} {cut:?}");
                assert_eq!(texts(&mut pair, client), numbers(1..=EVENTS), "{context}");
                let real = pair.real(client);
                assert!(
                    real.delivered.iter().all(|(_, delivery)| !matches!(delivery, StreamItem::Gap { .. })),
                    "{context}"
                );
                assert_eq!(real.confirmed.get(&ROW), Some(&Seq(EVENTS)), "{context}");
                assert_eq!(real.ended, [], "{context}");
            }
        }
    }
}

/// A process that handles a few events and dies, again and again, each of which is told what the server or the store keep.
fn lives(server_keeps: bool, seed: u64) {
    let context = format!("server keeps: {server_keeps}, seed {seed}");
    let mut pair = Pair::new();
    let mut store = BTreeMap::new();
    let mut random = seed * 2 + 1;
    let mut draw = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (mut ever, mut confirmed, mut emitted) = (BTreeSet::new(), 0, 0);
    for life in 0..12 {
        let number = u8::try_from(life % 3 + 1).unwrap();
        let client = pair.client_with(
            number + 10 * u8::try_from(life).unwrap(),
            number,
            Some("billing"),
            ClientConfig::default(),
        );
        let real = pair.real(client);
        (real.acks_at_once, real.saves_at_once) = (false, draw(3) > 0);
        let keeper = |id: u32| match server_keeps {
            true => CursorKeeper::Server,
            false => CursorKeeper::Client { stored: store.get(&SubscriptionId(id)).cloned() },
        };
        let wanted: Vec<_> = (11..)
            .zip(TOPICS)
            .map(|(id, topic)| {
                let start = if server_keeps { Start::Resume { at_least: None } } else { Start::Earliest };
                SubscribeRequest { window: WINDOW, ..request(topic, start, keeper(id)) }
            })
            .collect();
        follow(&mut pair, client, wanted);
        pair.pass(Duration::from_secs(1));
        let mut acked = 0;
        for _ in 0..draw(20) + 3 {
            match draw(8) {
                0 => pair.cut(client),
                1 => pair.restart(),
                2 | 3 => {
                    let more = draw(5);
                    emit(&mut pair, emitted + 1..=emitted + more);
                    emitted += more;
                }
                4 => {
                    while let Some((id, cursor)) = pair.real(client).unsaved.pop_front() {
                        let seq = cursor.place.position.seq;
                        pair.real(client).store.insert(id, cursor);
                        pair.tell(client, ToClient::CursorSaved { id, seq });
                    }
                }
                _ => {
                    let all = handed(&mut pair, client);
                    acked = (acked + usize::try_from(draw(4)).unwrap()).min(all.len());
                    if let Some((.., id, position, nth)) = acked.checked_sub(1).map(|at| all[at].clone()) {
                        pair.tell(client, ToClient::Ack { id, position, nth });
                    }
                }
            }
            let pause = [0, 30, 5000][usize::try_from(draw(3)).unwrap()];
            pair.pass(Duration::from_millis(pause));
        }
        let all = handed(&mut pair, client);
        let seqs: Vec<_> = all.iter().map(|(.., position, _)| position.seq).collect();
        assert!(seqs.is_sorted_by(|one, next| one < next), "{context}: not in order, or twice: {seqs:?}");
        for (text, redelivered, ..) in &all {
            let number: u64 = text.parse().unwrap();
            assert!(number > confirmed, "{context}, life {life}: {number} again, although {confirmed} was confirmed");
            assert!(*redelivered || !ever.contains(&number), "{context}, life {life}: {number} again without a mark");
        }
        ever.extend(all.iter().map(|(text, ..)| text.parse::<u64>().unwrap()));
        confirmed = confirmed.max(pair.real(client).confirmed.get(&ROW).map_or(0, |seq| seq.0));
        store.clone_from(&pair.real(client).store.clone().into_iter().fold(store.clone(), |mut all, (id, cursor)| {
            all.insert(id, cursor);
            all
        }));
        pair.kill(client);
    }
    let client = pair.client_with(99, 9, Some("billing"), ClientConfig::default());
    let wanted: Vec<_> = if server_keeps {
        resumed().collect()
    } else {
        (11..)
            .zip(TOPICS)
            .map(|(id, topic)| {
                let stored = store.get(&SubscriptionId(id)).cloned();
                request(topic, Start::Earliest, CursorKeeper::Client { stored })
            })
            .collect()
    };
    follow(&mut pair, client, wanted);
    pair.pass(A_WHILE);
    ever.extend(handed(&mut pair, client).iter().map(|(text, ..)| text.parse::<u64>().unwrap()));
    assert_eq!(ever, (1..=emitted).collect(), "{context}");
}

#[test]
fn what_was_confirmed_never_comes_again_and_all_else_does_with_a_mark_over_many_deaths() {
    for seed in 1..=150 {
        lives(true, seed);
        lives(false, seed);
    }
}

#[test]
fn an_app_that_handles_nothing_gets_no_more_than_the_windows_and_then_all_of_it_in_order() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.real(client).acks_at_once = false;
    follow(&mut pair, client, from_the_beginning(&CursorKeeper::Nobody));
    emit(&mut pair, 1..=EVENTS);
    pair.pass(A_WHILE);
    let first = handed(&mut pair, client).len() as u64;
    assert!(first <= u64::from(WINDOW.events) * 3, "{first} events in hand");
    pair.cut(client);
    pair.pass(A_WHILE);
    let again = handed(&mut pair, client).len() as u64;
    assert!(again <= u64::from(WINDOW.events) * 3, "{again} events in hand, whatever the connection");
    for number in 1..=EVENTS {
        handle(&mut pair, client, number);
        pair.pass(Duration::from_secs(1));
    }
    assert_eq!(texts(&mut pair, client), numbers(1..=EVENTS));
    assert_eq!(pair.real(client).confirmed.get(&ROW), Some(&Seq(EVENTS)));
}

#[test]
fn an_ack_is_confirmed_when_all_topics_that_it_concerns_have_it() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    pair.real(client).acks_at_once = false;
    follow(&mut pair, client, resumed());
    pair.pass(Duration::from_secs(1));
    pair.hub.hold(Held::Saves);
    for (number, topics) in [(1, vec!["a"]), (2, vec!["a", "b"]), (3, vec!["c"])] {
        let topics = topics.into_iter().map(topic_name).collect();
        pair.hub.append(event("?", &number.to_string()).with_topics(topics), pair.now);
    }
    pair.settle();
    handle(&mut pair, client, 2);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.real(client).confirmed.get(&ROW), None);
    assert_eq!(pair.hub.held(Held::Saves), 2, "its own topic, and the one by which it did not come");
    pair.release(Held::Saves);
    pair.pass(Duration::from_secs(1));
    assert_eq!(pair.real(client).confirmed.get(&ROW), Some(&Seq(2)));
}

#[test]
fn a_row_that_is_left_ends_once_its_acks_are_confirmed_and_goes_on_elsewhere() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    follow(&mut pair, client, resumed());
    emit(&mut pair, 1..=9);
    pair.tell(client, ToClient::Unsubscribe { id: ROW });
    assert_eq!(pair.real(client).ended, [(ROW, SubscriptionEnd::Asked)]);
    emit(&mut pair, 10..=12);
    assert_eq!(texts(&mut pair, client), numbers(1..=9));
    let next = pair.client_as(2, Some("billing"));
    follow(&mut pair, next, resumed());
    assert_eq!(texts(&mut pair, next), numbers(10..=12));
    assert!(
        handed(&mut pair, next).iter().all(|(_, redelivered, ..)| !redelivered),
        "after a clean end nothing is marked"
    );
}

#[test]
fn a_row_is_left_and_its_client_shut_down_also_while_nobody_is_there() {
    let mut pair = Pair::new();
    let client = pair.client_as(1, Some("billing"));
    follow(&mut pair, client, resumed());
    emit(&mut pair, 1..=9);
    pair.real(client).acks_at_once = false;
    emit(&mut pair, 10..=10);
    pair.set_up(false);
    handle(&mut pair, client, 10);
    pair.tell(client, ToClient::Shutdown);
    assert!(!pair.real(client).has_ended, "its last ack is not confirmed");
    pair.set_up(true);
    pair.pass(A_WHILE);
    assert!(pair.real(client).has_ended);
    assert_eq!(pair.real(client).ended, [(ROW, SubscriptionEnd::Asked)]);
    assert_eq!(pair.hub.log.cursors.values().map(|cursor| cursor.place.position.seq.0).max(), Some(10));
}

#[test]
fn a_row_ends_as_a_whole_when_one_of_its_topics_is_refused_or_taken_over() {
    let mut pair = Pair::new();
    pair.hub.log.forbidden.insert(topic_name("b"));
    let client = pair.client_as(1, Some("billing"));
    follow(&mut pair, client, resumed());
    let ended = &pair.real(client).ended;
    assert!(matches!(&ended[..], [(ROW, SubscriptionEnd::Refused(RefusalCode::FORBIDDEN, _))]), "{ended:?}");
    pair.hub.log.forbidden.clear();
    let client = pair.client_as(2, Some("billing"));
    follow(&mut pair, client, resumed());
    emit(&mut pair, 1..=3);
    let other = pair.client_as(3, Some("billing"));
    pair.follow(other, 5, request("c", Start::Resume { at_least: None }, CursorKeeper::Server));
    emit(&mut pair, 4..=9);
    assert_eq!(pair.real(client).ended, [(ROW, SubscriptionEnd::TakenOver)]);
    assert_eq!(texts(&mut pair, client), numbers(1..=3));
    assert!(pair.hub.watchers.watchers_of(&topic_name("a"), None).next().is_none(), "the others are given up");
}

#[test]
fn a_row_that_waits_for_one_of_its_topics_begins_when_it_gets_it() {
    let mut pair = Pair::new();
    let owner = pair.client_as(1, Some("billing"));
    pair.follow(owner, 5, request("b", Start::Resume { at_least: None }, CursorKeeper::Server));
    let client = pair.client_as(2, Some("billing"));
    follow(&mut pair, client, resumed().map(|wanted| SubscribeRequest { ownership: Ownership::Standby, ..wanted }));
    emit(&mut pair, 1..=3);
    pair.pass(Duration::from_secs(1));
    assert_eq!(texts(&mut pair, client), Vec::<String>::new());
    pair.tell(owner, ToClient::Shutdown);
    emit(&mut pair, 4..=9);
    let of_b = |number: &u64| topics_of(*number).contains(&"b");
    let owned: BTreeSet<_> = (1..=3).filter(of_b).map(|number| number.to_string()).collect();
    let seen = texts(&mut pair, client);
    assert!(seen.iter().filter(|text| owned.contains(*text)).count() <= owned.len());
    assert_eq!(seen[seen.len() - 6..], numbers(4..=9)[..]);
}

#[test]
fn a_server_that_is_too_old_for_rows_ends_them_with_a_reason_and_serves_the_rest() {
    let mut config = ClientConfig::default();
    config.features = Features::VOLATILE.or(Features::EXCEPT).or(Features::REQUESTS);
    let mut pair = Pair::new();
    let client = pair.client_with(1, 1, None, config);
    follow(&mut pair, client, from_the_beginning(&CursorKeeper::Nobody));
    pair.follow(client, 5, request("a", Start::Earliest, CursorKeeper::Nobody));
    pair.emit("a", "1");
    let ended = &pair.real(client).ended;
    assert!(matches!(&ended[..], [(ROW, SubscriptionEnd::Refused(RefusalCode::UNSUPPORTED, _))]), "{ended:?}");
    assert_eq!(pair.payloads(client, 5), ["1"]);
    let sent = &pair.real(client).sent;
    assert!(
        !sent.iter().any(|frame| matches!(frame, ClientFrame::SubscribeMerged(_) | ClientFrame::BeginMerged { .. }))
    );
}

#[test]
fn a_history_that_is_gone_is_told_for_each_topic_and_the_row_goes_on() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    follow(&mut pair, client, from_the_beginning(&CursorKeeper::Nobody));
    emit(&mut pair, 1..=9);
    pair.wipe();
    pair.pass(A_WHILE);
    emit(&mut pair, 10..=12);
    pair.pass(A_WHILE);
    assert_eq!(texts(&mut pair, client), [numbers(1..=9), numbers(10..=12)].concat());
    let gaps =
        pair.real(client).delivered.iter().filter(|(_, delivery)| matches!(delivery, StreamItem::Gap { .. })).count();
    assert_eq!(gaps, 3);
    assert_eq!(pair.real(client).confirmed.get(&ROW), Some(&Seq(3)));
}

#[test]
fn what_one_topic_lacks_is_told_in_its_place_after_a_long_absence() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    follow(&mut pair, client, from_the_beginning(&CursorKeeper::Nobody));
    emit(&mut pair, 1..=6);
    pair.set_up(false);
    emit(&mut pair, 7..=20);
    pair.hub.log.floor = Seq(12);
    pair.set_up(true);
    pair.pass(A_WHILE);
    let texts = texts(&mut pair, client);
    assert_eq!(texts, [numbers(1..=6), numbers(13..=20)].concat());
    let real = pair.real(client);
    let lost: u64 = real
        .delivered
        .iter()
        .map(|(_, delivery)| if let StreamItem::Gap { gap, .. } = delivery { gap.count } else { 0 })
        .sum();
    let expected: usize = (7..=12).map(|number| topics_of(number).len()).sum();
    assert_eq!(lost, expected as u64, "each topic counts its own");
}
