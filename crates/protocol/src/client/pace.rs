//! How far a durable reader names what it delivers: the server notes each event before the app gets it, and what was named
//! and sent counts as delivered for ever after. Names exactly what a slow app is about to take, and about four round trips
//! ahead of a fast one, so that it does not wait for the network. Sends nothing itself.
//!
//! It must never allow an event that the server has not noted.

use std::time::Duration;

use crate::seq::Nth;
use crate::time::Instant;

/// The pace of one subscription, on connections that have the feature.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_on: bool,
    /// How many events and gaps were delivered.
    delivered: u64,
    /// How many of them the app had taken when it last asked for more. `None` if it never asked.
    taken: Option<u64>,
    /// The nth through which is delivered.
    nth: Nth,
    /// The nth through which is named, and through which the server has noted it.
    named: Nth,
    noted: Nth,
    /// When the name was sent that is not answered yet.
    named_at: Option<Instant>,
    /// A round trip to the server. `None` before the first answer.
    round_trip: Option<Duration>,
    /// Since when the app works on what it has.
    busy_since: Instant,
    /// How long an event took the app, the last time that was measured.
    last_work: Duration,
    /// How many events are named beyond what the app has taken: 1 or more.
    ahead: u64,
    /// What the shell was told last.
    told_left: Option<u64>,
}

impl Pace {
    /// A stream begins behind this nth. Returns what is to be named at once, if this one is paced.
    pub(super) fn begin(&mut self, is_on: bool, nth: Nth, now: Instant) -> Option<Nth> {
        self.is_on = is_on;
        (self.nth, self.named, self.noted) = (nth, nth, nth);
        self.named_at = None;
        if !is_on {
            return None;
        }
        self.named = self.goal().unwrap_or(nth).max(nth);
        self.named_at = Some(now);
        Some(self.named)
    }

    /// Whether this event may be delivered now.
    pub(super) fn allows(&self, nth: Nth) -> bool {
        !self.is_on || nth <= self.noted
    }

    /// Everything up to this nth is delivered or passed over. `counts`: the app has one item more to take.
    pub(super) fn delivered(&mut self, nth: Nth, counts: bool, now: Instant) {
        self.nth = nth;
        if counts {
            if self.taken == Some(self.delivered) {
                self.busy_since = now;
            }
            self.delivered += 1;
        }
    }

    /// What is to be named now, if anything: one name is on its way at a time.
    pub(super) fn name(&mut self, now: Instant) -> Option<Nth> {
        if !self.is_on || self.named_at.is_some() {
            return None;
        }
        let goal = self.goal().filter(|goal| *goal > self.named)?;
        if self.named.since(self.taken_nth()?) > self.ahead() / 2 {
            return None;
        }
        self.named = goal;
        self.named_at = Some(now);
        Some(goal)
    }

    /// The server has noted what was named.
    pub(super) fn noted(&mut self, nth: Nth, now: Instant) {
        let Some(named_at) = self.named_at.filter(|_| nth == self.named) else { return };
        self.named_at = None;
        self.noted = nth;
        let took = now.since(named_at);
        self.round_trip = Some(match self.round_trip {
            // A short one is true, a long one may be an accident.
            Some(known) if took > known => known + (took.min(known.saturating_mul(4)) - known) / 8,
            Some(_) | None => took.max(SHORTEST),
        });
    }

    /// The app asks for more, and has taken so many events and gaps since the subscription began. `is_held_up`: the next
    /// event has arrived, and is not noted.
    pub(super) fn wanted(&mut self, taken: u64, is_held_up: bool, window_events: u32, now: Instant) {
        let done = taken.saturating_sub(self.taken.unwrap_or(0));
        self.taken = Some(taken.min(self.delivered));
        if done == 0 {
            return;
        }
        let events = u32::try_from(done).unwrap_or(u32::MAX);
        let work = (now.since(self.busy_since) / events).max(Duration::from_nanos(1));
        self.busy_since = now;
        // Of two, the slower one counts: a single fast event says little.
        let is_starved = is_held_up && self.taken == Some(self.delivered);
        let slower = work.max(std::mem::replace(&mut self.last_work, work));
        self.ahead = self.ahead_at(slower, is_starved).min(u64::from(window_events / 2)).max(1);
    }

    fn ahead_at(&self, work: Duration, is_starved: bool) -> u64 {
        let Some(round_trip) = self.round_trip else { return 1 };
        let span = round_trip.saturating_mul(ROUND_TRIPS);
        if work >= span {
            return 1;
        }
        let wished = u64::try_from(span.as_nanos().div_ceil(work.as_nanos().max(1))).unwrap_or(u64::MAX).max(2);
        let before = self.ahead();
        if is_starved {
            // The round trips were longer than they look.
            return before.saturating_mul(2).min(wished.saturating_mul(16)).max(wished.min(before.saturating_mul(4)));
        }
        wished.min(before.saturating_mul(4)).max(before - before / 8)
    }

    /// At how many items left the shell is to say that the app wants more, if that is news to it.
    pub(super) fn left_news(&mut self) -> Option<u64> {
        if !self.is_on {
            return None;
        }
        let left = if self.named_at.is_some() { 0 } else { self.ahead() / 2 };
        (self.told_left.replace(left) != Some(left)).then_some(left)
    }

    fn ahead(&self) -> u64 {
        self.ahead.max(1)
    }

    /// The nth through which the app had taken what was delivered, when it last asked.
    fn taken_nth(&self) -> Option<Nth> {
        let left = self.delivered - self.taken?;
        Some(Nth(self.nth.0.saturating_sub(left)))
    }

    fn goal(&self) -> Option<Nth> {
        Some(self.taken_nth()?.saturating_add(self.ahead()))
    }
}

/// What is named ahead of a fast app, in round trips. An app that takes longer than that for an event has only the event
/// named that it is about to take: waiting for the answer costs it at most a fifth of its time.
const ROUND_TRIPS: u32 = 4;

/// No round trip counts as shorter.
const SHORTEST: Duration = Duration::from_micros(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// An app at a steady pace, with a server that answers after a round trip and always has more.
    struct World {
        pace: Pace,
        now: Instant,
        round_trip: Duration,
        answer_at: Option<(Instant, Nth)>,
        delivered: u64,
        taken: u64,
        left_max: u64,
        waited: Duration,
    }

    impl World {
        fn new(round_trip: Duration) -> World {
            let mut world = World {
                pace: Pace::default(),
                now: Instant::ORIGIN,
                round_trip,
                answer_at: None,
                delivered: 0,
                taken: 0,
                left_max: 0,
                waited: Duration::ZERO,
            };
            let named = world.pace.begin(true, Nth::ZERO, world.now).unwrap();
            world.answer_at = Some((world.now + round_trip, named));
            world
        }

        fn pump(&mut self) {
            while self.pace.allows(Nth(self.delivered + 1)) {
                self.delivered += 1;
                self.pace.delivered(Nth(self.delivered), true, self.now);
            }
            if let Some(named) = self.pace.name(self.now) {
                assert!(self.answer_at.is_none(), "one name at a time");
                self.answer_at = Some((self.now + self.round_trip, named));
            }
        }

        fn pass(&mut self, until: Instant) {
            while let Some((at, nth)) = self.answer_at.filter(|(at, _)| *at <= until) {
                self.answer_at = None;
                self.now = at;
                self.pace.noted(nth, at);
                self.pump();
            }
            self.now = self.now.max(until);
        }

        /// The app asks for an event, waits for it, and works on it.
        fn step(&mut self, work: Duration) {
            self.pace.left_news();
            if self.delivered - self.taken <= self.pace.told_left.unwrap_or(0) {
                let is_held_up = !self.pace.allows(Nth(self.delivered + 1));
                self.pace.wanted(self.taken, is_held_up, 1024, self.now);
                self.pump();
            }
            while self.delivered == self.taken {
                let (at, _) = self.answer_at.expect("an app that asks gets an event in the end");
                self.waited += at.since(self.now);
                self.pass(at);
            }
            self.taken += 1;
            self.left_max = self.left_max.max(self.pace.named.0 - self.taken);
            self.pass(self.now + work);
        }
    }

    #[test]
    fn a_slow_app_has_only_the_event_named_that_it_is_about_to_take() {
        let mut world = World::new(Duration::from_micros(200));
        (0..1000).for_each(|_| world.step(Duration::from_millis(1)));
        assert_eq!(world.left_max, 0);
    }

    #[test]
    fn a_fast_app_is_named_far_enough_ahead_that_it_hardly_waits() {
        for micros in [1, 10, 100, 300] {
            let mut world = World::new(Duration::from_micros(200));
            let work = Duration::from_micros(micros);
            (0..1000).for_each(|_| world.step(work));
            world.waited = Duration::ZERO;
            (0..10_000).for_each(|_| world.step(work));
            assert!(world.waited < work * 500, "{micros} us: waited {:?} of {:?}", world.waited, work * 10_000);
            let round_trips = work * u32::try_from(world.left_max).unwrap();
            assert!(round_trips <= world.round_trip * 8 + work * 2, "{micros} us: {} ahead", world.left_max);
        }
    }

    #[test]
    fn an_app_that_grows_slow_has_one_event_named_again_and_one_long_answer_changes_nothing() {
        let mut world = World::new(Duration::from_micros(200));
        (0..1000).for_each(|_| world.step(Duration::from_micros(10)));
        let named = world.pace.named.0 - world.taken;
        assert!(named > 10);
        (0..named + 2).for_each(|_| world.step(Duration::from_millis(5)));
        world.left_max = 0;
        world.round_trip = Duration::from_millis(100);
        world.step(Duration::from_millis(5));
        world.round_trip = Duration::from_micros(200);
        (0..10).for_each(|_| world.step(Duration::from_millis(5)));
        assert_eq!(world.left_max, 0);
    }

    #[test]
    fn nothing_is_named_before_the_app_asks() {
        let mut pace = Pace::default();
        assert_eq!(pace.begin(true, Nth(7), Instant::ORIGIN), Some(Nth(7)));
        pace.noted(Nth(7), Instant::ORIGIN);
        assert!(pace.allows(Nth(7)) && !pace.allows(Nth(8)));
        assert_eq!(pace.name(Instant::ORIGIN), None);
        pace.wanted(0, false, 1024, Instant::ORIGIN);
        assert_eq!(pace.name(Instant::ORIGIN), Some(Nth(8)));
    }
}
