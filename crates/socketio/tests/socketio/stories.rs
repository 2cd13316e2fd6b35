//! Random stories of one client in a few rooms: joins, leaves, emits, cuts after any number of events, restarts of the
//! server. Whatever happens, it gets exactly the events of its memberships, once, in order.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redeliver_server::Server;
use redeliver_socketio::{Config, Recovery};
use serde_json::json;

use crate::client::{Client, Host};

#[derive(Clone, Debug)]
enum Step {
    Join(usize),
    Leave(usize),
    /// To these rooms at once, but not to who is in that one.
    Emit(Vec<usize>, Option<usize>),
    /// The client reads so many of the events that are its.
    Read(usize),
    /// The connection is cut, and comes back.
    Cut,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let rooms = prop::collection::vec(0..ROOMS.len(), 1..3);
    prop_oneof![
        2 => (0..ROOMS.len()).prop_map(Step::Join),
        1 => (0..ROOMS.len()).prop_map(Step::Leave),
        5 => (rooms, prop::option::weighted(0.2, 0..ROOMS.len())).prop_map(|(to, except)| Step::Emit(to, except)),
        3 => (0usize..4).prop_map(Step::Read),
        2 => Just(Step::Cut),
        1 => Just(Step::Restart),
    ]
}

/// What should have happened.
#[derive(Default)]
struct Model {
    member: BTreeMap<usize, bool>,
    /// What is the client's, in order, and how much of it has arrived.
    owed: Vec<u64>,
    arrived: usize,
    emitted: u64,
}

async fn play(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.recovery = Recovery::On;
    let open = || Host::with(Server::builder().data_dir(folder.path()), config.clone());
    let mut host = open().await;
    let mut client = host.connect().await;
    let mut model = Model::default();
    for step in steps {
        let namespace = host.io.of("/").unwrap();
        match step {
            Step::Join(room) => {
                namespace.socket(&client.sid).unwrap().join(ROOMS[room]).await.unwrap();
                model.member.insert(room, true);
            }
            Step::Leave(room) => {
                namespace.socket(&client.sid).unwrap().leave(ROOMS[room]).await.unwrap();
                model.member.insert(room, false);
            }
            Step::Emit(to, except) => {
                let all = to.iter().fold(namespace.all(), |all, room| all.to(ROOMS[*room]));
                let all = except.iter().fold(all, |all, room| all.except(ROOMS[*room]));
                all.emit("n", model.emitted).await.unwrap();
                let is_in = |room: &usize| model.member.get(room) == Some(&true);
                if to.iter().any(is_in) && !except.iter().any(is_in) {
                    model.owed.push(model.emitted);
                }
                model.emitted += 1;
            }
            Step::Read(count) => read(&mut client, &mut model, count).await,
            Step::Cut => client = back(&host, &client).await,
            Step::Restart => {
                host.io.shutdown(PATIENCE).await.expect("ends in time");
                drop((namespace, host));
                host = open().await;
                client = back(&host, &client).await;
            }
        }
    }
    read(&mut client, &mut model, usize::MAX).await;
    // Nothing comes behind what is the client's.
    host.io.emit("n", u64::MAX).await.unwrap();
    assert_eq!(client.numbers("n", 1).await, [u64::MAX]);
}

async fn back(host: &Host, client: &Client) -> Client {
    // A client that was given no event yet shows no offset.
    let shown = match &client.offset {
        Some(offset) => json!({ "pid": client.pid, "offset": offset }),
        None => json!({ "pid": client.pid }),
    };
    let mut back = host.connect_with(&shown).await;
    assert_eq!(back.sid, client.sid, "it is known");
    back.offset.clone_from(&client.offset);
    back
}

async fn read(client: &mut Client, model: &mut Model, count: usize) {
    let count = count.min(model.owed.len() - model.arrived);
    let expected = &model.owed[model.arrived..model.arrived + count];
    assert_eq!(client.numbers("n", count).await, expected);
    model.arrived += count;
}

#[test]
fn a_client_gets_exactly_the_events_of_its_memberships() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let stories = prop::collection::vec(step(), 1..40);
    let run = |steps| {
        runtime.block_on(play(steps));
        Ok(())
    };
    runner.run(&stories, run).unwrap();
}

const ROOMS: [&str; 3] = ["a", "b", "c"];

const PATIENCE: Duration = Duration::from_secs(20);
