//! Messages that are none, and messages that have no place in the conversation.

use bytes::Bytes;
use futures_util::StreamExt;
use redeliver_protocol::codec::{encode_client, encode_close, encode_hello};
use redeliver_protocol::config::ServerConfig;
use redeliver_protocol::error::{Close, CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame, Subscribe};
use redeliver_protocol::history::Start;
use redeliver_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use redeliver_protocol::seq::{Nth, Seq, SubscriptionId};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::attack::attack;
use crate::peer::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_that_is_no_hello_is_answered_with_what_is_wrong_with_it() {
    let whole = encode_hello(&hello()).to_vec();
    let patched = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Message::Binary(bytes.into())
    };
    let mut endless = encode_hello(&Hello { client_name: String::new(), ..hello() }).to_vec();
    let length_at = endless.len() - 8;
    endless[length_at..].fill(0xff);
    let large_auth = Hello { auth: Some(vec![1; HELLO_BYTES_MAX].into()), ..hello() };
    let close = Close::new(CloseCode::DONE, "", RetryAdvice::Never);
    let binary = |bytes: &[u8]| Message::Binary(Bytes::copy_from_slice(bytes));
    let cases = [
        ("nothing", binary(b""), CloseCode::MALFORMED),
        ("garbage", binary(b"garbage"), CloseCode::MALFORMED),
        ("ones", binary(&[0xff; 64]), CloseCode::MALFORMED),
        ("text", Message::Text("RDLH".into()), CloseCode::MALFORMED),
        ("another magic", patched(0, b'X'), CloseCode::MALFORMED),
        ("another version", patched(4, 9), CloseCode::VERSION_MISMATCH),
        ("an unknown feature", patched(9, 0x80), CloseCode::VERSION_MISMATCH),
        ("a byte too much", binary(&[&whole[..], &[0]].concat()), CloseCode::MALFORMED),
        ("a name of exabytes", binary(&endless), CloseCode::MALFORMED),
        ("too many bytes", binary(&vec![0; HELLO_BYTES_MAX + 1]), CloseCode::TOO_LARGE),
        ("a Hello of too many bytes", Message::Binary(encode_hello(&large_auth)), CloseCode::TOO_LARGE),
        ("a ping", binary(&encode_client(&ClientFrame::Ping { token: 1 })), CloseCode::UNEXPECTED),
        ("an emit", binary(&encode_client(&emit(1, vec![event("t", "x")]))), CloseCode::UNEXPECTED),
        ("a subscribe", binary(&encode_client(&subscribing(1))), CloseCode::UNEXPECTED),
        ("a goodbye", binary(&encode_close(&close)), CloseCode::DONE),
    ];
    attack(ServerConfig::default(), async |site| {
        for (what, message, code) in cases {
            let mut peer = Peer::connect(&site.address).await;
            peer.say(message).await;
            let close = peer.closed().await;
            assert_eq!((close.code, close.retry), (code, RetryAdvice::Never), "{what}: {close:?}");
            if what == "another version" {
                assert!(close.reason.contains("version 9"), "{}", close.reason);
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_has_no_place_in_the_conversation_ends_it() {
    let unknown = SubscriptionId(ID.0 + 1);
    let close = Close::new(CloseCode::DONE, "", RetryAdvice::Never);
    let ack = ClientFrame::Ack { id: unknown, seq: Seq(1), nth: Nth(1) };
    let cases = [
        ("a second Hello", encode_hello(&hello()), CloseCode::MALFORMED),
        ("an ack of nothing", encode_client(&ack), CloseCode::UNEXPECTED),
        ("an unsubscribe of nothing", encode_client(&ClientFrame::Unsubscribe { id: unknown }), CloseCode::UNEXPECTED),
        ("an emit of nobody", encode_client(&emit(1, vec![event("t", "x")])), CloseCode::UNEXPECTED),
        ("a subscription's number twice", encode_client(&subscribing(ID.0)), CloseCode::UNEXPECTED),
        ("a goodbye", encode_close(&close), CloseCode::DONE),
    ];
    attack(ServerConfig::default(), async |site| {
        for (what, message, code) in cases {
            let mut peer = Peer::welcomed(&site.address, &hello()).await;
            peer.subscribe(subscribe("t", Start::Latest)).await;
            peer.send_bytes(message).await;
            let close = peer.closed().await;
            assert_eq!((close.code, close.retry), (code, RetryAdvice::Never), "{what}: {close:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_may_not_be_is_refused_and_the_others_stand() {
    let mut config = ServerConfig::default();
    config.limits.subscriptions_max = 3;
    attack(config, async |site| {
        let mut peer = Peer::welcomed(&site.address, &hello()).await;
        peer.send(&ClientFrame::Subscribe(Subscribe { durable: true, ..subscribe("t", Start::Latest) })).await;
        let answer = peer.frame().await;
        assert!(
            matches!(answer, ServerFrame::SubscribeRefused { id: ID, code: RefusalCode::NO_SUBSCRIBER, .. }),
            "{answer:?}"
        );
        for id in 1..=3 {
            peer.send(&subscribing(id)).await;
            while !matches!(peer.frame().await, ServerFrame::Subscribed(subscribed) if subscribed.id.0 == id) {}
        }
        peer.send(&subscribing(4)).await;
        let refused = loop {
            match peer.frame().await {
                ServerFrame::CaughtUp { .. } => {}
                other => break other,
            }
        };
        let ServerFrame::SubscribeRefused { id, code, .. } = refused else { panic!("not refused: {refused:?}") };
        assert_eq!((id, code), (SubscriptionId(4), RefusalCode::TOO_MANY_SUBSCRIPTIONS));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_refused_if_it_is_cut_anywhere_or_goes_on_behind_its_end() {
    attack(ServerConfig::default(), async |site| {
        let mut cases = Vec::new();
        let messages = conversation();
        for (at, message) in messages.iter().enumerate() {
            let longer = [&message[..], &[0]].concat();
            let cut = (0..message.len()).map(|bytes| message.slice(..bytes));
            cases.extend(cut.chain([Bytes::from(longer)]).map(|last| (at, last)));
        }
        assert!(cases.len() > 200);
        let attacks = futures_util::stream::iter(cases).map(async |(at, last)| {
            let mut peer = Peer::connect(&site.address).await;
            for message in &conversation()[..at] {
                peer.send_bytes(message.clone()).await;
            }
            peer.send_bytes(last.clone()).await;
            let close = peer.closed().await;
            assert_eq!(close.code, CloseCode::MALFORMED, "message {at}, {} bytes: {close:?}", last.len());
        });
        attacks.buffer_unordered(16).for_each(async |()| {}).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_at_any_byte_is_ended_on_the_other_side_too() {
    attack(ServerConfig::default(), async |site| {
        let hands = handshake("");
        let frames = conversation().iter().map(|message| framed(message)).collect::<Vec<_>>().concat();
        let cuts = futures_util::stream::iter(0..hands.len() + frames.len()).map(async |cut| {
            let (mut stream, bytes) = match cut.checked_sub(hands.len()) {
                None => (tokio::net::TcpStream::connect(&site.address).await.unwrap(), &hands[..cut]),
                Some(cut) => (bare(&site.address).await, &frames[..cut]),
            };
            stream.write_all(bytes).await.unwrap();
            stream.shutdown().await.unwrap();
            exchange(&mut stream, b"").await;
        });
        cuts.buffer_unordered(16).for_each(async |()| {}).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_before_it_has_come() {
    let too_large = FRAME_BYTES_MAX as u64 + 1;
    // Announced, never sent: whoever waits for the rest waits in vain.
    let heads = [
        ("a byte too much", header(FINAL | BINARY, too_large), CloseCode::TOO_LARGE),
        ("exabytes", header(FINAL | BINARY, 1 << 60), CloseCode::TOO_LARGE),
        ("the most there is", header(FINAL | BINARY, (1 << 63) - 1), CloseCode::TOO_LARGE),
        ("too much in two parts", in_parts(too_large), CloseCode::TOO_LARGE),
        ("a ping of more than 125 bytes", [header(FINAL | PING, 126), vec![0; 126]].concat(), CloseCode::MALFORMED),
        ("an unknown kind of frame", header(FINAL | 3, 0), CloseCode::MALFORMED),
        ("a frame of an extension", header(FINAL | 0x40 | BINARY, 0), CloseCode::MALFORMED),
        ("a continuation of nothing", header(FINAL | CONTINUATION, 0), CloseCode::MALFORMED),
    ];
    attack(ServerConfig::default(), async |site| {
        for (what, head, code) in heads {
            let mut stream = bare(&site.address).await;
            stream.write_all(&framed(&encode_hello(&hello()))).await.unwrap();
            let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
            let mut peer = Peer { socket };
            assert!(matches!(peer.frame().await, ServerFrame::Welcome(_)));
            peer.socket.get_mut().write_all(&head).await.unwrap();
            let close = peer.closed().await;
            assert_eq!(close.code, code, "{what}: {close:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_message_that_speaks_of_exabytes_is_refused() {
    let whole = encode_client(&emit(1, vec![event("topic", "payload")])).to_vec();
    let lengths = [
        // variant, number, events | topics | topic | name | payload
        12,
        20,
        28,
        28 + 8 + 5,
        28 + 8 + 5 + 8 + 8 + 4,
    ];
    attack(ServerConfig::default(), async |site| {
        for at in lengths {
            for huge in [u64::MAX, 1 << 60, 1 << 40, whole.len() as u64 + 1] {
                let mut bytes = whole.clone();
                let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                assert!([1, 5, 7, 8].contains(&length), "no length stands at {at}: {length}");
                bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
                let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
                peer.send_bytes(bytes).await;
                let close = peer.closed().await;
                assert_eq!(close.code, CloseCode::MALFORMED, "{huge} at {at}: {close:?}");
            }
        }
        let mut peer = Peer::welcomed(&site.address, &hello_publisher()).await;
        peer.send_bytes(whole[..12].iter().copied().chain([0xff; 8]).collect::<Vec<_>>()).await;
        assert_eq!(peer.closed().await.code, CloseCode::MALFORMED);
    })
    .await;
}

/// One of each message that a client sends.
fn conversation() -> Vec<Bytes> {
    vec![
        encode_hello(&hello_publisher()),
        encode_client(&ClientFrame::Subscribe(subscribe("t", Start::Earliest))),
        encode_client(&emit(1, vec![event("t", "payload")])),
        encode_client(&ClientFrame::Ping { token: 1 }),
        encode_client(&ClientFrame::Pong { token: 1 }),
        encode_client(&ClientFrame::Unsubscribe { id: ID }),
        encode_client(&ClientFrame::Ack { id: ID, seq: Seq(1), nth: Nth(1) }),
    ]
}

fn subscribing(id: u32) -> ClientFrame {
    ClientFrame::Subscribe(Subscribe { id: SubscriptionId(id), ..subscribe("t", Start::Latest) })
}

/// A message in two frames, each of which is small enough.
fn in_parts(bytes: u64) -> Vec<u8> {
    let half = bytes.div_ceil(2);
    let payload = vec![0; usize::try_from(half).unwrap()];
    [header(BINARY, half), payload.clone(), header(FINAL | CONTINUATION, half), payload].concat()
}
