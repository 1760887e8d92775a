//! Values of one series: counter, gauge or histogram.
//!
//! The histograms have one atomic counter per bucket, so that a concurrent scrape never loses a sample and
//! the memory is bounded without scrapes. See docs/adr/0005-atomic-bucket-histograms.md.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use metrics::{CounterFn, HistogramFn};
use opentelemetry::trace::SpanContext;

use super::exemplar::{Exemplar, ExemplarSlot};

/// Series of any type. A clone shares the value.
#[derive(Debug, Clone)]
pub(super) enum Series {
    Counter(Arc<Counter>),
    /// Bits of an `f64`.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Histogram>),
}

/// Counter with the exemplar of its last increment.
#[derive(Debug)]
pub(super) struct Counter {
    value: AtomicU64,
    exemplar: ExemplarSlot,
    pub(super) created: SystemTime,
}

impl Counter {
    pub(super) fn new() -> Self {
        let (value, exemplar) = (AtomicU64::new(0), ExemplarSlot::default());
        Self { value, exemplar, created: SystemTime::now() }
    }

    pub(super) fn increment_with(&self, exemplar: Option<&SpanContext>) {
        self.increment(1);
        if let Some(span) = exemplar {
            self.exemplar.set(1.0, span);
        }
    }

    pub(super) fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    pub(super) fn exemplar(&self) -> Option<Exemplar> {
        self.exemplar.get()
    }
}

impl CounterFn for Counter {
    fn increment(&self, value: u64) {
        self.value.fetch_add(value, Ordering::Release);
    }

    fn absolute(&self, value: u64) {
        self.value.fetch_max(value, Ordering::AcqRel);
    }
}

/// Histogram with the exemplars of its buckets.
#[derive(Debug)]
pub(super) struct Histogram {
    pub(super) bounds: &'static [f64],
    /// Samples per bucket. The last bucket is for samples above every bound.
    counts: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
    /// One slot per bucket, created by the first exemplar.
    exemplars: OnceLock<Box<[ExemplarSlot]>>,
    pub(super) created: SystemTime,
    /// Counter of the samples that are infinite or not a number.
    not_finite: Arc<Counter>,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64], not_finite: Arc<Counter>) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            exemplars: OnceLock::new(),
            created: SystemTime::now(),
            not_finite,
        }
    }

    pub(super) fn record_with(&self, value: f64, exemplar: Option<&SpanContext>) {
        self.record(value);
        if let Some(span) = exemplar {
            let create = || self.counts.iter().map(|_| ExemplarSlot::default()).collect();
            if let Some(slot) = self.exemplars.get_or_init(create).get(self.bucket(value)) {
                slot.set(value, span);
            }
        }
    }

    fn bucket(&self, value: f64) -> usize {
        self.bounds.partition_point(|&bound| bound < value)
    }

    /// Returns the cumulative count of each bucket, from the lowest to `+Inf`.
    pub(super) fn cumulative_counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().scan(0, |count, samples| {
            *count += samples.load(Ordering::Relaxed);
            Some(*count)
        })
    }

    pub(super) fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }

    pub(super) fn exemplar(&self, bucket: usize) -> Option<Exemplar> {
        self.exemplars.get()?.get(bucket)?.get()
    }
}

impl HistogramFn for Histogram {
    fn record(&self, value: f64) {
        if !value.is_finite() {
            // The sum would never be a number again.
            self.not_finite.increment(1);
            return;
        }
        self.counts[self.bucket(value)].fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // Never fails because `add` returns a value.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}
