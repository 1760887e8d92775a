//! Metrics of the store in the Prometheus text format.
//!
//! The receiver's names follow those of the OpenTelemetry Collector, which calls rejected data
//! "refused".

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;

use crate::store::Store;

/// Returns the body of `GET /metrics`.
pub(crate) async fn render(State(store): State<Arc<Store>>) -> String {
    let (stats, limits) = (store.stats(), store.limits());
    let mut text = format!(
        "# HELP otel_receiver_refused_spans_total Spans rejected and reported to the exporter as a partial success.\n\
         # TYPE otel_receiver_refused_spans_total counter\n\
         otel_receiver_refused_spans_total{{reason=\"invalid_id\"}} {}\n\
         otel_receiver_refused_spans_total{{reason=\"span_too_large\"}} {}\n\
         otel_receiver_refused_spans_total{{reason=\"trace_full\"}} {}\n",
        stats.rejected_invalid_id, stats.rejected_span_too_large, stats.rejected_trace_full,
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
        ("otel_store_traces", "Traces in the store.", stats.traces as u64),
        ("otel_store_spans", "Spans in the store.", stats.spans as u64),
        ("otel_store_bytes", "Estimated memory of the store.", stats.bytes as u64),
        ("otel_store_max_traces", "Maximum number of traces.", limits.max_traces as u64),
        ("otel_store_max_bytes", "Maximum estimated memory of the store.", limits.max_bytes as u64),
    ] {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    text
}
