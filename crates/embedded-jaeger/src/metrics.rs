//! Metrics of the store in the Prometheus text format.
//!
//! The receiver's names follow those of the OpenTelemetry Collector, which calls rejected data
//! "refused".

use std::fmt::Write as _;

use crate::store::Store;

/// Returns the body of `GET /metrics`.
pub(crate) fn render(store: &Store) -> String {
    let (stats, limits) = (store.stats(), store.limits());
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let rejected_spans = [
        ("{reason=\"invalid_id\"}", stats.rejected_invalid_id),
        ("{reason=\"span_too_large\"}", stats.rejected_span_too_large),
        ("{reason=\"trace_full\"}", stats.rejected_trace_full),
    ];
    metric(
        "otel_receiver_refused_spans_total",
        "counter",
        "Spans rejected and reported to the exporter as a partial success.",
        &rejected_spans,
    );
    for (name, help, value) in [
        ("otel_receiver_accepted_spans_total", "Spans accepted.", stats.accepted_spans),
        (
            "otel_receiver_refused_requests_total",
            "Export requests rejected as malformed, too large or of an unsupported media type.",
            stats.rejected_requests,
        ),
        ("otel_store_evicted_traces_total", "Traces evicted.", stats.evicted_traces),
        ("otel_store_evicted_spans_total", "Spans evicted.", stats.evicted_spans),
    ] {
        metric(name, "counter", help, &[("", value)]);
    }
    for (name, help, value) in [
        ("otel_store_traces", "Traces in the store.", stats.traces),
        ("otel_store_spans", "Spans in the store.", stats.spans),
        ("otel_store_bytes", "Estimated memory of the store.", stats.bytes),
        ("otel_store_max_traces", "Maximum number of traces.", limits.max_traces),
        ("otel_store_max_bytes", "Maximum estimated memory of the store.", limits.max_bytes),
    ] {
        metric(name, "gauge", help, &[("", value as u64)]);
    }
    text
}
