//! Stories of peers that send anything at all: whatever it is, the session answers or closes, and never panics.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use redeliver_protocol::codec::{self, FromServer};
use redeliver_protocol::error::CloseCode;
use redeliver_protocol::frame::{ClientFrame, Ownership, Subscribe, Window};
use redeliver_protocol::history::{Place, Start};
use redeliver_protocol::seq::{Epoch, Nth, Position, Seq, SubscriptionId};

use crate::hub::{Held, close_with};
use crate::world::{Pair, Peer, ack, emit, resume, subscribe, topic_name, unsubscribe};

/// A peer in each of the states in which a message may come.
fn in_every_state(mut then: impl FnMut(&mut Pair, Peer)) {
    let prepare: [fn(&mut Pair) -> Peer; 5] = [
        |pair| pair.peer(),
        |pair| pair.guest(1, Some("billing")),
        |pair| {
            let peer = pair.guest(1, Some("billing"));
            pair.emit_many("orders", 1..=3);
            pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
            pair.send(peer, ClientFrame::Subscribe(resume(2, "orders")));
            peer
        },
        |pair| {
            let peer = pair.guest(1, Some("billing"));
            pair.hub.hold(Held::Saves);
            pair.hub.hold(Held::Opens);
            pair.hub.hold(Held::Appends);
            pair.send(peer, ClientFrame::Subscribe(resume(1, "orders")));
            pair.send(peer, emit(1, &["a"]));
            peer
        },
        |pair| {
            let peer = pair.guest(1, Some("billing"));
            pair.hub.hold(Held::Reads);
            pair.send(peer, ClientFrame::Subscribe(subscribe(1, "orders")));
            pair.send(peer, unsubscribe(1));
            peer
        },
    ];
    for prepare in prepare {
        let mut pair = Pair::new();
        let peer = prepare(&mut pair);
        pair.heard(peer);
        then(&mut pair, peer);
    }
}

#[test]
fn garbage_in_every_state_is_answered_with_a_close_and_others_notice_nothing() {
    let whole = codec::encode_client(&ClientFrame::Subscribe(resume(9, "orders")));
    let mut trailing = whole.to_vec();
    trailing.push(0);
    let messages: Vec<Bytes> = vec![
        Bytes::new(),
        Bytes::from_static(b"\xff"),
        Bytes::from_static(b"GET / HTTP/1.1"),
        Bytes::from_static(&[0xff; 64]),
        whole.slice(..whole.len() - 1),
        trailing.into(),
        Bytes::from_static(b"RDLC"),
        Bytes::from_static(b"RDLH\x01\x00\x00\x00\x00\x00"),
    ];
    for message in messages {
        in_every_state(|pair, peer| {
            let healthy = pair.guest(7, None);
            pair.send(healthy, ClientFrame::Subscribe(subscribe(1, "others")));
            pair.heard(healthy);
            pair.send_bytes(peer, message.clone());
            let close = pair.closed(peer);
            assert_eq!(close.code, CloseCode::MALFORMED, "{message:?}");
            assert!(!close.reason.is_empty());
            for held in [Held::Opens, Held::Saves, Held::Reads, Held::Appends] {
                pair.release(held);
            }
            pair.emit("others", "all is well");
            assert_eq!(crate::world::nths(&pair.frames(healthy)), [1]);
        });
    }
}

#[test]
fn a_message_beyond_the_largest_is_too_large() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    pair.send_bytes(peer, vec![0; redeliver_protocol::limits::FRAME_BYTES_MAX + 1]);
    assert_eq!(pair.closed(peer).code, CloseCode::TOO_LARGE);
}

#[test]
fn more_earlier_epochs_than_agreed_are_a_broken_limit() {
    let mut pair = Pair::new();
    let peer = pair.guest(1, None);
    let known = Place { earlier: vec![Position::default(); 9].into(), ..Place::default() };
    let request = Subscribe { start: Start::After(known), ..subscribe(1, "orders") };
    pair.send(peer, ClientFrame::Subscribe(request));
    assert_eq!(pair.closed(peer).code, CloseCode::LIMIT_BROKEN);
}

#[test]
fn forged_positions_of_every_kind_never_hurt() {
    let numbers = [0, 1, 2, 3, 4, u64::MAX - 1, u64::MAX];
    for seq in numbers {
        for nth in numbers {
            for epoch in [1, 9] {
                let mut pair = Pair::new();
                pair.emit_many("orders", 1..=3);
                let peer = pair.guest(1, Some("billing"));
                let known = Place {
                    position: Position::new(Epoch([epoch; 16]), Seq(seq)),
                    nth: Nth(nth),
                    earlier: vec![Position::new(Epoch([1; 16]), Seq(nth))].into(),
                };
                let resumed = Start::Resume { at_least: Some(known.clone()) };
                pair.subscribed(peer, Subscribe { start: resumed, ..resume(1, "orders") });
                pair.subscribed(peer, Subscribe { start: Start::After(known), ..subscribe(2, "orders") });
                pair.emit("orders", "4");
                pair.send(peer, ClientFrame::Ping { token: 1 });
                assert!(!pair.frames(peer).is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn any_bytes_in_any_state_never_panic(messages in vec(vec(any::<u8>(), 0..80), 1..4)) {
        in_every_state(|pair, peer| {
            let mut is_open = true;
            for message in &messages {
                if is_open {
                    pair.send_bytes(peer, message.clone());
                    is_open = !pair.heard(peer).iter().any(|heard| matches!(heard, FromServer::Close(_)));
                }
            }
        });
    }

    #[test]
    fn a_true_frame_with_a_few_wrong_bytes_never_panics(
        frame in any_frame(),
        wrong in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut message = codec::encode_client(&frame).to_vec();
        for (at, byte) in wrong {
            let at = at.index(message.len());
            message[at] = byte;
        }
        in_every_state(|pair, peer| pair.send_bytes(peer, message.clone()));
    }

    /// Whatever a peer says in whatever order: the nths it gets stay without holes, nothing comes after a close, and an
    /// honest reader beside it gets everything.
    #[test]
    fn any_conversation_leaves_the_server_sound(frames in vec(any_frame(), 1..40)) {
        let mut pair = Pair::new();
        let honest = pair.guest(9, Some("honest"));
        pair.subscribed(honest, resume(1, "orders"));
        let peer = pair.guest(1, Some("billing"));
        let mut place = std::collections::BTreeMap::new();
        for frame in frames {
            pair.send(peer, frame);
            pair.emit("orders", "next");
            let heard = pair.heard(peer);
            for said in &heard {
                match said {
                    FromServer::Frame(redeliver_protocol::frame::ServerFrame::Subscribed(subscribed)) => {
                        place.insert(subscribed.id, subscribed.nth.0);
                    }
                    FromServer::Frame(said @ redeliver_protocol::frame::ServerFrame::Events(events)) => {
                        let nths = crate::world::nths(std::slice::from_ref(said));
                        let last = place.get_mut(&events.id).expect("events before Subscribed");
                        prop_assert_eq!(nths[0], *last + 1);
                        *last += nths.len() as u64;
                    }
                    FromServer::Frame(redeliver_protocol::frame::ServerFrame::Gap { id, gap }) => {
                        place.insert(*id, gap.nth_through.0);
                    }
                    FromServer::Frame(_) | FromServer::Close(_) => {}
                }
            }
            if heard.iter().any(|said| matches!(said, FromServer::Close(_))) {
                break;
            }
        }
        let expected = pair.hub.log.nth_at(&topic_name("orders"), pair.hub.log.head().seq).0;
        prop_assert_eq!(crate::world::nths(&pair.frames(honest)), (1..=expected).collect::<Vec<_>>());
    }
}

fn any_frame() -> impl Strategy<Value = ClientFrame> {
    let small = 0..8_u64;
    prop_oneof![
        4 => any_subscribe().prop_map(ClientFrame::Subscribe),
        4 => (0..4_u32, small.clone(), small.clone()).prop_map(|(id, seq, nth)| ack(id, seq, nth)),
        2 => (0..4_u32, small).prop_map(|(id, seq)| ack(id, seq, seq)),
        2 => (0..4_u32).prop_map(unsubscribe),
        3 => (0..6_u64, 1..3_usize).prop_map(|(first, count)| emit(first, &vec!["x"; count])),
        1 => any::<u64>().prop_map(|token| ClientFrame::Ping { token }),
        1 => any::<u64>().prop_map(|token| ClientFrame::Pong { token }),
    ]
}

fn any_subscribe() -> impl Strategy<Value = Subscribe> {
    let starts = prop_oneof![
        Just(Start::Latest),
        Just(Start::Earliest),
        Just(Start::Resume { at_least: None }),
        (0..9_u64).prop_map(Start::Last),
        (0..9_u64, 0..9_u64, 0..3_u8).prop_map(|(seq, nth, epoch)| Start::After(Place {
            position: Position::new(Epoch([epoch; 16]), Seq(seq)),
            nth: Nth(nth),
            earlier: [].into(),
        })),
    ];
    (0..4_u32, starts, 0..4_u32, any::<bool>(), any::<bool>()).prop_map(|(id, start, events, durable, waits)| {
        Subscribe {
            id: SubscriptionId(id),
            topic: topic_name("orders"),
            start,
            window: Window::new(events, 200),
            ownership: if waits { Ownership::Standby } else { Ownership::Takeover },
            durable,
        }
    })
}

#[test]
fn a_close_in_the_midst_of_everything_is_the_last_word() {
    in_every_state(|pair, peer| {
        pair.send_bytes(peer, codec::encode_close(&close_with(CloseCode::DONE)));
        assert_eq!(pair.closed(peer).code, CloseCode::DONE);
        for held in [Held::Opens, Held::Saves, Held::Reads, Held::Appends] {
            pair.release(held);
        }
        assert!(pair.heard(peer).is_empty());
        assert!(pair.hub.owners.is_empty() && pair.hub.watchers.is_empty() && pair.hub.publishers.is_empty());
    });
}
