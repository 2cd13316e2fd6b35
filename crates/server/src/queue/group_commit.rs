//! Adaptive group commit: whether to delay a commit so that more emitters can join it. Emitters that were just answered
//! are likely to emit again. A delay is short against what a commit takes, and is given up for a while when nobody joins.

use std::time::{Duration, Instant};

/// What the last commits tell about the next one.
#[derive(Debug, Default)]
pub(super) struct GroupCommit {
    /// How many appends the last commit answered.
    answered: usize,
    /// When it was taken.
    left_at: Option<Instant>,
    /// How many commits go without a wait before the next try.
    skip: u32,
    /// How many tries in a row brought nobody.
    misses: u32,
}

impl GroupCommit {
    /// A commit of so many appends is taken.
    pub(super) fn left(&mut self, appends: usize) {
        self.answered = appends;
        self.left_at = Some(Instant::now());
    }

    /// For how many appends it is worth to wait, and how long, while so many are here.
    pub(super) fn expected(&mut self, waiting: usize) -> Option<(usize, Duration)> {
        // Not quite all: the last few may have gone.
        let enough = (self.answered + waiting) / 8 * 7;
        if self.answered < EMITTERS_MIN || enough < waiting * 2 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let moment = (self.left_at?.elapsed() / 2).min(MOMENT_MAX);
        Some((enough, moment))
    }

    /// Of a wait that began with so many, this came.
    pub(super) fn gathered(&mut self, waiting: usize, gathered: usize) {
        if gathered >= waiting * 2 {
            self.misses = 0;
        } else {
            self.misses = (self.misses + 1).min(MISSES_MAX);
            self.skip = 1 << self.misses;
        }
    }
}

/// Fewer than this are not worth a wait.
const EMITTERS_MIN: usize = 4;

/// The longest wait.
const MOMENT_MAX: Duration = Duration::from_micros(500);

/// After so many tries in vain, only one commit in 64 tries again.
const MISSES_MAX: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_were_answered_are_waited_for_unless_as_many_are_here() {
        let mut group = GroupCommit::default();
        group.left(64);
        assert_eq!(group.expected(2).map(|(enough, _)| enough), Some(56));
        assert_eq!(group.expected(60), None);
    }

    #[test]
    fn nobody_is_waited_for_where_few_emit() {
        let mut group = GroupCommit::default();
        for appends in 0..EMITTERS_MIN {
            group.left(appends);
            assert_eq!(group.expected(1), None);
        }
    }

    #[test]
    fn a_wait_in_vain_makes_waits_rare_and_one_that_pays_makes_them_usual() {
        let mut group = GroupCommit::default();
        let tries = |group: &mut GroupCommit, gathered: usize| {
            let tried = (0..1_000).filter(|_| {
                group.left(64);
                let is_tried = group.expected(2).is_some();
                if is_tried {
                    group.gathered(2, gathered);
                }
                is_tried
            });
            tried.count()
        };
        assert!(tries(&mut group, 3) < 30);
        assert!(tries(&mut group, 60) > 900);
    }
}
