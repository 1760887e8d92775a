//! Histograms with one atomic counter per bucket, so that a concurrent scrape never loses a sample and the
//! memory is bounded without scrapes.
//!
//! The histograms of the Prometheus recorder keep samples until a scrape folds them into buckets, and lose
//! a sample that is recorded during the fold. See docs/adr/0005-atomic-bucket-histograms.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{HistogramFn, Label};
use parking_lot::Mutex;

use super::DURATION_BUCKETS;

/// One series of a histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Samples per bucket. The last bucket is for samples above every bound.
    counts: [AtomicU64; DURATION_BUCKETS.len() + 1],
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        let bucket = DURATION_BUCKETS.iter().position(|&bound| value <= bound);
        self.counts[bucket.unwrap_or(DURATION_BUCKETS.len())].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // Never fails because `add` returns a value.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Histogram {
    fn render(&self, page: &mut String, name: &str, labels: &str) {
        let separator = if labels.is_empty() { "" } else { "," };
        let bounds = DURATION_BUCKETS.iter().map(ToString::to_string);
        let mut count = 0;
        for (bound, samples) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            count += samples.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {count}");
        }
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(page, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
    }
}

/// Series of all histograms, by name.
#[derive(Debug, Default)]
pub(super) struct Histograms(Mutex<BTreeMap<String, Family>>);

#[derive(Debug, Default)]
struct Family {
    help: Option<String>,
    /// Series by rendered labels.
    series: BTreeMap<String, Arc<Histogram>>,
}

impl Histograms {
    /// Returns the series with these labels.
    pub(super) fn register(&self, name: &str, labels: &[Label]) -> Arc<Histogram> {
        let mut families = self.0.lock();
        let family = families.entry(name.to_owned()).or_default();
        Arc::clone(family.series.entry(format_labels(labels)).or_default())
    }

    pub(super) fn describe(&self, name: &str, help: String) {
        self.0.lock().entry(name.to_owned()).or_default().help = Some(help);
    }

    /// Appends all series to a page in the Prometheus text format.
    pub(super) fn render(&self, page: &mut String) {
        let families = self.0.lock();
        for (name, family) in families.iter().filter(|(_, family)| !family.series.is_empty()) {
            if let Some(help) = &family.help {
                let _ = writeln!(page, "# HELP {name} {help}");
            }
            let _ = writeln!(page, "# TYPE {name} histogram");
            for (labels, histogram) in &family.series {
                histogram.render(page, name, labels);
            }
            page.push('\n');
        }
    }
}

/// Returns labels as they are rendered between the braces: `name="value",…`.
pub(super) fn format_labels(labels: &[Label]) -> String {
    let mut text = String::new();
    for label in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.extend([label.key(), "=\""]);
        for c in label.value().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '"' | '\\' => text.extend(['\\', c]),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let histograms = Histograms::default();
        let histogram = histograms.register("a_seconds", &[Label::new("x", "1\"\\\n")]);
        histograms.describe("a_seconds", "Help.".to_owned());
        for seconds in [0.005, 0.006, 20.0] {
            histogram.record(seconds);
        }
        let mut page = String::new();
        histograms.render(&mut page);
        let labels = r#"x="1\"\\\n""#;
        for line in [
            "# HELP a_seconds Help.",
            "# TYPE a_seconds histogram",
            &format!(r#"a_seconds_bucket{{{labels},le="0.005"}} 1"#),
            &format!(r#"a_seconds_bucket{{{labels},le="0.01"}} 2"#),
            &format!(r#"a_seconds_bucket{{{labels},le="10"}} 2"#),
            &format!(r#"a_seconds_bucket{{{labels},le="+Inf"}} 3"#),
            &format!("a_seconds_sum{{{labels}}} 20.011"),
            &format!("a_seconds_count{{{labels}}} 3"),
        ] {
            assert!(page.lines().any(|l| l == line), "no {line} in {page}");
        }
    }

    #[test]
    fn series_without_labels() {
        let histograms = Histograms::default();
        histograms.register("a", &[]).record(f64::NAN);
        let mut page = String::new();
        histograms.render(&mut page);
        for line in ["a_bucket{le=\"10\"} 0", "a_bucket{le=\"+Inf\"} 1", "a_sum NaN", "a_count 1"] {
            assert!(page.lines().any(|l| l == line), "no {line} in {page}");
        }
    }
}
