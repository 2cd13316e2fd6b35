//! Seeds: a moderate number is run and judged, those that once failed are run again, and one seed is one history.

use redeliver_sim::checker::{Figures, Rule};
use redeliver_sim::mutants::Mutant;
use redeliver_sim::regressions::{LATER_REGRESSIONS, MERGED_REGRESSIONS, REGRESSIONS};
use redeliver_sim::seeds;

#[test]
fn two_hundred_seeds_keep_the_promise() {
    let mut sum = Figures::default();
    for seed in 10_000..10_200 {
        let verdict = seeds::run(seed, None);
        match &verdict.result {
            Ok(figures) => sum += *figures,
            Err(violations) => panic!("seed {seed}: {violations:#?}\n{}", verdict.trace(Some(60))),
        }
    }
    // It was not easy: everything that is to be borne has happened.
    assert!(sum.acknowledged > 10_000 && sum.delivered > 10_000, "{sum:?}");
    assert!(sum.redelivered > 100 && sum.gaps > 100 && sum.epoch_gaps > 10, "{sum:?}");
    assert!(sum.openings > 400 && sum.takeovers > 0, "{sum:?}");
    assert!(sum.merged > 1_000, "{sum:?}");
    assert!(sum.volatile > 1_000 && sum.answers > 1_000, "{sum:?}");
}

#[test]
fn seeds_that_once_failed_do_not_fail_again() {
    for seed in REGRESSIONS.iter().chain(MERGED_REGRESSIONS).chain(LATER_REGRESSIONS) {
        let verdict = seeds::run(*seed, None);
        assert!(verdict.result.is_ok(), "seed {seed}: {:#?}\n{}", verdict.result, verdict.trace(Some(60)));
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..10 {
        let (once, twice) = (seeds::run(seed, None), seeds::run(seed, None));
        assert_eq!(once.history.entries.len(), twice.history.entries.len(), "seed {seed}");
        assert_eq!(once.history.hash(), twice.history.hash(), "seed {seed}");
    }
    assert_ne!(seeds::run(1, None).history.hash(), seeds::run(2, None).history.hash());
}

#[test]
fn an_ack_before_the_sync_is_convicted() {
    convict(Mutant::AckBeforeSync, &[Rule::NothingTakenBack, Rule::AcknowledgedIsStored]);
}

#[test]
fn a_delivery_before_the_sync_is_convicted() {
    convict(Mutant::DeliverBeforeSync, &[Rule::NothingTakenBack, Rule::DurableFirst]);
}

#[test]
fn a_cursor_before_the_handler_is_convicted() {
    convict(Mutant::CursorBeforeHandler, &[Rule::AckAfterHandler]);
}

#[test]
fn a_cursor_before_the_handler_is_convicted_by_what_it_loses() {
    convict(Mutant::CursorBeforeHandler, &[Rule::Complete]);
}

#[test]
fn left_out_fencing_is_convicted() {
    convict(Mutant::NoFencing, &[Rule::OneOwner]);
}

#[test]
fn left_out_fencing_is_convicted_by_what_it_does_to_cursors() {
    convict(Mutant::NoFencing, &[Rule::AckAfterHandler]);
}

#[test]
fn a_topic_that_a_merged_subscription_leaves_out_is_convicted() {
    convict(Mutant::MergedMemberSkipped, &[Rule::Complete]);
}

#[test]
fn a_place_without_its_lineage_is_convicted() {
    convict(Mutant::LineageLeftOut, &[Rule::OnceOrMarked, Rule::Complete, Rule::TrueGaps]);
}

#[test]
fn a_publisher_that_another_identity_may_fence_is_convicted() {
    convict(Mutant::IdentityNotChecked, &[Rule::Belongs]);
}

#[test]
fn a_number_that_never_came_and_is_taken_for_stored_is_convicted() {
    convict(Mutant::HoleTakenForStored, &[Rule::AcknowledgedIsStored]);
}

#[test]
fn a_rewind_that_leaves_the_cursor_where_it_was_is_convicted() {
    convict(Mutant::RewindLeavesCursor, &[Rule::Complete]);
}

#[test]
fn an_event_for_those_who_are_not_to_get_it_is_convicted() {
    convict(Mutant::ExceptIgnored, &[Rule::Withheld]);
}

#[test]
fn an_age_by_the_clock_as_it_is_set_is_convicted() {
    convict(Mutant::AgeByRawClock, &[Rule::TrimsAreDue]);
}

/// Runs a broken shell until one of these rules convicts it, as it must within 1,000 seeds.
fn convict(mutant: Mutant, rules: &[Rule]) {
    let convicted = (0..1000).any(|seed| match seeds::run(seed, Some(mutant)).result {
        Ok(_) => false,
        Err(violations) => violations.iter().any(|violation| rules.contains(&violation.rule)),
    });
    assert!(convicted, "{mutant:?} was never convicted of {rules:?}");
}
