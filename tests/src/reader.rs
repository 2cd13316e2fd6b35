//! A reader on a thread of its own, that can be killed at any moment and started again, and that notices whatever is missing,
//! out of order, or comes again unmarked.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redeliver_client::{Client, Delivery, Event, FileCursorStore, MemoryCursorStore, Start, Subscription};
use tokio::sync::watch;

use crate::emission::Load;
use crate::emitter::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::ledger::Ledger;
use crate::waiting::join;

/// Who keeps a reader's cursor.
#[derive(Clone, Debug)]
pub enum Keeper {
    /// The server: a durable subscriber.
    Server,
    /// A file.
    File(PathBuf),
    /// The memory of the test, which outlives the reader's client.
    Memory(MemoryCursorStore),
    /// Nobody: it starts at the earliest event.
    Nobody,
}

/// How a reader reads.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Its name.
    pub name: String,
    /// The topic that it follows from the first event on.
    pub topic: u64,
    /// Who keeps its cursor.
    pub keeper: Keeper,
    /// Most events that it is handed without having acknowledged any.
    pub window: u32,
    /// It acknowledges every so many events.
    pub ack_every: u64,
}

/// A reader over all of its lives.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    goal: watch::Sender<Option<u64>>,
    life: Option<Life>,
}

#[derive(Debug)]
struct Shared {
    url: String,
    habits: Habits,
    ledger: Arc<Ledger>,
    number: usize,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    lives: u64,
    /// The highest nth that it was handed.
    handed: u64,
    /// The highest nth that it acknowledged.
    acked: u64,
    /// The highest nth of which it was told that its ack is durable.
    confirmed: u64,
}

#[derive(Debug)]
struct Life {
    kill: watch::Sender<bool>,
    thread: JoinHandle<Result<()>>,
}

impl Reader {
    /// Starts one.
    #[must_use]
    pub fn start(url: String, habits: Habits, ledger: Arc<Ledger>) -> Reader {
        let number = ledger.join(habits.topic);
        let shared = Arc::new(Shared { url, habits, ledger, number, progress: Mutex::default() });
        let mut reader = Reader { shared, goal: watch::Sender::new(None), life: None };
        reader.live();
        reader
    }

    /// The topic that it follows.
    #[must_use]
    pub fn topic(&self) -> u64 {
        self.shared.habits.topic
    }

    /// Whether it has a cursor that is durable, so that it can be killed without starting all over.
    #[must_use]
    pub fn is_born(&self) -> bool {
        self.shared.progress().confirmed > 0
    }

    /// Kills it at once, without a word to the server, as if its process were killed, and starts it again.
    ///
    /// # Errors
    ///
    /// If it had failed before.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.end_life(true)?;
        self.live();
        Ok(())
    }

    /// Lets it read up to this nth, end cleanly, and look whether anything is left for a next life.
    ///
    /// # Errors
    ///
    /// If it had failed before.
    pub fn finish(mut self, nth: u64) -> Result<()> {
        self.goal.send_replace(Some(nth));
        self.end_life(false)?;
        if !matches!(self.shared.habits.keeper, Keeper::Nobody) {
            // All its acks are confirmed, so the next life has nothing to do.
            self.live();
            self.end_life(false)?;
        }
        Ok(())
    }

    fn live(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (kill, mut killed) = watch::channel(false);
        let goal = self.goal.subscribe();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Whatever it was doing ends here with its runtime: its client, too, gets no time to say goodbye.
            let lived = runtime.block_on(async {
                tokio::select! {
                    lived = read(&shared, goal) => lived,
                    _ = killed.wait_for(|is_killed| *is_killed) => Ok(()),
                }
            });
            if let Err(error) = &lived {
                shared.ledger.violation(format!("reader {}: {error:#}", shared.habits.name));
            }
            lived
        });
        self.life = Some(Life { kill, thread });
    }

    fn end_life(&mut self, by_force: bool) -> Result<()> {
        let Some(life) = self.life.take() else { return Ok(()) };
        if by_force {
            life.kill.send_replace(true);
        }
        join(life.thread, &format!("reader {}", self.shared.habits.name))
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn violation(&self, what: &str) {
        let progress = *self.progress();
        self.ledger.violation(format!("reader {}: {what}; {progress:?}", self.habits.name));
    }

    async fn subscribe(&self) -> Result<(Client, Subscription)> {
        let Habits { name, topic, keeper, window, .. } = &self.habits;
        let builder = Client::builder(&self.url).backoff(BACKOFF_FIRST, BACKOFF_MAX);
        let builder = match keeper {
            Keeper::Server => builder.subscriber(name),
            Keeper::File(path) => builder.cursor_store(FileCursorStore::open(path)?),
            Keeper::Memory(store) => builder.cursor_store(store.clone()),
            Keeper::Nobody => builder,
        };
        let client = builder.connect_lazy()?;
        let subscription = client.subscribe(Load::topic(*topic)?).window((*window, WINDOW_BYTES));
        let is_first = self.progress().lives == 0;
        let subscription = match keeper {
            Keeper::Server if is_first => subscription.durable().start(Start::Earliest),
            Keeper::Server => subscription.durable(),
            // A stored cursor wins over the start.
            Keeper::File(_) | Keeper::Memory(_) => subscription.stored().start(Start::Earliest),
            Keeper::Nobody => subscription.start(Start::Earliest),
        };
        let subscription = subscription.await?;
        Ok((client, subscription))
    }

    /// It goes on where it may: nothing that was not handled is passed over, nothing that was confirmed comes again.
    fn check_start(&self, nth: u64) {
        let mut progress = self.progress();
        if matches!(self.habits.keeper, Keeper::Nobody) {
            *progress = Progress { lives: progress.lives, ..Progress::default() };
        }
        progress.lives += 1;
        let Progress { handed, acked, confirmed, .. } = *progress;
        drop(progress);
        if nth < confirmed || nth > acked {
            self.violation(&format!("starts after {nth}"));
        }
        if handed.saturating_sub(nth) > u64::from(self.habits.window) {
            self.violation(&format!("is handed more than a window again, after {nth}"));
        }
        self.ledger.count(|figures| figures.lives += 1);
    }

    fn take(&self, event: &Event, nth: u64, seq: u64) {
        let Habits { name, topic, .. } = &self.habits;
        self.ledger.deliver(name, *topic, event.position, &event.name, &event.payload);
        if event.nth.0 != nth + 1 || event.seq().0 <= seq {
            self.violation(&format!("gets {} at {} after {nth} at {seq}", event.nth, event.position));
        }
        let mut progress = self.progress();
        let is_repeat = event.nth.0 <= progress.handed;
        progress.handed = progress.handed.max(event.nth.0);
        drop(progress);
        if is_repeat {
            self.ledger.count(|figures| figures.repeats += 1);
            if !event.redelivered {
                self.violation(&format!("gets {} at {} again, unmarked", event.nth, event.position));
            }
        }
        self.ledger.reach(self.number, event.nth.0);
    }
}

async fn read(shared: &Shared, mut goal: watch::Receiver<Option<u64>>) -> Result<()> {
    let (client, mut subscription) = shared.subscribe().await.context("subscribing")?;
    let (mut nth, mut seq) = (subscription.nth().0, subscription.position().seq.0);
    shared.check_start(nth);
    while goal.borrow_and_update().is_none_or(|goal| nth < goal) {
        let delivery = tokio::select! {
            delivery = subscription.next() => delivery,
            changed = goal.changed() => {
                changed?;
                continue;
            }
        };
        match delivery {
            Some(Delivery::Event(event)) => {
                shared.take(&event, nth, seq);
                (nth, seq) = (event.nth.0, event.seq().0);
                if nth.is_multiple_of(shared.habits.ack_every) {
                    shared.progress().acked = nth;
                    event.ack();
                }
                if nth.is_multiple_of(shared.habits.ack_every * ACKS_PER_FLUSH) || nth == shared.habits.ack_every {
                    flush(shared, &subscription).await?;
                }
                if *goal.borrow() == Some(nth) {
                    shared.progress().acked = nth;
                    event.ack();
                }
            }
            Some(Delivery::Gap(gap)) => shared.violation(&format!("gets a gap: {:?}", gap)),
            Some(Delivery::Resumed { .. }) => shared.ledger.count(|figures| figures.resumes += 1),
            Some(Delivery::CaughtUp { .. } | _) => {}
            None => bail!("the subscription ended: {:?}", subscription.end()),
        }
    }
    if goal.borrow().is_some_and(|goal| nth > goal) {
        shared.violation(&format!("got {nth} events, which are more than there are"));
    }
    flush(shared, &subscription).await?;
    subscription.close().await?;
    client.shutdown(Duration::from_secs(30)).await?;
    Ok(())
}

/// Waits until its acks are durable with whoever keeps its cursor.
async fn flush(shared: &Shared, subscription: &Subscription) -> Result<()> {
    let acked = shared.progress().acked;
    subscription.flush().await?;
    shared.progress().confirmed = acked;
    Ok(())
}

const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const ACKS_PER_FLUSH: u64 = 64;
