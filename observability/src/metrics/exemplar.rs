//! Exemplars: for each series and bucket, the trace of the last sampled request that it counts.
//!
//! The recorder has no exemplars. They are kept beside it and joined to its page when a scraper requests
//! OpenMetrics.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::SpanContext;
use parking_lot::Mutex;

use super::DURATION_BUCKETS;
use super::histogram::format_labels;
use crate::hex::write_hex;

/// Value and ids of one request. Its labels stay within the 128 characters that OpenMetrics 1.0, section
/// "Exemplars", allows.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    ids: [u8; 24],
    value: f64,
    time: SystemTime,
}

/// Exemplars of one series: a slot per bucket, or one slot for a counter.
#[derive(Debug)]
pub(super) struct ExemplarSlots(Box<[Mutex<Option<Exemplar>>]>);

impl ExemplarSlots {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| Mutex::default()).collect())
    }

    pub(super) fn record_duration(&self, seconds: f64, span: &SpanContext) {
        self.set(DURATION_BUCKETS.partition_point(|&bound| bound < seconds), seconds, span);
    }

    pub(super) fn record_increment(&self, span: &SpanContext) {
        self.set(0, 1.0, span);
    }

    fn set(&self, slot: usize, value: f64, span: &SpanContext) {
        // Of two requests that end at the same time, one exemplar is enough. None waits for the lock.
        let Some(mut slot) = self.0.get(slot).and_then(Mutex::try_lock) else { return };
        let mut ids = [0; 24];
        ids[..16].copy_from_slice(&span.trace_id().to_bytes());
        ids[16..].copy_from_slice(&span.span_id().to_bytes());
        *slot = Some(Exemplar { ids, value, time: SystemTime::now() });
    }
}

/// Exemplars of all series, by the rendered series without its closing brace: `name{label="value",…`.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<String, Arc<ExemplarSlots>>>);

impl Exemplars {
    pub(super) fn register_histogram(
        &self,
        name: &str,
        labels: &[metrics::Label],
    ) -> Arc<ExemplarSlots> {
        self.register(format!("{name}_bucket"), labels, DURATION_BUCKETS.len() + 1)
    }

    pub(super) fn register_counter(
        &self,
        name: &str,
        labels: &[metrics::Label],
    ) -> Arc<ExemplarSlots> {
        self.register(name.to_owned(), labels, 1)
    }

    fn register(
        &self,
        name: String,
        labels: &[metrics::Label],
        slots: usize,
    ) -> Arc<ExemplarSlots> {
        let series = format!("{name}{{{}", format_labels(labels));
        let mut all = self.0.lock();
        Arc::clone(all.entry(series).or_insert_with(|| Arc::new(ExemplarSlots::new(slots))))
    }

    /// Returns the exemplar of a sample as it is rendered after the value,
    /// ` # {trace_id="…",span_id="…"} value time`, or an empty string. `le` is the upper bound of a bucket.
    pub(super) fn lookup(&self, series: &str, le: Option<f64>) -> String {
        let all = self.0.lock();
        let Some(slots) = all.get(series) else { return String::new() };
        let slot = le.map_or(0, |le| DURATION_BUCKETS.partition_point(|&bound| bound < le));
        let exemplar = slots.0.get(slot).and_then(|slot| *slot.lock());
        exemplar.map(|exemplar| exemplar.to_string()).unwrap_or_default()
    }
}

impl fmt::Display for Exemplar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hex = [0; 48];
        write_hex(&mut hex, &self.ids);
        let hex = std::str::from_utf8(&hex).unwrap_or_default();
        let time = self.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (trace_id, span_id) = hex.split_at(32);
        write!(
            f,
            " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {} {}.{:03}",
            self.value,
            time.as_secs(),
            time.subsec_millis()
        )
    }
}
