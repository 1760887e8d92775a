//! From a number to the trace behind it: for each series and bucket the last sampled request that fell
//! into it.
//!
//! The recorder knows nothing of exemplars, so they are kept beside it and joined to its page, line by
//! line, when a scraper asks for OpenMetrics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::SpanContext;

use super::DURATION_BUCKETS;
use super::histograms::format_labels;
use crate::trace_context::write_hex;

/// One request. OpenMetrics 1.0, section "Exemplars": its labels are 128 characters at most.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    ids: [u8; 24],
    value: f64,
    time: SystemTime,
}

/// The exemplars of one series: a slot for each bucket, or a single one for a counter.
#[derive(Debug)]
pub(super) struct ExemplarSlots(Box<[Mutex<Option<Exemplar>>]>);

impl ExemplarSlots {
    fn new(count: usize) -> Self {
        Self((0..count).map(|_| Mutex::default()).collect())
    }

    /// A duration in seconds.
    pub(super) fn observe(&self, seconds: f64, span: &SpanContext) {
        self.put(DURATION_BUCKETS.partition_point(|&bound| bound < seconds), seconds, span);
    }

    /// One more of what a counter counts.
    pub(super) fn count(&self, span: &SpanContext) {
        self.put(0, 1.0, span);
    }

    fn put(&self, slot: usize, value: f64, span: &SpanContext) {
        // Of two requests that end at once one is enough: nobody waits here.
        let Some(Ok(mut slot)) = self.0.get(slot).map(Mutex::try_lock) else { return };
        let mut ids = [0; 24];
        ids[..16].copy_from_slice(&span.trace_id().to_bytes());
        ids[16..].copy_from_slice(&span.span_id().to_bytes());
        *slot = Some(Exemplar { ids, value, time: SystemTime::now() });
    }
}

/// All exemplars, by the series as it stands on the page: `name{label="value",…}`.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<HashMap<String, Arc<ExemplarSlots>>>);

impl Exemplars {
    /// Of a histogram's series, whose lines are `…_bucket{…,le="…"}`.
    pub(super) fn histogram(&self, name: &str, labels: &[metrics::Label]) -> Arc<ExemplarSlots> {
        self.register(format!("{name}_bucket"), labels, DURATION_BUCKETS.len() + 1)
    }

    /// Of a counter's series.
    pub(super) fn counter(&self, name: &str, labels: &[metrics::Label]) -> Arc<ExemplarSlots> {
        self.register(name.to_owned(), labels, 1)
    }

    fn register(
        &self,
        name: String,
        labels: &[metrics::Label],
        slots: usize,
    ) -> Arc<ExemplarSlots> {
        let series = format!("{name}{{{}", format_labels(labels));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(series).or_insert_with(|| Arc::new(ExemplarSlots::new(slots))))
    }

    /// What stands behind the value on a line: ` # {trace_id="…",span_id="…"} value time`, or nothing.
    /// `le` is the bucket's upper bound on a bucket's line.
    pub(super) fn of(&self, series: &str, le: Option<f64>) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slots) = all.get(series) else { return String::new() };
        let slot = le.map_or(0, |le| DURATION_BUCKETS.partition_point(|&bound| bound < le));
        let exemplar =
            slots.0.get(slot).and_then(|slot| *slot.lock().unwrap_or_else(PoisonError::into_inner));
        exemplar.map(|exemplar| exemplar.to_string()).unwrap_or_default()
    }
}

impl std::fmt::Display for Exemplar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
