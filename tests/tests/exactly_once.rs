//! An app with its books in SQLite is killed again and again, its server with it; both are restored from backups, and new
//! processes start before the old ones have ended. Each order has one effect.
//!
//! `EXACTLY_ONCE_KILLS` makes it longer (50 is what a release should survive), `EXACTLY_ONCE_SEED` repeats a run's choices.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redeliver_tests::books::Books;
use redeliver_tests::chance::Chance;
use redeliver_tests::orders::Orders;
use redeliver_tests::process::{PATIENCE, Running, ServerProcess};

#[tokio::test(flavor = "multi_thread")]
async fn each_order_has_one_effect_with_a_cursor_on_the_server() -> Result<()> {
    Story::tell("durable", &["orders"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_has_one_effect_with_a_cursor_in_a_file() -> Result<()> {
    Story::tell("file", &["orders"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_has_one_effect_with_a_place_in_the_table_alone() -> Result<()> {
    Story::tell("table", &["orders"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_order_has_one_effect_with_one_place_for_several_topics() -> Result<()> {
    Story::tell("merged", &["orders", "returns", "notes"]).await
}

/// The app, the server, the shop, and what has become of them.
struct Story {
    mode: &'static str,
    chance: Chance,
    server: ServerProcess,
    orders: Orders,
    app: Option<Running>,
    /// Orders that a restore of the server took: some have had their effect before it, the others never will.
    taken: BTreeSet<u64>,
    figures: Figures,
}

#[derive(Debug, Default)]
struct Figures {
    kills: u64,
    overlaps: u64,
    overtaken: u64,
    server_kills: u64,
}

impl Story {
    async fn tell(mode: &'static str, topics: &[&str]) -> Result<()> {
        let kills = from_environment("EXACTLY_ONCE_KILLS").unwrap_or(KILLS).max(KILLS);
        let seed = from_environment("EXACTLY_ONCE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        println!("EXACTLY_ONCE_SEED={seed} EXACTLY_ONCE_KILLS={kills}");
        let server = ServerProcess::start()?;
        let orders = Orders::new(server.url(), topics);
        let app = Some(start_app(mode, &server)?);
        let taken = BTreeSet::new();
        let chance = Chance::new(seed);
        let mut story = Story { mode, chance, server, orders, app, taken, figures: Figures::default() };
        let begin = Instant::now();
        story.live(kills).await.with_context(|| format!("seed {seed}, {mode}: {:?}", story.figures))?;
        println!("{mode}: {:?}, {} orders, {:?}", story.figures, story.orders.emitted(), begin.elapsed());
        Ok(())
    }

    async fn live(&mut self, kills: u64) -> Result<()> {
        let at = |percent: u64| (kills * percent / 100).max(1);
        let (mut backed_up, early, late) = (0, self.file("books-early"), self.file("books-late"));
        for life in 1..=kills {
            if life == at(20) {
                self.books()?.back_up(&early)?;
            } else if life == at(30) {
                backed_up = self.back_up_server().await?;
            } else if life == at(40) {
                self.books()?.back_up(&late)?;
            } else if life == at(55) {
                self.restore_server(backed_up).await.context("the server's restore")?;
            } else if life == at(70) {
                self.restore_books(&early)?;
            } else if life == at(85) {
                self.restore_books(&late)?;
            }
            // Three of ten lives begin while the last one goes on.
            let is_overlap = matches!(life % 10, 2 | 5 | 8);
            if is_overlap { self.overlap().await } else { self.kill_app().await }
                .with_context(|| format!("life {life}"))?;
        }
        self.end().await.context("at the end")
    }

    /// The app works for a while, and is killed between two instructions; the server now and then before or after it.
    async fn kill_app(&mut self) -> Result<()> {
        let effects = self.chance.between(1, 30);
        self.orders.emit(effects + 10).await?;
        if self.chance.once_in(4) {
            self.server.restart()?;
            self.figures.server_kills += 1;
        }
        self.wait_for_effects(effects)?;
        if self.chance.once_in(8) {
            self.server.restart()?;
            self.figures.server_kills += 1;
        }
        self.replace_app()
    }

    /// The next process starts while this one works, and this one is killed later, if it has not stopped by itself.
    async fn overlap(&mut self) -> Result<()> {
        let mut next = start_app(self.mode, &self.server)?;
        let rounds = self.chance.between(5, 40);
        let (mut round, mut is_ready) = (0, false);
        let begin = Instant::now();
        // With a cursor file, the next process waits until this one has let go of it.
        while round < rounds || !(is_ready || self.mode == "file") {
            ensure!(begin.elapsed() < PATIENCE / 4, "the next process does not start");
            self.orders.emit(3).await?;
            while let Some(line) = next.line_so_far() {
                is_ready |= line == "ready";
                if is_over(&line) {
                    self.figures.overtaken += 1;
                    next = start_app(self.mode, &self.server)?;
                }
            }
            // The pace of the load, which waits for nothing in particular.
            tokio::time::sleep(Duration::from_millis(2)).await;
            round += 1;
        }
        if let Some(old) = self.app.replace(next) {
            let old = old.kill()?;
            self.figures.overtaken += u64::from(old.lines().into_iter().any(is_over));
        }
        self.figures.overlaps += 1;
        // The old one may have done all that there was.
        self.orders.emit(1).await?;
        self.wait_for_effects(1)
    }

    /// Reads what the app says until it has done so much. Starts it again if it found that another one had gone on.
    fn wait_for_effects(&mut self, count: u64) -> Result<()> {
        let mut effects = 0;
        while effects < count {
            let line = self.app.as_mut().context("no app")?.next_line()?;
            effects += u64::from(line.starts_with("effect"));
            self.heed(&line)?;
        }
        Ok(())
    }

    /// An app that has found another one at work stops, and is started again as a supervisor would.
    fn heed(&mut self, line: &str) -> Result<()> {
        if is_over(line) {
            self.figures.overtaken += 1;
            self.start_app()?;
        }
        Ok(())
    }

    fn start_app(&mut self) -> Result<()> {
        self.app = Some(start_app(self.mode, &self.server)?);
        Ok(())
    }

    /// Kills it with -9.
    fn stop_app(&mut self) -> Result<()> {
        self.app.take().map_or(Ok(()), |app| app.kill().map(|_| ()))
    }

    fn replace_app(&mut self) -> Result<()> {
        self.figures.kills += 1;
        self.stop_app()?;
        self.start_app()
    }

    async fn back_up_server(&mut self) -> Result<u64> {
        self.orders.settle().await?;
        self.server.kill()?;
        copy(&self.server.data(), &self.file("server-backup"))?;
        self.server.restart()?;
        Ok(self.orders.emitted())
    }

    /// Back to the backup. What was emitted since is gone, and the app, which is further on, is told so.
    async fn restore_server(&mut self, backed_up: u64) -> Result<()> {
        self.orders.emit(30).await?;
        self.orders.settle().await?;
        self.taken = (backed_up + 1..=self.orders.emitted()).collect();
        self.wait_until("the last order has its effect", |story| {
            Ok(story.books()?.effects()?.contains_key(&story.orders.emitted().to_string()))
        })?;
        ensure!(self.books()?.gaps("epoch_changed")? == 0, "a gap was told, but nothing is gone");
        self.server.kill()?;
        fs::remove_dir_all(self.server.data())?;
        copy(&self.file("server-backup"), &self.server.data())?;
        self.server.restart()?;
        self.wait_until("the app is told", |story| Ok(story.books()?.gaps("epoch_changed")? > 0))
    }

    /// Back to a backup of the app's database: all later effects are gone, and are done again.
    fn restore_books(&mut self, backup: &Path) -> Result<()> {
        self.stop_app()?;
        let books = self.file("books");
        let _ = fs::remove_file(self.file("books-journal"));
        fs::copy(backup, books)?;
        self.start_app()
    }

    async fn end(&mut self) -> Result<()> {
        self.orders.emit(10).await?;
        self.orders.settle().await?;
        let all: BTreeSet<u64> = (1..=self.orders.emitted()).collect();
        let kept: BTreeSet<String> = all.difference(&self.taken).map(u64::to_string).collect();
        self.wait_until("every order has its effect", |story| {
            let effects = story.books()?.effects()?;
            Ok(kept.iter().all(|order| effects.contains_key(order)))
        })?;
        let effects = self.books()?.effects()?;
        let doubled: Vec<_> = effects.iter().filter(|(_, count)| **count != 1).collect();
        ensure!(doubled.is_empty(), "more than one effect: {doubled:?}");
        ensure!(effects.keys().all(|order| order.parse().is_ok_and(|order| all.contains(&order))), "not ordered");
        ensure!(self.books()?.gaps("retention_size")? == 0, "nothing was trimmed");
        Ok(())
    }

    /// Lets the app go on until something is so.
    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Story) -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !is_so(self)? {
            if begin.elapsed() > PATIENCE / 4 {
                let effects = self.books()?.effects()?;
                let missing: Vec<u64> =
                    (1..=self.orders.emitted()).filter(|order| !effects.contains_key(&order.to_string())).collect();
                anyhow::bail!("{what}: not so; at {}, without effect: {missing:?}", self.books()?.place()?);
            }
            while let Some(line) = self.app.as_mut().and_then(Running::line_so_far) {
                self.heed(&line)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn books(&self) -> Result<Books> {
        Books::open(&self.file("books"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.server.folder().join(name)
    }
}

/// Whether an app says that it stops, since another one goes on with its books.
fn is_over(line: &str) -> bool {
    line == "overtaken" || line.starts_with("ended")
}

fn start_app(mode: &str, server: &ServerProcess) -> Result<Running> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_exactly-once-app"));
    command.args([mode, &server.url()]).arg(server.folder());
    Running::start(command)
}

/// A folder and all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

const KILLS: u64 = 10;
