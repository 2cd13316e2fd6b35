//! Faults below the store: an fsync that fails, a disk that fills up, files that are damaged.
//!
//! `STORE_DAMAGES=200` damages more copies than the default. What cannot run here says so; `make test` leaves it out.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail, and says what it did")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use redeliver_log::kv::sled::{SledConfig, SledKv};
use redeliver_log::kv::{Direction, Kv, KvError, WriteBatch};
use redeliver_tests::chance::Chance;
use redeliver_tests::needs::Need;
use redeliver_tests::power_cut::{FileSystem, PowerCutDisk};
use redeliver_tests::writer::{Store, Told};

#[test]
fn a_failed_fsync_ends_the_store_and_nothing_acknowledged_is_lost() {
    if let Some(why) = Need::Strace.missing() {
        println!("SKIPPED: failing fsyncs: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::new(Path::new(env!("CARGO_BIN_EXE_bare-store")), dir.path().join("store"));
    let mut told = Told::default();
    for nth in [1, 2, 3, 7, 20, 45] {
        let inject = format!("inject=fdatasync:error=EIO:when={nth}");
        let trace = dir.path().join("trace").display().to_string();
        let words = ["strace", "-f", "-o", &trace, "-e", "trace=fdatasync", "-e", &inject];
        store.under = words.map(str::to_owned).to_vec();
        let commits_before = told.commits;
        let failed = store.start(nth, &told, None).unwrap().ended().unwrap();
        assert!(!failed.status.success(), "it must not go on");
        assert!(failed.errors.contains("syncing the store's file"), "{failed:?}");
        assert!(!failed.errors.contains("panicked"), "{failed:?}");
        assert!(failed.told.commits - commits_before < nth, "nothing is acknowledged after the failure: {failed:?}");
        told = failed.told;
        store.under = Vec::new();
        let checked = store.start(nth, &told, Some(30)).unwrap().ended().unwrap();
        assert!(checked.status.success(), "after a failure of fdatasync {nth}: {checked:?}");
        told = checked.told;
    }
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_reads_and_is_used_again_once_it_is_freed() {
    if let Some(why) = PowerCutDisk::unavailable(FileSystem::Ext4) {
        println!("SKIPPED: full disks: {why}");
        return;
    }
    let disk = PowerCutDisk::new(FileSystem::Ext4, 64 * 1024 * 1024).unwrap();
    let dir = disk.path().join("store");
    let junk = disk.path().join("junk");
    let kv = SledKv::open(&dir, &SledConfig::default()).unwrap();
    let mut keys = 0;
    while write(&kv, keys..keys + 20) {
        keys += 20;
        assert!(keys < 20_000, "the disk never fills");
    }
    assert!(keys > 1_000, "only {keys} keys of 7,000 bytes fit");
    assert_holds(&kv, keys);
    fill(&junk);
    assert!(!write(&kv, keys..keys + 1));
    assert_holds(&kv, keys);

    drop(kv);
    let kv = SledKv::open(&dir, &SledConfig::default()).unwrap();
    assert_holds(&kv, keys);
    assert!(!write(&kv, keys..keys + 1));
    fs::remove_file(&junk).unwrap();
    assert!(delete(&kv, keys - 20..keys), "deletes go on with little room");
    assert!(delete(&kv, 0..keys - 20));
    let mut again = 0;
    while again < 1_000 && write(&kv, again..again + 20) {
        again += 20;
    }
    assert_eq!(again, 1_000, "what was deleted makes room without a restart");
    drop(kv);
    let kv = SledKv::open(&dir, &SledConfig::default()).unwrap();
    assert_holds(&kv, 1_000);
    assert!(write(&kv, 1_000..1_001), "nor does a restart forget the room that was made");
}

#[test]
fn a_damaged_store_is_an_error_or_whole_and_never_a_panic_or_a_hang() {
    let temp = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_bare-store"));
    let original = Store::new(program, temp.path().join("original"));
    let written = original.start(5, &Told::default(), Some(40)).unwrap().ended().unwrap();
    assert!(written.status.success(), "{written:?}");
    // Opened once more, so that there is a snapshot too.
    let written = original.start(6, &written.told, Some(20)).unwrap().ended().unwrap();
    assert!(written.status.success(), "{written:?}");
    let damages = std::env::var("STORE_DAMAGES").map_or(DAMAGES, |damages| damages.parse().unwrap());
    let mut chance = Chance::new(1);
    let mut whole = 0;
    for number in 0..damages {
        let copy = Store::new(program, temp.path().join("copy"));
        let damage = damaged_copy(&original.dir, &copy.dir, &mut chance);
        let ended = copy.start(number, &written.told, Some(1)).unwrap().ended().unwrap();
        assert_eq!(ended.status.signal(), None, "damage {number} ({damage}): {}", ended.errors);
        assert!(ended.status.code().is_some_and(|code| code < 2), "damage {number} ({damage}): {ended:?}");
        whole += u64::from(ended.status.success());
    }
    println!("{damages} damaged copies: {whole} were whole nevertheless, {} gave an error", damages - whole);
    assert!(whole < damages, "no damage was found");
}

/// Copies a directory and damages one file in it. Says how.
fn damaged_copy(from: &Path, to: &Path, chance: &mut Chance) -> String {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        if entry.metadata().unwrap().is_file() && entry.file_name() != "reserve" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            files.push(entry.file_name());
        }
    }
    files.sort();
    let rare = usize::try_from(chance.below(u64::try_from(files.len()).unwrap())).unwrap();
    let name = if chance.once_in(4) { files[rare].clone() } else { "db".into() };
    let file = OpenOptions::new().read(true).write(true).open(to.join(&name)).unwrap();
    let bytes = file.metadata().unwrap().len();
    let at = chance.below(bytes);
    let how = match chance.below(4) {
        0 => {
            file.set_len(at).unwrap();
            "truncated"
        }
        1 => {
            let page = at / 4_096 * 4_096;
            let zeroes = vec![0; usize::try_from((bytes - page).min(4_096 * chance.between(1, 9))).unwrap()];
            file.write_all_at(&zeroes, page).unwrap();
            "zeroed"
        }
        2 => {
            // The segments' headers are few bytes among many, and the most delicate ones.
            let header = at / SEGMENT_BYTES * SEGMENT_BYTES + chance.below(20);
            flip(&file, header.min(bytes - 1), chance);
            "flipped in a header"
        }
        _ => {
            flip(&file, at, chance);
            "flipped"
        }
    };
    format!("{} {how} at {at}", name.display())
}

fn flip(file: &File, at: u64, chance: &mut Chance) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << chance.below(8);
    file.write_all_at(&byte, at).unwrap();
}

/// Whether there was room for them.
fn write(kv: &SledKv, numbers: std::ops::Range<u32>) -> bool {
    let mut batch = WriteBatch::default();
    numbers.for_each(|number| batch.put(number.to_be_bytes().to_vec(), value(number)));
    apply(kv, &batch)
}

fn delete(kv: &SledKv, numbers: std::ops::Range<u32>) -> bool {
    numbers.collect::<Vec<_>>().chunks(100).all(|numbers| {
        let mut batch = WriteBatch::default();
        numbers.iter().for_each(|number| batch.delete(number.to_be_bytes().to_vec()));
        apply(kv, &batch)
    })
}

fn apply(kv: &SledKv, batch: &WriteBatch) -> bool {
    match kv.apply_batch(batch) {
        Ok(()) => kv.sync().map(|()| true).unwrap(),
        Err(KvError::Full) => false,
        Err(error) => panic!("{error}"),
    }
}

fn assert_holds(kv: &SledKv, keys: u32) {
    let mut entries = kv.range(&[0], &[0xff], Direction::Up).map(Result::unwrap);
    for number in 0..keys {
        assert!(entries.next() == Some((number.to_be_bytes().to_vec(), value(number))), "key {number}");
    }
    assert!(entries.next().is_none());
}

fn value(number: u32) -> Vec<u8> {
    let mut chance = Chance::new(number.into());
    (0..875).flat_map(|_| chance.bits().to_be_bytes()).collect()
}

/// Takes all the room that is left.
fn fill(junk: &Path) {
    let mut file = File::create(junk).unwrap();
    for block in [vec![1; 65_536], vec![1; 512]] {
        while file.write_all(&block).is_ok() {}
    }
    let _ = file.sync_all();
}

const DAMAGES: u64 = 20;
const SEGMENT_BYTES: u64 = 1024 * 1024;
