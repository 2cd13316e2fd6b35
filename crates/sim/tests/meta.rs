//! The checker is tested itself: a good history is damaged in one place, and the damage must be found, under its name.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a damage is made to one kind of entry, all others stay as they are"
)]

use bytes::Bytes;
use redeliver_protocol::client::{EmitOutcome, StreamItem};
use redeliver_protocol::history::GapCause;
use redeliver_protocol::seq::{Nth, Position, Seq};
use redeliver_sim::checker::{Rule, check};
use redeliver_sim::history::{Entry, History, Run};
use redeliver_sim::seeds;

type Entries = Vec<(redeliver_protocol::time::Instant, Entry)>;

type Make = fn(&mut Entries) -> bool;

struct Damage {
    name: &'static str,
    rules: &'static [Rule],
    /// Damages a history; says whether there was something to damage.
    make: Make,
}

/// Each damage is made to the first good history that has a place for it.
#[test]
fn every_damage_to_a_good_history_is_found() {
    let mut left: Vec<Damage> = damages();
    for seed in 0..SEEDS_MAX {
        if left.is_empty() {
            return;
        }
        let verdict = seeds::run(seed, None);
        assert!(verdict.result.is_ok(), "seed {seed}: {:?}", verdict.result);
        left.retain(|damage| {
            let mut damaged = History { entries: verdict.history.entries.clone() };
            if !(damage.make)(&mut damaged.entries) {
                return true;
            }
            let found = check(&damaged).expect_err(&format!("seed {seed}: {} is not found", damage.name));
            assert!(
                found.iter().any(|v| damage.rules.contains(&v.rule)),
                "seed {seed}: {} is found as {found:?}",
                damage.name
            );
            false
        });
    }
    let names: Vec<&str> = left.iter().map(|damage| damage.name).collect();
    assert!(names.is_empty(), "no history had a place for {names:?}");
}

fn damages() -> Vec<Damage> {
    let list: [(&'static str, &'static [Rule], Make); 24] = [
        ("a volatile event that comes twice", &[Rule::AtMostOnce], |entries| again(entries, is_volatile)),
        ("a volatile event that nobody handed out", &[Rule::NothingInvented], never_handed),
        ("a request that is asked twice", &[Rule::AtMostOnce], |entries| {
            again(entries, |e| matches!(e, Entry::Asked { .. }))
        }),
        ("an answer to another request", &[Rule::NothingInvented], another_answer),
        ("an event that is not delivered", &[Rule::Complete], |entries| remove(entries, is_inner_event)),
        ("an event that is delivered twice", &[Rule::OnceOrMarked], twice),
        ("two events that are delivered in the wrong order", &[Rule::Complete], swapped),
        ("an event of another content", &[Rule::OneContent], |entries| {
            change_event(entries, |record| record.payload = Bytes::from_static(b"other"))
        }),
        ("an event that was never written", &[Rule::DurableFirst], |entries| {
            change_event(entries, |record| record.seq = Seq(record.seq.0 + 100_000))
        }),
        ("a wrong nth", &[Rule::Complete], |entries| {
            change_event(entries, |record| record.nth = Nth(record.nth.0 + 1))
        }),
        ("a receipt with another position", &[Rule::AcknowledgedIsStored], wrong_receipt),
        ("an emit that is never decided", &[Rule::Settles], undecided),
        (
            "a commit that is written down after its events were delivered",
            &[Rule::DurableFirst, Rule::AcknowledgedIsStored],
            late_commit,
        ),
        ("a seq that is given twice", &[Rule::NoHoles], seq_twice),
        ("an emit that is stored twice", &[Rule::NothingInvented], stored_twice),
        ("an ack before its handler", &[Rule::AckAfterHandler], early_ack),
        ("a gap that counts one too many", &[Rule::TrueGaps], |entries| change_gap(entries, |gap| gap.count += 1)),
        ("a gap that is not told", &[Rule::Complete], |entries| {
            remove(entries, |entry| matches!(entry, Entry::Delivered { delivery: StreamItem::Gap { .. }, .. }))
        }),
        ("a gap over what is there", &[Rule::TrueGaps], |entries| {
            change_gap(entries, |gap| (gap.nth_through, gap.count) = (Nth(gap.nth_through.0 + 1), gap.count + 1))
        }),
        ("a log that opens without its last event", &[Rule::NothingTakenBack], shorter_log),
        ("a repeat that is not marked", &[Rule::OnceOrMarked], unmarked),
        ("a cursor that is written by somebody else", &[Rule::OneOwner], |entries| {
            change(entries, |entry| match entry {
                Entry::CursorStaged { connection, .. } => {
                    *connection += 1;
                    true
                }
                _ => false,
            })
        }),
        ("a trim of what is to be kept", &[Rule::TrimsAreDue], early_trim),
        ("a reader that stops", &[Rule::Settles], reader_stops),
    ];
    list.into_iter().map(|(name, rules, make)| Damage { name, rules, make }).collect()
}

fn change(entries: &mut Entries, mut one: impl FnMut(&mut Entry) -> bool) -> bool {
    entries.iter_mut().any(|(_, entry)| one(entry))
}

fn remove(entries: &mut Entries, which: fn(&Entry) -> bool) -> bool {
    let at = entries.iter().position(|(_, entry)| which(entry));
    at.map(|at| entries.remove(at)).is_some()
}

fn is_inner_event(entry: &Entry) -> bool {
    matches!(entry, Entry::Delivered { run: Run(0), delivery: StreamItem::Event { record, .. } } if record.nth.0 == 3 && !record.has_except)
}

fn change_event(entries: &mut Entries, one: fn(&mut redeliver_protocol::event::Record)) -> bool {
    change(entries, |entry| match entry {
        Entry::Delivered { delivery: StreamItem::Event { record, .. }, .. } => {
            one(record);
            true
        }
        _ => false,
    })
}

fn change_gap(entries: &mut Entries, one: fn(&mut redeliver_protocol::history::Gap)) -> bool {
    change(entries, |entry| match entry {
        Entry::Delivered { delivery: StreamItem::Gap { gap, .. }, .. }
            if gap.count > 0 && gap.count_is_exact && gap.cause != GapCause::EpochChanged =>
        {
            one(gap);
            true
        }
        _ => false,
    })
}

fn is_volatile(entry: &Entry) -> bool {
    matches!(entry, Entry::Delivered { delivery: StreamItem::Volatile { .. }, .. })
}

fn again(entries: &mut Entries, which: fn(&Entry) -> bool) -> bool {
    let Some(at) = entries.iter().position(|(_, entry)| which(entry)) else { return false };
    let again = entries[at].clone();
    entries.insert(at + 1, again);
    true
}

/// A volatile event reaches somebody that no app has handed out.
fn never_handed(entries: &mut Entries) -> bool {
    let Some(at) = entries.iter().position(|(_, entry)| is_volatile(entry)) else { return false };
    entries.truncate(at + 1);
    entries.retain(|(_, entry)| !matches!(entry, Entry::Handing { .. }));
    true
}

fn another_answer(entries: &mut Entries) -> bool {
    change(entries, |entry| match entry {
        Entry::Answered { result: Ok(Some(answer)), .. } => {
            *answer += 1;
            true
        }
        _ => false,
    })
}

fn twice(entries: &mut Entries) -> bool {
    let at = entries
        .iter()
        .position(|(_, entry)| matches!(entry, Entry::Delivered { delivery: StreamItem::Event { .. }, .. }));
    let Some(at) = at else { return false };
    let again = entries[at].clone();
    entries.insert(at + 1, again);
    true
}

fn event_of(entry: &Entry) -> Option<(Run, Position)> {
    match entry {
        Entry::Delivered { run, delivery: StreamItem::Event { epoch, record, .. } } => {
            Some((*run, Position::new(*epoch, record.seq)))
        }
        _ => None,
    }
}

fn swapped(entries: &mut Entries) -> bool {
    let events: Vec<(usize, Run)> =
        entries.iter().enumerate().filter_map(|(at, (_, entry))| Some((at, event_of(entry)?.0))).collect();
    let pair = events.windows(2).find(|pair| pair[0].1 == pair[1].1 && pair[0].0 + 1 == pair[1].0);
    let Some(pair) = pair else { return false };
    let (a, b) = (pair[0].0, pair[1].0);
    entries.swap(a, b);
    true
}

fn wrong_receipt(entries: &mut Entries) -> bool {
    change(entries, |entry| match entry {
        Entry::EmitDone { outcome: EmitOutcome::Stored { position, .. }, .. } if position.seq.0 > 1 => {
            position.seq.0 -= 1;
            true
        }
        _ => false,
    })
}

/// The last receipt before everything settles belongs to a process that lives.
fn undecided(entries: &mut Entries) -> bool {
    let living = entries.iter().find_map(|(_, entry)| match entry {
        Entry::Settled { processes, .. } => Some(processes.clone()),
        _ => None,
    });
    let living = living.unwrap_or_default();
    let at =
        entries.iter().rposition(|(_, e)| matches!(e, Entry::EmitDone { process, .. } if living.contains(process)));
    at.map(|at| entries.remove(at)).is_some()
}

fn late_commit(entries: &mut Entries) -> bool {
    let Some(delivered) = entries.iter().position(|(_, entry)| event_of(entry).is_some()) else { return false };
    let Some((_, position)) = event_of(&entries[delivered].1) else { return false };
    let committed = entries.iter().position(
        |(_, entry)| matches!(entry, Entry::Committed(events) if events.iter().any(|(_, at)| *at == position)),
    );
    let Some(committed) = committed.filter(|at| *at < delivered) else { return false };
    let moved = entries.remove(committed);
    entries.insert(delivered, moved);
    true
}

fn seq_twice(entries: &mut Entries) -> bool {
    change(entries, |entry| match entry {
        Entry::Committed(events) if events.len() > 1 => {
            events[1].1 = events[0].1;
            true
        }
        _ => false,
    })
}

fn stored_twice(entries: &mut Entries) -> bool {
    change(entries, |entry| match entry {
        Entry::Committed(events) if events.len() > 1 => {
            events[1].0 = events[0].0;
            true
        }
        _ => false,
    })
}

fn early_ack(entries: &mut Entries) -> bool {
    let handled = entries.iter().position(|(_, entry)| matches!(entry, Entry::Handled { .. }));
    let Some(handled) = handled else { return false };
    let acked = entries[handled..].iter().position(|(_, entry)| match (entry, &entries[handled].1) {
        (Entry::Acked { run, position }, Entry::Handled { run: by, position: at }) => run == by && position == at,
        _ => false,
    });
    let Some(acked) = acked else { return false };
    entries.swap(handled, handled + acked);
    true
}

fn shorter_log(entries: &mut Entries) -> bool {
    let last = entries.iter().rposition(|(_, entry)| matches!(entry, Entry::Opened { .. }));
    let Some(Entry::Opened { head, dump, .. }) = last.map(|at| &mut entries[at].1) else { return false };
    let end = *head;
    if end == Seq::ZERO {
        return false;
    }
    head.0 -= 1;
    for topic in dump {
        topic.events.retain(|event| event.position.seq != end);
    }
    true
}

/// A repeat of an event that another run under the same name had been given.
fn unmarked(entries: &mut Entries) -> bool {
    let repeats: Vec<usize> = entries
        .iter()
        .enumerate()
        .filter(|(_, (_, entry))| {
            matches!(entry, Entry::Delivered { delivery: StreamItem::Event { redelivered: true, .. }, .. })
        })
        .map(|(at, _)| at)
        .collect();
    repeats.into_iter().any(|at| {
        let Some((_, position)) = event_of(&entries[at].1) else { return false };
        let given_before = entries[..at].iter().any(|(_, entry)| event_of(entry).is_some_and(|(_, p)| p == position));
        let is_violation = given_before && {
            let mut damaged = History { entries: entries.clone() };
            unmark(&mut damaged.entries[at].1);
            check(&damaged).is_err()
        };
        if is_violation {
            unmark(&mut entries[at].1);
        }
        is_violation
    })
}

fn unmark(entry: &mut Entry) {
    if let Entry::Delivered { delivery: StreamItem::Event { redelivered, .. }, .. } = entry {
        *redelivered = false;
    }
}

fn early_trim(entries: &mut Entries) -> bool {
    let keeps_all = entries.iter().any(|(_, entry)| {
        matches!(entry, Entry::Configured(kept) if kept.count.is_none() && kept.bytes.is_none() && kept.age_micros.is_none())
    });
    let stored = entries.iter().position(|(_, entry)| matches!(entry, Entry::Settled { .. }));
    let topic = entries.iter().find_map(|(_, entry)| match entry {
        Entry::Dumped { dump, .. } => {
            dump.iter().find(|topic| !topic.events.is_empty()).map(|topic| topic.topic.clone())
        }
        _ => None,
    });
    let (true, Some(at), Some(topic)) = (keeps_all, stored, topic) else { return false };
    let when = entries[at].0;
    entries.insert(at, (when, Entry::Floor { topic, nth: Nth(1) }));
    true
}

fn reader_stops(entries: &mut Entries) -> bool {
    let settled = entries.iter().find_map(|(_, entry)| match entry {
        Entry::Settled { runs, .. } => Some(runs.clone()),
        _ => None,
    });
    let Some(run) = settled
        .unwrap_or_default()
        .into_iter()
        .find(|run| entries.iter().any(|(_, entry)| event_of(entry).is_some_and(|(by, _)| by == *run)))
    else {
        return false;
    };
    let last = entries.iter().rposition(|(_, entry)| event_of(entry).is_some_and(|(by, _)| by == run));
    let Some(last) = last else { return false };
    let (at, _) = entries[last].clone();
    let mut index = 0;
    entries.retain(|(_, entry)| {
        let goes = index >= last && concerns(entry, run);
        index += 1;
        !goes
    });
    let _ = at;
    true
}

fn concerns(entry: &Entry, run: Run) -> bool {
    match entry {
        Entry::Delivered { run: by, .. }
        | Entry::Handled { run: by, .. }
        | Entry::Acked { run: by, .. }
        | Entry::Confirmed { run: by, .. } => *by == run,
        _ => false,
    }
}

/// Far more than are needed to find a place for each damage.
const SEEDS_MAX: u64 = 300;
