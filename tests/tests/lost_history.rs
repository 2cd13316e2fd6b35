//! Readers whose history is gone: passed by retention, wiped under them, or put back to an older copy. Each must be told
//! so, exactly once until it says that it knows, and must then get everything that is there.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever is not expected fails its test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redeliver_client::{
    Client, ClientBuilder, Delivery, EmitNumber, GapCause, MemoryCursorStore, Notice, Notices, Place, Position, Seq,
    Start, SubscribeBuilder, Subscription,
};
use redeliver_protocol::history;
use redeliver_server::{EventName, NewEvent, PayloadKind, Server, TopicName};
use redeliver_tests::process::ServerProcess;
use redeliver_tests::waiting::within;

/// Who keeps a reader's place while it is away.
#[derive(Clone)]
enum Keeper {
    /// The server, for this durable subscriber.
    Server(&'static str),
    /// The client, in a store of its own.
    Store(MemoryCursorStore),
    /// The app, beside its data.
    App(Option<Place>),
}

impl Keeper {
    /// A new process of the same reader: it goes on where its place is kept, or starts with the earliest.
    async fn come(&self, server: &ServerProcess, is_first: bool) -> Result<(Client, Subscription)> {
        let builder = builder(server);
        let client = match self {
            Keeper::Server(name) => builder.subscriber(name).connect().await?,
            Keeper::Store(store) => builder.cursor_store(store.clone()).connect().await?,
            Keeper::App(_) => builder.connect().await?,
        };
        let orders = client.subscribe(TOPIC);
        let orders: SubscribeBuilder = match self {
            Keeper::Server(_) if is_first => orders.durable().start(Start::Earliest),
            Keeper::Server(_) => orders.durable(),
            Keeper::Store(_) => orders.stored().start(Start::Earliest),
            Keeper::App(known) => orders.start(known.clone().map_or(Start::Earliest, Start::After)),
        };
        Ok((client, orders.await?))
    }

    /// Everything up to here is handled, and that is saved.
    async fn handled(&mut self, subscription: &Subscription, told: &Delivery) -> Result<()> {
        let known = match told {
            Delivery::Event(event) => {
                event.ack();
                event.known()
            }
            Delivery::Gap(gap) => {
                gap.ack();
                Place::new(gap.through, gap.nth_through)
            }
            other => anyhow::bail!("{other:?} cannot be handled"),
        };
        if let Keeper::App(place) = self {
            *place = Some(known);
        }
        Ok(subscription.flush().await?)
    }
}

/// What a test looks at: which event, by its payload and nth, or which gap.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Event(String, u64),
    Gap(history::Gap),
}

impl Told {
    fn of(delivery: &Delivery) -> Option<Told> {
        match delivery {
            Delivery::Event(event) => Some(Told::Event(event.text().unwrap().to_owned(), event.nth.0)),
            Delivery::Gap(gap) => Some(Told::Gap(gap.into())),
            _ => None,
        }
    }
}

/// The event number `number` of a topic whose events are all numbered from 0 on.
fn numbered(number: u64) -> Told {
    Told::Event(number.to_string(), number + 1)
}

/// The next event or gap.
async fn next(subscription: &mut Subscription) -> Result<Delivery> {
    loop {
        let delivery = within(subscription.next()).await?.context("the subscription ended")?;
        if Told::of(&delivery).is_some() {
            return Ok(delivery);
        }
    }
}

/// Everything that comes until what is there is handed over.
async fn until_caught_up(subscription: &mut Subscription) -> Result<Vec<Delivery>> {
    let mut deliveries = Vec::new();
    loop {
        match within(subscription.next()).await?.context("the subscription ended")? {
            Delivery::CaughtUp { .. } => return Ok(deliveries),
            delivery => deliveries.push(delivery),
        }
    }
}

fn told(deliveries: &[Delivery]) -> Vec<Told> {
    deliveries.iter().filter_map(Told::of).collect()
}

/// Retention by count passes a reader that is away, several times over. It keeps ten events of all topics together, that
/// is the last five orders of those that alternate with others.
async fn retention_passes(mut keeper: Keeper) -> Result<()> {
    let config = tempfile::NamedTempFile::new()?;
    fs::write(&config, "[retention]\ncount = 10\n")?;
    let mut server = ServerProcess::start_with(&["--config", config.path().to_str().unwrap()])?;
    let publisher = builder(&server).connect().await?;
    for number in 0..3 {
        publisher.emit(TOPIC, "placed", number.to_string()).await?;
    }
    let (client, mut orders) = keeper.come(&server, true).await?;
    let first = until_caught_up(&mut orders).await?;
    assert_eq!(told(&first), [numbered(0), numbered(1), numbered(2)]);
    keeper.handled(&orders, &first[2]).await?;
    let Delivery::Event(last) = &first[2] else { unreachable!("compared above") };
    client.shutdown(PATIENCE).await?;

    for number in 3..23 {
        publisher.emit("others", "happened", "").await?;
        publisher.emit(TOPIC, "placed", number.to_string()).await?;
    }
    let gap = history::Gap {
        after: last.position,
        // 3 + 2 * 20 events, of which ten are left.
        through: Position::new(last.position.epoch, Seq(33)),
        nth_through: redeliver_client::Nth(18),
        count: 15,
        count_is_exact: true,
        cause: GapCause::RetentionSize,
    };
    let retained: Vec<Told> = (18..23).map(numbered).collect();
    let with_gap: Vec<Told> = std::iter::once(Told::Gap(gap)).chain(retained.clone()).collect();

    // It is told to each process, until one acknowledges it.
    let (client, mut orders) = keeper.come(&server, false).await?;
    assert_eq!(told(&until_caught_up(&mut orders).await?), with_gap);
    client.shutdown(PATIENCE).await?;

    let (client, mut orders) = keeper.come(&server, false).await?;
    let again = until_caught_up(&mut orders).await?;
    assert_eq!(told(&again), with_gap);
    keeper.handled(&orders, &again[0]).await?;
    // The process itself is told once, also across a reconnect.
    server.restart()?;
    publisher.emit(TOPIC, "placed", "23").await?;
    assert_eq!(Told::of(&next(&mut orders).await?), Some(numbered(23)));
    client.shutdown(PATIENCE).await?;

    let (client, mut orders) = keeper.come(&server, false).await?;
    let after = until_caught_up(&mut orders).await?;
    // Retention has gone on by one event of another topic.
    let last_ones: Vec<Told> = (18..24).map(numbered).collect();
    assert_eq!(told(&after), last_ones);
    keeper.handled(&orders, &after[5]).await?;
    client.shutdown(PATIENCE).await?;

    let (_client, mut orders) = keeper.come(&server, false).await?;
    assert_eq!(told(&until_caught_up(&mut orders).await?), []);
    publisher.emit(TOPIC, "placed", "24").await?;
    assert_eq!(Told::of(&next(&mut orders).await?), Some(numbered(24)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_subscriber_that_retention_has_passed_is_told_one_exact_gap_until_it_acknowledges_it() -> Result<()> {
    retention_passes(Keeper::Server("billing")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_its_own_cursors_that_retention_has_passed_is_told_one_exact_gap_until_it_acknowledges_it()
-> Result<()> {
    retention_passes(Keeper::Store(MemoryCursorStore::new())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_its_own_positions_that_retention_has_passed_is_told_one_exact_gap_until_it_stores_its_end()
-> Result<()> {
    retention_passes(Keeper::App(None)).await
}

/// One reader of each kind, all of them connected.
struct Readers(Vec<(Keeper, Client, Subscription)>);

impl Readers {
    async fn come(server: &ServerProcess, is_first: bool, keepers: Vec<Keeper>) -> Result<Readers> {
        let mut readers = Vec::new();
        for keeper in keepers {
            let (client, subscription) = keeper.come(server, is_first).await?;
            readers.push((keeper, client, subscription));
        }
        Ok(Readers(readers))
    }

    /// Each of them gets exactly these next, and handles them.
    async fn expect(&mut self, expected: &[Told]) -> Result<()> {
        for (keeper, _, subscription) in &mut self.0 {
            for expected in expected {
                let delivery = next(subscription).await?;
                assert_eq!(Told::of(&delivery).as_ref(), Some(expected));
                keeper.handled(subscription, &delivery).await?;
            }
        }
        Ok(())
    }

    /// All of them go; their places are kept.
    async fn go(self) -> Result<Vec<Keeper>> {
        let mut keepers = Vec::new();
        for (keeper, client, _) in self.0 {
            client.shutdown(PATIENCE).await?;
            keepers.push(keeper);
        }
        Ok(keepers)
    }
}

fn keepers() -> Vec<Keeper> {
    vec![Keeper::Server("billing"), Keeper::Store(MemoryCursorStore::new()), Keeper::App(None)]
}

/// A server that has five orders, known to each reader, and a copy of its data from then; then it got three more.
struct Branching {
    server: ServerProcess,
    publisher: Client,
    notices: Notices,
    readers: Readers,
    /// The fifth order, the last in the copy.
    common: Position,
    /// The eighth.
    last: Position,
}

impl Branching {
    async fn start() -> Result<Branching> {
        let mut server = ServerProcess::start()?;
        let publisher = builder(&server).connect().await?;
        let notices = publisher.notices();
        let mut readers = Readers::come(&server, true, keepers()).await?;
        let common = emit(&publisher, 0..5).await?;
        readers.expect(&(0..5).map(numbered).collect::<Vec<_>>()).await?;
        server.kill()?;
        copy(&server.data(), &server.folder().join("copy"))?;
        server.restart()?;
        let last = emit(&publisher, 5..8).await?;
        readers.expect(&(5..8).map(numbered).collect::<Vec<_>>()).await?;
        assert_ne!(common.epoch, last.epoch);
        Ok(Branching { server, publisher, notices, readers, common, last })
    }

    /// Ends the server and removes all it had.
    fn wipe(&mut self) -> Result<()> {
        self.server.kill()?;
        Ok(fs::remove_dir_all(self.server.data())?)
    }

    /// Ends the server and puts the copy back.
    fn restore(&mut self) -> Result<()> {
        self.wipe()?;
        copy(&self.server.folder().join("copy"), &self.server.data())
    }

    /// Lets the log grow while nobody is connected.
    async fn grow(&self, texts: std::ops::Range<u64>) -> Result<()> {
        let server = Server::builder().data_dir(self.server.data()).open().await?;
        for text in texts {
            let (topic, name) = (TopicName::new(TOPIC)?, EventName::new("placed")?);
            server.emit_event(NewEvent::new(topic, name, PayloadKind::Text, text.to_string())).await?;
        }
        server.shutdown(PATIENCE).await.unwrap();
        Ok(())
    }

    /// What a reader is told that had handled all eight orders of the lost history.
    fn gap(&self) -> Told {
        Told::Gap(history::Gap {
            after: self.last,
            through: self.common,
            nth_through: redeliver_client::Nth(5),
            count: 0,
            count_is_exact: true,
            cause: GapCause::EpochChanged,
        })
    }

    async fn expect_lost(&mut self, from: u64, through: u64) -> Result<()> {
        let lost = Notice::EmitsLost { from: EmitNumber(from), through: EmitNumber(through) };
        assert_eq!(within(self.notices.next()).await?, Some(lost));
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_when_the_data_is_wiped_under_them_and_goes_on_with_the_new_log() -> Result<()> {
    let mut it = Branching::start().await?;
    it.wipe()?;
    it.server.restart()?;
    let first = emit(&it.publisher, 0..3).await?;
    it.expect_lost(1, 8).await?;
    for (keeper, _, subscription) in &mut it.readers.0 {
        let delivery = next(subscription).await?;
        let Delivery::Gap(gap) = &delivery else { panic!("expected a gap, got {delivery:?}") };
        assert_eq!((gap.cause, gap.after, gap.count), (GapCause::EpochChanged, it.last, 0));
        assert_eq!((gap.through.seq, gap.through.epoch, gap.nth_through.0), (Seq(0), first.epoch, 0));
        keeper.handled(subscription, &delivery).await?;
    }
    it.readers.expect(&[numbered(0), numbered(1), numbered(2)]).await?;

    // That is now the history: nobody is told again.
    let keepers = it.readers.go().await?;
    it.server.restart()?;
    emit(&it.publisher, 3..5).await?;
    let mut readers = Readers::come(&it.server, false, keepers).await?;
    readers.expect(&[numbered(3), numbered(4)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_when_an_older_copy_is_put_back_under_them_and_goes_on_from_what_is_common() -> Result<()> {
    let mut it = Branching::start().await?;
    it.restore()?;
    it.server.restart()?;
    let gap = it.gap();
    emit(&it.publisher, 5..7).await?;
    it.expect_lost(6, 8).await?;
    it.readers.expect(&[gap, numbered(5), numbered(6)]).await?;

    let keepers = it.readers.go().await?;
    it.server.restart()?;
    emit(&it.publisher, 7..12).await?;
    let mut readers = Readers::come(&it.server, false, keepers).await?;
    readers.expect(&(7..12).map(numbered).collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_told_of_an_older_copy_that_has_meanwhile_grown_past_them() -> Result<()> {
    let mut it = Branching::start().await?;
    it.restore()?;
    it.grow(5..25).await?;
    it.server.restart()?;
    let expected: Vec<Told> = std::iter::once(it.gap()).chain((5..27).map(numbered)).collect();
    emit(&it.publisher, 25..27).await?;
    it.expect_lost(6, 8).await?;
    it.readers.expect(&expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_while_an_older_copy_was_put_back_misses_nothing_of_what_is_there() -> Result<()> {
    let mut it = Branching::start().await?;
    let keepers = std::mem::replace(&mut it.readers, Readers(Vec::new())).go().await?;
    it.restore()?;
    it.grow(5..25).await?;
    it.server.restart()?;
    let retained = |first| (first..25).map(numbered).collect::<Vec<_>>();
    for keeper in keepers {
        let (_client, mut orders) = keeper.come(&it.server, false).await?;
        let told = told(&until_caught_up(&mut orders).await?);
        match keeper {
            // Its cursor has gone back with the log: nothing is missing after it.
            Keeper::Server(_) => assert_eq!(told, retained(5)),
            // The client's own cursor knows where it was when the copy was made, and so does the place that the app stored.
            Keeper::Store(_) | Keeper::App(_) => assert_eq!(told, [vec![it.gap()], retained(5)].concat()),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_because_of_wiped_data_is_told_to_each_process_until_one_acknowledges_it() -> Result<()> {
    let mut it = Branching::start().await?;
    it.wipe()?;
    it.server.restart()?;
    let is_told = |delivery: &Delivery| match delivery {
        Delivery::Gap(gap) => (gap.cause, gap.after, gap.through.seq) == (GapCause::EpochChanged, it.last, Seq(0)),
        _ => false,
    };
    for (_, _, subscription) in &mut it.readers.0 {
        assert!(is_told(&next(subscription).await?));
    }
    // None of them has acknowledged it. The app that keeps its own position stores none either.
    let keepers = it.readers.go().await?;
    emit(&it.publisher, 0..2).await?;
    let mut readers = Readers(Vec::new());
    for mut keeper in keepers {
        let (client, mut orders) = keeper.come(&it.server, false).await?;
        let again = next(&mut orders).await?;
        assert!(is_told(&again), "expected the gap again, got {again:?}");
        keeper.handled(&orders, &again).await?;
        readers.0.push((keeper, client, orders));
    }
    for keeper in readers.go().await? {
        let (_client, mut orders) = keeper.come(&it.server, false).await?;
        assert_eq!(told(&until_caught_up(&mut orders).await?), [numbered(0), numbered(1)]);
    }
    Ok(())
}

/// Emits numbered orders and returns the position of the last.
async fn emit(publisher: &Client, numbers: std::ops::Range<u64>) -> Result<Position> {
    let mut last = None;
    for number in numbers {
        let receipt = within(publisher.emit(TOPIC, "placed", number.to_string())).await??;
        assert!(!receipt.duplicate);
        last = receipt.position;
    }
    last.context("nothing was emitted")
}

/// A client that comes back quickly.
fn builder(server: &ServerProcess) -> ClientBuilder {
    Client::builder(server.url())
        .backoff(Duration::from_millis(10), Duration::from_millis(100))
        .connect_within(PATIENCE)
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

const TOPIC: &str = "orders";

/// Only an upper bound for what must happen soon.
const PATIENCE: Duration = Duration::from_secs(30);
