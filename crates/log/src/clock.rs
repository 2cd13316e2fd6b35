//! The log's two times. An event's time is the wall clock's, whatever that says. Age goes by the *paced clock*, which counts
//! the time that has passed. Pure: both are told what the clocks say, and never ask.
//!
//! The paced clock begins as the wall clock, and from then on moves with the monotonic clock alone: a wall clock that is set
//! ahead or back, or that began in 1970, changes nothing. While no process has the log, only the wall clock can tell how
//! long that was. What it says is believed once it has stood for [`STANDS`] after the opening, since a machine that comes up
//! may not know the time yet; and never beyond [`AWAY_MAX`]. Until then the two ends of what is possible count, so that
//! nothing goes early: what is stored is stamped as if all of that time had passed, and age is judged as if none had.

use std::time::Duration;

use redeliver_protocol::time::{Instant, Timestamp};

/// An event's time: the wall clock's, but for small steps back, in which it waits until the wall clock is there again.
pub(crate) fn event_time(wall: Timestamp, last: Timestamp) -> Timestamp {
    if wall < last && wall.after(CLAMP) >= last { last } else { wall }
}

/// Counts the time that has passed, also over restarts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacedClock {
    now: Timestamp,
    ticked: Instant,
    /// What the wall clock said then.
    wall: Timestamp,
    /// How long nobody had the log, by the wall clock in milliseconds, and since when that has stood. Not yet counted.
    away: Option<(i64, Instant)>,
}

/// What is stored of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedClock {
    pub(crate) now: Timestamp,
    /// What the wall clock said then.
    pub(crate) wall: Timestamp,
}

impl SavedClock {
    /// Takes in a stamp that was stored after this was saved. One that lies too far ahead was made when it was not sure yet
    /// how long the log had been away.
    pub(crate) fn pass(self, stamp: Timestamp) -> SavedClock {
        let passed = stamp.since(self.now);
        if passed > SAVED_WITHIN {
            return self;
        }
        SavedClock { now: self.now.after(passed), wall: self.wall.after(passed) }
    }
}

/// What a tick has noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockEvent {
    /// The wall clock was set ahead by so much.
    Ahead(Duration),
    /// The wall clock was set back by so much.
    Back(Duration),
    /// The time in which nobody had the log is counted now.
    WasAway(Duration),
    /// The wall clock says that nobody had the log for so long. That is not believed.
    NotBelieved(Duration),
}

impl PacedClock {
    /// A clock that goes on from where it stood when it was last saved; a new one begins with the wall clock's time.
    pub(crate) fn resume(saved: Option<SavedClock>, wall: Timestamp, monotonic: Instant) -> PacedClock {
        let Some(saved) = saved else { return PacedClock { now: wall, ticked: monotonic, wall, away: None } };
        let away = difference(wall, saved.wall);
        let mut clock = PacedClock { now: saved.now, ticked: monotonic, wall, away: None };
        if (0..=millis(STEP)).contains(&away) {
            clock.now = saved.now.after(wall.since(saved.wall));
        } else {
            clock.away = Some((away, monotonic));
        }
        clock
    }

    /// The paced time by which age is judged.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// The paced time that what is stored now bears.
    pub(crate) fn stamp(&self) -> Timestamp {
        let away = self.away.map_or(0, |(away, _)| u64::try_from(away).unwrap_or(0));
        let away = Duration::from_millis(away);
        if away > AWAY_MAX { self.now } else { self.now.after(away) }
    }

    /// What is to be stored of it, so that time which is not counted yet is not lost with the next restart.
    pub(crate) fn saved(&self) -> SavedClock {
        let wall = self.away.map_or(self.wall, |(away, _)| moved(self.wall, away.saturating_neg()));
        SavedClock { now: self.now, wall }
    }

    /// Goes on to a moment. What it returns is worth a word, and to be stored soon.
    pub(crate) fn tick(&mut self, wall: Timestamp, monotonic: Instant) -> Option<ClockEvent> {
        let passed = Duration::from_millis(u64::try_from(monotonic.since(self.ticked).as_millis()).unwrap_or(u64::MAX));
        let jump = difference(wall, self.wall.after(passed));
        self.ticked = self.ticked + passed;
        self.now = self.now.after(passed);
        self.wall = wall;
        if jump.unsigned_abs() > JUMP.as_millis().try_into().unwrap_or(u64::MAX) {
            // Before it has stood, it may have been wrong when the log was opened.
            self.away = self.away.map(|(away, _)| (away.saturating_add(jump), self.ticked));
            let by = Duration::from_millis(jump.unsigned_abs());
            return Some(if jump > 0 { ClockEvent::Ahead(by) } else { ClockEvent::Back(by) });
        }
        let (away, _) = self.away.take_if(|(_, since)| self.ticked.since(*since) >= STANDS)?;
        let by = Duration::from_millis(u64::try_from(away).ok()?);
        if by > AWAY_MAX {
            return Some(ClockEvent::NotBelieved(by));
        }
        self.now = self.now.after(by);
        Some(ClockEvent::WasAway(by))
    }
}

/// Milliseconds from one time to another.
fn difference(later: Timestamp, earlier: Timestamp) -> i64 {
    i64::try_from(i128::from(later.0) - i128::from(earlier.0)).unwrap_or(if later > earlier {
        i64::MAX
    } else {
        i64::MIN
    })
}

fn moved(time: Timestamp, by: i64) -> Timestamp {
    Timestamp(time.0.saturating_add_signed(by))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// An event is never older than the one before it by less than this: small corrections of the wall clock do not show.
pub(crate) const CLAMP: Duration = Duration::from_secs(5);

/// From so much on, a wall clock that has moved more or less than the monotonic one was set. Less is adjustment.
const JUMP: Duration = Duration::from_secs(10);

/// A restart within this is counted at once.
const STEP: Duration = Duration::from_secs(60);

/// So long the wall clock has to stand after an opening before it is believed how long the log was away.
pub(crate) const STANDS: Duration = Duration::from_secs(180);

/// The clock is saved more often than this.
const SAVED_WITHIN: Duration = Duration::from_secs(2 * 3600);

/// A longer time away is not believed: rather is the wall clock wrong. Events live on for their age then.
const AWAY_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;
    const YEARS: u64 = 3650 * DAY;
    const NOW: u64 = 20_000 * DAY;

    /// A clock of a machine: wall and monotonic time.
    struct Machine {
        clock: PacedClock,
        wall: u64,
        up: u64,
    }

    impl Machine {
        fn boot(saved: Option<SavedClock>, wall: u64) -> Machine {
            Machine { clock: PacedClock::resume(saved, Timestamp(wall), mono(0)), wall, up: 0 }
        }

        /// Lets time pass in seconds, and returns what was noticed.
        fn run(&mut self, seconds: u64) -> Vec<ClockEvent> {
            let mut noticed = Vec::new();
            for _ in 0..seconds {
                self.wall += 1_000;
                self.up += 1_000;
                noticed.extend(self.clock.tick(Timestamp(self.wall), mono(self.up)));
            }
            noticed
        }

        fn now(&self) -> u64 {
            self.clock.now().0
        }
    }

    fn mono(ms: u64) -> Instant {
        Instant::from_origin(Duration::from_millis(ms))
    }

    #[test]
    fn a_wall_clock_that_is_set_moves_the_paced_clock_by_nothing_and_is_told_once() {
        let mut machine = Machine::boot(None, NOW);
        machine.run(10);
        machine.wall += YEARS;
        assert_eq!(machine.run(1_000), [ClockEvent::Ahead(Duration::from_millis(YEARS))]);
        assert_eq!(machine.now(), NOW + 1_010_000);
        machine.wall = 5_000;
        assert!(matches!(machine.run(1_000)[..], [ClockEvent::Back(_)]));
        machine.wall = NOW;
        assert!(matches!(machine.run(1_000)[..], [ClockEvent::Ahead(_)]));
        assert_eq!(machine.now(), NOW + 3_010_000);
    }

    #[test]
    fn a_clock_that_began_in_1970_counts_on_when_the_time_is_known() {
        let mut machine = Machine::boot(None, 3_000);
        machine.run(10);
        machine.wall = NOW;
        machine.run(500);
        assert_eq!(machine.now(), 513_000);
        let mut machine = Machine::boot(Some(machine.clock.saved()), machine.wall + 3 * DAY);
        machine.run(180);
        assert_eq!(machine.now(), 513_000 + 3 * DAY + 180_000);
    }

    #[test]
    fn days_without_a_process_are_counted_once_the_clock_has_stood_for_minutes() {
        let saved = SavedClock { now: Timestamp(NOW), wall: Timestamp(NOW) };
        let mut machine = Machine::boot(Some(saved), NOW + 3 * DAY);
        assert_eq!(machine.run(179), []);
        assert_eq!((machine.now(), machine.clock.stamp().0), (NOW + 179_000, NOW + 3 * DAY + 179_000));
        assert_eq!(machine.run(500), [ClockEvent::WasAway(Duration::from_millis(3 * DAY))]);
        assert_eq!(machine.now(), NOW + 3 * DAY + 679_000);
    }

    #[test]
    fn a_machine_that_does_not_know_the_time_when_it_comes_up_counts_nothing_wrong() {
        let saved = SavedClock { now: Timestamp(NOW), wall: Timestamp(NOW) };
        for wrong in [1_000, NOW + YEARS, NOW - DAY, NOW + 8 * DAY] {
            let mut machine = Machine::boot(Some(saved), wrong);
            machine.run(100);
            assert_eq!(machine.now(), NOW + 100_000, "{wrong}");
            // Away for two days, as it turns out.
            machine.wall = NOW + 2 * DAY + 100_000;
            machine.run(200);
            assert_eq!(machine.now(), NOW + 2 * DAY + 300_000, "{wrong}");
        }
    }

    #[test]
    fn ten_years_away_are_not_believed() {
        let saved = SavedClock { now: Timestamp(NOW), wall: Timestamp(NOW) };
        let mut machine = Machine::boot(Some(saved), NOW + YEARS);
        assert_eq!(machine.run(1_000), [ClockEvent::NotBelieved(Duration::from_millis(YEARS))]);
        assert_eq!(machine.now(), NOW + 1_000_000);
    }

    #[test]
    fn restarts_lose_no_time_that_is_not_counted_yet_and_count_none_twice() {
        let mut saved = SavedClock { now: Timestamp(NOW), wall: Timestamp(NOW) };
        let mut wall = NOW + 3 * DAY;
        for _ in 0..5 {
            let mut machine = Machine::boot(Some(saved), wall);
            machine.run(100);
            (saved, wall) = (machine.clock.saved(), machine.wall);
        }
        let mut machine = Machine::boot(Some(saved), wall);
        machine.run(180);
        assert_eq!(machine.now(), NOW + 3 * DAY + 680_000);
        let mut machine = Machine::boot(Some(machine.clock.saved()), machine.wall + 2_000);
        machine.run(1_000);
        assert_eq!(machine.now(), NOW + 3 * DAY + 1_682_000);
    }

    #[test]
    fn an_events_time_follows_the_wall_clock_but_for_small_steps_back() {
        let last = Timestamp(NOW);
        for (wall, time) in [(NOW + 1, NOW + 1), (NOW - 5_000, NOW), (NOW - 5_001, NOW - 5_001), (0, 0)] {
            assert_eq!(event_time(Timestamp(wall), last), Timestamp(time));
        }
    }
}
