//! The figures, for people and for machines: a table beside what is wanted, JSON, and a plot of the ratios.

mod machine;
mod plot;

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

pub use self::machine::Machine;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub workload: String,
    /// With what.
    pub parameters: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The same figure of the raw program, in the same run.
    pub limit: Option<f64>,
    /// How near the figure comes to it: 1 is as good, more is better.
    pub ratio: Option<f64>,
    /// CPU seconds that the server used for it.
    pub server_cpu_s: Option<f64>,
    /// Most memory that the server held, in bytes.
    pub server_rss_bytes: Option<u64>,
    /// Latency that half of the events stayed below, in microseconds.
    pub p50_us: Option<u64>,
    /// Latency that 99 of 100 events stayed below, in microseconds.
    pub p99_us: Option<u64>,
    /// Whether all arrived, in order, once, with the right content.
    pub verified: bool,
    #[serde(skip)]
    wanted: Vec<Wanted>,
    #[serde(skip)]
    note: String,
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wanted {
    /// At least this ratio to the limit.
    Ratio(f64),
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// At most this for half of the events, in milliseconds.
    P50Below(f64),
    /// At most this for 99 of 100 events, in milliseconds.
    P99Below(f64),
}

impl Row {
    /// A verified figure.
    #[must_use]
    pub fn new(workload: &str, parameters: String, value: f64, unit: &'static str) -> Row {
        Row {
            workload: workload.to_owned(),
            parameters,
            value,
            unit,
            limit: None,
            ratio: None,
            server_cpu_s: None,
            server_rss_bytes: None,
            p50_us: None,
            p99_us: None,
            verified: true,
            wanted: Vec::new(),
            note: String::new(),
        }
    }

    /// A workload that failed.
    #[must_use]
    pub fn failed(workload: &str, why: String) -> Row {
        Row { verified: false, note: why, ..Row::new(workload, "failed".to_owned(), 0.0, "") }
    }

    /// The limit of a figure of which more is better.
    #[must_use]
    pub fn limit(mut self, limit: f64) -> Row {
        self.limit = Some(limit);
        self.ratio = Some(self.value / limit);
        self
    }

    /// The limit of a figure of which less is better.
    #[must_use]
    pub fn limit_of_cost(mut self, limit: f64) -> Row {
        self.limit = Some(limit);
        self.ratio = Some(limit / self.value);
        self
    }

    /// What the server used.
    #[must_use]
    pub fn server(mut self, cpu_s: f64, rss_peak_bytes: u64) -> Row {
        self.server_cpu_s = Some(cpu_s);
        self.server_rss_bytes = Some(rss_peak_bytes);
        self
    }

    /// How long it took each.
    #[must_use]
    pub fn latency(mut self, latencies: &Histogram<u64>) -> Row {
        self.p50_us = Some(latencies.value_at_quantile(0.5));
        self.p99_us = Some(latencies.value_at_quantile(0.99));
        self
    }

    /// What it is to reach; all of it, if this is said more than once.
    #[must_use]
    pub fn wanted(mut self, wanted: Wanted) -> Row {
        self.wanted.push(wanted);
        self
    }

    /// Something that readers of the table should know.
    #[must_use]
    pub fn note(mut self, note: String) -> Row {
        self.note = note;
        self
    }

    /// Whether it reaches what is wanted, if anything is.
    #[must_use]
    pub fn meets(&self) -> Option<bool> {
        let millis = |us: Option<u64>| us.map(|us| us as f64 / 1000.0);
        let reaches = |wanted: &Wanted| match *wanted {
            Wanted::Ratio(least) => self.ratio.is_some_and(|ratio| ratio >= least),
            Wanted::AtLeast(least) => self.value >= least,
            Wanted::AtMost(most) => self.value <= most,
            Wanted::P50Below(most) => millis(self.p50_us).is_some_and(|p50| p50 <= most),
            Wanted::P99Below(most) => millis(self.p99_us).is_some_and(|p99| p99 <= most),
        };
        (!self.wanted.is_empty()).then(|| self.verified && self.wanted.iter().all(reaches))
    }

    fn wanted_words(&self) -> String {
        let words = |wanted: &Wanted| match *wanted {
            Wanted::Ratio(least) => format!("ratio ≥ {least}"),
            Wanted::AtLeast(least) => format!("≥ {}", figure(least)),
            Wanted::AtMost(most) => format!("≤ {}", figure(most)),
            Wanted::P50Below(most) => format!("p50 ≤ {most} ms"),
            Wanted::P99Below(most) => format!("p99 ≤ {most} ms"),
        };
        match self.meets() {
            None => "–".to_owned(),
            Some(meets) => {
                let all: Vec<_> = self.wanted.iter().map(words).collect();
                format!("{}: {}", all.join(", "), if meets { "met" } else { "**missed**" })
            }
        }
    }

    fn cells(&self) -> [String; COLUMNS] {
        let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
        let millis = |us: Option<u64>| us.map_or_else(|| "–".to_owned(), |us| format!("{:.2}", us as f64 / 1000.0));
        let latency = match self.p50_us {
            Some(_) => format!("{} / {}", millis(self.p50_us), millis(self.p99_us)),
            None => "–".to_owned(),
        };
        [
            self.workload.clone(),
            self.parameters.clone(),
            if self.verified { format!("{} {}", figure(self.value), self.unit) } else { "FAILED".to_owned() },
            self.wanted_words(),
            number(self.limit),
            self.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
            self.server_cpu_s.map_or_else(|| "–".to_owned(), |cpu_s| format!("{cpu_s:.2}")),
            self.server_rss_bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6)),
            latency,
            self.note.replace('|', "/").replace('\n', " "),
        ]
    }
}

/// What ran where.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// On what, and how busy it was.
    #[serde(flatten)]
    pub machine: Machine,
    /// With what, as people type it.
    pub command: String,
    /// Whether the run was a quick one.
    pub quick: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// Writes `report.md`, `report.json` and `report.svg`.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("figures can be written as JSON")?;
        std::fs::write(dir.join("report.json"), json).context("report.json")?;
        std::fs::write(dir.join("report.md"), self.markdown()).context("report.md")?;
        std::fs::write(dir.join("report.svg"), plot::svg(&self.rows)).context("report.svg")
    }

    /// What stands in docs/performance.md: what ran where, and the table. Also good to read in a terminal.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut cells = vec![HEADINGS.map(str::to_owned)];
        cells.extend(self.rows.iter().map(Row::cells));
        let widths: Vec<usize> =
            (0..COLUMNS).map(|at| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()).collect();
        let mut out = format!("`{}`, {}\n\n", self.command, self.machine);
        for (at, row) in cells.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string cannot fail.
                let _ = write!(out, "| {cell:width$} ");
            }
            out.push_str("|\n");
            if at == 0 {
                for width in &widths {
                    let _ = write!(out, "|{}", "-".repeat(width + 2));
                }
                out.push_str("|\n");
            }
        }
        let meets: Vec<bool> = self.rows.iter().filter_map(Row::meets).collect();
        let met = meets.iter().filter(|meets| **meets).count();
        let failed = self.rows.iter().filter(|row| !row.verified).count();
        let _ = write!(out, "\n{met} of {} wanted figures are met. ", meets.len());
        match failed {
            0 => out.push_str("Everything was verified: all arrived, in order, once, byte for byte.\n"),
            failed => {
                let _ = writeln!(out, "**{failed} workloads FAILED.**");
            }
        }
        out
    }
}

/// A number as people read it.
#[must_use]
pub fn figure(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

const COLUMNS: usize = 10;

const HEADINGS: [&str; COLUMNS] = [
    "workload",
    "parameters",
    "figure",
    "wanted",
    "limit",
    "ratio",
    "server CPU, s",
    "server RSS, MB",
    "p50 / p99, ms",
    "spread and notes",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn report(rows: Vec<Row>) -> Report {
        Report { machine: Machine::now(), command: "make bench".to_owned(), quick: true, rows }
    }

    #[test]
    fn a_ratio_above_one_is_better_whichever_way_the_figure_goes() {
        let more = Row::new("a", String::new(), 50.0, "events/s").limit(100.0);
        let less = Row::new("a", String::new(), 2.0, "s").limit_of_cost(1.0);
        assert_eq!((more.ratio, less.ratio), (Some(0.5), Some(0.5)));
        let table = report(vec![more, Row::failed("b < c", "it broke".to_owned())]).markdown();
        assert!(table.contains("| 0.50") && table.contains("FAILED") && table.contains("it broke"), "{table}");
    }

    #[test]
    fn what_is_wanted_stands_beside_the_figure_met_or_missed() {
        let row = Row::new("a", String::new(), 0.2, "s").wanted(Wanted::AtMost(0.3));
        assert_eq!(row.meets(), Some(true));
        let both = row.clone().wanted(Wanted::Ratio(0.9));
        assert_eq!(both.meets(), Some(false), "a ratio that was not measured is not met");
        let table = report(vec![row, both]).markdown();
        assert!(table.contains("≤ 0.3000: met") && table.contains("**missed**"), "{table}");
        assert!(table.contains("1 of 2 wanted figures are met"), "{table}");
        assert_eq!(Row::new("a", String::new(), 1.0, "s").meets(), None);
    }

    #[test]
    fn a_json_row_has_the_agreed_keys_and_no_others() {
        let row = serde_json::to_value(Row::new("a", String::new(), 1.0, "s")).unwrap();
        let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let mut agreed = [
            "workload",
            "parameters",
            "value",
            "unit",
            "limit",
            "ratio",
            "server_cpu_s",
            "server_rss_bytes",
            "p50_us",
            "p99_us",
            "verified",
        ];
        agreed.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, agreed);
    }
}
