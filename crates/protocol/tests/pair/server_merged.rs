//! Stories of several topics read as one, as the server sees them: the order, one of each, and who holds whom up.

use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::CloseCode;
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe, SubscribeMerged, Window};
use redeliver_protocol::history::{Gap, GapCause, Start};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::seq::{Nth, Position, Seq, SubscriptionId};
use redeliver_protocol::server::Output;

use crate::hub::Held;
use crate::world::{Pair, Peer, ack, event, hello, records, resume, subscribe, text, topic_name, unsubscribe};

fn reader(pair: &mut Pair, subscriber: Option<&str>) -> Peer {
    let peer = pair.peer();
    let features = Features::MERGED.or(Features::EXCEPT).or(Features::VOLATILE);
    let hello = Hello { features, ..hello(9, subscriber) };
    pair.send_bytes(peer, redeliver_protocol::codec::encode_hello(&hello));
    pair.heard(peer);
    peer
}

fn one_of(group: u32, request: Subscribe) -> ClientFrame {
    ClientFrame::SubscribeMerged(SubscribeMerged { group, request })
}

fn begin(group: u32) -> ClientFrame {
    ClientFrame::BeginMerged { group }
}

/// Group 1 of these topics, with the numbers 1, 2, 3 …
fn follow(pair: &mut Pair, peer: Peer, topics: &[&str], window: Window) {
    let requests = (1..).zip(topics).map(|(id, topic)| one_of(1, Subscribe { window, ..subscribe(id, topic) }));
    let frames: Vec<_> = requests.chain([begin(1)]).collect();
    pair.send_all(peer, frames);
}

fn emit_to(pair: &mut Pair, topics: &[&str], payload: &str) {
    let topics = topics.iter().map(|topic| topic_name(topic)).collect();
    pair.hub.append(event("?", payload).with_topics(topics), pair.now);
    pair.settle();
}

/// Events and skips as they came: the subscription, the text (a dot for a skip), the seq.
fn row(frames: &[ServerFrame]) -> Vec<(u32, String, u64)> {
    let mut row = Vec::new();
    for frame in frames {
        match frame {
            ServerFrame::Events(events) => {
                let all = records(std::slice::from_ref(frame));
                row.extend(all.iter().map(|record| (events.id.0, text(record), record.seq.0)));
            }
            ServerFrame::Skip { id, through, .. } => row.push((id.0, ".".to_owned(), through.seq.0)),
            _ => {}
        }
    }
    row
}

fn texts(frames: &[ServerFrame]) -> Vec<String> {
    records(frames).iter().map(text).collect()
}

#[test]
fn events_of_several_topics_come_in_the_order_of_the_log_and_each_of_them_once() {
    for step in [1, 7] {
        let mut pair = Pair::new();
        let topics: [&[&str]; 7] = [&["a"], &["b"], &["b", "a"], &["c"], &["a"], &["d"], &["c", "b", "a"]];
        for (number, topics) in topics.iter().enumerate().take(step) {
            emit_to(&mut pair, topics, &(number + 1).to_string());
        }
        let peer = reader(&mut pair, None);
        follow(&mut pair, peer, &["a", "b", "c"], Window::default());
        for (number, topics) in topics.iter().enumerate().skip(step) {
            emit_to(&mut pair, topics, &(number + 1).to_string());
        }
        let expected = [(1, "1", 1), (2, "2", 2), (2, ".", 3), (1, "3", 3), (3, "4", 4), (1, "5", 5), (2, ".", 7)];
        let expected = expected.into_iter().chain([(3, ".", 7), (1, "7", 7)]);
        let expected: Vec<_> = expected.map(|(id, text, seq)| (id, text.to_owned(), seq)).collect();
        assert_eq!(row(&pair.frames(peer)), expected, "{step} of them were there before");
    }
}

#[test]
fn a_topic_that_is_read_late_holds_the_others_up_and_is_not_overtaken() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b"], Window::default());
    pair.hub.hold(Held::Reads);
    pair.emit("b", "1");
    pair.emit("a", "2");
    pair.emit("b", "3");
    assert_eq!(texts(&pair.frames(peer)), Vec::<String>::new());
    for _ in 0..6 {
        pair.release(Held::Reads);
        pair.hub.hold(Held::Reads);
    }
    pair.release(Held::Reads);
    assert_eq!(texts(&pair.frames(peer)), ["1", "2", "3"]);
}

#[test]
fn nothing_comes_before_all_are_named_and_have_their_places() {
    let mut pair = Pair::new();
    emit_to(&mut pair, &["b"], "1");
    emit_to(&mut pair, &["a"], "2");
    let peer = reader(&mut pair, None);
    pair.send(peer, one_of(1, subscribe(1, "a")));
    assert_eq!(texts(&pair.frames(peer)), Vec::<String>::new());
    pair.hub.hold(Held::Opens);
    pair.send_all(peer, [one_of(1, subscribe(2, "b")), begin(1)]);
    assert_eq!(texts(&pair.frames(peer)), Vec::<String>::new());
    pair.release(Held::Opens);
    let frames = pair.frames(peer);
    assert!(matches!(&frames[0], ServerFrame::Subscribed(subscribed) if subscribed.id.0 == 2), "{frames:?}");
    assert_eq!(texts(&frames), ["1", "2"]);
}

#[test]
fn a_full_window_of_one_topic_holds_the_others_up_until_it_is_acknowledged() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b"], Window::new(2, 1 << 20));
    for (number, topic) in (1..).zip(["a", "b", "a", "a", "b", "b"]) {
        pair.emit(topic, &number.to_string());
    }
    assert_eq!(texts(&pair.frames(peer)), ["1", "2", "3"]);
    pair.send(peer, ack(2, 2, 1));
    assert_eq!(texts(&pair.frames(peer)), Vec::<String>::new(), "the one that is full is the other");
    pair.send(peer, ack(1, 3, 2));
    assert_eq!(texts(&pair.frames(peer)), ["4", "5", "6"]);
}

#[test]
fn large_events_come_one_by_one_through_a_small_window_and_in_order() {
    let mut config = ServerConfig::default();
    config.batch_bytes_max = 300;
    let mut pair = Pair::with(config);
    let large = |number: u64| format!("{number}{}", "x".repeat(if number.is_multiple_of(3) { 400 } else { 20 }));
    for number in 1..=60 {
        emit_to(&mut pair, &[["a", "b", "c"][usize::try_from(number % 7 % 3).unwrap()]], &large(number));
    }
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b", "c"], Window::new(5, 500));
    let (mut seen, mut nths) = (Vec::new(), [0; 4]);
    for _ in 0..200 {
        let row = row(&pair.frames(peer));
        for (id, text, seq) in row {
            let nth = &mut nths[usize::try_from(id).unwrap()];
            *nth += 1;
            let ack = ack(id, seq, *nth);
            seen.push(text);
            pair.send(peer, ack);
        }
    }
    assert_eq!(seen, (1..=60).map(large).collect::<Vec<_>>());
}

#[test]
fn a_topic_that_is_given_up_leaves_the_others_in_order() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b", "c"], Window::new(2, 1 << 20));
    for (number, topic) in (1..).zip(["a", "a", "b", "a", "b", "a", "b", "c"]) {
        pair.emit(topic, &number.to_string());
    }
    assert_eq!(texts(&pair.frames(peer)), ["1", "2", "3"]);
    pair.send_all(peer, [ack(1, 1, 1), ack(2, 3, 1)]);
    assert_eq!(texts(&pair.frames(peer)), ["4"]);
    pair.send(peer, unsubscribe(1));
    let frames = pair.frames(peer);
    assert_eq!(texts(&frames), ["5", "7", "8"]);
    assert!(frames.contains(&ServerFrame::Unsubscribed { id: SubscriptionId(1) }));
}

#[test]
fn what_is_gone_of_one_topic_is_told_and_the_rest_comes_in_order() {
    let mut pair = Pair::new();
    for (number, topic) in (1..).zip(["a", "b", "b", "a", "b"]) {
        emit_to(&mut pair, &[topic], &number.to_string());
    }
    pair.hub.log.floor = Seq(3);
    let peer = reader(&mut pair, None);
    let epoch = pair.hub.log.head().epoch;
    let after = |seq| Start::After(redeliver_protocol::history::Place::new(Position::new(epoch, Seq(seq)), Nth::ZERO));
    let frames = [
        one_of(1, Subscribe { start: after(0), ..subscribe(1, "a") }),
        one_of(1, Subscribe { start: after(0), ..subscribe(2, "b") }),
        begin(1),
    ];
    pair.send_all(peer, frames);
    let frames = pair.frames(peer);
    let gaps: Vec<_> = frames
        .iter()
        .filter_map(|frame| if let ServerFrame::Subscribed(s) = frame { s.gap.clone() } else { None })
        .collect();
    assert!(
        matches!(
            &gaps[..],
            [Gap { count: 1, cause: GapCause::RetentionAge | GapCause::RetentionSize, .. }, Gap { count: 2, .. }]
        ),
        "{gaps:?}"
    );
    assert_eq!(texts(&frames), ["4", "5"]);
}

#[test]
fn an_event_that_is_withheld_is_skipped_in_all_topics_of_a_group() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b"], Window::default());
    pair.emit("a", "1");
    let topics = vec![topic_name("a"), topic_name("b")];
    let withheld = event("?", "2").with_topics(topics).with_except(vec![topic_name("b")]);
    pair.hub.append(withheld, pair.now);
    pair.emit("b", "3");
    let dot = |id, seq| (id, ".".to_owned(), seq);
    assert_eq!(row(&pair.frames(peer)), [(1, "1".to_owned(), 1), dot(2, 2), dot(1, 2), (2, "3".to_owned(), 3)]);
}

#[test]
fn an_event_that_is_not_logged_reaches_a_group_once() {
    let mut pair = Pair::new();
    let emitter = reader(&mut pair, None);
    let peer = pair.peer();
    let hello = Hello { features: Features::MERGED.or(Features::VOLATILE), ..hello(3, None) };
    pair.send_bytes(peer, redeliver_protocol::codec::encode_hello(&hello));
    follow(&mut pair, peer, &["a", "b"], Window::default());
    pair.send(peer, ClientFrame::Subscribe(subscribe(3, "b")));
    pair.frames(peer);
    let topics = vec![topic_name("b"), topic_name("a")];
    pair.send(emitter, ClientFrame::Volatile { event: event("?", "now").with_topics(topics) });
    let ids: Vec<_> = pair
        .frames(peer)
        .iter()
        .filter_map(|frame| if let ServerFrame::Volatile(event) = frame { Some(event.id.0) } else { None })
        .collect();
    assert_eq!(ids, [2, 3], "once for the group, once for the subscription beside it");
}

#[test]
fn each_topic_of_a_group_keeps_its_own_durable_cursor() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, Some("billing"));
    pair.send_all(peer, [one_of(1, resume(1, "a")), one_of(1, resume(2, "b")), begin(1)]);
    for (number, topics) in (1..).zip([&["a"][..], &["b"], &["a", "b"], &["a"]]) {
        emit_to(&mut pair, topics, &number.to_string());
    }
    pair.send_all(peer, [ack(1, 3, 2), ack(2, 3, 2)]);
    pair.cut(peer);
    let again = reader(&mut pair, Some("billing"));
    pair.send_all(again, [one_of(1, resume(1, "b")), one_of(1, resume(2, "a")), begin(1)]);
    let frames = pair.frames(again);
    assert_eq!(row(&frames), [(2, "4".to_owned(), 4)]);
    let marks = |frame: &ServerFrame| if let ServerFrame::Subscribed(s) = frame { Some(s.nth) } else { None };
    assert_eq!(frames.iter().filter_map(marks).collect::<Vec<_>>(), [Nth(2), Nth(2)]);
}

#[test]
fn skips_between_events_take_nothing_of_the_window() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b"], Window::new(2000, 1 << 20));
    for number in 1..=1000 {
        emit_to(&mut pair, &["a", "b"], &number.to_string());
        emit_to(&mut pair, &["b"], "between");
    }
    assert_eq!(texts(&pair.frames(peer)).len(), 2000, "for a reader that acknowledges late");
    pair.send(peer, ack(2, 1999, 1999));
    pair.send(peer, ack(2, 1501, 1501));
    pair.send(peer, ack(1, 1999, 1000));
    for number in 1..=500 {
        emit_to(&mut pair, &["b"], &number.to_string());
    }
    assert_eq!(texts(&pair.frames(peer)), (1..=500).map(|number: u64| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_group_begins_without_those_that_were_refused() {
    let mut config = ServerConfig::default();
    config.limits = {
        let mut limits = Limits::default();
        limits.subscriptions_max = 2;
        limits
    };
    let mut pair = Pair::with(config);
    let peer = reader(&mut pair, None);
    follow(&mut pair, peer, &["a", "b", "c"], Window::default());
    emit_to(&mut pair, &["c", "b"], "1");
    let frames = pair.frames(peer);
    assert!(frames.iter().any(|frame| matches!(frame, ServerFrame::SubscribeRefused { id: SubscriptionId(3), .. })));
    assert_eq!(row(&frames), [(2, "1".to_owned(), 1)]);
}

#[test]
fn a_group_is_named_in_one_go_and_its_number_used_once_at_a_time() {
    let wrong = [
        vec![begin(1)],
        vec![one_of(1, subscribe(1, "a")), begin(2)],
        vec![one_of(1, subscribe(1, "a")), one_of(2, subscribe(2, "b"))],
        vec![one_of(1, subscribe(1, "a")), begin(1), one_of(1, subscribe(2, "b"))],
        vec![one_of(1, subscribe(1, "a")), begin(1), begin(1)],
    ];
    for frames in wrong {
        let mut pair = Pair::new();
        let peer = reader(&mut pair, None);
        pair.send_all(peer, frames.clone());
        assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED, "{frames:?}");
    }
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    let again = [one_of(1, subscribe(1, "a")), begin(1), unsubscribe(1), one_of(1, subscribe(2, "a")), begin(1)];
    pair.send_all(peer, again);
    pair.emit("a", "1");
    assert_eq!(row(&pair.frames(peer)), [(2, "1".to_owned(), 1)]);
}

#[test]
fn a_group_needs_the_feature() {
    for frame in [one_of(1, subscribe(1, "a")), begin(1)] {
        let mut pair = Pair::new();
        let peer = pair.guest(1, None);
        pair.send(peer, frame);
        assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
    }
}

/// What a session has asked of the log for one peer: reads, and looks at a group.
fn asked(pair: &Pair) -> (usize, usize) {
    let count = |is_it: fn(&Output) -> bool| pair.hub.trace.iter().filter(|(_, output)| is_it(output)).count();
    (count(|output| matches!(output, Output::Read { .. })), count(|output| matches!(output, Output::FindGrown { .. })))
}

fn follow_many(pair: &mut Pair, peer: Peer, count: u32, start: &Start) {
    let named = |id: u32| subscribe(id, &format!("topic {id}"));
    let requests = (1..=count).map(|id| one_of(1, Subscribe { start: start.clone(), ..named(id) }));
    let frames: Vec<_> = requests.chain([begin(1)]).collect();
    pair.send_all(peer, frames);
}

#[test]
fn topics_that_have_nothing_are_not_read_for_the_events_of_one_that_has_many() {
    const EVENTS: u64 = 5_000;
    let mut pair = Pair::new();
    for number in 1..=EVENTS {
        pair.hub.append(event("topic 700", &number.to_string()), pair.now);
    }
    let peer = reader(&mut pair, None);
    follow_many(&mut pair, peer, 1_000, &Start::Earliest);
    let mut got = 0;
    loop {
        let records = records(&pair.frames(peer));
        let Some(last) = records.last() else { break };
        got += records.len();
        let (seq, nth) = (last.seq.0, last.nth.0);
        pair.send(peer, ack(700, seq, nth));
    }
    assert_eq!(got as u64, EVENTS);
    let (reads, looks) = asked(&pair);
    assert!(reads < 50 && looks < 5, "{reads} reads and {looks} looks for {EVENTS} events");
}

#[test]
fn live_events_of_one_topic_are_not_paid_for_with_reads_of_the_others() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    follow_many(&mut pair, peer, 300, &Start::Latest);
    let (reads, looks) = asked(&pair);
    assert!(reads <= 1 && looks <= 2, "{reads} reads and {looks} looks at nothing");
    for number in 1..=100u64 {
        pair.emit("topic 7", &number.to_string());
    }
    assert_eq!(texts(&pair.frames(peer)), (1..=100).map(|number: u64| number.to_string()).collect::<Vec<_>>());
    let (more_reads, more_looks) = asked(&pair);
    assert!(more_reads - reads <= 200 && more_looks - looks <= 100, "{more_reads} reads and {more_looks} looks");
}

#[test]
fn an_event_that_came_between_an_opening_and_its_watch_is_found() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    pair.hub.hold(Held::Opens);
    pair.send_all(peer, [one_of(1, subscribe(1, "a")), one_of(1, subscribe(2, "b")), begin(1)]);
    pair.hub.hold(Held::Reads);
    pair.release(Held::Opens);
    pair.hub.loses_wakes = true;
    pair.emit("b", "1");
    pair.emit("a", "2");
    pair.release(Held::Reads);
    assert_eq!(texts(&pair.frames(peer)), ["1", "2"]);
}

#[test]
fn a_look_of_a_group_that_has_ended_says_nothing_of_a_later_one_of_its_number() {
    let mut pair = Pair::new();
    let peer = reader(&mut pair, None);
    pair.hub.hold(Held::Reads);
    follow(&mut pair, peer, &["a", "b"], Window::default());
    pair.send_all(peer, [unsubscribe(1), unsubscribe(2)]);
    pair.emit("c", "1");
    let earliest = |id, topic| Subscribe { start: Start::Earliest, ..subscribe(id, topic) };
    pair.send_all(peer, [one_of(1, earliest(3, "c")), one_of(1, earliest(4, "d")), begin(1)]);
    pair.emit("d", "2");
    pair.emit("c", "3");
    pair.release(Held::Reads);
    assert_eq!(texts(&pair.frames(peer)), ["1", "2", "3"]);
}
