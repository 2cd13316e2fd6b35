//! Clients that keep to nothing: raw bytes over a pipe. Each ends its own session, with nothing left behind, and no
//! other.

use redeliver_socketio::engine::{Engine, EngineCloseReason, EngineConfig, EngineEvent};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use crate::pipe::pipe;

/// An engine that echoes, and tells how its sessions ended.
fn engine() -> (Engine, mpsc::UnboundedReceiver<EngineCloseReason>) {
    let (tell, told) = mpsc::unbounded_channel();
    let mut config = EngineConfig::default();
    config.payload_bytes_max = 1_000;
    let engine = Engine::new(config, move |mut connection| {
        let tell = tell.clone();
        async move {
            loop {
                match connection.next().await {
                    EngineEvent::Text(text) => connection.send_text(text.into()),
                    EngineEvent::Binary(bytes) => connection.send_binary(bytes),
                    EngineEvent::Pinged(_) | EngineEvent::Pong(_) | EngineEvent::Drained => {}
                    EngineEvent::Closed(reason) => {
                        let _ = tell.send(reason);
                        return;
                    }
                }
            }
        }
    });
    (engine, told)
}

async fn read_until(pipe: &mut DuplexStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.windows(end.len()).any(|window| window == end) {
        let mut buffer = [0; 1024];
        let length = pipe.read(&mut buffer).await.unwrap();
        assert!(length > 0, "it ended after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..length]);
    }
    read
}

/// A WebSocket session whose opening was read.
async fn websocket(engine: &Engine) -> DuplexStream {
    let mut pipe = pipe(engine);
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    pipe.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut pipe, br#""maxPayload":1000}"#).await;
    pipe
}

/// A client's frame of at most 125 bytes, masked with zeros.
fn frame(head: u8, body: &[u8]) -> Vec<u8> {
    [&[head, 0x80 | u8::try_from(body.len()).unwrap(), 0, 0, 0, 0], body].concat()
}

#[tokio::test(start_paused = true)]
async fn websockets_that_break_the_protocol_are_closed_alone() {
    let (engine, mut ended) = engine();
    let mut good = websocket(&engine).await;
    let long = |length: u64| [&[0x81, 0xff][..], &length.to_be_bytes(), &[0; 4]].concat();
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("not masked", b"\x81\x024x".to_vec()),
        ("no such opcode", frame(0x83, b"")),
        ("a compressed frame", frame(0xc1, b"4x")),
        ("a fragmented ping", frame(0x09, b"")),
        ("a ping too long", [&[0x89, 0xfe, 0, 200, 0, 0, 0, 0][..], &[0; 200]].concat()),
        ("text that is no UTF-8", frame(0x81, b"4\xff\xfe")),
        ("text that ends within a character", frame(0x81, b"4\xc3")),
        ("a continuation of nothing", frame(0x80, b"4x")),
        ("a message within a message", [frame(0x01, b"4x"), frame(0x81, b"4x")].concat()),
        ("more than allowed", long(1_001)),
        ("more than there is memory", long(u64::MAX)),
        ("more than allowed, in parts", (0..20).flat_map(|i| frame(u8::from(i == 0), &[b'4'; 100])).collect()),
    ];
    for (what, bytes) in hostile {
        let mut bad = websocket(&engine).await;
        // It may be closed before it has taken all.
        let _ = bad.write_all(&bytes).await;
        assert_eq!(ended.recv().await, Some(EngineCloseReason::TransportError), "{what}");
        let _ = bad.shutdown().await;
        let mut last = Vec::new();
        bad.read_to_end(&mut last).await.unwrap();
        assert_eq!(last.first(), Some(&0x88), "{what}: it is told that it is closed");
        assert_eq!(engine.sessions(), 1, "{what}");
    }
    good.write_all(&frame(0x81, b"4fine")).await.unwrap();
    assert_eq!(read_until(&mut good, b"4fine").await, b"\x81\x054fine");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pings_without_reading_costs_a_bounded_number_of_pongs() {
    let (engine, _ended) = engine();
    let mut flood = websocket(&engine).await;
    let pings = frame(0x89, &[7; 100]).repeat(10_000);
    flood.write_all(&pings).await.unwrap();
    flood.write_all(&frame(0x81, b"4done")).await.unwrap();
    let pongs = read_until(&mut flood, b"4done").await;
    // What the pipe holds, and little more.
    assert!(pongs.len() < 70_000, "{} bytes of pongs were kept for it", pongs.len());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_within_a_message_or_a_body_leaves_nothing_behind() {
    let (engine, mut ended) = engine();
    let mut within_frame = websocket(&engine).await;
    within_frame.write_all(&[0x81, 0xfe, 0x01]).await.unwrap();
    drop(within_frame);
    assert_eq!(ended.recv().await, Some(EngineCloseReason::TransportClose));

    let mut handshake = pipe(&engine);
    handshake.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = String::from_utf8(read_until(&mut handshake, b"}").await).unwrap();
    let sid = answer.split(r#""sid":""#).nth(1).unwrap().split('"').next().unwrap();
    let mut within_body = pipe(&engine);
    let request = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\
        content-length: 100\r\n\r\n"
    );
    within_body.write_all(request.as_bytes()).await.unwrap();
    // Said once the body is being read.
    read_until(&mut within_body, b"100 Continue\r\n\r\n").await;
    within_body.write_all(b"4half").await.unwrap();
    drop(within_body);
    assert_eq!(ended.recv().await, Some(EngineCloseReason::TransportError));
    assert_eq!(engine.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_are_not_quite_those_of_a_websocket_open_nothing() {
    let (engine, _ended) = engine();
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let headers = [
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n".to_owned(),
        format!("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 8\r\n{key}"),
        format!("connection: close\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n{key}"),
        format!("connection: upgrade\r\nupgrade: h2c\r\nsec-websocket-version: 13\r\n{key}"),
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n".to_owned(),
    ];
    for headers in headers {
        for (method, transport) in [("GET", "websocket"), ("POST", "websocket"), ("GET", "polling")] {
            let mut pipe = pipe(&engine);
            let request =
                format!("{method} /socket.io/?EIO=4&transport={transport} HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
            pipe.write_all(request.as_bytes()).await.unwrap();
            let answer = read_until(&mut pipe, b"}").await;
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{method} {transport} {headers}");
        }
    }
    assert_eq!(engine.sessions(), 0);
}
