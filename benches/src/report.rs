//! The figures, for people and for machines: a table, JSON, and a plot of the ratios.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

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
        }
    }

    /// A workload that failed.
    #[must_use]
    pub fn failed(workload: &str) -> Row {
        Row { verified: false, ..Row::new(workload, "failed".to_owned(), 0.0, "") }
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
}

/// What ran where.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Processor, cores, memory, kernel.
    pub machine: String,
    /// When, in seconds since 1970.
    pub unix_s: u64,
    /// Whether the run was a quick one.
    pub quick: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// The figures of a run, on this machine, now.
    #[must_use]
    pub fn new(quick: bool, rows: Vec<Row>) -> Report {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Report { machine: machine(), unix_s: now.as_secs(), quick, rows }
    }

    /// Writes `report.md`, `report.json` and `report.svg`.
    ///
    /// # Errors
    ///
    /// If the directory cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("figures can be written as JSON")?;
        std::fs::write(dir.join("report.json"), json).context("report.json")?;
        std::fs::write(dir.join("report.md"), self.table()).context("report.md")?;
        std::fs::write(dir.join("report.svg"), self.plot()).context("report.svg")
    }

    /// A table in Markdown that is also good to read in a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut cells: Vec<[String; 8]> = vec![
            ["workload", "parameters", "figure", "limit", "ratio", "server CPU, s", "server RSS, MB", "p50 / p99, ms"]
                .map(str::to_owned),
        ];
        for row in &self.rows {
            let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), figure);
            let millis = |us: Option<u64>| us.map_or_else(|| "–".to_owned(), |us| format!("{:.2}", us as f64 / 1000.0));
            cells.push([
                row.workload.clone(),
                row.parameters.clone(),
                if row.verified { format!("{} {}", figure(row.value), row.unit) } else { "FAILED".to_owned() },
                number(row.limit),
                row.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}")),
                row.server_cpu_s.map_or_else(|| "–".to_owned(), |cpu_s| format!("{cpu_s:.2}")),
                row.server_rss_bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6)),
                if row.p50_us.is_some() {
                    format!("{} / {}", millis(row.p50_us), millis(row.p99_us))
                } else {
                    "–".to_owned()
                },
            ]);
        }
        let widths: Vec<usize> =
            (0..8).map(|at| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or_default()).collect();
        let mut out = format!("{}\n\n", self.machine);
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
        out
    }

    /// The ratios as bars; the line is the limit.
    #[must_use]
    pub fn plot(&self) -> String {
        let rows: Vec<_> = self.rows.iter().filter_map(|row| row.ratio.map(|ratio| (row, ratio))).collect();
        let height = 50 + 22 * rows.len();
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"900\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"10\" y=\"20\" font-size=\"14\">Figure against the limit measured in the same run (1 is the limit)</text>\n"
        );
        for (at, (row, ratio)) in rows.iter().enumerate() {
            let y = 36 + 22 * at;
            let width = (ratio.min(1.2) * BAR_PIXELS).max(1.0);
            let _ = writeln!(
                out,
                "<text x=\"10\" y=\"{}\">{}</text><rect x=\"{BARS_X}\" y=\"{y}\" width=\"{width:.0}\" height=\"16\" fill=\"#3b7dd8\"/>\
                 <text x=\"{:.0}\" y=\"{}\">{ratio:.2}</text>",
                y + 12,
                escaped(&format!("{}: {}", row.workload, row.parameters)),
                BARS_X + width + 4.0,
                y + 12,
            );
        }
        let x = BARS_X + BAR_PIXELS;
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"30\" x2=\"{x}\" y2=\"{height}\" stroke=\"#888\" stroke-dasharray=\"3\"/>\n</svg>"
        );
        out
    }
}

fn figure(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.2} M", value / 1e6),
        value if value >= 1e4 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let line = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_kib: f64 = line(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0.0);
    format!(
        "{}, {cores} cores, {:.1} GB of memory, Linux {}",
        line(&read("/proc/cpuinfo"), "model name"),
        memory_kib * 1024.0 / 1e9,
        read("/proc/sys/kernel/osrelease").trim(),
    )
}

const BARS_X: f64 = 470.0;
const BAR_PIXELS: f64 = 320.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_is_better_whichever_way_the_figure_goes() {
        let more = Row::new("a", String::new(), 50.0, "events/s").limit(100.0);
        let less = Row::new("a", String::new(), 2.0, "s").limit_of_cost(1.0);
        assert_eq!((more.ratio, less.ratio), (Some(0.5), Some(0.5)));
        let table = Report::new(true, vec![more, Row::failed("b < c")]).table();
        assert!(table.contains("| 0.50") && table.contains("FAILED"), "{table}");
    }
}
