//! Rate, errors and durations of spans, counted when they arrive, for the UI's Monitor page.
//!
//! The numbers cover the last hour and do not depend on which traces the store still has.

use std::array::from_fn;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::span::SpanRecord;

/// Length of a slot, in milliseconds.
pub(crate) const SLOT_MS: u64 = 15_000;
/// Number of slots of a series: one hour.
const MAX_SLOTS: usize = 240;
/// Maximum number of series, about 10 MB. The spans of further ones have the service and operation
/// [`OTHER`].
const MAX_SERIES: usize = 500;
pub(crate) const OTHER: &str = "_OTHER";

/// Number of buckets of durations.
const BUCKETS: usize = 22;

/// Returns the upper bound of a bucket in milliseconds: 2^-4, 2^-3 … 2^16. The last bucket has no bound.
fn bound_ms(bucket: usize) -> f64 {
    2_f64.powi(bucket as i32 - 4)
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct SeriesKey {
    service: Arc<str>,
    operation: Arc<str>,
    kind: SpanKind,
}

/// Spans that arrived in a slot.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u32,
    pub(crate) errors: u32,
    durations: [u32; BUCKETS],
}

impl Counts {
    fn add(&mut self, span: &SpanRecord) {
        self.calls = self.calls.saturating_add(1);
        self.errors = self.errors.saturating_add(u32::from(span.failed));
        let ms = span.duration_ns() as f64 / 1e6;
        let bucket = (0..BUCKETS - 1).find(|bucket| ms <= bound_ms(*bucket));
        let count = &mut self.durations[bucket.unwrap_or(BUCKETS - 1)];
        *count = count.saturating_add(1);
    }

    fn merge(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.errors = self.errors.saturating_add(other.errors);
        self.durations = from_fn(|n| self.durations[n].saturating_add(other.durations[n]));
    }

    /// Returns the quantile of the durations in milliseconds, by linear interpolation in its bucket, as
    /// PromQL's `histogram_quantile` does. NaN if there is no span.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        let rank = quantile * f64::from(self.calls);
        let mut below = 0.0;
        for (bucket, count) in self.durations.iter().map(|count| f64::from(*count)).enumerate() {
            if count > 0.0 && below + count >= rank {
                let lower = if bucket == 0 { 0.0 } else { bound_ms(bucket - 1) };
                let upper = if bucket == BUCKETS - 1 { lower } else { bound_ms(bucket) };
                return lower + (upper - lower) * ((rank - below) / count);
            }
            below += count;
        }
        f64::NAN
    }
}

/// Counts by series and slot. Slots are numbered from the Unix epoch.
#[derive(Default)]
pub(crate) struct RedMetrics {
    series: HashMap<SeriesKey, VecDeque<(u64, Counts)>>,
    start_ms: Option<u64>,
}

impl RedMetrics {
    pub(crate) fn add(&mut self, span: &SpanRecord, now_ms: u64) {
        let slot = now_ms / SLOT_MS;
        self.start_ms.get_or_insert(now_ms);
        let mut key = SeriesKey {
            service: Arc::clone(&span.source.service),
            operation: Arc::clone(&span.name),
            kind: span.kind,
        };
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&key) {
            key = SeriesKey { service: OTHER.into(), operation: OTHER.into(), kind: span.kind };
        }
        let slots = self.series.entry(key).or_default();
        if slots.back().is_none_or(|(last, _)| *last < slot) {
            slots.push_back((slot, Counts::default()));
            while slots.len() > MAX_SLOTS || slots[0].0 + MAX_SLOTS as u64 <= slot {
                slots.pop_front();
            }
        }
        if let Some((_, counts)) = slots.back_mut() {
            counts.add(span);
        }
    }

    /// Returns the counts of each service, or of each operation of it, with their slots.
    pub(crate) fn select(&self, selection: &Selection) -> HashMap<Labels, Slots> {
        let mut selected: HashMap<Labels, Slots> = HashMap::new();
        for (key, slots) in &self.series {
            if selection.services.iter().any(|service| **service == *key.service)
                && selection.kinds.contains(&key.kind)
            {
                let operation = selection.by_operation.then(|| Arc::clone(&key.operation));
                let merged = selected.entry((Arc::clone(&key.service), operation)).or_default();
                for (slot, counts) in slots {
                    merged.entry(*slot).or_default().merge(counts);
                }
            }
        }
        selected
    }

    /// Returns the time of the first span in milliseconds since the Unix epoch.
    pub(crate) fn start_ms(&self) -> Option<u64> {
        self.start_ms
    }
}

/// Spans of a query.
pub(crate) struct Selection {
    pub(crate) services: Vec<String>,
    pub(crate) kinds: Vec<SpanKind>,
    pub(crate) by_operation: bool,
}

/// Service and, if the query groups by it, operation.
pub(crate) type Labels = (Arc<str>, Option<Arc<str>>);
/// Counts by slot.
pub(crate) type Slots = HashMap<u64, Counts>;

/// Returns the sum of the slots that end after `from_ms` and start before `to_ms`.
pub(crate) fn sum(slots: &Slots, from_ms: u64, to_ms: u64) -> Counts {
    let mut total = Counts::default();
    for (slot, counts) in slots {
        if (slot + 1) * SLOT_MS > from_ms && slot * SLOT_MS < to_ms {
            total.merge(counts);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SpanId;
    use crate::span::SpanSource;

    const HOUR_MS: u64 = 3_600_000;

    fn server_span(operation: &str) -> SpanRecord {
        SpanRecord {
            id: SpanId::ZERO,
            parent: SpanId::ZERO,
            start_ns: 0,
            end_ns: 3_000_000,
            source: Arc::new(SpanSource::new("a".into(), &[], &[])),
            name: operation.into(),
            kind: SpanKind::Server,
            failed: false,
            remaining_fields: Box::default(),
        }
    }

    fn calls(red: &RedMetrics, service: &str) -> u32 {
        let services = vec![service.to_owned()];
        let selection = Selection { services, kinds: vec![SpanKind::Server], by_operation: false };
        let selected = red.select(&selection);
        selected.values().map(|slots| sum(slots, 0, u64::MAX).calls).sum()
    }

    #[test]
    fn series_over_limit_are_other() {
        let mut red = RedMetrics::default();
        (0..700).for_each(|n| red.add(&server_span(&n.to_string()), HOUR_MS));
        red.add(&server_span("0"), HOUR_MS);
        assert_eq!((calls(&red, "a"), calls(&red, OTHER)), (501, 200));
        assert_eq!(red.series.len(), MAX_SERIES + 1);
    }

    #[test]
    fn slots_end_after_an_hour() {
        let mut red = RedMetrics::default();
        for now_ms in [HOUR_MS, HOUR_MS + SLOT_MS, 2 * HOUR_MS] {
            red.add(&server_span("a"), now_ms);
        }
        assert_eq!(calls(&red, "a"), 2);
    }

    #[test]
    fn quantile_is_interpolated() {
        let mut counts = Counts::default();
        assert!(counts.quantile_ms(0.5).is_nan());
        (0..4).for_each(|_| counts.add(&server_span("a")));
        // From 2 ms to 4 ms.
        assert_eq!([0.0, 0.5, 1.0].map(|quantile| counts.quantile_ms(quantile)), [2.0, 3.0, 4.0]);
    }
}
