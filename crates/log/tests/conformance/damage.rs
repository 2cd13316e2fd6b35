//! Damage: honest gaps and errors, never a panic, never a cut of what follows.

use std::collections::BTreeMap;

use redeliver_log::LogConfig;
use redeliver_log::kv::faulty::Image;
use redeliver_protocol::history::{Cursor, GapCause, Start};
use redeliver_protocol::redelivery::DeliveredThrough;
use redeliver_protocol::seq::{EmitNumber, Nth};

use crate::bench::{Bench, Got, at, event, known, publisher};

fn keys(image: &Image, prefix: u8) -> Vec<Vec<u8>> {
    image.entries().map(|(key, _)| key.to_vec()).filter(|key| key[0] == prefix).collect()
}

fn flip(image: &mut Image, key: &[u8], at: usize) {
    let mut value = image.entries().find(|(other, _)| *other == key).unwrap().1.to_vec();
    let at = at % value.len();
    value[at] ^= 0x10;
    image.set(key, Some(&value));
}

/// A log with every kind of key: folded runs of large and small topics, a tail, publishers, cursors, two epochs.
fn full() -> Bench {
    let mut config = LogConfig::default();
    config.fold_bytes = 6_000;
    config.recent_bytes_max = 0;
    let mut bench = Bench::with(config);
    for round in 0..120_u64 {
        let small = format!("small{}", round % 30);
        bench.emit(vec![
            event(&["large"], &format!("{round}")),
            event(&[&small, "both"], &format!("{}{round}", if round % 9 == 0 { "~" } else { "" })),
        ]);
        bench.publish(1, 0, round + 1, &["x"]);
        if round == 60 {
            bench.tend_all();
            bench = bench.reopen();
        }
    }
    let cursor = Cursor::new(known(at(1, 3), 1), DeliveredThrough(Nth(1)));
    bench.save("me", "large", &cursor);
    bench.maintain();
    bench
}

/// What a reader gets: events and lost counts by nth. Checks that nothing is skipped in silence.
fn survey(bench: &Bench, topic: &str) -> BTreeMap<u64, String> {
    let opened = bench.open_at(topic, Start::After(known(at(1, 0), 0)));
    let mut found = BTreeMap::new();
    let mut nth = 0;
    let mut lose = |from: u64, count: u64, cause| {
        assert_eq!(cause, GapCause::LogDamaged);
        for lost in from + 1..=from + count {
            found.insert(lost, "lost".to_owned());
        }
    };
    if let Some(gap) = &opened.gap {
        lose(0, gap.count, gap.cause);
        nth = gap.nth_through.0;
    }
    let mut events = Vec::new();
    for got in bench.follow(topic, opened.after.seq.0, opened.nth.0) {
        match got {
            Got::Event { nth: next, payload, .. } => {
                nth = next;
                events.push((next, payload));
            }
            Got::Gap(gap) => {
                lose(nth, gap.count, gap.cause);
                nth = gap.nth_through.0;
            }
        }
    }
    found.extend(events);
    found
}

#[test]
fn a_flipped_bit_in_any_value_costs_its_own_events_at_most_and_is_told() {
    let bench = full();
    let topics = ["large", "both", "small3", "small17", "t"];
    let expected: Vec<_> = topics.iter().map(|topic| survey(&bench, topic)).collect();
    let image = bench.kv.durable();
    for prefix in *b"ltgrdhpqemx" {
        for (index, key) in keys(&image, prefix).iter().enumerate() {
            // A few of each kind will do.
            if index % 7 != 0 && prefix != b'm' {
                continue;
            }
            let mut damaged = image.clone();
            flip(&mut damaged, key, 3 + index * 13);
            let other = bench.restored(&damaged, 90);
            let head = other.say("large", "after");
            assert!(head >= 361, "no seq is given twice: {head}");
            for (topic, expected) in topics.iter().zip(&expected) {
                let found = survey_any(&other, topic, prefix);
                let kept = found.values().filter(|payload| *payload != "lost").count();
                let lost = expected.len().saturating_sub(kept);
                assert!(lost <= 130, "{} of {topic} lost by {}", lost, char::from(prefix));
                if matches!(prefix, b'h' | b'r' | b'p' | b'q' | b'm') {
                    assert!(kept >= expected.len(), "{topic} lost events by a damaged {}", char::from(prefix));
                }
            }
            other.tend_all();
            other.say("large", "and on");
            assert_eq!(other.reopen().head_seq(), head + 1);
        }
    }
}

/// As [`survey`]; where a topic's name or the lineage is what is damaged, only that nothing panics.
fn survey_any(bench: &Bench, topic: &str, prefix: u8) -> BTreeMap<u64, String> {
    if matches!(prefix, b'd' | b'e') {
        let opened = bench.open_at(topic, Start::Earliest);
        let got = bench.follow(topic, opened.after.seq.0, opened.nth.0);
        return got.into_iter().enumerate().map(|(at, got)| (at as u64, format!("{got:?}"))).collect();
    }
    survey(bench, topic)
}

#[test]
fn a_damaged_value_of_a_topic_is_one_gap_and_what_follows_is_there() {
    let bench = full();
    let expected = survey(&bench, "large");
    let image = bench.kv.durable();
    let folded = keys(&image, b't');
    let key = folded[folded.len() / 2].clone();
    let damaged = bench.damaged(|image| flip(image, &key, 40));
    let found = survey(&damaged, "large");
    let lost: Vec<u64> = found.iter().filter(|(_, payload)| *payload == "lost").map(|(nth, _)| *nth).collect();
    let topic_is_hit = !lost.is_empty();
    assert!(
        topic_is_hit
            || survey(&damaged, "both").values().any(|payload| payload == "lost")
            || survey(&damaged, "t").values().any(|payload| payload == "lost")
    );
    for (nth, payload) in &found {
        assert!(payload == "lost" || *payload == expected[nth]);
    }
    assert_eq!(found.len(), expected.len(), "every nth is an event or told to be lost");
    assert!(damaged.log.stats().damaged_reads > 0);
}

#[test]
fn a_damaged_commit_in_the_tail_is_a_gap_for_each_of_its_topics() {
    let bench = Bench::new();
    bench.say("a", "1");
    bench.emit(vec![event(&["a"], "2"), event(&["b"], "1"), event(&["a"], "3")]);
    bench.say("a", "4");
    bench.say("b", "2");
    let bench = bench.damaged(|image| {
        let key = keys(image, b'l')[1].clone();
        flip(image, &key, 60);
    });
    let got = bench.follow("a", 0, 0);
    let [Got::Event { nth: 1, .. }, Got::Gap(gap), Got::Event { nth: 4, payload, .. }] = &got[..] else {
        panic!("{got:?}")
    };
    assert_eq!((gap.count, gap.count_is_exact, gap.cause, payload.as_str()), (2, true, GapCause::LogDamaged, "4"));
    assert_eq!((gap.after.seq.0, gap.through.seq.0), (1, 4));
    assert!(matches!(&bench.follow("b", 0, 0)[..], [Got::Gap(gap), Got::Event { nth: 2, .. }] if gap.count == 1));
    let opened = bench.open_at("a", Start::After(known(at(1, 1), 1)));
    assert_eq!(opened.gap.map(|gap| (gap.count, gap.cause)), Some((2, GapCause::LogDamaged)));
}

#[test]
fn a_last_commit_that_is_damaged_gives_none_of_its_seqs_away() {
    let bench = Bench::new();
    bench.say("a", "1");
    bench.say("a", "2");
    let bench = bench.damaged(|image| {
        let key = keys(image, b'l')[1].clone();
        flip(image, &key, 60);
    });
    assert!(bench.head_seq() > 2);
    let seq = bench.say("a", "3");
    assert!(seq > 3);
    let got = bench.follow("a", 2, 2);
    assert!(matches!(&got[..], [Got::Gap(gap), Got::Event { .. }] if gap.cause == GapCause::LogDamaged), "{got:?}");
}

#[test]
fn an_unfinished_last_commit_disappears() {
    let bench = Bench::new();
    bench.say("a", "1");
    bench.say("a", &"2".repeat(30_000));
    let bench = bench.damaged(|image| {
        let pieces = keys(image, b'l');
        image.set(&pieces[3], None);
        image.set(pieces.last().unwrap(), None);
    });
    assert_eq!((bench.head_seq(), bench.payloads("a")), (1, vec!["1".to_owned()]));
    assert_eq!(bench.say("a", "3"), 2);
    assert_eq!(bench.reopen().payloads("a"), ["1", "3"]);
}

#[test]
fn a_topic_whose_name_is_lost_is_told_to_who_knew_it() {
    let mut config = LogConfig::default();
    config.fold_bytes = 100;
    let bench = Bench::with(config);
    for round in 0..20 {
        bench.say("t", &round.to_string());
    }
    bench.say("u", "x");
    bench.tend_all();
    let bench = bench.damaged(|image| {
        let key = keys(image, b'd')[0].clone();
        flip(image, &key, 25);
    });
    let opened = bench.open_at("t", Start::After(known(at(1, 10), 10)));
    let gap = opened.gap.unwrap();
    assert_eq!((gap.cause, gap.count_is_exact, gap.through.seq.0), (GapCause::LogDamaged, false, 21));
    bench.say("t", "again");
    assert_eq!(bench.follow("t", opened.after.seq.0, opened.nth.0).len(), 1);
}

#[test]
fn a_damaged_cursor_is_no_new_subscriber() {
    let bench = full();
    let bench = bench.damaged(|image| {
        let key = keys(image, b'c')[0].clone();
        flip(image, &key, 20);
    });
    let cursor = bench.cursor("me", "large").unwrap();
    let opened = bench.open_with("large", &Start::Resume { at_least: None }, Some(&cursor));
    assert_eq!(opened.gap.map(|gap| gap.cause), Some(GapCause::EpochChanged), "it is told, and gets what there is");
    assert_eq!(opened.pending, 120);
}

#[test]
fn a_damaged_publisher_is_forgotten_not_new() {
    let bench = full();
    let bench = bench.damaged(|image| {
        for key in keys(image, b'p').into_iter().chain(keys(image, b'l')) {
            flip(image, &key, 9);
        }
    });
    let state = bench.log.publisher(publisher(1), EmitNumber(120)).unwrap();
    assert_eq!(state, redeliver_protocol::history::PublisherState::Forgotten);
}

/// Sets the version in the format key.
fn set_format(image: &mut Image, version: u8) {
    let meta = keys(image, b'm')[0].clone();
    let value = image.entries().find(|(key, _)| *key == meta).unwrap().1.to_vec();
    let mut body = value[4..].to_vec();
    body[0] = version;
    image.set(&meta, Some(&sealed(&meta, &body)));
}

fn sealed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), body);
    [&crc.to_le_bytes()[..], body].concat()
}

#[test]
fn a_log_of_format_1_is_read_and_becomes_one_of_format_2() {
    let bench = full();
    let topics = ["large", "both", "small3", "small17", "t"];
    let expected: Vec<_> = topics.iter().map(|topic| survey(&bench, topic)).collect();
    let mut image = bench.kv.durable();
    set_format(&mut image, 1);
    // Format 1 has a key for each topic in the place of names and heads.
    for key in keys(&image, b'd') {
        let value = image.entries().find(|(other, _)| *other == key).unwrap().1.to_vec();
        let (mut at, mut id) = (4, 0_u32);
        while at < value.len() {
            assert!(value[at] < 0x80, "an id of one byte");
            id += u32::from(value[at]);
            let end = at + 2 + usize::from(value[at + 1]);
            let name = std::str::from_utf8(&value[at + 2..end]).unwrap();
            let nth = bench.last_nth(name);
            let (seq, length) = (bench.seq_of(name, nth), value[at + 1]);
            let old = [&b"n"[..], &id.to_be_bytes()].concat();
            let body = [&seq.to_le_bytes()[..], &nth.to_le_bytes(), &[length], name.as_bytes()].concat();
            image.set(&old, Some(&sealed(&old, &body)));
            at = end;
        }
    }
    for key in keys(&image, b'd').into_iter().chain(keys(&image, b'h')) {
        image.set(&key, None);
    }
    assert!(keys(&image, b'n').len() > 30);
    let upgraded = bench.restored(&image, 90);
    for round in 0..2 {
        let found: Vec<_> = topics.iter().map(|topic| survey(&upgraded, topic)).collect();
        assert!(found == expected, "round {round}");
        upgraded.tend_all();
    }
    upgraded.say("large", "and on");
    upgraded.tend_all();
    let image = upgraded.reopen().kv.durable();
    let meta = keys(&image, b'm')[0].clone();
    assert_eq!(image.entries().find(|(key, _)| *key == meta).unwrap().1[4], 2);
}

#[test]
fn a_newer_format_is_refused_in_words() {
    let bench = Bench::new();
    let mut newer = bench.kv.durable();
    set_format(&mut newer, 9);
    let kv = std::sync::Arc::new(redeliver_log::kv::faulty::FaultyKv::from_image(&newer));
    let error = crate::bench::open(kv, &bench.config, 2, 0).unwrap_err();
    assert_eq!(error.to_string(), "the data directory has format 9, this version reads up to 2: use a newer redeliver");
}
