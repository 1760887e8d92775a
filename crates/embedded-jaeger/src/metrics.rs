//! The store's own figures, in Prometheus' text format.

use std::fmt::Write as _;

use crate::store::Store;

/// The exposition of `GET /metrics`.
pub(crate) fn exposition(store: &Store) -> String {
    let stats = store.stats();
    let limits = store.limits();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    metric(
        "otel_receiver_accepted_spans_total",
        "counter",
        "Spans taken into the store.",
        &[("", stats.accepted_spans)],
    );
    metric(
        "otel_receiver_refused_spans_total",
        "counter",
        "Spans refused, told to the exporter by OTLP's partial success.",
        &[
            ("{reason=\"invalid_id\"}", stats.refused_invalid_id),
            ("{reason=\"span_too_large\"}", stats.refused_span_too_large),
            ("{reason=\"trace_full\"}", stats.refused_trace_full),
        ],
    );
    metric(
        "otel_receiver_refused_requests_total",
        "counter",
        "Export requests refused whole: broken, too large or of another media type.",
        &[("", stats.refused_requests)],
    );
    metric(
        "otel_store_evicted_traces_total",
        "counter",
        "Traces evicted to make room, the oldest first.",
        &[("", stats.evicted_traces)],
    );
    metric(
        "otel_store_evicted_spans_total",
        "counter",
        "Spans evicted with their traces.",
        &[("", stats.evicted_spans)],
    );
    metric("otel_store_traces", "gauge", "Traces held.", &[("", stats.traces as u64)]);
    metric("otel_store_spans", "gauge", "Spans held.", &[("", stats.spans as u64)]);
    metric("otel_store_bytes", "gauge", "Bytes held.", &[("", stats.bytes as u64)]);
    metric(
        "otel_store_max_traces",
        "gauge",
        "The limit of traces.",
        &[("", limits.max_traces as u64)],
    );
    metric(
        "otel_store_max_bytes",
        "gauge",
        "The limit of bytes.",
        &[("", limits.max_bytes as u64)],
    );
    text
}
