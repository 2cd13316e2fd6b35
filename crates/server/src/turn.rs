//! How much one task may do before others get their turn: no session holds a thread, however much it has to do.

use std::time::{Duration, Instant};

/// One turn of a session. It is over after so many steps, or after so much time.
#[derive(Debug)]
pub(crate) struct Turn {
    began: Instant,
    steps: u32,
    is_over: bool,
}

impl Turn {
    /// Begins a turn now.
    pub(crate) fn begin() -> Turn {
        Turn { began: Instant::now(), steps: 0, is_over: false }
    }

    /// Counts a step: an output that was carried out, or an input that was taken. Returns whether the turn goes on.
    pub(crate) fn step(&mut self) -> bool {
        self.steps += 1;
        // The clock is looked at now and then: most turns have a few steps, and end without a look.
        if self.steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && self.began.elapsed() >= TIME_MAX {
            self.is_over = true;
        }
        self.is_over |= self.steps >= STEPS_MAX;
        !self.is_over
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }
}

/// Steps in one turn. A step reads or writes at most one batch of events.
const STEPS_MAX: u32 = 1024;

/// What a turn may take. With this, a thousand busy sessions on two threads leave everybody else waiting for a second at
/// most.
const TIME_MAX: Duration = Duration::from_millis(2);

const STEPS_BETWEEN_LOOKS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_ends_after_so_many_steps_however_quick_they_are() {
        let mut turn = Turn::begin();
        let steps = (0..10 * STEPS_MAX).take_while(|_| turn.step()).count();
        assert!(turn.is_over() && steps < STEPS_MAX as usize);
    }
}
