//! A server that gives each message back, without anything of redeliver's own around the WebSocket: what outside suites are
//! run against. `cargo run -p redeliver-websocket --example websocket_echo -- 127.0.0.1:9001` (port 0 takes a free one) prints where
//! it listens. Not for the internet: it bounds nothing but messages.
#![allow(clippy::print_stdout, reason = "a program for people and tests")]

use std::error::Error;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Request;
use redeliver_websocket::handshake::Handshake;
use redeliver_websocket::{HEADER_BYTES_MAX, SocketEvent, TEXT, WebSocket, put_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001")).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A peer that breaks off, or is no WebSocket, is gone.
            let _ = serve(stream).await;
        });
    }
}

async fn serve(mut stream: TcpStream) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (request, early) = read_request(&mut stream).await?;
    let response = Handshake::check(&request)?.response::<()>(None);
    let mut head = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
    for (name, value) in response.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    stream.write_all(&head).await?;
    let mut socket = WebSocket::new(stream, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX);
    socket.put_back(&early);
    let code = loop {
        match std::future::poll_fn(|cx| socket.poll(cx, true)).await {
            SocketEvent::Message(message) => socket.send(message),
            SocketEvent::Text(text) => {
                let mut header = BytesMut::with_capacity(HEADER_BYTES_MAX);
                let text = Bytes::from(text);
                put_header(&mut header, TEXT, text.len());
                socket.send_frame(header.freeze(), text);
            }
            SocketEvent::Drained => {}
            SocketEvent::Broken(code, _) => break Some(code),
            SocketEvent::Ended => break None,
        }
    };
    socket.finish(code, LINGER).await;
    Ok(())
}

/// Reads a request's head, and what came behind it.
async fn read_request(stream: &mut TcpStream) -> Result<(Request<()>, Bytes), Box<dyn Error + Send + Sync>> {
    let mut read = BytesMut::new();
    let end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if read.len() > HEAD_BYTES_MAX || stream.read_buf(&mut read).await? == 0 {
            return Err("no whole request".into());
        }
    };
    let head = read.split_to(end);
    let text = std::str::from_utf8(&head)?;
    let mut lines = text.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no request line")?;
    let mut request = Request::get(target);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        request = request.header(name.trim(), value.trim());
    }
    Ok((request.body(())?, read.freeze()))
}

const HEAD_BYTES_MAX: usize = 16 * 1024;

/// More than any case of the suites sends.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

const LINGER: Duration = Duration::from_secs(2);
