//! The books of an app in SQLite: its effects, the gaps that it was told, and its place, written together.
//!
//! The statement that fences an older process is read out of docs/guarantees.md, so that what is told there is what is
//! tested. Never writes an effect without it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redeliver_client::Place;
use rusqlite::{Connection, TransactionBehavior, named_params};

/// What is written in one transaction with the place behind it.
#[derive(Clone, Copy, Debug)]
pub enum Written<'a> {
    /// What an event does: one row, with the event's text.
    Effect(&'a str),
    /// That something is missing, and why.
    Gap(&'a str),
}

/// An open database.
#[derive(Debug)]
pub struct Books {
    database: Connection,
    step: String,
}

impl Books {
    /// Opens the database, and makes its tables and the first place (before everything) if it is new.
    ///
    /// # Errors
    ///
    /// If that fails, or the docs have no statement.
    pub fn open(path: &Path) -> Result<Books> {
        let database = Connection::open(path)?;
        database.busy_timeout(Duration::from_secs(30))?;
        // Processes are killed here, machines are not: what the kernel has is safe.
        database.pragma_update(None, "synchronous", "OFF")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS places (reader TEXT PRIMARY KEY, place TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS effects (event TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS gaps (cause TEXT NOT NULL);",
        )?;
        let first = Place::default().to_string();
        database.execute("INSERT OR IGNORE INTO places VALUES ('billing', ?1)", [first])?;
        Ok(Books { database, step: documented_step()? })
    }

    /// The place that the next process starts after.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn place(&self) -> Result<Place> {
        let place = "SELECT place FROM places WHERE reader = 'billing'";
        let text: String = self.database.query_row(place, [], |row| row.get(0))?;
        Ok(text.parse()?)
    }

    /// Writes this, on condition that the books stand at `before`. Returns false, and writes nothing, if they do not.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub fn write(&mut self, before: &Place, after: &Place, written: &Written<'_>) -> Result<bool> {
        let transaction = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let places = named_params! { ":before": before.to_string(), ":after": after.to_string() };
        if transaction.execute(&self.step, places)? == 0 {
            transaction.rollback()?;
            return Ok(false);
        }
        match written {
            Written::Effect(event) => transaction.execute("INSERT INTO effects VALUES (?1)", [event])?,
            Written::Gap(cause) => transaction.execute("INSERT INTO gaps VALUES (?1)", [cause])?,
        };
        transaction.commit()?;
        Ok(true)
    }

    /// Each event that had an effect, and how many it had.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn effects(&self) -> Result<BTreeMap<String, i64>> {
        let mut statement = self.database.prepare("SELECT event, COUNT(*) FROM effects GROUP BY event")?;
        let effects = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(effects.collect::<Result<_, _>>()?)
    }

    /// How many gaps of this cause the app was told.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn gaps(&self, cause: &str) -> Result<i64> {
        Ok(self.database.query_row("SELECT COUNT(*) FROM gaps WHERE cause = ?1", [cause], |row| row.get(0))?)
    }

    /// Makes a backup, as an operator would while the app runs.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        let to = to.to_str().context("a path that is no text")?;
        self.database.execute("VACUUM INTO ?1", [to])?;
        Ok(())
    }
}

/// The UPDATE of the recipe in docs/guarantees.md.
fn documented_step() -> Result<String> {
    let recipe = GUARANTEES.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).context("no SQL there")?;
    let update = recipe.lines().find(|line| line.starts_with("UPDATE places")).context("no UPDATE there")?;
    ensure!(update.contains(":before") && update.contains(":after"), "it compares nothing: {update}");
    Ok(update.trim_end_matches(';').to_owned())
}

const GUARANTEES: &str = include_str!("../../docs/guarantees.md");
