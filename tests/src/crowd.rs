//! Emitters and readers that live through whatever a test does to their server, and the ledger of what they saw.

use std::sync::Arc;

use anyhow::Result;

use crate::emission::Load;
use crate::emitter::Emitter;
use crate::ledger::{Dump, Figures, Ledger};
use crate::reader::{Habits, Reader};

/// Emitters and readers of one server.
#[derive(Debug)]
pub struct Crowd {
    /// What they saw.
    pub ledger: Arc<Ledger>,
    /// The readers, to be killed.
    pub readers: Vec<Reader>,
    emitters: Vec<Emitter>,
    url: String,
    retention_bytes: Option<u64>,
}

impl Crowd {
    /// Starts so many emitters, and these readers, of a server that retains so many bytes, or everything.
    #[must_use]
    pub fn start(url: String, load: Load, emitters: u32, readers: Vec<Habits>, retention_bytes: Option<u64>) -> Crowd {
        let ledger = Arc::new(Ledger::new(load));
        let reader = |habits| Reader::start(url.clone(), habits, Arc::clone(&ledger));
        let readers = readers.into_iter().map(reader).collect();
        let emitter = |publisher| Emitter::start(url.clone(), publisher, Arc::clone(&ledger));
        let emitters = (1..=emitters).map(emitter).collect();
        Crowd { ledger, readers, emitters, url, retention_bytes }
    }

    /// Holds what is in the log, after this seq or from its beginning on, against all that anybody has seen. Gives the seq
    /// up to which it did.
    ///
    /// # Errors
    ///
    /// Every violation so far, or why the log cannot be read.
    pub fn check(&self, after: Option<u64>) -> Result<u64> {
        let dump = Dump::take(&self.url, &self.ledger, after)?;
        dump.check(&self.ledger, self.retention_bytes);
        self.ledger.verdict()?;
        Ok(dump.through())
    }

    /// Lets the emitters get their last receipts and the readers reach the end, and checks everything once more.
    ///
    /// # Errors
    ///
    /// Every violation.
    pub fn finish(self) -> Result<Figures> {
        self.emitters.iter().for_each(Emitter::stop);
        let emitted: Result<()> = self.emitters.into_iter().try_for_each(Emitter::finish);
        self.ledger.verdict()?;
        emitted?;
        self.ledger.close();
        for reader in self.readers {
            let nth = self.ledger.stored(reader.topic());
            let finished = reader.finish(nth);
            self.ledger.verdict()?;
            finished?;
        }
        Dump::take(&self.url, &self.ledger, None)?.check(&self.ledger, self.retention_bytes);
        self.ledger.verdict()?;
        Ok(self.ledger.figures())
    }
}
