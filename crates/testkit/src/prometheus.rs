//! Parser for the Prometheus text format.

use std::collections::{BTreeMap, BTreeSet};

use crate::logfmt::split_quoted;

const SPANS_PROCESSED: &str = "otel_sdk_processor_span_processed_total";
const SPANS_EXPORTED: &str = "otel_sdk_exporter_span_exported_total";

/// Result of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// Metric types by name, from the `# TYPE` comments.
    pub types: BTreeMap<String, String>,
    /// Samples in the order of the page.
    pub samples: Vec<Sample>,
}

/// Sample of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Metric name, including a suffix such as `_bucket`.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

impl Page {
    /// Parses a page.
    ///
    /// # Panics
    /// If a line is malformed or a series occurs twice.
    pub fn parse(text: &str) -> Self {
        let mut series = BTreeSet::new();
        let mut page = Self { types: BTreeMap::new(), samples: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(metric) = line.strip_prefix("# TYPE ") {
                let (name, kind) = metric.split_once(' ').expect("a name and a type");
                let previous = page.types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(previous, None, "duplicate type: {line}");
            } else if !line.starts_with("# ") {
                let sample =
                    parse_sample(line).unwrap_or_else(|| panic!("malformed sample: {line:?}"));
                let is_new = series.insert((sample.name.clone(), sample.labels.clone()));
                assert!(is_new, "duplicate series: {line}");
                page.samples.push(sample);
            }
        }
        page
    }

    /// Returns the value of the series with this name and at least these labels, if there is one.
    ///
    /// # Panics
    /// If there are several.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching: Vec<_> = self.matching(name, labels).collect();
        assert!(matching.len() <= 1, "{name} {labels:?} matches {matching:?}");
        matching.first().map(|sample| sample.value)
    }

    /// Returns the sum of all series with this name and at least these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.named(name).filter(|sample| {
            labels
                .iter()
                .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        })
    }

    /// Returns the number of sampled spans that were started.
    pub fn started_spans(&self) -> f64 {
        let sampled = [("otel_span_sampling_result", "RECORD_AND_SAMPLE")];
        self.sum("otel_sdk_span_started_total", &sampled)
    }

    /// Returns the number of spans that the backend accepted.
    pub fn exported_spans(&self) -> f64 {
        self.sum_of(&[SPANS_EXPORTED], false)
    }

    /// Returns the number of spans that were dropped, before the export or by it.
    pub fn dropped_spans(&self) -> f64 {
        self.sum_of(&[SPANS_PROCESSED, SPANS_EXPORTED], true)
    }

    /// Returns the sum of all series with these names that have the label `error_type`, or do not have it.
    fn sum_of(&self, names: &[&str], has_error: bool) -> f64 {
        let samples = names.iter().flat_map(|name| self.named(name));
        samples
            .filter(|sample| sample.labels.contains_key("error_type") == has_error)
            .map(|sample| sample.value)
            .sum()
    }

    /// Returns the samples with this name.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let mut labels = BTreeMap::new();
    if let Some(list) = rest.strip_prefix('{') {
        rest = list;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once('=')?;
            // The escapes of the format are a subset of those in JSON.
            let (value, after) = split_quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ')?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP a_total Help, with words.\n# TYPE a_total counter\n\
        a_total{x=\"1\",y=\"q\\\"\\\\}\"} 2\na_total{x=\"2\"} 3\n\nb 1e-3\nc{le=\"+Inf\"} +Inf\n";

    #[test]
    fn finds_series_by_labels() {
        let page = Page::parse(PAGE);
        assert_eq!(page.types["a_total"], "counter");
        assert_eq!(page.value("a_total", &[("x", "1")]), Some(2.0));
        assert_eq!(page.value("a_total", &[("y", "q\"\\}")]), Some(2.0));
        assert_eq!(page.value("a_total", &[("x", "3")]), None);
        assert_eq!(page.sum("a_total", &[]), 5.0);
        assert_eq!(page.value("b", &[]), Some(0.001));
        assert_eq!(page.value("c", &[("le", "+Inf")]), Some(f64::INFINITY));
    }

    #[test]
    fn rejects_malformed_samples() {
        for line in
            ["a", "a{x=1} 1", "a{x=\"1\" 1", "a{x=\"1\"}", "a{x=\"1\",x=\"2\"} 1", "a b", "é 1"]
        {
            assert_eq!(parse_sample(line), None, "{line}");
        }
    }
}
