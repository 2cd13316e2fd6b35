//! What readers that take nothing cost the real server: its own memory, as the kernel counts it.

use std::fs;

use redeliver_client::{Client, NewEvent};
use redeliver_protocol::codec::{encode_client, encode_hello};
use redeliver_protocol::frame::{ClientFrame, ServerFrame, Subscribe, Window};
use redeliver_protocol::history::Start;
use redeliver_tests::process::ServerProcess;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::Message;

use crate::attack::{Bystanders, PATIENCE, until};
use crate::peer::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_that_take_nothing_of_a_large_history_cost_little_memory() {
    let mut server = ServerProcess::start().unwrap();
    let pid = server.pid().unwrap();
    let address = server.url().trim_start_matches("ws://").to_owned();
    fill_history(&server.url()).await;
    let bystanders = Bystanders::come(&address).await;
    let (before_kib, sockets) = (resident_kib(pid), open_files(pid));

    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(deaf_reader(&address).await);
    }
    let mut most_kib = 0;
    // Long enough to read all of the history for each of them, if that is what is done.
    for _ in 0..20 {
        bystanders.go_on().await;
        most_kib = resident_kib(pid).max(most_kib);
    }
    let growth_kib = most_kib.saturating_sub(before_kib);
    assert!(
        growth_kib < READERS * READER_KIB_MAX + SLACK_KIB,
        "{READERS} readers cost {growth_kib} KiB; before, all was {before_kib} KiB"
    );

    drop(readers);
    until("their sockets are closed", || open_files(pid) <= sockets).await;
    assert_eq!(get(&address, "/readyz").await, 200);
    bystanders.leave().await;
    let end = server.terminate().unwrap().succeeded().unwrap();
    assert!(!end.stderr.contains("panicked"), "{}", end.stderr);
}

/// 16 MiB of events in one topic.
async fn fill_history(url: &str) {
    let client = Client::builder(url).connect_within(PATIENCE).connect().await.unwrap();
    let mut receipts = Vec::new();
    for _ in 0..2048 {
        let event = NewEvent::to("history", "happened").unwrap().payload(vec![7; 8 * 1024]);
        receipts.push(client.queue(event).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    client.shutdown(PATIENCE).await.unwrap();
}

/// A reader that wants everything, in the largest window, and takes nothing but the answer to its request.
async fn deaf_reader(address: &str) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    // What the kernel holds is not the server's memory, and two hundred times as much as it likes would be a lot.
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address.parse().unwrap()).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/"), stream).await.unwrap();
    let mut peer = Peer { socket };
    let window = Window::new(u32::MAX, u32::MAX);
    let request = Subscribe { window, ..subscribe("history", Start::Earliest) };
    peer.send_bytes(encode_hello(&hello())).await;
    peer.say(Message::Binary(encode_client(&ClientFrame::Subscribe(request)))).await;
    assert!(matches!(peer.frame().await, ServerFrame::Welcome(_)));
    assert!(matches!(peer.frame().await, ServerFrame::Subscribed(_)));
    peer
}

/// What the process holds in memory.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

const READERS: u64 = 200;

/// What may wait for a socket, a batch that is read ahead, and the connection itself.
const READER_KIB_MAX: u64 = 64 + 32 + 32;

/// What the allocator keeps, and what the bystanders leave in the log meanwhile.
const SLACK_KIB: u64 = 16 * 1024;
