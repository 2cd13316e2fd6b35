//! On what machine figures were taken, and how busy it was with other things. Linux only: it reads /proc.

use std::fmt;

use serde::Serialize;

/// The machine, from the beginning of a run to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor, cores, memory.
    pub machine: String,
    /// The kernel's version.
    pub kernel: String,
    /// When the run began, in seconds since 1970.
    pub unix_s: u64,
    /// How long it took, in seconds.
    pub took_s: u64,
    /// Load average of one minute at the beginning.
    pub load_at_start: f64,
    /// Load average of one minute at the end. The run itself is part of it.
    pub load_at_end: f64,
}

impl Machine {
    /// At the beginning of a run.
    #[must_use]
    pub fn now() -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = line(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: f64 = memory.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0.0);
        let processor = line(&read("/proc/cpuinfo"), "model name");
        Machine {
            machine: format!("{processor}, {cores} cores, {:.1} GB of memory", memory_kib * 1024.0 / 1e9),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            unix_s: unix_s(),
            took_s: 0,
            load_at_start: load(),
            load_at_end: 0.0,
        }
    }

    /// At its end.
    #[must_use]
    pub fn after(self) -> Machine {
        Machine { took_s: unix_s().saturating_sub(self.unix_s), load_at_end: load(), ..self }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}; {} s, ", self.machine, self.kernel, self.took_s)?;
        write!(f, "load average {} at the start and {} at the end", self.load_at_start, self.load_at_end)
    }
}

fn unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn load() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}
