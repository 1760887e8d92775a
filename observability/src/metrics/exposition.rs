//! Writer of the page in the Prometheus text format and in OpenMetrics 1.0.
//!
//! The two formats share their samples. OpenMetrics adds units, exemplars, creation times and the end
//! marker, and names the family of a counter without `_total`.

use std::fmt::{self, Display, Write};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use metrics::Label;

use super::exemplar::{Exemplar, Timestamp};
use super::family::{Families, Kind, Labels};
use super::series::{Histogram, Series};

/// Exposition format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes all families.
pub(super) fn render(families: &Families, format: Format) -> String {
    let mut page = Page { text: String::new(), format };
    for (name, help, family) in families.iter() {
        page.metadata(name, help, family.kind);
        for (labels, series) in &family.series {
            page.series(name, family.kind, labels, series);
        }
    }
    if format == Format::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

struct Page {
    text: String,
    format: Format,
}

impl Page {
    fn metadata(&mut self, name: &str, help: Option<&str>, kind: Kind) {
        let is_openmetrics = self.format == Format::OpenMetrics;
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
        match series {
            Series::Counter(counter) => {
                self.sample(name, "_total", labels, None, counter.get(), counter.exemplar());
                self.created(name, labels, counter.created);
            }
            Series::Gauge(value) => {
                let suffix = match kind {
                    Kind::FloatCounter => "_total",
                    Kind::Info => "_info",
                    _ => "",
                };
                let value = Float(f64::from_bits(value.load(Ordering::Acquire)));
                self.sample(name, suffix, labels, None, value, None);
            }
            Series::Histogram(histogram) => self.histogram(name, labels, histogram),
        }
    }

    fn histogram(&mut self, name: &str, labels: &Labels, histogram: &Histogram) {
        let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
        let mut count = 0;
        for (bucket, (bound, samples)) in bounds.zip(histogram.cumulative_counts()).enumerate() {
            let le = Bound { value: bound, is_float: self.format == Format::OpenMetrics };
            let exemplar = histogram.exemplar(bucket);
            self.sample(name, "_bucket", labels, Some(&le), samples, exemplar);
            count = samples;
        }
        // OpenMetrics has neither sum nor count if a sum can decrease.
        let has_sum = histogram.sum() >= 0.0 && histogram.bounds.first() >= Some(&0.0);
        if has_sum || self.format == Format::Text {
            self.sample(name, "_sum", labels, None, Float(histogram.sum()), None);
            self.sample(name, "_count", labels, None, count, None);
        }
        self.created(name, labels, histogram.created);
    }

    fn created(&mut self, name: &str, labels: &Labels, time: SystemTime) {
        if self.format == Format::OpenMetrics {
            self.sample(name, "_created", labels, None, Timestamp(time), None);
        }
    }

    fn sample(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &Labels,
        le: Option<&Bound>,
        value: impl Display,
        exemplar: Option<Exemplar>,
    ) {
        let text = &mut self.text;
        text.extend([name, suffix]);
        let mut separator = '{';
        for label in labels.iter() {
            text.push(separator);
            write_label(text, label);
            separator = ',';
        }
        // Writing to a `String` never fails.
        if let Some(le) = le {
            let _ = write!(text, "{separator}le=\"{le}\"");
            separator = ',';
        }
        if separator == ',' {
            text.push('}');
        }
        let _ = write!(text, " {value}");
        if let Some(exemplar) = exemplar.filter(|_| self.format == Format::OpenMetrics) {
            let _ = write!(text, " # {exemplar}");
        }
        text.push('\n');
    }
}

fn write_label(text: &mut String, label: &Label) {
    text.extend([label.key(), "=\""]);
    escape(text, label.value(), true);
    text.push('"');
}

fn escape(text: &mut String, value: &str, escapes_quotes: bool) {
    for c in value.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\\' => text.push_str("\\\\"),
            '"' if escapes_quotes => text.push_str("\\\""),
            c => text.push(c),
        }
    }
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
