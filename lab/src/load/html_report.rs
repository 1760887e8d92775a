//! The report as an HTML page with two charts: rate and latency over time, by outcome.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use observability::Error;

use super::chart::{Axis, Curve, write_chart};
use super::client::Outcome;
use super::timeline::Timeline;

/// Colours of the outcomes in their order, so that `ok` is green.
const COLORS: [&str; 8] =
    ["#2e9f5b", "#d64545", "#e08b1c", "#7b57c8", "#2f7fd1", "#b8408f", "#7a6a3a", "#1aa3a3"];

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
    pre{overflow-x:auto}svg{width:100%}text{font:11px system-ui,sans-serif;fill:currentColor}\
    .grid{stroke:currentColor;opacity:.15}.line{fill:none;stroke-width:1.5}\
    .dashed{stroke-dasharray:4 3}li{display:inline-block;margin-right:1.5rem}\
    :root{color-scheme:light dark}";

/// File of the page, which exists from the start of the run.
#[derive(Debug)]
pub(super) struct HtmlReport {
    path: PathBuf,
    file: File,
    pub(super) timeline: Timeline,
}

impl HtmlReport {
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).map_err(|error| write_error(path, &error))?;
        Ok(Self { path: path.to_owned(), file, timeline: Timeline::new()? })
    }

    /// Writes the page. `report` is the report as text, and `outcomes` are those of the run in their order.
    pub(super) fn write(self, report: &str, outcomes: &[Outcome]) -> Result<(), Error> {
        let mut out = BufWriter::new(self.file);
        write_page(&mut out, report, outcomes, &self.timeline)
            .and_then(|()| out.flush())
            .map_err(|error| write_error(&self.path, &error))
    }
}

fn write_error(path: &Path, error: &io::Error) -> Error {
    Error::other(format!("lab load: cannot write {}: {error}", path.display()))
}

/// Writes the page. `report` is the report as text.
fn write_page(
    mut out: impl Write,
    report: &str,
    outcomes: &[Outcome],
    timeline: &Timeline,
) -> io::Result<()> {
    let seconds = timeline.interval.as_secs_f64();
    write!(out, "<!doctype html><html lang=en><meta charset=utf-8><title>Load report</title>")?;
    write!(out, "<style>{STYLE}</style><h1>Load report</h1><pre>{}</pre><ul>", escape(report))?;
    for (outcome, color) in outcomes.iter().zip(COLORS.iter().cycle()) {
        write!(out, "<li><span style=color:{color}>&#9632;</span> {}", escape(outcome))?;
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    let rate = |latencies: Option<&Histogram<u32>>| {
        Some(latencies.map_or(0.0, |latencies| latencies.len() as f64 / seconds))
    };
    #[expect(clippy::cast_precision_loss, reason = "at most some hundred intervals")]
    let end = (timeline.intervals.len() as f64 * seconds).max(1.0);
    write!(out, "</ul><h2>Completed requests per second</h2>")?;
    // The last interval is not over, so that its rate is too low.
    let whole = timeline.intervals.len().saturating_sub(1).max(1);
    let mut rates = curves(outcomes, timeline, false, rate);
    rates.iter_mut().flat_map(|curve| &mut curve.lines).for_each(|line| line.truncate(whole));
    let max = values(&rates).fold(1.0, f64::max);
    write_chart(&mut out, &rates, &Axis::Linear { max }, end)?;

    #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^53")]
    let latency = |quantile| {
        move |latencies: Option<&Histogram<u32>>| {
            Some(latencies?.value_at_quantile(quantile).max(1) as f64 / 1e3)
        }
    };
    write!(out, "<h2>Latency in milliseconds: p99, and p50 as a dashed line</h2>")?;
    let mut latencies = curves(outcomes, timeline, false, latency(0.99));
    latencies.extend(curves(outcomes, timeline, true, latency(0.5)));
    let exponents = || values(&latencies).map(f64::log10);
    #[expect(clippy::cast_possible_truncation, reason = "exponents of milliseconds")]
    let axis = Axis::Logarithmic {
        from: exponents().fold(0.0, f64::min).floor() as i32,
        to: exponents().fold(1.0, f64::max).ceil() as i32,
    };
    write_chart(&mut out, &latencies, &axis, end)?;
    writeln!(out, "</html>")
}

/// Makes a curve for each outcome. `value` receives the latencies of an interval, or `None` if no request
/// completed in it with this outcome, and returns `None` for a gap.
fn curves(
    outcomes: &[Outcome],
    timeline: &Timeline,
    is_dashed: bool,
    value: impl Fn(Option<&Histogram<u32>>) -> Option<f64>,
) -> Vec<Curve> {
    let lines = |outcome| {
        let points = timeline.intervals.iter().enumerate().map(|(n, interval)| {
            #[expect(clippy::cast_precision_loss, reason = "at most some hundred intervals")]
            let seconds = n as f64 * timeline.interval.as_secs_f64();
            value(interval.get(outcome)).map(|value| (seconds, value))
        });
        let points: Vec<_> = points.collect();
        points.split(Option::is_none).map(|line| line.iter().flatten().copied().collect()).collect()
    };
    let colored = outcomes.iter().zip(COLORS.into_iter().cycle());
    colored.map(|(outcome, color)| Curve { color, is_dashed, lines: lines(outcome) }).collect()
}

fn values(curves: &[Curve]) -> impl Iterator<Item = f64> {
    curves.iter().flat_map(|curve| curve.lines.iter().flatten()).map(|&(_, value)| value)
}

fn escape(text: impl Display) -> String {
    text.to_string().replace('&', "&amp;").replace('<', "&lt;")
}
