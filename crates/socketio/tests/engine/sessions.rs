//! The engine by its HTTP answers: polling in this process, WebSockets over pipes, all in virtual time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use redeliver_socketio::engine::{Engine, EngineCloseReason, EngineConfig, EngineConnection, EngineEvent, SharedFrame};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::pipe::pipe;

/// What the connections told, in order.
type Told = mpsc::UnboundedReceiver<EngineEvent>;

fn config() -> EngineConfig {
    let mut config = EngineConfig::default();
    config.path = "/engine.io/".to_owned();
    config.admits = Arc::new(|_| true);
    config
}

/// The config with one change.
fn with(change: impl FnOnce(&mut EngineConfig)) -> EngineConfig {
    let mut config = config();
    change(&mut config);
    config
}

/// An engine that echoes, answers "close" by closing and "shared" by a shared message, and tells what happens.
fn echo(config: EngineConfig) -> (Engine, Told) {
    let (tell, told) = mpsc::unbounded_channel();
    let engine = Engine::new(config, move |mut connection: EngineConnection| {
        let tell = tell.clone();
        async move {
            loop {
                let event = connection.next().await;
                let _ = tell.send(event.clone());
                match event {
                    EngineEvent::Text(text) if text == "close" => {
                        connection.send_text(Bytes::from_static(b"bye"));
                        connection.close();
                    }
                    EngineEvent::Text(text) if text == "shared" => {
                        let attachments = [Bytes::from_static(&[1, 2, 3, 4])];
                        connection.send_shared(SharedFrame::new(b"shared", &attachments));
                    }
                    EngineEvent::Text(text) => connection.send_text(text.into()),
                    EngineEvent::Binary(bytes) => connection.send_binary(bytes),
                    EngineEvent::Pinged(_) | EngineEvent::Pong(_) | EngineEvent::Drained => {}
                    EngineEvent::Closed(_) => return,
                }
            }
        }
    });
    (engine, told)
}

/// What happened, without what every session tells all the time.
async fn next_told(told: &mut Told) -> EngineEvent {
    loop {
        let event = told.recv().await.unwrap();
        if event != EngineEvent::Drained {
            return event;
        }
    }
}

async fn is_told_of_its_end(told: &mut Told, reason: EngineCloseReason) {
    assert_eq!(next_told(told).await, EngineEvent::Closed(reason));
}

async fn ask(engine: &Engine, method: Method, query: &str, body: &[u8]) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(format!("/engine.io/?{query}"));
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    read(engine.respond(request, None).await).await
}

async fn read(response: Response<Full<Bytes>>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn polling(sid: &str) -> String {
    format!("EIO=4&transport=polling&sid={sid}")
}

async fn get(engine: &Engine, sid: &str) -> (StatusCode, String) {
    ask(engine, Method::GET, &polling(sid), b"").await
}

async fn post(engine: &Engine, sid: &str, body: &[u8]) -> (StatusCode, String) {
    ask(engine, Method::POST, &polling(sid), body).await
}

fn ok(body: &str) -> (StatusCode, String) {
    (StatusCode::OK, body.to_owned())
}

async fn open(engine: &Engine) -> String {
    let (status, body) = ask(engine, Method::GET, "EIO=4&transport=polling", b"").await;
    assert_eq!(status, StatusCode::OK);
    sid_of(&body)
}

fn sid_of(opening: &str) -> String {
    let opening: serde_json::Value = serde_json::from_str(opening.strip_prefix('0').unwrap()).unwrap();
    opening["sid"].as_str().unwrap().to_owned()
}

type Socket = WebSocketStream<DuplexStream>;

async fn connect(engine: &Engine, query: &str) -> Result<Socket, StatusCode> {
    let url = format!("ws://engine/engine.io/?{query}");
    match tokio_tungstenite::client_async(url, pipe(engine)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(response.status()),
        Err(error) => panic!("{error}"),
    }
}

/// A session by WebSocket that has read its opening.
async fn open_socket(engine: &Engine) -> Socket {
    let mut socket = connect(engine, "EIO=4&transport=websocket").await.unwrap();
    sid_of(&text(&mut socket).await);
    socket
}

async fn text(socket: &mut Socket) -> String {
    let message = socket.next().await.unwrap().unwrap();
    assert!(message.is_text(), "{message:?} is no text");
    message.into_text().unwrap().to_string()
}

async fn send(socket: &mut Socket, text: impl Into<String>) {
    socket.send(Message::text(text.into())).await.unwrap();
}

/// Waits for the server's close.
async fn closed(mut socket: Socket) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
    panic!("it ended without a close");
}

async fn probe(engine: &Engine, sid: &str) -> Socket {
    let mut socket = connect(engine, &format!("EIO=4&transport=websocket&sid={sid}")).await.unwrap();
    send(&mut socket, "2probe").await;
    assert_eq!(text(&mut socket).await, "3probe");
    socket
}

#[tokio::test(start_paused = true)]
async fn a_session_opens_with_exactly_what_the_protocol_names() {
    let (engine, _told) = echo(config());
    let (_, body) = ask(&engine, Method::GET, "EIO=4&transport=polling", b"").await;
    let sid = sid_of(&body);
    let rest = r#""pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
    assert_eq!(body, format!(r#"0{{"sid":"{sid}","upgrades":["websocket"],{rest}"#));
    assert_eq!(sid.len(), 22);
    let mut socket = connect(&engine, "EIO=4&transport=websocket").await.unwrap();
    let body = text(&mut socket).await;
    assert_eq!(body, format!(r#"0{{"sid":"{}","upgrades":[],{rest}"#, sid_of(&body)));
    assert_ne!(sid_of(&body), sid);
}

#[tokio::test(start_paused = true)]
async fn requests_that_lead_nowhere_are_refused_with_the_protocols_codes() {
    let (engine, _told) = echo(config());
    // As long as one of the engine's own.
    let unknown = "A".repeat(22);
    for (method, query, code) in [
        (Method::GET, "EIO=4".to_owned(), 0),
        (Method::GET, "EIO=4&transport=abc".to_owned(), 0),
        (Method::GET, polling("abc"), 1),
        (Method::GET, polling(&unknown), 1),
        (Method::POST, polling(&unknown), 1),
        (Method::POST, "EIO=4&transport=polling".to_owned(), 2),
        (Method::PUT, "EIO=4&transport=polling".to_owned(), 2),
        (Method::GET, "EIO=4&transport=websocket".to_owned(), 3),
        (Method::GET, "transport=polling".to_owned(), 5),
        (Method::GET, "EIO=abc&transport=polling".to_owned(), 5),
        (Method::GET, "EIO=3&transport=polling".to_owned(), 5),
    ] {
        let (status, body) = ask(&engine, method.clone(), &query, b"").await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{method} {query}");
        assert!(body.starts_with(&format!(r#"{{"code":{code},"message":""#)), "{method} {query}: {body}");
    }
    let by_sid = format!("EIO=4&transport=websocket&sid={unknown}");
    for query in ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc", &by_sid] {
        assert_eq!(connect(&engine, query).await.unwrap_err(), StatusCode::BAD_REQUEST, "{query}");
    }
    assert_eq!(engine.sessions(), 0);
}

#[tokio::test]
async fn a_path_is_the_engines_only_if_it_is_the_whole_path() {
    let (engine, _told) = echo(config());
    assert!(engine.owns("/engine.io/") && engine.owns("/engine.io"));
    let others =
        ["/", "", "/engine.io.evil", "/engine.io/x", "/engine.iox/", "//engine.io/", "/engine.io//", "/x/engine.io/"];
    for path in others {
        assert!(!engine.owns(path), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_go_both_ways_by_polling_and_wait_for_no_timer() {
    let (engine, _told) = echo(config());
    let started = Instant::now();
    let sid = open(&engine).await;
    for body in ["4hello", "4test1\x1e4test2\x1e4test3", "4hello\x1ebAQIDBA==", "4ä€😀"] {
        assert_eq!(post(&engine, &sid, body.as_bytes()).await, ok("ok"));
        let mut echoed = get(&engine, &sid).await.1;
        while echoed.len() < body.len() {
            echoed = [echoed, get(&engine, &sid).await.1].join("\x1e");
        }
        assert_eq!(echoed, body);
        // The poll is there first.
        let (polled, posted) = tokio::join!(get(&engine, &sid), post(&engine, &sid, b"4one"));
        assert_eq!((polled, posted), (ok("4one"), ok("ok")));
    }
    assert_eq!(post(&engine, &sid, b"4shared").await, ok("ok"));
    assert_eq!(get(&engine, &sid).await, ok("4shared\x1ebAQIDBA=="));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn messages_go_both_ways_by_websocket() {
    let (engine, _told) = echo(config());
    let mut socket = open_socket(&engine).await;
    for message in
        [Message::text("4hello"), Message::binary(vec![1, 2, 3, 4]), Message::text(format!("4{}", "😀".repeat(300)))]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    send(&mut socket, "4shared").await;
    assert_eq!(text(&mut socket).await, "4shared");
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![1, 2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_tells_what_has_arrived() {
    let (engine, mut told) = echo(config());
    let started = Instant::now();
    let sid = open(&engine).await;
    for number in 1..=3 {
        assert_eq!(get(&engine, &sid).await, ok("2"));
        assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(number));
        assert_eq!(post(&engine, &sid, b"3").await, ok("ok"));
        assert_eq!(next_told(&mut told).await, EngineEvent::Pong(number));
        assert_eq!(started.elapsed().as_secs(), 25 * number);
    }
    assert_eq!(post(&engine, &sid, b"1").await, ok("ok"));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;

    let mut socket = open_socket(&engine).await;
    for number in 1..=3 {
        assert_eq!(text(&mut socket).await, "2");
        assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(number));
        send(&mut socket, "3").await;
        assert_eq!(next_told(&mut told).await, EngineEvent::Pong(number));
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_fall_silent_are_closed_when_their_pong_is_overdue() {
    let (engine, mut told) = echo(config());
    let started = Instant::now();
    let sid = open(&engine).await;
    let socket = open_socket(&engine).await;
    for _ in 0..2 {
        assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(1));
    }
    for _ in 0..2 {
        is_told_of_its_end(&mut told, EngineCloseReason::PingTimeout).await;
    }
    assert_eq!(started.elapsed().as_secs(), 45);
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);
    closed(socket).await;
    assert_eq!(engine.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_read_for_a_while_pings_on_and_misses_no_pong() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let engine = Engine::new(config(), move |mut connection: EngineConnection| {
        let tell = tell.clone();
        async move {
            let busy = tokio::time::sleep(Duration::from_secs(100));
            tokio::pin!(busy);
            loop {
                let event = tokio::select! {
                    () = busy.as_mut() => break,
                    event = connection.next_reading(false) => event,
                };
                let _ = tell.send(event);
            }
            loop {
                let event = connection.next().await;
                let _ = tell.send(event.clone());
                if matches!(event, EngineEvent::Closed(_)) {
                    return;
                }
            }
        }
    });
    let mut socket = open_socket(&engine).await;
    let started = Instant::now();
    send(&mut socket, "4early").await;
    assert_eq!(text(&mut socket).await, "2");
    send(&mut socket, "3").await;
    assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(1));
    assert_eq!(started.elapsed().as_secs(), 25);
    assert_eq!(next_told(&mut told).await, EngineEvent::Text("early".into()));
    assert_eq!(started.elapsed().as_secs(), 100);
    assert_eq!(next_told(&mut told).await, EngineEvent::Pong(1));
    assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(2));
    is_told_of_its_end(&mut told, EngineCloseReason::PingTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn two_polls_at_once_close_the_session() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let (first, second) = tokio::join!(get(&engine, &sid), get(&engine, &sid));
    assert_eq!((first, second.0), (ok("1"), StatusCode::BAD_REQUEST));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn two_posts_at_once_close_the_session() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let (end_body, body) = tokio::sync::oneshot::channel::<()>();
    let body = futures_util::stream::once(async move {
        let _ = body.await;
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"4slow")))
    });
    let slow = Request::post(format!("/engine.io/?{}", polling(&sid))).body(StreamBody::new(body)).unwrap();
    let (slow, second) = tokio::join!(engine.respond(slow, None), async {
        let second = post(&engine, &sid, b"4x").await;
        drop(end_body);
        second
    });
    assert_eq!((slow.status(), second.0), (StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_packet_closes_the_session() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let (polled, posted) = tokio::join!(get(&engine, &sid), post(&engine, &sid, b"4x\x1eabc"));
    assert_eq!((polled, posted.0), (ok("1"), StatusCode::BAD_REQUEST));
    is_told_of_its_end(&mut told, EngineCloseReason::ParseError).await;
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);

    let mut socket = open_socket(&engine).await;
    send(&mut socket, "abc").await;
    closed(socket).await;
    is_told_of_its_end(&mut told, EngineCloseReason::ParseError).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_larger_than_allowed_is_refused_before_it_is_read() {
    let (engine, mut told) = echo(with(|config| config.payload_bytes_max = 100));
    let fits = open(&engine).await;
    assert_eq!(post(&engine, &fits, &[b'4'; 100]).await, ok("ok"));
    assert_eq!(next_told(&mut told).await, EngineEvent::Text("4".repeat(99).into()));

    let sid = open(&engine).await;
    assert_eq!(post(&engine, &sid, &[b'4'; 101]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;

    // A body that does not say how long it is, and would never end.
    let sid = open(&engine).await;
    let chunks = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"4444"))));
    let endless = Request::post(format!("/engine.io/?{}", polling(&sid))).body(StreamBody::new(chunks)).unwrap();
    assert_eq!(engine.respond(endless, None).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;

    let mut socket = open_socket(&engine).await;
    send(&mut socket, "4".repeat(101)).await;
    closed(socket).await;
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let never = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let request = Request::post(format!("/engine.io/?{}", polling(&sid))).body(StreamBody::new(never)).unwrap();
    let started = Instant::now();
    assert_eq!(engine.respond(request, None).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(started.elapsed(), Duration::from_secs(30));
    assert_eq!(next_told(&mut told).await, EngineEvent::Pinged(1));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_its_client_gives_up_closes_the_session() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    tokio::select! {
        biased;
        answer = get(&engine, &sid) => panic!("{answer:?}"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;
    assert_eq!(engine.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_closes_a_session_by_a_packet() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let (polled, posted) = tokio::join!(get(&engine, &sid), post(&engine, &sid, b"1"));
    assert_eq!((polled, posted), (ok("6"), ok("ok")));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);

    // The poll crosses the post.
    let sid = open(&engine).await;
    assert_eq!(post(&engine, &sid, b"1").await, ok("ok"));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;
    assert_eq!(post(&engine, &sid, b"4x").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(&engine, &sid).await, ok("6"));
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST, "once");

    let mut socket = open_socket(&engine).await;
    send(&mut socket, "1").await;
    closed(socket).await;
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_closes_has_its_last_message_delivered() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    assert_eq!(post(&engine, &sid, b"4close").await, ok("ok"));
    assert_eq!(next_told(&mut told).await, EngineEvent::Text("close".into()));
    is_told_of_its_end(&mut told, EngineCloseReason::Forced).await;
    assert_eq!(get(&engine, &sid).await, ok("4bye\x1e1"));
    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);

    let sid = open(&engine).await;
    let (polled, _) = tokio::join!(get(&engine, &sid), post(&engine, &sid, b"4close"));
    assert_eq!(polled, ok("4bye\x1e1"));

    let mut socket = open_socket(&engine).await;
    send(&mut socket, "4close").await;
    assert_eq!(text(&mut socket).await, "4bye");
    closed(socket).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_moves_to_a_websocket_and_loses_nothing() {
    let (engine, mut told) = echo(config());
    let sid = open(&engine).await;
    let (polled, mut socket) = tokio::join!(get(&engine, &sid), probe(&engine, &sid));
    assert_eq!(polled, ok("6"), "the poll that waited is sent home");
    assert_eq!(get(&engine, &sid).await, ok("6"), "and one that comes meanwhile");
    assert_eq!(post(&engine, &sid, b"4before").await, ok("ok"));
    assert_eq!(next_told(&mut told).await, EngineEvent::Text("before".into()));
    send(&mut socket, "5").await;
    send(&mut socket, "4after").await;
    assert_eq!((text(&mut socket).await, text(&mut socket).await), ("4before".into(), "4after".into()));

    assert_eq!(get(&engine, &sid).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(post(&engine, &sid, b"4x").await.0, StatusCode::BAD_REQUEST);
    closed(connect(&engine, &format!("EIO=4&transport=websocket&sid={sid}")).await.unwrap()).await;
    send(&mut socket, "4hello").await;
    assert_eq!(text(&mut socket).await, "4hello", "none of which harms it");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_probes_and_switches_in_one_breath_has_its_next_poll_refused() {
    let (engine, _told) = echo(config());
    let sid = open(&engine).await;
    let mut socket = connect(&engine, &format!("EIO=4&transport=websocket&sid={sid}")).await.unwrap();
    let (polled, ()) = tokio::join!(get(&engine, &sid), async {
        send(&mut socket, "2probe").await;
        send(&mut socket, "5").await;
    });
    assert_eq!(polled.0, StatusCode::BAD_REQUEST);
    assert_eq!(text(&mut socket).await, "3probe");
    send(&mut socket, "4hello").await;
    assert_eq!(text(&mut socket).await, "4hello");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_goes_nowhere_leaves_the_session_polling() {
    let (engine, _told) = echo(config());
    let sid = open(&engine).await;
    let mut gone = probe(&engine, &sid).await;
    gone.close(None).await.unwrap();
    closed(gone).await;
    let stuck = probe(&engine, &sid).await;
    let started = Instant::now();
    closed(stuck).await;
    assert_eq!(started.elapsed().as_secs(), 10);
    let mut wrong = probe(&engine, &sid).await;
    wrong.send(Message::binary(vec![1])).await.unwrap();
    closed(wrong).await;
    assert_eq!(post(&engine, &sid, b"4still").await, ok("ok"));
    assert_eq!(get(&engine, &sid).await, ok("4still"));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_given_up() {
    let (engine, mut told) = echo(config());
    let mut socket = open_socket(&engine).await;
    // Far more than the pipe holds, and its echo is never read.
    send(&mut socket, format!("4{}", "x".repeat(300_000))).await;
    assert!(matches!(next_told(&mut told).await, EngineEvent::Text(_)));
    let started = Instant::now();
    is_told_of_its_end(&mut told, EngineCloseReason::TransportError).await;
    assert_eq!(started.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn pages_of_other_origins_are_answered_only_if_they_are_admitted() {
    let admits = Arc::new(|headers: &http::HeaderMap| headers[header::ORIGIN] == "http://good");
    let (engine, _told) = echo(with(|config| config.admits = admits));
    let from = |origin: &str, method: Method| {
        let request = Request::builder().method(method).uri("/engine.io/?EIO=4&transport=polling");
        request.header(header::ORIGIN, origin).body(Full::<Bytes>::default()).unwrap()
    };
    for (method, status) in [(Method::GET, StatusCode::OK), (Method::OPTIONS, StatusCode::NO_CONTENT)] {
        let good = engine.respond(from("http://good", method.clone()), None).await;
        assert_eq!(good.status(), status);
        assert_eq!(good.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "http://good");
        let bad = engine.respond(from("http://evil", method), None).await;
        assert!(!bad.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
        let refusal = r#"{"code":4,"message":"Forbidden"}"#.to_owned();
        assert_eq!(read(bad).await, (StatusCode::FORBIDDEN, refusal));
    }
    assert_eq!(engine.sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn there_is_a_limit_to_the_sessions_at_once() {
    let (engine, mut told) = echo(with(|config| config.sessions_max = 2));
    let sid = open(&engine).await;
    open(&engine).await;
    let refused = ask(&engine, Method::GET, "EIO=4&transport=polling", b"").await;
    assert_eq!(refused.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(post(&engine, &sid, b"1").await, ok("ok"));
    is_told_of_its_end(&mut told, EngineCloseReason::TransportClose).await;
    open(&engine).await;
}
