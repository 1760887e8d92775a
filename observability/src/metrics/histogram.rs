//! Duration histograms with one atomic counter per bucket, so that a concurrent scrape never loses a
//! sample.
//!
//! The recorder's histograms keep samples until a scrape folds them into buckets. They grow without
//! scrapes, and lose a sample that is recorded during the fold. See
//! docs/adr/0005-atomic-bucket-histograms.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::Label;
use parking_lot::Mutex;

use super::DURATION_BUCKETS;

/// One series of a histogram.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// Samples per bucket. The last bucket is for samples above every bound.
    counts: [AtomicU64; DURATION_BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Histogram {
    pub(super) fn record(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = DURATION_BUCKETS.partition_point(|&bound| bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // 64 bits hold 584 years of nanoseconds.
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn render(&self, page: &mut String, name: &str, labels: &str) {
        let bounds = DURATION_BUCKETS.iter().map(ToString::to_string);
        let mut count = 0;
        for (bound, samples) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            count += samples.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(page, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

/// Series of all histograms, by name and labels.
#[derive(Debug, Default)]
pub(super) struct Histograms(Mutex<BTreeMap<&'static str, BTreeMap<String, Arc<Histogram>>>>);

impl Histograms {
    /// Returns the series with these labels. There must be at least one label.
    pub(super) fn register(&self, name: &'static str, labels: &[Label]) -> Arc<Histogram> {
        let mut all = self.0.lock();
        Arc::clone(all.entry(name).or_default().entry(format_labels(labels)).or_default())
    }

    /// Appends all series to a page in the Prometheus text format.
    pub(super) fn render(&self, page: &mut String, help: impl Fn(&str) -> &'static str) {
        let all = self.0.lock();
        for (name, series) in all.iter() {
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} histogram", help(name));
            for (labels, histogram) in series {
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
        for millis in [5, 6, 20_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let mut page = String::new();
        histograms.render(&mut page, |_| "Help.");
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
}
