//! Emits that wait because the server takes none, told without a flood: a server at the edge takes one and refuses the next,
//! many times a second. Changes nothing about the emits.

use std::time::Duration;

use redeliver_protocol::error::RefusalCode;
use tokio::time::Instant;

use crate::notice::Notice;

/// What was told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct HeldEmits {
    /// Why emits wait now.
    why: Option<RefusalCode>,
    /// As what it was told, until it is told that they go on.
    told: Option<RefusalCode>,
    told_at: Option<Instant>,
}

impl HeldEmits {
    /// Emits wait for this reason, or go on. Returns what is to be told now.
    pub(super) fn changed(&mut self, why: Option<RefusalCode>, now: Instant) -> Option<Notice> {
        self.why = why;
        if why.is_none() {
            return self.told.take().map(|_| Notice::EmitsResumed);
        }
        self.told_if_due(now)
    }

    /// When something is to be told that was held back.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_untold = self.why.is_some() && self.told != self.why;
        self.told_at.filter(|_| is_untold).map(|told_at| told_at + AT_MOST_EVERY)
    }

    /// Returns what was held back, if it is still so and its time has come.
    pub(super) fn told_if_due(&mut self, now: Instant) -> Option<Notice> {
        let code = self.why.filter(|_| self.told != self.why)?;
        if self.told_at.is_some_and(|told_at| now < told_at + AT_MOST_EVERY) {
            return None;
        }
        (self.told, self.told_at) = (Some(code), Some(now));
        Some(Notice::EmitsWaiting { code })
    }
}

/// How often it is told at most that emits wait.
const AT_MOST_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: RefusalCode = RefusalCode::STORAGE_FULL;

    #[test]
    fn a_server_that_takes_and_refuses_in_turn_is_told_once() {
        let (mut held, begin) = (HeldEmits::default(), Instant::now());
        let told: Vec<Notice> = (0..1000)
            .flat_map(|step| {
                let now = begin + Duration::from_millis(step);
                let waits = held.changed(Some(FULL), now);
                [waits, held.changed(None, now)].into_iter().flatten()
            })
            .collect();
        assert_eq!(told, [Notice::EmitsWaiting { code: FULL }, Notice::EmitsResumed]);
        assert_eq!(held.due(), None);
    }

    #[test]
    fn what_was_held_back_is_told_if_it_lasts() {
        let (mut held, begin) = (HeldEmits::default(), Instant::now());
        let waiting = Some(Notice::EmitsWaiting { code: FULL });
        assert_eq!(held.changed(Some(FULL), begin), waiting);
        assert_eq!(held.changed(None, begin), Some(Notice::EmitsResumed));
        assert_eq!(held.changed(Some(FULL), begin), None);
        let due = held.due().expect("it is told later");
        assert_eq!((due, held.told_if_due(begin)), (begin + AT_MOST_EVERY, None));
        assert_eq!(held.told_if_due(due), waiting);
        assert_eq!((held.due(), held.told_if_due(due)), (None, None));
    }

    #[test]
    fn another_reason_is_told_in_its_turn() {
        let (mut held, begin) = (HeldEmits::default(), Instant::now());
        held.changed(Some(FULL), begin);
        assert_eq!(held.changed(Some(RefusalCode::OVERLOADED), begin), None);
        let notice = held.told_if_due(begin + AT_MOST_EVERY);
        assert_eq!(notice, Some(Notice::EmitsWaiting { code: RefusalCode::OVERLOADED }));
        assert_eq!(held.changed(None, begin + AT_MOST_EVERY), Some(Notice::EmitsResumed));
    }
}
