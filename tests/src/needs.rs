//! What some tests need that is not everywhere, and which tests those are. `make test` leaves out what cannot run where it
//! is, and says so at the end (see the program `skipped`): a test that did not run does not count as passed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::power_cut::{FileSystem, PowerCutDisk};
use crate::story::Runner;

/// What a test needs.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// A disk with this file system whose power can be cut: root, a loop device, and the system's tools.
    PowerCuts(FileSystem),
    /// `strace`, to let system calls fail.
    Strace,
    /// What runs stories with stock Socket.IO clients.
    Story(Runner),
    /// The compiler's target without an operating system.
    Wasm,
    /// A clock that can be set for one process: libfaketime.
    FakeTime,
    /// kosoku, which runs the cases of Autobahn.
    Kosoku,
}

impl Need {
    /// Why this is not to be had here, in words, or `None` if it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Need::PowerCuts(file_system) => PowerCutDisk::unavailable(file_system),
            Need::Strace => {
                let runs = Command::new("strace").args(["-V"]).output().is_ok_and(|output| output.status.success());
                (!runs).then(|| "strace is not installed".to_owned())
            }
            Need::Story(runner) => runner.unavailable(),
            Need::Wasm => {
                let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
                let sysroot = sysroot.and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
                let is_there = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-unknown-unknown").is_dir();
                (!is_there).then(|| "the target wasm32-unknown-unknown is not installed".to_owned())
            }
            Need::Kosoku => (!kosoku().is_file()).then(|| "kosoku is not installed".to_owned()),
            Need::FakeTime => fake_time().is_none().then(|| "libfaketime is not installed".to_owned()),
        }
    }
}

/// The program that runs the cases of Autobahn, if it is installed.
#[must_use]
pub fn kosoku() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/.venv/bin/kosoku")
}

/// The library that changes a process's clock, if it is installed.
#[must_use]
pub fn fake_time() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let libraries = folders.iter().map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.is_file())
}

/// Tests of this package that need something, each with its test binary. All others run everywhere.
pub const NEEDS: &[(&str, &str, Need)] = &[
    ("power_cut", "nothing_acknowledged_by_the_log_is_lost_to_a_power_cut_on_ext4", Need::PowerCuts(FileSystem::Ext4)),
    ("power_cut", "nothing_acknowledged_by_the_log_is_lost_to_a_power_cut_on_xfs", Need::PowerCuts(FileSystem::Xfs)),
    (
        "server_power_cut",
        "nothing_acknowledged_or_delivered_by_a_server_is_lost_to_a_power_cut_on_ext4",
        Need::PowerCuts(FileSystem::Ext4),
    ),
    (
        "server_power_cut",
        "nothing_acknowledged_or_delivered_by_a_server_is_lost_to_a_power_cut_on_xfs",
        Need::PowerCuts(FileSystem::Xfs),
    ),
    ("store_faults", "a_failed_fsync_ends_the_store_and_nothing_acknowledged_is_lost", Need::Strace),
    (
        "store_faults",
        "a_full_disk_refuses_writes_and_keeps_reads_and_is_used_again_once_it_is_freed",
        Need::PowerCuts(FileSystem::Ext4),
    ),
    ("clock", "a_clock_that_is_set_again_and_again_changes_neither_age_nor_later_times", Need::FakeTime),
    ("clock", "what_became_due_while_a_server_was_off_for_days_goes_and_nothing_else", Need::FakeTime),
    ("imports", "the_protocol_builds_where_there_is_no_operating_system", Need::Wasm),
    ("interop_stories", "engine_io_is_spoken_as_its_protocol_says", Need::Story(Runner::Node)),
    ("interop_stories", "abandoned_handshakes_and_upgrades_leave_nothing", Need::Story(Runner::Node)),
    (
        "interop_stories",
        "socket_io_is_spoken_as_its_protocol_says_and_hostile_packets_close",
        Need::Story(Runner::Node),
    ),
    ("interop_stories", "the_js_client_works_by_polling_by_websocket_and_by_upgrade", Need::Story(Runner::Node)),
    ("interop_stories", "the_js_client_misses_nothing_whatever_cuts_it", Need::Story(Runner::Node)),
    ("interop_stories", "a_thousand_js_clients_miss_nothing_when_the_server_is_killed", Need::Story(Runner::Node)),
    ("interop_stories", "native_clients_and_js_clients_share_topics", Need::Story(Runner::Node)),
    ("interop_stories", "an_apps_rooms_acks_namespaces_and_refusals_work_for_the_js_client", Need::Story(Runner::Node)),
    ("interop_stories", "the_python_client_works_with_handlers_of_fixed_arity", Need::Story(Runner::Python)),
    (
        "interop_stories",
        "an_apps_rooms_acks_namespaces_and_refusals_work_for_the_python_client",
        Need::Story(Runner::Python),
    ),
    ("autobahn", "every_case_of_autobahn_is_passed", Need::Kosoku),
    ("interop_stories", "the_page_shows_what_was_missed_in_a_real_browser", Need::Story(Runner::Browser)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_that_needs_something_exists() {
        for (binary, test, _) in NEEDS {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(format!("{binary}.rs"));
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            assert!(text.contains(&format!("fn {test}(")), "{} has no {test}", file.display());
        }
    }
}
