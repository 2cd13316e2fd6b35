//! A server with an emitter and a reader that must notice nothing of what is done to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use redeliver_client::{Client, Delivery, Start};
use redeliver_server::{Server, ServerConfig};
use redeliver_tests::waiting;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::peer::get;

/// A server in this process, on a port of its own, with its bystanders.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) address: String,
    pub(crate) bystanders: Bystanders,
}

/// Attacks a server, and sees to it that afterwards it is as it was, and that nobody else has noticed.
pub(crate) async fn attack(config: ServerConfig, attack: impl AsyncFnOnce(&Site)) {
    count_panics();
    let panics = PANICS.load(Ordering::SeqCst);
    let server = Server::builder().in_memory().session_config(config).open().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(server.serve(listener));
    let bystanders = Bystanders::come(&address).await;
    let before = server.stats();
    let site = Site { server, address, bystanders };
    attack(&site).await;

    let Site { server, address, bystanders } = site;
    until("the connections of the attackers are gone", || server.stats().connections == before.connections).await;
    until("their subscriptions are gone", || server.stats().subscriptions == before.subscriptions).await;
    assert_eq!(get(&address, "/readyz").await, 200);
    bystanders.go_on().await;
    bystanders.leave().await;
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "something has panicked");
}

/// An emitter and a reader of what it emits, each with a connection of its own that must never break.
pub(crate) struct Bystanders {
    stop: Arc<AtomicBool>,
    delivered: watch::Receiver<u64>,
    emitter: JoinHandle<u64>,
    reader: JoinHandle<()>,
}

impl Bystanders {
    pub(crate) async fn come(address: &str) -> Bystanders {
        let stop = Arc::new(AtomicBool::new(false));
        let url = format!("ws://{address}");
        let client = Client::builder(&url).connect_within(PATIENCE).connect().await.unwrap();
        let mut events = client.subscribe("bystanders").start(Start::Earliest).auto_ack().await.unwrap();
        let (delivered_sender, delivered) = watch::channel(0);
        let reader = tokio::spawn(async move {
            while let Some(delivery) = events.next().await {
                let event = match delivery {
                    Delivery::Event(event) => event,
                    Delivery::CaughtUp { .. } => continue,
                    // A gap, or a connection that was lost.
                    other => panic!("a bystander was told of {other:?}"),
                };
                let next = *delivered_sender.borrow();
                assert_eq!(event.text().unwrap(), next.to_string());
                delivered_sender.send_replace(next + 1);
            }
        });
        let client = Client::builder(&url).connect_within(PATIENCE).connect().await.unwrap();
        let is_stopped = Arc::clone(&stop);
        let emitter = tokio::spawn(async move {
            // Slowly, to leave the processor to the attack.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            let mut emitted = 0;
            while !is_stopped.load(Ordering::SeqCst) {
                pace.tick().await;
                let receipt = client.emit("bystanders", "counted", emitted.to_string()).await.unwrap();
                assert!(!receipt.duplicate, "a bystander had to send an event again");
                emitted += 1;
            }
            emitted
        });
        let bystanders = Bystanders { stop, delivered, emitter, reader };
        bystanders.go_on().await;
        bystanders
    }

    /// Waits until events that are emitted from now on have been delivered: call it in the midst of an attack.
    pub(crate) async fn go_on(&self) {
        let seen = *self.delivered.borrow();
        self.deliver(seen + 10).await;
    }

    /// Everything that was emitted has been delivered, once and in order.
    pub(crate) async fn leave(self) {
        self.stop.store(true, Ordering::SeqCst);
        let delivered = self.delivered.clone();
        let emitted = within("the emitter ends", self.emitter).await.unwrap();
        Bystanders::wait(delivered, emitted).await;
        self.reader.abort();
    }

    async fn deliver(&self, count: u64) {
        Bystanders::wait(self.delivered.clone(), count).await;
    }

    async fn wait(mut delivered: watch::Receiver<u64>, count: u64) {
        let waiting = delivered.wait_for(|delivered| *delivered >= count);
        // The channel closes if the reader has panicked.
        within("the bystanders go on", waiting).await.unwrap();
    }
}

/// Waits for something that must happen soon.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    waiting::within(future).await.unwrap_or_else(|error| panic!("in vain it was waited until {what}: {error:#}"))
}

/// Looks again and again until this is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(what, looking).await;
}

/// A panic of a task of the server's would otherwise end that task alone. Those of tests, whose threads are named after
/// them, are told in another way.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let is_test = std::thread::current().name().is_some_and(|name| name.contains("::"));
            PANICS.fetch_add(usize::from(!is_test), Ordering::SeqCst);
            hook(panic);
        }));
    });
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Only an upper bound for what must happen soon.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
