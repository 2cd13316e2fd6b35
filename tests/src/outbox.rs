//! The outbox of an app in SQLite: orders and the rows that tell of them, written together, numbered from 1 without a gap;
//! and up to which row the relay has receipts.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use redeliver_client::PublisherId;
use rusqlite::Connection;
use uuid::Uuid;

/// An open database.
#[derive(Debug)]
pub struct Outbox {
    database: Connection,
}

impl Outbox {
    /// Opens it, and makes its tables and the publisher's id if it is new.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn open(path: &Path) -> Result<Outbox> {
        let database = Connection::open(path)?;
        database.busy_timeout(Duration::from_secs(30))?;
        // Processes are killed here, machines are not: what the kernel has is safe.
        database.pragma_update(None, "synchronous", "OFF")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, payload TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS relay (one INTEGER PRIMARY KEY, publisher TEXT NOT NULL, settled INTEGER NOT NULL);",
        )?;
        let publisher = Uuid::new_v4().to_string();
        database.execute("INSERT OR IGNORE INTO relay VALUES (1, ?1, 0)", [publisher])?;
        Ok(Outbox { database })
    }

    /// Takes an order: the order and the row that tells of it, or neither.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub fn order(&mut self, what: &str) -> Result<()> {
        let transaction = self.database.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute("INSERT INTO orders (what) VALUES (?1)", [what])?;
        transaction.execute(
            "INSERT INTO outbox (number, payload) SELECT COALESCE(MAX(number), 0) + 1, ?1 FROM outbox",
            [what],
        )?;
        Ok(transaction.commit()?)
    }

    /// Under which id the relay emits.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn publisher(&self) -> Result<PublisherId> {
        let text: String = self.database.query_row("SELECT publisher FROM relay", [], |row| row.get(0))?;
        Ok(PublisherId(*text.parse::<Uuid>()?.as_bytes()))
    }

    /// The last row with a receipt.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn settled(&self) -> Result<u64> {
        let settled: i64 = self.database.query_row("SELECT settled FROM relay", [], |row| row.get(0))?;
        Ok(u64::try_from(settled)?)
    }

    /// Notes that this row, and all before it, have receipts.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn settle(&self, number: u64) -> Result<()> {
        self.database.execute("UPDATE relay SET settled = ?1", [i64::try_from(number)?])?;
        Ok(())
    }

    /// The rows behind this one, at most so many.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn rows_after(&self, number: u64, most: usize) -> Result<Vec<(u64, String)>> {
        let mut rows =
            self.database.prepare("SELECT number, payload FROM outbox WHERE number > ?1 ORDER BY number LIMIT ?2")?;
        let rows = rows.query_map([i64::try_from(number)?, i64::try_from(most)?], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.map(|row| row.map_err(Into::into).and_then(|(number, payload)| Ok((u64::try_from(number)?, payload))))
            .collect()
    }
}
