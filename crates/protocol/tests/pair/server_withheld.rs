//! Stories of events that are not for everybody, and of events that are in no log.

use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::CloseCode;
use redeliver_protocol::event::NewEvent;
use redeliver_protocol::features::Features;
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe, Window};
use redeliver_protocol::limits::Limits;
use redeliver_protocol::seq::{EmitNumber, Nth, Seq, SubscriptionId};

use crate::world::{Pair, Peer, ack, event, hello, nths, records, resume, subscribe, text, topic_name, unsubscribe};

fn guest_with(pair: &mut Pair, number: u8, features: Features) -> Peer {
    let peer = pair.peer();
    let hello = Hello { features, ..hello(number, None) };
    pair.send_bytes(peer, redeliver_protocol::codec::encode_hello(&hello));
    peer
}

fn except(topic: &str, payload: &str, except: &[&str]) -> NewEvent {
    event(topic, payload).with_except(except.iter().map(|topic| topic_name(topic)).collect())
}

fn emit_except(first: u64, events: Vec<NewEvent>) -> ClientFrame {
    ClientFrame::EmitExcept { first: EmitNumber(first), events }
}

fn skips(frames: &[ServerFrame]) -> Vec<(u64, u64)> {
    let skip = |frame: &ServerFrame| match frame {
        ServerFrame::Skip { through, nth_through, .. } => Some((through.seq.0, nth_through.0)),
        _ => None,
    };
    frames.iter().filter_map(skip).collect()
}

fn texts(frames: &[ServerFrame]) -> Vec<String> {
    records(frames).iter().map(text).collect()
}

#[test]
fn who_follows_an_excepted_topic_is_told_a_skip_in_its_place_and_others_the_event() {
    let mut pair = Pair::new();
    let emitter = guest_with(&mut pair, 1, Features::EXCEPT);
    let (me, you) = (pair.guest(2, None), pair.guest(3, None));
    pair.send_all(me, [1, 2].map(|id| ClientFrame::Subscribe(subscribe(id, ["chat", "me"][id as usize - 1]))));
    pair.send(you, ClientFrame::Subscribe(subscribe(1, "chat")));
    let events = vec![event("chat", "1"), except("chat", "2", &["nobody", "me"]), event("chat", "3")];
    pair.send(emitter, emit_except(1, events));
    let mine = pair.frames(me);
    assert_eq!((texts(&mine), skips(&mine)), (vec!["1".to_owned(), "3".to_owned()], vec![(2, 2)]));
    assert_eq!(nths(&mine), [1, 3], "the skip moves the nth on");
    let yours = pair.frames(you);
    assert_eq!((texts(&yours), skips(&yours)), (vec!["1".to_owned(), "2".to_owned(), "3".to_owned()], vec![]));
    // Who follows it no longer gets what comes then.
    pair.send(me, unsubscribe(2));
    pair.send(emitter, emit_except(4, vec![except("chat", "4", &["me"])]));
    assert_eq!(texts(&pair.frames(me)), ["4"]);
}

#[test]
fn skips_take_nothing_of_the_window_and_any_of_them_may_be_acknowledged() {
    let mut pair = Pair::new();
    let emitter = guest_with(&mut pair, 1, Features::EXCEPT);
    let me = pair.guest(2, None);
    let narrow = Subscribe { window: Window::new(1, 1), ..subscribe(1, "chat") };
    pair.send_all(me, [ClientFrame::Subscribe(subscribe(2, "me")), ClientFrame::Subscribe(narrow)]);
    let withheld = |number: u64| except("chat", &number.to_string(), &["me"]);
    pair.send(emitter, emit_except(1, (1..=300).map(withheld).collect()));
    pair.send(emitter, emit_except(301, vec![event("chat", "301"), withheld(302), event("chat", "303")]));
    let frames = pair.frames(me);
    assert_eq!(skips(&frames).len(), 300, "what lies behind the event waits for its ack");
    assert_eq!(texts(&frames), ["301"]);
    for (seq, nth) in [(1, 1), (150, 150), (299, 299)] {
        pair.send(me, ack(1, seq, nth));
        let acked = ServerFrame::Acked { id: SubscriptionId(1), seq: Seq(seq) };
        assert_eq!(pair.frames(me), [acked]);
    }
    pair.send(me, ack(1, 301, 301));
    let frames = pair.frames(me);
    assert_eq!((texts(&frames), skips(&frames)), (vec!["303".to_owned()], vec![(302, 302)]));
    pair.send(me, ack(1, 302, 303));
    assert_eq!(pair.closed(me).code, CloseCode::LIMIT_BROKEN, "no such event was sent");
}

#[test]
fn a_durable_subscriber_goes_on_behind_what_was_withheld() {
    let mut pair = Pair::new();
    let emitter = guest_with(&mut pair, 1, Features::EXCEPT);
    let me = pair.guest(2, Some("me"));
    pair.send_all(me, [ClientFrame::Subscribe(resume(1, "chat")), ClientFrame::Subscribe(subscribe(2, "mine"))]);
    pair.send(emitter, emit_except(1, vec![event("chat", "1"), except("chat", "2", &["mine"])]));
    assert_eq!(skips(&pair.frames(me)), [(2, 2)]);
    pair.send(me, ack(1, 2, 2));
    pair.send(emitter, emit_except(3, vec![event("chat", "3")]));
    pair.cut(me);
    // It follows the topic no more, but what was handled is handled.
    let again = pair.guest(4, Some("me"));
    pair.send(again, ClientFrame::Subscribe(resume(1, "chat")));
    let frames = pair.frames(again);
    let ServerFrame::Subscribed(subscribed) = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(subscribed.nth, Nth(2));
    assert_eq!(texts(&frames), ["3"]);
}

#[test]
fn records_come_with_their_marks_only_to_who_knows_them() {
    let mut pair = Pair::new();
    let emitter = guest_with(&mut pair, 1, Features::EXCEPT);
    let (old, new) = (pair.guest(2, None), guest_with(&mut pair, 3, Features::EXCEPT));
    for peer in [old, new] {
        pair.send(peer, ClientFrame::Subscribe(subscribe(1, "chat")));
    }
    let asking = event("chat", "2").asks();
    pair.send(
        emitter,
        emit_except(1, vec![event("chat", "1"), asking, except("chat", "3", &["x"]), event("chat", "4")]),
    );
    let marks = |frames: Vec<ServerFrame>| -> Vec<(bool, bool)> {
        records(&frames).iter().map(|record| (record.asks, record.has_except)).collect()
    };
    assert_eq!(marks(pair.frames(old)), [(false, false); 4]);
    assert_eq!(marks(pair.frames(new)), [(false, false), (true, false), (false, true), (false, false)]);
}

#[test]
fn an_emit_with_an_except_list_needs_the_feature() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send(peer, emit_except(1, vec![event("chat", "1")]));
    assert_eq!(pair.closed(peer).code, CloseCode::UNEXPECTED);
}

fn volatile(frames: &[ServerFrame]) -> Vec<(u32, String)> {
    let payload = |frame: &ServerFrame| match frame {
        ServerFrame::Volatile(event) => Some((event.id.0, String::from_utf8_lossy(&event.payload).into_owned())),
        _ => None,
    };
    frames.iter().filter_map(payload).collect()
}

#[test]
fn an_event_that_is_not_logged_reaches_who_follows_its_topics_now_and_moves_nothing() {
    let mut pair = Pair::new();
    let emitter = guest_with(&mut pair, 1, Features::VOLATILE);
    let reader = guest_with(&mut pair, 2, Features::VOLATILE);
    let subscriptions = [(1, "a"), (2, "b"), (3, "c")].map(|(id, topic)| ClientFrame::Subscribe(subscribe(id, topic)));
    pair.send_all(reader, subscriptions);
    let deaf = pair.guest(3, None);
    pair.send(deaf, ClientFrame::Subscribe(subscribe(1, "a")));
    pair.frames(reader);
    let mut both = event("a", "now");
    both.topics.push(topic_name("b"));
    pair.send(emitter, ClientFrame::Volatile { event: both });
    assert_eq!(volatile(&pair.frames(reader)), [(1, "now".to_owned()), (2, "now".to_owned())]);
    assert_eq!(volatile(&pair.frames(deaf)), [], "it has not named the feature");
    pair.emit("a", "logged");
    assert_eq!(nths(&pair.frames(reader)), [1]);
    let late = guest_with(&mut pair, 4, Features::VOLATILE);
    pair.send(late, ClientFrame::Subscribe(subscribe(1, "a")));
    assert_eq!(volatile(&pair.frames(late)), []);
}

#[test]
fn an_event_that_is_not_logged_is_lost_for_who_is_excepted_or_does_not_keep_up() {
    let mut config = ServerConfig::default();
    config.output_bytes_max = 100;
    let mut pair = Pair::with(config);
    let emitter = guest_with(&mut pair, 1, Features::VOLATILE);
    let reader = guest_with(&mut pair, 2, Features::VOLATILE);
    pair.send_all(reader, [1, 2].map(|id| ClientFrame::Subscribe(subscribe(id, ["a", "me"][id as usize - 1]))));
    pair.frames(reader);
    pair.send(emitter, ClientFrame::Volatile { event: except("a", "not for me", &["me"]) });
    assert_eq!(volatile(&pair.frames(reader)), []);
    let large = "x".repeat(80);
    let all = ["1", "2", "3"].map(|mark| ClientFrame::Volatile { event: event("a", &format!("{mark}{large}")) });
    pair.stall(reader, true);
    pair.send_all(emitter, all);
    pair.stall(reader, false);
    assert_eq!(volatile(&pair.frames(reader)).len(), 1, "the others found the socket busy");
}

#[test]
fn an_event_that_no_server_takes_is_lost_without_a_word() {
    let mut config = ServerConfig::default();
    config.limits = {
        let mut limits = Limits::default();
        limits.event_bytes_max = 100;
        limits
    };
    let mut pair = Pair::with(config);
    let emitter = guest_with(&mut pair, 1, Features::VOLATILE);
    let reader = guest_with(&mut pair, 2, Features::VOLATILE);
    pair.send(reader, ClientFrame::Subscribe(subscribe(1, "a")));
    pair.frames(reader);
    for payload in ["x".repeat(200), "fits".to_owned()] {
        pair.send(emitter, ClientFrame::Volatile { event: event("a", &payload) });
    }
    assert_eq!(volatile(&pair.frames(reader)), [(1, "fits".to_owned())]);
    let old = pair.guest(3, None);
    pair.send(old, ClientFrame::Volatile { event: event("a", "no") });
    assert_eq!(pair.closed(old).code, CloseCode::UNEXPECTED);
}
