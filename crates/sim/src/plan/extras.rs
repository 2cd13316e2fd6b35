//! What a seed draws apart from all else, each thing from a generator of its own: a seed that draws none of it is the
//! seed that it always was. Nothing of it is drawn where a seed is kept for what it once was.

use std::time::Duration;

use redeliver_protocol::history::{FirstStart, Start};

use super::{ClientPlan, FollowPlan, KeeperPlan};
use crate::mutants::Mutant;
use crate::regressions::{MERGED_REGRESSIONS, REGRESSIONS};
use crate::rng::Rng;

/// What was added to the simulation later, and which of it this seed draws.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// Some events are kept from readers.
    pub(crate) excepts: bool,
    /// Readers with a cursor say where they start first, and are moved now and then.
    pub(crate) rewinds: bool,
    /// A process may claim that numbers are settled which no process has emitted.
    pub(crate) claims: bool,
    /// Durable readers name what they are about to hand over.
    pub(crate) names_deliveries: bool,
    /// Mean pause between two times that the server's clock is set, beyond what the faults do to it.
    pub(crate) clock_pause: Option<Duration>,
    /// At the end the log is given the time in which everything passes its age.
    pub(crate) waits_for_age: bool,
}

impl Extras {
    pub(super) fn new(seed: u64, topics: usize, store_faults: bool) -> Extras {
        if REGRESSIONS.contains(&seed) || MERGED_REGRESSIONS.contains(&seed) {
            return Extras::default();
        }
        let draw = |salt: u64| Rng::new(seed ^ salt);
        let mut clock = draw(0xC10C_4C10_C4C1_0001);
        let is_set = clock.chance(400);
        Extras {
            // A log that is lost takes along who was not to get an event.
            excepts: draw(0xE8CE_97E8_CE97_0001).chance(500) && topics > 1 && !store_faults,
            rewinds: draw(0x4E31_4DD4_E314_0001).chance(500),
            // A log that is lost cannot tell a number that never came from one that it has forgotten.
            claims: draw(0x5E77_1ED5_E771_0001).chance(400) && !store_faults,
            names_deliveries: draw(0x7A4E_57A4_E57A_0001).chance(400),
            clock_pause: is_set.then(|| Duration::from_millis(*clock.pick(&[300, 1_500, 4_000]))),
            waits_for_age: true,
        }
    }
}

/// Mean pause between two things that are not logged.
pub(super) fn aside_pause(seed: u64) -> Option<Duration> {
    let mut rng = Rng::new(seed ^ 0xA51D_E5A5_1DE5_0001);
    let is_drawn = rng.chance(500) && !REGRESSIONS.contains(&seed);
    is_drawn.then(|| Duration::from_millis(*rng.pick(&[20, 200, 1_000])))
}

/// The first client or two, where there are several topics whose history nobody takes away.
pub(super) fn rows(seed: u64, topics: usize, store_faults: bool) -> Vec<usize> {
    let mut rng = Rng::new(seed ^ 0x4073_4073_4073_0001);
    let is_drawn = rng.chance(600) && topics > 1 && !store_faults && !REGRESSIONS.contains(&seed);
    (0..if is_drawn { 1 + rng.index(2) } else { 0 }).collect()
}

/// Somebody who only connects, as somebody else's publisher.
pub(super) fn thief(seed: u64) -> Option<ClientPlan> {
    let mut rng = Rng::new(seed ^ 0x7813_F781_3F78_0001);
    let is_drawn = rng.chance(400) && !REGRESSIONS.contains(&seed);
    is_drawn.then(|| ClientPlan {
        subscriber: None,
        follows: Vec::new(),
        emit_pause: None,
        burst_max: 1,
        is_thief: true,
        replays: true,
        handler_micros_max: 0,
    })
}

/// When a sync fails. A broken server's syncs are broken already.
pub(super) fn sync_failure(seed: u64, mutant: Option<Mutant>) -> Option<Duration> {
    let mut rng = Rng::new(seed ^ 0xFA11_FA11_FA11_0001);
    let is_drawn = rng.chance(200) && mutant.is_none() && !REGRESSIONS.contains(&seed);
    is_drawn.then(|| Duration::from_millis(rng.between(500, 12_000)))
}

/// Where a durable reader starts that its server does not know yet.
pub(super) fn first_start(seed: u64, at: usize, follow: &mut FollowPlan) {
    let mut rng = Rng::new(seed ^ 0xF145_7F14_57F1_0001 ^ (at as u64) << 8);
    let first = match rng.below(4) {
        0 => FirstStart::Latest,
        1 => FirstStart::Last(rng.between(0, 20)),
        _ => FirstStart::Earliest,
    };
    if follow.keeper == KeeperPlan::Server && rng.chance(700) {
        follow.start = Start::ResumeOr { at_least: None, first };
    }
}
