//! A bench's figures: a table for people, JSON for programs. The keys are those of the project's own benchmarks; what only
//! an operating system beside the server could tell is null.

use std::fmt::Write;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    workload: &'static str,
    parameters: String,
    value: f64,
    unit: &'static str,
    limit: Option<f64>,
    ratio: Option<f64>,
    server_cpu_s: Option<f64>,
    server_rss_bytes: Option<u64>,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    verified: bool,
}

impl Row {
    /// A figure of which everything was verified.
    pub(super) fn new(workload: &'static str, parameters: String, value: f64, unit: &'static str) -> Row {
        Row {
            workload,
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

    /// A workload without a figure.
    pub(super) fn failed(workload: &'static str) -> Row {
        Row { verified: false, ..Row::new(workload, "failed".to_owned(), 0.0, "") }
    }

    pub(super) fn latency(mut self, latencies: &Histogram<u64>) -> Row {
        self.p50_us = Some(latencies.value_at_quantile(0.5));
        self.p99_us = Some(latencies.value_at_quantile(0.99));
        self
    }
}

/// Of microseconds, up to a minute.
pub(super) fn latencies() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000, 3).context("a histogram of a minute with 3 digits")
}

/// An array with one object for each figure.
pub(super) fn json(rows: &[Row]) -> Result<String> {
    Ok(serde_json::to_string_pretty(rows).context("figures can be written as JSON")? + "\n")
}

/// Columns as wide as they must be.
pub(super) fn table(rows: &[Row]) -> String {
    let mut cells = vec![["workload", "parameters", "figure", "p50, ms", "p99, ms", "verified"].map(str::to_owned)];
    let millis = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us as f64 / 1000.0));
    for row in rows {
        cells.push([
            row.workload.to_owned(),
            row.parameters.clone(),
            if row.verified { format!("{} {}", figure(row.value), row.unit) } else { "-".to_owned() },
            millis(row.p50_us),
            millis(row.p99_us),
            if row.verified { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut out = String::new();
    for row in &cells {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_was_verified_and_what_was_not() {
        let mut latencies = latencies().unwrap();
        latencies.record(1500).unwrap();
        let rows =
            [Row::new("emit", "2 events".to_owned(), 12_345.0, "events/s").latency(&latencies), Row::failed("fan-out")];
        let table = table(&rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[1], "emit      2 events    12.3 k events/s  1.50     1.50     yes");
        assert_eq!(lines[2], "fan-out   failed      -                -        -        NO");
    }

    #[test]
    fn a_json_row_has_null_for_what_a_client_cannot_know() {
        let text = json(&[Row::new("emit", String::new(), 2.0, "events/s")]).unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[0]["verified"], true);
        assert!(rows[0]["server_cpu_s"].is_null() && rows[0]["limit"].is_null(), "{text}");
    }
}
