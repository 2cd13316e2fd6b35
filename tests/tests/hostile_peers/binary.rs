//! Peers that nobody knows against the real program, with an emitter and a reader beside them: idle crowds, sessions without
//! end, and peers that ask and never read. Each attack of them once ended a server, or kept everybody out.

use std::collections::VecDeque;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt, StreamExt};
use redeliver_client::{Client, NewEvent};
use redeliver_tests::process::ServerProcess;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::attack::{Bystanders, PATIENCE, within};
use crate::peer::get;

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_take_the_descriptors_of_the_store() {
    let mut server = ServerProcess::start_with_descriptors(128, &["--admin", "off"]).unwrap();
    let address = address(&server);
    let bystanders = Bystanders::come(&address).await;
    let crowd = Crowd::begin(&address, Ipv4Addr::LOCALHOST, 300);
    // More than a journal holds, so that it settles beneath the crowd.
    let client = Client::builder(server.url()).connect_within(PATIENCE).connect().await.unwrap();
    let mut receipts = VecDeque::new();
    for _ in 0..1_500 {
        let event = NewEvent::to("large", "happened").unwrap().payload(vec![7; 30_000]);
        receipts.push_back(client.queue(event).await.unwrap());
        if receipts.len() > 50 {
            within("an emit is stored", receipts.pop_front().unwrap()).await.unwrap();
        }
    }
    for receipt in receipts {
        within("an emit is stored", receipt).await.unwrap();
    }
    assert_eq!(within("health is told", get(&address, "/healthz")).await, 200);
    bystanders.go_on().await;
    crowd.end().await;
    bystanders.leave().await;
    server.insist_on_running().unwrap();
    server.terminate().unwrap().succeeded().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_that_come_again_keep_nobody_out() {
    raise_descriptors();
    let mut server = ServerProcess::start_with(&["--admin", "off"]).unwrap();
    let address = address(&server);
    let bystanders = Bystanders::come(&address).await;
    let crowds = [Crowd::begin(&address, Ipv4Addr::LOCALHOST, 1_500), Crowd::begin(&address, ATTACKER, 500)];
    for _ in 0..3 {
        assert_eq!(within("health is told", get(&address, "/healthz")).await, 200);
        let newcomer = Client::builder(server.url()).connect_within(PATIENCE).connect().await.unwrap();
        within("a newcomer emits", newcomer.emit("t", "n", "x")).await.unwrap();
        bystanders.go_on().await;
    }
    for crowd in crowds {
        crowd.end().await;
    }
    bystanders.leave().await;
    server.terminate().unwrap().succeeded().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_one_address_leave_room_for_clients_of_others() {
    let mut server = ServerProcess::start_with(&["--admin", "off"]).unwrap();
    let address = address(&server);
    let bystanders = Bystanders::come(&address).await;
    let before_kib = resident_kib(&server);
    for _ in 0..100 {
        let mut stream = connect_from(ATTACKER, &address).await;
        // Who goes on writing to a closed connection is told so.
        let _ = stream.write_all(&ask_for("/socket.io/?EIO=4&transport=polling").repeat(1_000)).await;
    }
    let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
    let (mut client, _) = within("a WebSocket opens", tokio_tungstenite::connect_async(url)).await.unwrap();
    client.send(Message::text("40")).await.unwrap();
    let greeted = async { while !client.next().await.unwrap().unwrap().to_string().starts_with("40{") {} };
    within("it joins its namespace", greeted).await;
    let mut polling = TcpStream::connect(&address).await.unwrap();
    polling.write_all(&ask_for("/socket.io/?EIO=4&transport=polling")).await.unwrap();
    let mut answer = [0; 12];
    within("a session opens", polling.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    bystanders.go_on().await;
    assert!(resident_kib(&server).saturating_sub(before_kib) < GROWTH_KIB_MAX);
    bystanders.leave().await;
    server.terminate().unwrap().succeeded().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_ask_and_never_read_cost_little_and_are_closed_over_each_transport() {
    let mut server = ServerProcess::start_with(&["--admin", "off"]).unwrap();
    let address = address(&server);
    let bystanders = Bystanders::come(&address).await;
    let before_kib = resident_kib(&server);
    let mut attackers = Vec::new();
    for _ in 0..20 {
        attackers.push(tokio::spawn(flood(address.clone(), Vec::new(), ask_for("/socket.io/socket.io.js"))));
        let upgrade = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\n\
                       Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        // A text of six bytes, masked with zeros: a CONNECT to a namespace that is not there.
        let connect = b"\x81\x86\x00\x00\x00\x0040/xy,".to_vec();
        attackers.push(tokio::spawn(flood(address.clone(), upgrade.into(), connect)));
        attackers.push(tokio::spawn(flood_polling(address.clone())));
    }
    bystanders.go_on().await;
    for attacker in attackers {
        within("an attacker is closed", attacker).await.unwrap();
        bystanders.go_on().await;
    }
    assert!(resident_kib(&server).saturating_sub(before_kib) < GROWTH_KIB_MAX);
    assert_eq!(within("health is told", get(&address, "/healthz")).await, 200);
    bystanders.leave().await;
    server.terminate().unwrap().succeeded().unwrap();
}

/// Writes without end, reads nothing, and returns when it is closed.
async fn flood(address: String, first: Vec<u8>, again: Vec<u8>) {
    let mut stream = connect_from(Ipv4Addr::LOCALHOST, &address).await;
    let again = again.repeat(1_000);
    if stream.write_all(&first).await.is_ok() {
        while stream.write_all(&again).await.is_ok() {}
    }
}

/// Posts a body of CONNECTs to namespaces that are not there, and polls for nothing.
async fn flood_polling(address: String) {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(&ask_for("/socket.io/?EIO=4&transport=polling")).await.unwrap();
    let mut opening = Vec::new();
    while !opening.ends_with(b"}") {
        assert!(stream.read_buf(&mut opening).await.unwrap() > 0);
    }
    let opening = String::from_utf8(opening).unwrap();
    let sid = opening.split_once("\"sid\":\"").unwrap().1.split_once('"').unwrap().0;
    for connects in [1_000, 100_000] {
        let body = ["40/x,"; 100_000][..connects].join("\x1e");
        let head = format!(
            "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body.as_bytes()).await.is_err() {
            return;
        }
    }
    // An end or a reset: either way it is over.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// Connections that say nothing, and come again when they are closed.
struct Crowd {
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    fn begin(address: &str, from: Ipv4Addr, count: usize) -> Crowd {
        let idle = |_| {
            let address = address.to_owned();
            tokio::spawn(async move {
                loop {
                    let mut stream = connect_from(from, &address).await;
                    let _ = stream.read(&mut [0]).await;
                }
            })
        };
        Crowd { tasks: (0..count).map(idle).collect() }
    }

    async fn end(self) {
        for task in self.tasks {
            task.abort();
            if let Err(error) = task.await {
                assert!(error.is_cancelled(), "{error}");
            }
        }
    }
}

async fn connect_from(from: Ipv4Addr, address: &str) -> TcpStream {
    let server: SocketAddr = address.parse().unwrap();
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel holds is not the server's memory.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        // Where the backlog is full, or the port is still taken, it is tried again.
        if let Ok(stream) = socket.connect(server).await {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}

fn ask_for(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

fn address(server: &ServerProcess) -> String {
    server.url().trim_start_matches("ws://").to_owned()
}

fn resident_kib(server: &ServerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// This process opens more connections than a usual limit allows.
fn raise_descriptors() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// An address of this machine that is not the usual one.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What all attackers together may make the server take.
const GROWTH_KIB_MAX: u64 = 100 * 1024;
