//! The ratios as bars, in an SVG that reads well on light and on dark pages.

use std::fmt::Write;

use super::{Row, figure};

/// A bar for each row that has a limit.
pub(super) fn svg(rows: &[Row]) -> String {
    let bars: Vec<_> = rows.iter().filter_map(|row| row.ratio.map(|ratio| (row, ratio))).collect();
    let height = TOP + ROW * bars.len() + 34;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n{STYLE}\
         <title>Ratios to the limits measured in the same run</title>\n\
         <text class=\"head\" x=\"12\" y=\"24\">Each figure against the limit that a raw program reached in the same run</text>\n"
    );
    let bottom = TOP + ROW * bars.len();
    for tick in [0.0, 0.25, 0.5, 0.75, 1.0, 1.25] {
        let (x, class) = (x_of(tick), if tick == 1.0 { "limit" } else { "grid" });
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{x:.0}\" y1=\"{}\" x2=\"{x:.0}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x:.0}\" y=\"{}\">{tick}</text>",
            TOP - 4,
            TOP - 9,
        );
    }
    let mut last = "";
    for (at, (row, ratio)) in bars.iter().enumerate() {
        let y = TOP + ROW * at;
        let class = match row.meets() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "plain",
        };
        let width = (x_of(ratio.min(RATIO_SHOWN)) - x_of(0.0)).max(1.0);
        let workload = if last == row.workload { "" } else { &row.workload };
        last = &row.workload;
        let _ = writeln!(
            out,
            "<text class=\"name\" x=\"12\" y=\"{0}\">{1}</text><text x=\"250\" y=\"{0}\">{2}</text>\
             <rect class=\"{class}\" x=\"{3:.0}\" y=\"{4}\" width=\"{width:.0}\" height=\"13\" rx=\"2\"/>\
             <text class=\"value\" x=\"{5:.0}\" y=\"{0}\">{ratio:.2} · {6} {7}</text>",
            y + 14,
            escaped(workload),
            escaped(&shortened(&row.parameters)),
            x_of(0.0),
            y + 3,
            x_of(0.0) + width + 5.0,
            figure(row.value),
            escaped(row.unit),
        );
    }
    for (at, (class, words)) in
        [("met", "reaches what is wanted"), ("missed", "does not yet"), ("plain", "nothing is asked")]
            .iter()
            .enumerate()
    {
        let x = 12 + 190 * at;
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"13\" height=\"13\" rx=\"2\"/><text x=\"{}\" y=\"{}\">{words}</text>",
            bottom + 12,
            x + 19,
            bottom + 23,
        );
    }
    out.push_str("</svg>\n");
    out
}

fn x_of(ratio: f64) -> f64 {
    BARS_X + ratio * RATIO_PIXELS
}

/// As much as fits before the bars.
fn shortened(label: &str) -> String {
    if label.chars().count() <= LABEL_CHARS {
        return label.to_owned();
    }
    label.chars().take(LABEL_CHARS - 1).chain(['…']).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Without a background: colours that can be read on white and on black, and a darker theme where a page asks for it.
const STYLE: &str = "<style>\
text{font:12px system-ui,sans-serif;fill:#57606a}.head{font-size:15px;font-weight:600;fill:#24292f}.name{font-weight:600}\
.tick{font-size:11px;text-anchor:middle}.value{font-variant-numeric:tabular-nums}.grid{stroke:#8b949e;stroke-opacity:.3}\
.limit{stroke:#8b949e;stroke-dasharray:4 3}.met{fill:#2da44e}.missed{fill:#d4842c}.plain{fill:#4a8fe0}\
@media(prefers-color-scheme:dark){text{fill:#9da7b3}.head{fill:#e6edf3}}\
</style>\n";

const WIDTH: usize = 1200;
const TOP: usize = 60;
const ROW: usize = 20;
const BARS_X: f64 = 600.0;
const RATIO_PIXELS: f64 = 320.0;

const LABEL_CHARS: usize = 54;

/// Longer bars end here; their number stands beside them.
const RATIO_SHOWN: f64 = 1.25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_stands_for_each_ratio_and_no_bar_leaves_the_picture() {
        let far = Row::new("fast & <odd>", "p".to_owned(), 900.0, "x/s").limit(1.0);
        let svg = svg(&[far, Row::new("without limit", String::new(), 1.0, "s")]);
        assert!(svg.contains("fast &amp; &lt;odd&gt;") && svg.contains("900.00"), "{svg}");
        assert!(!svg.contains("without limit"), "{svg}");
        assert!(svg.contains(&format!("width=\"{:.0}\" height=\"13\"", RATIO_SHOWN * RATIO_PIXELS)), "{svg}");
    }
}
