//! What became of the emitted events, counted, and told in one line.

use std::fmt;

use redeliver_client::{EmitError, Outcome, Receipt};

/// What became of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is durable, at this seq if the server still knows it.
    Acknowledged { seq: Option<u64>, duplicate: bool },
    /// It was not stored.
    NotStored,
    /// It may have been stored.
    Unknown,
}

impl Fate {
    pub(crate) fn of(receipt: &Result<Receipt, EmitError>) -> Fate {
        match receipt {
            Ok(receipt) => Fate::Acknowledged { seq: receipt.seq().map(|seq| seq.0), duplicate: receipt.duplicate },
            Err(error) => match error.outcome() {
                Outcome::NotApplied => Fate::NotStored,
                Outcome::Unknown | _ => Fate::Unknown,
            },
        }
    }
}

/// Counts fates. Shows itself as the last line of `redeliver emit`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    acknowledged: u64,
    duplicates: u64,
    not_stored: u64,
    unknown: u64,
    /// Lowest and highest seq that the server has told.
    seqs: Option<(u64, u64)>,
}

impl Tally {
    pub(crate) fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Acknowledged { seq, duplicate } => {
                self.acknowledged += 1;
                self.duplicates += u64::from(duplicate);
                if let Some(seq) = seq {
                    let (first, last) = self.seqs.unwrap_or((seq, seq));
                    self.seqs = Some((first.min(seq), last.max(seq)));
                }
            }
            Fate::NotStored => self.not_stored += 1,
            Fate::Unknown => self.unknown += 1,
        }
    }

    /// Whether nothing was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.acknowledged == 0
    }

    /// For an end before everything was acknowledged.
    pub(crate) fn in_full(&self) -> String {
        let Tally { acknowledged, unknown, .. } = self;
        let unknown = match unknown {
            0 => String::new(),
            n => format!("{n} may or may not be stored, "),
        };
        let events = if *acknowledged == 1 { "event is" } else { "events are" };
        format!("{acknowledged} {events} acknowledged, {unknown}nothing else is stored")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "emitted {} event{}", self.acknowledged, if self.acknowledged == 1 { "" } else { "s" })?;
        if let Some((first, last)) = self.seqs {
            write!(f, ", seq {first}..{last}")?;
        }
        if self.duplicates > 0 {
            write!(f, ", {} already stored", self.duplicates)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(fates: &[Fate]) -> Tally {
        let mut tally = Tally::default();
        fates.iter().for_each(|fate| tally.count(*fate));
        tally
    }

    fn stored(seq: u64) -> Fate {
        Fate::Acknowledged { seq: Some(seq), duplicate: false }
    }

    fn again(seq: Option<u64>) -> Fate {
        Fate::Acknowledged { seq, duplicate: true }
    }

    #[test]
    fn the_last_line_says_how_many_events_are_where() {
        assert_eq!(tally(&[]).to_string(), "emitted 0 events");
        assert_eq!(tally(&[stored(7)]).to_string(), "emitted 1 event, seq 7..7");
        assert_eq!(tally(&[stored(7), stored(8), stored(12)]).to_string(), "emitted 3 events, seq 7..12");
    }

    #[test]
    fn what_was_there_already_is_said_too() {
        assert_eq!(
            tally(&[again(None), again(Some(3)), stored(9)]).to_string(),
            "emitted 3 events, seq 3..9, 2 already stored"
        );
        assert_eq!(tally(&[again(None)]).to_string(), "emitted 1 event, 1 already stored");
    }

    #[test]
    fn an_early_end_tells_what_is_known_from_what_is_not() {
        let early = tally(&[stored(1), Fate::Unknown, Fate::Unknown, Fate::NotStored]);
        assert_eq!(early.to_string(), "emitted 1 event, seq 1..1");
        assert_eq!(early.in_full(), "1 event is acknowledged, 2 may or may not be stored, nothing else is stored");
        assert_eq!(tally(&[]).in_full(), "0 events are acknowledged, nothing else is stored");
    }
}
