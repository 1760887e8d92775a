//! Metrics of the span pipeline, by the semantic conventions for SDK metrics.

use std::time::Duration;

use metrics::{Counter, Gauge, Label};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use reqwest::Url;

use super::client::ServerAddressRef;
use super::registry::Registry;
use super::{
    EXPORT_DURATION, SPAN_QUEUE_CAPACITY, SPAN_QUEUE_SIZE, SPANS_EXPORTED, SPANS_INFLIGHT,
    SPANS_LIVE, SPANS_PROCESSED, SPANS_STARTED, label,
};

/// Origin of a span's parent; the `otel.span.parent.origin` of [`SPANS_STARTED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParentOrigin {
    None,
    Local,
    Remote,
}

impl ParentOrigin {
    pub(crate) const ALL: [Self; 3] = [Self::None, Self::Local, Self::Remote];

    /// Returns the origin of a span that starts in `parent`.
    pub(crate) fn of(parent: &Context) -> Self {
        if !parent.has_active_span() {
            return Self::None;
        }
        if parent.span().span_context().is_remote() { Self::Remote } else { Self::Local }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }
}

/// Reason for which a span that was passed to the exporter was not exported; the `error_type` of
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

/// Numbers of sampled spans by what became of them. Each started span is in exactly one of the others.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanCounts {
    pub(crate) started: [u64; ParentOrigin::ALL.len()],
    /// Spans that have not ended.
    pub(crate) live: u64,
    /// Spans that wait for their first export.
    pub(crate) queued: u64,
    /// Spans that the full queue dropped.
    pub(crate) queue_full: u64,
    /// Spans that had not ended when the processor was shut down, or started later.
    pub(crate) already_shutdown: u64,
    /// Spans in the exporter, from the first attempt to the last.
    pub(crate) inflight: u64,
    pub(crate) exported: u64,
    pub(crate) failed: [u64; ExportFailure::ALL.len()],
}

impl SpanCounts {
    /// Returns the number of spans that were not exported, for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue_full + self.already_shutdown + self.failed.iter().sum::<u64>()
    }

    /// Returns the number of spans that were passed to the exporter.
    fn processed(&self) -> u64 {
        self.inflight + self.exported + self.failed.iter().sum::<u64>()
    }
}

/// Series that show [`SpanCounts`].
pub(super) struct SpanMetrics {
    read_counts: Box<dyn Fn() -> SpanCounts + Send + Sync>,
    started: [Counter; ParentOrigin::ALL.len()],
    live: Gauge,
    queue_size: Gauge,
    queue_full: Counter,
    already_shutdown: Counter,
    processed: Counter,
    inflight: Gauge,
    exported: Counter,
    failed: [Counter; ExportFailure::ALL.len()],
}

impl SpanMetrics {
    /// Creates the series of a batch processor and of the exporter with `exporter_labels`.
    pub(super) fn new(
        registry: &Registry,
        capacity: usize,
        exporter_labels: &[Label],
        read_counts: impl Fn() -> SpanCounts + Send + Sync + 'static,
    ) -> Self {
        let processor = component_labels("batching_span_processor");
        registry.gauge(SPAN_QUEUE_CAPACITY, processor.to_vec()).set(capacity as f64);
        let processed = |error| registry.counter(SPANS_PROCESSED, with_error(&processor, error));
        let exported = |error| registry.counter(SPANS_EXPORTED, with_error(exporter_labels, error));
        Self {
            read_counts: Box::new(read_counts),
            started: ParentOrigin::ALL
                .map(|origin| started_counter(registry, origin, "RECORD_AND_SAMPLE")),
            live: registry.gauge(SPANS_LIVE, vec![sampling_result("RECORD_AND_SAMPLE")]),
            queue_size: registry.gauge(SPAN_QUEUE_SIZE, processor.to_vec()),
            queue_full: processed(Some("queue_full")),
            already_shutdown: processed(Some("already_shutdown")),
            processed: processed(None),
            inflight: registry.gauge(SPANS_INFLIGHT, exporter_labels.to_vec()),
            exported: exported(None),
            failed: ExportFailure::ALL.map(|reason| exported(Some(reason.as_str()))),
        }
    }

    /// Reads the current numbers, all at the same moment.
    pub(super) fn collect(&self) {
        let counts = (self.read_counts)();
        for (series, started) in self.started.iter().zip(counts.started) {
            series.absolute(started);
        }
        for (series, failed) in self.failed.iter().zip(counts.failed) {
            series.absolute(failed);
        }
        self.live.set(counts.live as f64);
        self.queue_size.set(counts.queued as f64);
        self.queue_full.absolute(counts.queue_full);
        self.already_shutdown.absolute(counts.already_shutdown);
        self.processed.absolute(counts.processed());
        self.inflight.set(counts.inflight as f64);
        self.exported.absolute(counts.exported);
    }
}

/// Counters of spans that the sampler drops.
#[derive(Debug, Clone)]
pub(crate) struct UnsampledSpans([Counter; ParentOrigin::ALL.len()]);

impl UnsampledSpans {
    pub(super) fn new(registry: &Registry) -> Self {
        Self(ParentOrigin::ALL.map(|origin| started_counter(registry, origin, "DROP")))
    }

    pub(crate) fn started(&self, origin: ParentOrigin) {
        self.0[origin as usize].increment(1);
    }
}

/// Durations of exports.
pub(crate) struct ExportDurations {
    pub(super) registry: Registry,
    pub(super) labels: Vec<Label>,
}

impl ExportDurations {
    /// Records an export, from its first attempt to the end of its last.
    pub(crate) fn record(&self, duration: Duration, failure: Option<ExportFailure>) {
        let labels = with_error(&self.labels, failure.map(ExportFailure::as_str));
        let series = self.registry.histogram(EXPORT_DURATION, labels);
        series.record_with(duration.as_secs_f64(), None);
    }
}

/// Returns the labels of the exporter `component_type` that sends to `endpoint`.
pub(super) fn exporter_labels(component_type: &'static str, endpoint: &Url) -> Vec<Label> {
    let server = ServerAddressRef::from_url(endpoint);
    let mut labels = component_labels(component_type).to_vec();
    labels.push(label("server_address", server.address.to_owned()));
    labels.push(label("server_port", server.port.to_string()));
    labels
}

fn component_labels(component_type: &'static str) -> [Label; 2] {
    [
        label("otel_component_type", component_type),
        label("otel_component_name", format!("{component_type}/0")),
    ]
}

fn with_error(labels: &[Label], error: Option<&'static str>) -> Vec<Label> {
    labels.iter().cloned().chain(error.map(|error| label("error_type", error))).collect()
}

fn started_counter(registry: &Registry, origin: ParentOrigin, result: &'static str) -> Counter {
    let labels = vec![label("otel_span_parent_origin", origin.as_str()), sampling_result(result)];
    registry.counter(SPANS_STARTED, labels)
}

fn sampling_result(result: &'static str) -> Label {
    label("otel_span_sampling_result", result)
}
