//! Stories of a reader or a publisher and its server, told from the client's side.

use redeliver_protocol::client::CursorKeeper;
use redeliver_protocol::history::Start;

use crate::world::{Pair, request};

#[test]
fn a_reader_that_missed_events_gets_them_in_order() {
    let mut pair = Pair::new();
    let client = pair.client(1);
    pair.follow(client, 1, request("orders", Start::Earliest, CursorKeeper::Nobody));
    pair.emit("orders", "one");
    pair.set_up(false);
    pair.emit("orders", "two");
    pair.emit("orders", "three");
    pair.set_up(true);
    pair.pass(std::time::Duration::from_secs(30));
    assert_eq!(pair.payloads(client, 1), ["one", "two", "three"]);
}
