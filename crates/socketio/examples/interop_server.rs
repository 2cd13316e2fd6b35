//! The application that the stories of stock clients in other languages are told against (`tests/interop/app.mjs` and
//! `app.py`): rooms, acks, questions to a room, namespaces, and a namespace that not everybody may enter.
//! `tests/interop/reference.mjs` has the same on Socket.IO's own server.
//!
//! Listens on 127.0.0.1 on `PORT`, 3000 unless set, and keeps its log in `DATA`, or in memory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to whoever started it")]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_server::Server;
use redeliver_socketio::{AckError, Broadcast, ConnectError, Incoming, Namespace, SendError, Socket, SocketIo};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000_u16);
    let server = match std::env::var_os("DATA") {
        Some(folder) => Server::builder().data_dir(folder),
        None => Server::builder().in_memory(),
    };
    let server = server.open().await?;
    let io = SocketIo::builder(server.clone()).build();
    let revoked = Revoked::default();
    serve_everybody(&io.of("/app")?, &revoked);
    serve_the_few(&io.of("/private")?, &revoked);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("ready {}", listener.local_addr()?.port());
    server.serve_with(listener, io).await;
    Ok(())
}

/// Users who may not come in any more, nor come back.
type Revoked = Arc<Mutex<HashSet<String>>>;

fn serve_everybody(app: &Namespace, revoked: &Revoked) {
    let (namespace, revoked) = (app.clone(), Arc::clone(revoked));
    app.on_connection(move |socket| {
        offer_rooms(&socket, &namespace);
        socket.on("echo", echo);
        socket.on("rooms", |incoming| async move {
            let own = incoming.socket.id().to_owned();
            let mut rooms = incoming.socket.rooms();
            rooms.retain(|room| *room != own);
            rooms.sort();
            answer(incoming, json!([rooms]));
        });
        socket.on("say-others", |incoming| async move {
            let Ok((room, name, args)) = said(&incoming) else { return };
            let broadcast = incoming.socket.to(room);
            say(incoming, broadcast, &name, args).await;
        });
        let all = namespace.clone();
        socket.on("ask", move |incoming| ask(all.clone(), incoming));
        socket.on("leave-me", |incoming| async move {
            if incoming.args.parse_at(0).unwrap_or(false) {
                incoming.socket.close_connection();
            } else {
                incoming.socket.disconnect();
            }
        });
        let revoked = Arc::clone(&revoked);
        socket.on("revoke", move |incoming| {
            let revoked = Arc::clone(&revoked);
            async move {
                revoked.lock().extend(incoming.args.parse_at::<String>(0));
                answer(incoming, json!({ "ok": true }));
            }
        });
        async {}
    });
}

fn serve_the_few(private: &Namespace, revoked: &Revoked) {
    let revoked = Arc::clone(revoked);
    private.middleware(move |socket| {
        let auth = &socket.handshake().auth;
        let is_revoked = auth["user"].as_str().is_some_and(|user| revoked.lock().contains(user));
        let is_let_in = auth["token"] == "open sesame" && !is_revoked;
        let refused = || ConnectError::new("not authorized").with_data(json!({ "code": 401 }));
        std::future::ready(if is_let_in { Ok(()) } else { Err(refused()) })
    });
    let namespace = private.clone();
    private.on_connection(move |socket| {
        offer_rooms(&socket, &namespace);
        socket.on("whoami", |incoming| async move {
            let user = incoming.socket.handshake().auth["user"].clone();
            answer(incoming, json!([user]));
        });
        async {}
    });
}

/// Joining, leaving, and speaking to rooms.
fn offer_rooms(socket: &Socket, namespace: &Namespace) {
    socket.on("join", |incoming| async move {
        let Ok(room) = incoming.args.parse_at::<String>(0) else { return };
        let joined = incoming.socket.join(room).await;
        answer(incoming, json!({ "ok": joined.is_ok() }));
    });
    socket.on("leave", |incoming| async move {
        let Ok(room) = incoming.args.parse_at::<String>(0) else { return };
        let left = incoming.socket.leave(room).await;
        answer(incoming, json!({ "ok": left.is_ok() }));
    });
    let all = namespace.clone();
    socket.on("say", move |incoming| {
        let all = all.clone();
        async move {
            let Ok(rooms) = incoming.args.parse_at::<Value>(0) else { return };
            let rooms = rooms.as_array().cloned().unwrap_or_else(|| vec![rooms]);
            let to = rooms.iter().filter_map(Value::as_str).fold(all.all(), Broadcast::to);
            let Ok((name, args)) = named(&incoming, 1) else { return };
            say(incoming, to, &name, args).await;
        }
    });
    let all = namespace.clone();
    socket.on("say-except", move |incoming| {
        let all = all.clone();
        async move {
            let (Ok(room), Ok(except)) = (incoming.args.parse_at::<String>(0), incoming.args.parse_at::<String>(1))
            else {
                return;
            };
            let Ok((name, args)) = named(&incoming, 2) else { return };
            say(incoming, all.to(room).except(except), &name, args).await;
        }
    });
    let all = namespace.clone();
    socket.on("say-volatile", move |incoming| {
        let all = all.clone();
        async move {
            let Ok((room, name, args)) = said(&incoming) else { return };
            let said = all.to(room).volatile().emit(&name, args);
            answer(incoming, json!({ "ok": said.is_ok() }));
        }
    });
}

/// Answers with the same arguments, or sends them back if no answer is asked for.
async fn echo(incoming: Incoming) {
    let args = incoming.args.clone();
    match incoming.ack {
        Some(ack) => complain(ack.send(args)),
        None => complain(incoming.socket.emit("echoed", args).await),
    }
}

/// Asks everybody in a room, and answers with what they answered.
async fn ask(namespace: Namespace, incoming: Incoming) {
    let Ok((room, within_ms, question)) = incoming.args.parse::<(String, u64, String)>() else { return };
    let asked = namespace.to(room).emit_with_ack("question", question, Duration::from_millis(within_ms)).await;
    let (complete, answers) = match asked {
        Ok(answers) => (true, answers),
        Err(AckError::TimedOut { answers, .. }) => (false, answers),
        Err(error) => return eprintln!("{error}"),
    };
    let mut answers: Vec<String> = answers.iter().filter_map(|answer| answer.args.parse_at(0).ok()).collect();
    answers.sort();
    answer(incoming, json!({ "complete": complete, "answers": answers }));
}

async fn say(incoming: Incoming, to: Broadcast, name: &str, args: Vec<Value>) {
    let said: Result<_, SendError> = to.emit(name, args).await;
    if let Err(error) = &said {
        eprintln!("{error}");
    }
    answer(incoming, json!({ "ok": said.is_ok() }));
}

/// A room, an event's name and its arguments.
fn said(incoming: &Incoming) -> Result<(String, String, Vec<Value>), redeliver_socketio::ArgsError> {
    let (name, args) = named(incoming, 1)?;
    Ok((incoming.args.parse_at(0)?, name, args))
}

/// An event's name and its arguments, from this argument on.
fn named(incoming: &Incoming, from: usize) -> Result<(String, Vec<Value>), redeliver_socketio::ArgsError> {
    let args = incoming.args.parse::<Vec<Value>>()?;
    Ok((incoming.args.parse_at(from)?, args.into_iter().skip(from + 1).collect()))
}

fn answer(incoming: Incoming, args: Value) {
    complain(incoming.answer(args));
}

fn complain<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}
