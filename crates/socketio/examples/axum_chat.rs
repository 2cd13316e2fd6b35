//! A chat room within an axum app: stock Socket.IO clients say `join(room)` and `say(room, text)`, and miss nothing.
//! Listens on `PORT`, 3000 unless set; the history lies in `./chat-data`.
#![allow(clippy::print_stderr, reason = "an example speaks to whoever started it")]

use axum::Router;
use axum::routing::get;
use redeliver_server::Server;
use redeliver_socketio::{Incoming, Socket, SocketIo};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000_u16);
    let server = Server::builder().data_dir("./chat-data").open().await?;
    let io = SocketIo::builder(server).build();
    io.of("/")?.on_connection(welcome);
    let app = Router::new().route("/", get(|| async { "a chat: connect with a Socket.IO client" })).layer(io.layer());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn welcome(socket: Socket) {
    socket.on("join", join);
    socket.on("say", say);
}

async fn join(incoming: Incoming) {
    let joined = match incoming.args.parse_at::<String>(0) {
        Ok(room) => incoming.socket.join(room).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    answer(incoming, joined);
}

async fn say(incoming: Incoming) {
    let said = match incoming.args.parse::<(String, String)>() {
        Ok((room, text)) => {
            let from = incoming.socket.id();
            // Durable when it returns: everybody in the room gets it, also who is away now.
            let said = incoming.socket.to(room).emit("said", (from, text)).await;
            said.map(drop).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    answer(incoming, said);
}

fn answer(incoming: Incoming, result: Result<(), String>) {
    let answer = match result {
        Ok(()) => json!({ "ok": true }),
        Err(message) => json!({ "ok": false, "message": message }),
    };
    if let Err(error) = incoming.answer(answer) {
        eprintln!("{error}");
    }
}
