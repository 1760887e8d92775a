//! Metrics of the span pipeline.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

use super::registry::Registry;
use super::{SPANS_EXPORTED, SPANS_PROCESSED, SPANS_STARTED, label};

/// Reason for which a span that left the queue was not exported; the `error_type` of
/// [`SPANS_EXPORTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportFailure {
    /// The export failed, and a retry would fail as well.
    Failed,
    /// The backend responded that it rejects the span.
    Rejected,
    /// The backend refused the span alone because of its size.
    TooLarge,
    /// The service stopped first.
    Shutdown,
}

impl ExportFailure {
    pub(crate) const ALL: [Self; 4] =
        [Self::Failed, Self::Rejected, Self::TooLarge, Self::Shutdown];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::TooLarge => "too_large",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Counters of sampled spans. Once the queue is empty, the started spans are the exported ones and those
/// of every series with an `error_type`.
pub(crate) struct SpanMetrics {
    started: Counter,
    processed: Counter,
    queue_full: Counter,
    exported: Counter,
    failed: [Counter; ExportFailure::ALL.len()],
    dropped: AtomicU64,
}

impl SpanMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let failed = |reason| registry.counter(SPANS_EXPORTED, vec![label("error_type", reason)]);
        Self {
            started: registry.counter(SPANS_STARTED, vec![]),
            processed: registry.counter(SPANS_PROCESSED, vec![]),
            queue_full: registry.counter(SPANS_PROCESSED, vec![label("error_type", "queue_full")]),
            exported: registry.counter(SPANS_EXPORTED, vec![]),
            failed: ExportFailure::ALL.map(|reason| failed(reason.as_str())),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn started(&self) {
        self.started.increment(1);
    }

    /// Records a span that the full queue dropped.
    pub(crate) fn queue_full(&self) {
        self.queue_full.increment(1);
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Records spans whose export has ended.
    pub(crate) fn processed(&self, spans: u64) {
        self.processed.increment(spans);
    }

    pub(crate) fn exported(&self, spans: u64) {
        self.exported.increment(spans);
    }

    /// Records spans that are dropped for `reason`.
    pub(crate) fn failed(&self, spans: u64, reason: ExportFailure) {
        self.failed[reason as usize].increment(spans);
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// Returns the number of spans dropped so far, for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
