//! Writer of the page in the Prometheus text format and in OpenMetrics 1.0.
//!
//! The two text formats share their samples. OpenMetrics adds units, exemplars, creation times and the end
//! marker, and names the family of a counter without `_total`.

use std::fmt::{self, Display, Write};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use metrics::Label;

use super::exemplar::{Exemplar, Timestamp};
use super::family::{Families, Kind, Labels};
use super::protobuf;
use super::series::{Histogram, Series};

/// Exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Protobuf of Prometheus.
    Protobuf,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// Writes all families.
pub(super) fn render(families: &Families, format: Format) -> Vec<u8> {
    let is_openmetrics = match format {
        Format::Text => false,
        Format::OpenMetrics => true,
        Format::Protobuf => return protobuf::render(families),
    };
    let mut page = Page::new(is_openmetrics);
    for (name, help, family) in families.iter() {
        page.metadata(name, help, family.kind);
        for (labels, series) in family.iter() {
            page.series(name, family.kind, labels, series);
        }
    }
    if is_openmetrics {
        page.text.push_str("# EOF\n");
    }
    page.text.into_bytes()
}

struct Page {
    text: String,
    is_openmetrics: bool,
    /// Labels of the series that is written, which each of its samples has.
    labels: String,
    /// Bounds of the histogram that was written last, which nearly all share.
    bounds: &'static [f64],
    /// Text of each bound, and of `+Inf`.
    bound_texts: Vec<String>,
}

impl Page {
    fn new(is_openmetrics: bool) -> Self {
        let (text, labels) = (String::new(), String::new());
        let mut page = Self { text, is_openmetrics, labels, bounds: &[], bound_texts: Vec::new() };
        page.set_bounds(&[]);
        page
    }

    fn set_bounds(&mut self, bounds: &'static [f64]) {
        let is_float = self.is_openmetrics;
        let values = bounds.iter().copied().chain([f64::INFINITY]);
        self.bound_texts = values.map(|value| Bound { value, is_float }.to_string()).collect();
        self.bounds = bounds;
    }

    fn metadata(&mut self, name: &str, help: Option<&str>, kind: Kind) {
        let is_openmetrics = self.is_openmetrics;
        let (suffix, kind) = match kind {
            Kind::Counter | Kind::FloatCounter if is_openmetrics => ("", "counter"),
            Kind::Counter | Kind::FloatCounter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
            Kind::Info if is_openmetrics => ("", "info"),
            Kind::Info => ("_info", "gauge"),
        };
        if let Some(help) = help {
            self.text.extend(["# HELP ", name, suffix, " "]);
            escape(&mut self.text, help, is_openmetrics);
            self.text.push('\n');
        }
        self.text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        let is_unit =
            |unit: &&str| name.strip_suffix(*unit).is_some_and(|stem| stem.ends_with('_'));
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(is_unit)
            && is_openmetrics
            && kind != "info"
        {
            self.text.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
    }

    fn series(&mut self, name: &str, kind: Kind, labels: &Labels, series: &Series) {
        self.labels.clear();
        for label in labels.iter() {
            write_label(&mut self.labels, label);
        }
        match series {
            Series::Counter(counter) => {
                self.sample(name, "_total", counter.get());
                self.exemplar(counter.exemplar());
                self.created(name, counter.created);
            }
            Series::Gauge(value) => {
                let suffix = match kind {
                    Kind::FloatCounter => "_total",
                    Kind::Info => "_info",
                    _ => "",
                };
                self.sample(name, suffix, Float(f64::from_bits(value.load(Ordering::Acquire))));
            }
            Series::Histogram(histogram) => self.histogram(name, histogram),
        }
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        if !std::ptr::eq(self.bounds, histogram.bounds) {
            self.set_bounds(histogram.bounds);
        }
        let label_length = self.labels.len();
        let mut count = 0;
        for (bucket, samples) in histogram.cumulative_counts().enumerate() {
            let bound = self.bound_texts.get(bucket).map_or("", String::as_str);
            self.labels.extend(["le=\"", bound, "\","]);
            self.sample(name, "_bucket", samples);
            self.labels.truncate(label_length);
            self.exemplar(histogram.exemplar(bucket));
            count = samples;
        }
        // OpenMetrics has neither sum nor count if a sum can decrease.
        let has_sum = histogram.sum() >= 0.0 && histogram.bounds.first() >= Some(&0.0);
        if has_sum || !self.is_openmetrics {
            self.sample(name, "_sum", Float(histogram.sum()));
            self.sample(name, "_count", count);
        }
        self.created(name, histogram.created);
    }

    fn created(&mut self, name: &str, time: SystemTime) {
        if self.is_openmetrics {
            self.sample(name, "_created", Timestamp(time));
        }
    }

    fn sample(&mut self, name: &str, suffix: &str, value: impl Display) {
        self.text.extend([name, suffix]);
        if let Some(labels) = self.labels.strip_suffix(',') {
            self.text.extend(["{", labels, "}"]);
        }
        // Writing to a `String` never fails.
        let _ = writeln!(self.text, " {value}");
    }

    /// Adds the exemplar to the sample that was written last.
    fn exemplar(&mut self, exemplar: Option<Exemplar>) {
        if let Some(exemplar) = exemplar.filter(|_| self.is_openmetrics) {
            self.text.pop();
            let _ = writeln!(self.text, " # {exemplar}");
        }
    }
}

/// Writes a label with a comma after it.
fn write_label(text: &mut String, label: &Label) {
    text.extend([label.key(), "=\""]);
    escape(text, label.value(), true);
    text.push_str("\",");
}

fn escape(text: &mut String, value: &str, escapes_quotes: bool) {
    let is_escaped = |c| matches!(c, '\n' | '\\') || (c == '"' && escapes_quotes);
    let mut rest = value;
    while let Some((before, c)) = rest.find(is_escaped).map(|at| rest.split_at(at)) {
        text.push_str(before);
        text.push_str(match c.as_bytes() {
            [b'\n', ..] => "\\n",
            [b'"', ..] => "\\\"",
            _ => "\\\\",
        });
        rest = &c[1..];
    }
    text.push_str(rest);
}

struct Float(f64);

impl Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => value.fmt(f),
        }
    }
}

/// Bound of a bucket, as Go formats a number with the verb `g`. OpenMetrics requires this spelling, with a
/// decimal point or an exponent.
struct Bound {
    value: f64,
    is_float: bool,
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scientific = format!("{:e}", self.value);
        match scientific.split_once('e') {
            Some((digits, exponent)) => match exponent.parse::<i32>() {
                Ok(exponent) if !(-4..6).contains(&exponent) => {
                    let sign = if exponent < 0 { '-' } else { '+' };
                    write!(f, "{digits}e{sign}{:02}", exponent.abs())
                }
                _ if self.is_float => write!(f, "{:?}", self.value),
                _ => self.value.fmt(f),
            },
            None => Float(self.value).fmt(f),
        }
    }
}
