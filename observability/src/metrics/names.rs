//! Names and help texts of the metrics, and the bounds of the duration buckets.
//!
//! Names are OpenTelemetry's stable HTTP names in Prometheus spelling: dots become underscores, and the
//! unit becomes a suffix. docs/telemetry.md lists all of them with their labels.

use metrics::Recorder;

/// Duration of a request from its arrival to the end of the response body, in seconds.
pub const SERVER_DURATION: &str = "http_server_request_duration_seconds";
/// Number of requests in flight.
pub const SERVER_ACTIVE: &str = "http_server_active_requests";
/// Counter of requests that hyper rejected before they reached a route.
pub const SERVER_REJECTED: &str = "http_server_rejected_requests_total";
/// Duration of a call from its start to the end of the response body, in seconds.
pub const CLIENT_DURATION: &str = "http_client_request_duration_seconds";
/// Number of calls in flight.
pub const CLIENT_ACTIVE: &str = "http_client_active_requests";
/// Failed calls by error kind.
pub const CLIENT_ERRORS: &str = "http_client_request_errors_total";
/// Retries of calls whose connection could not be made.
pub const CLIENT_RETRIES: &str = "http_client_request_retries_total";
/// 1 while the circuit breaker is open, otherwise 0.
pub const CLIENT_CIRCUIT_OPEN: &str = "http_client_circuit_breaker_open";
/// Started spans, sampled or not.
pub const SPANS_STARTED: &str = "otel_sdk_span_started_total";
/// Sampled spans that have not ended.
pub const SPANS_LIVE: &str = "otel_sdk_span_live";
/// Ended spans that wait for their first export.
pub const SPAN_QUEUE_SIZE: &str = "otel_sdk_processor_span_queue_size";
/// Maximum number of ended spans that wait.
pub const SPAN_QUEUE_CAPACITY: &str = "otel_sdk_processor_span_queue_capacity";
/// Spans passed to the exporter; with `error_type`, spans that were dropped before.
pub const SPANS_PROCESSED: &str = "otel_sdk_processor_span_processed_total";
/// Spans in the exporter, from the first attempt to the last.
pub const SPANS_INFLIGHT: &str = "otel_sdk_exporter_span_inflight";
/// Spans that the backend accepted; with `error_type`, spans that were dropped instead.
pub const SPANS_EXPORTED: &str = "otel_sdk_exporter_span_exported_total";
/// Duration of exports, from the first attempt to the last, in seconds.
pub const EXPORT_DURATION: &str = "otel_sdk_exporter_operation_duration_seconds";
/// Log lines that were not written.
pub const LOG_LINES_LOST: &str = "log_lines_lost_total";
/// Failed requests by route and error kind.
pub const SERVER_ERRORS: &str = "http_server_request_errors_total";
/// Metrics and samples of the service that `/metrics` does not show as they were recorded.
pub const METRICS_REJECTED: &str = "metrics_rejected_total";
/// Resource attributes in labels; the value is 1.
pub const TARGET_INFO: &str = "target_info";
/// Worker threads of the tokio runtime.
pub const TOKIO_WORKERS: &str = "tokio_workers";
/// Tasks of the tokio runtime that are not complete.
pub const TOKIO_ALIVE_TASKS: &str = "tokio_alive_tasks";
/// Tasks in the global queue of the tokio runtime.
pub const TOKIO_QUEUE_DEPTH: &str = "tokio_global_queue_depth";
/// Time for which the worker threads of the tokio runtime were busy, in seconds.
pub const TOKIO_BUSY: &str = "tokio_workers_busy_seconds_total";
/// Build of the service in labels; the value is 1.
pub const BUILD_INFO: &str = "build_info";

/// Counters that are recorded as gauges because a counter of the `metrics` facade holds whole numbers.
pub(super) const FLOAT_COUNTERS: [&str; 2] = ["process_cpu_seconds_total", TOKIO_BUSY];

/// Upper bounds of the buckets of histograms whose name ends in `_seconds`.
///
/// They are the advice of the HTTP semantic conventions, section "Metric: `http.server.request.duration`",
/// with three bounds below it for fast services, and one above the usual timeout of a second.
pub const DURATION_BUCKETS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 2.5,
    5.0, 7.5, 10.0,
];

/// Upper bounds of the buckets of other histograms: the default of the OpenTelemetry SDK specification,
/// section "Explicit bucket histogram aggregation".
pub const DEFAULT_BUCKETS: [f64; 15] = [
    0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0, 5000.0, 7500.0,
    10000.0,
];

/// Route of a request that matches no route.
pub(crate) const UNMATCHED_ROUTE: &str = "unmatched";

/// Registers the help texts.
pub(super) fn describe(recorder: &impl Recorder) {
    for (name, help) in [
        (SERVER_DURATION, "Duration of requests, from arrival to the end of the response body."),
        (CLIENT_DURATION, "Duration of calls, from start to the end of the response body."),
        (EXPORT_DURATION, "Duration of exports of spans, from the first attempt to the last."),
    ] {
        recorder.describe_histogram(name.into(), None, help.into());
    }
    for (name, help) in [
        (SERVER_ACTIVE, "Requests in flight."),
        (CLIENT_ACTIVE, "Calls in flight."),
        (CLIENT_CIRCUIT_OPEN, "1 while the circuit breaker is open, otherwise 0."),
        (SPANS_LIVE, "Sampled spans that have not ended."),
        (SPAN_QUEUE_SIZE, "Ended spans that wait for their first export."),
        (SPAN_QUEUE_CAPACITY, "Maximum number of ended spans that wait."),
        (SPANS_INFLIGHT, "Spans in the exporter, from the first attempt to the last."),
        (TOKIO_WORKERS, "Worker threads of the tokio runtime."),
        (TOKIO_ALIVE_TASKS, "Tasks that are not complete."),
        (TOKIO_QUEUE_DEPTH, "Tasks in the global queue."),
        (TOKIO_BUSY, "Time for which the worker threads were busy, in seconds."),
        (BUILD_INFO, "Build of the service, in labels. The value is 1."),
    ] {
        recorder.describe_gauge(name.into(), None, help.into());
    }
    for (name, help) in [
        (SERVER_ERRORS, "Failed requests, by error kind."),
        (METRICS_REJECTED, "Metrics and samples that are not shown as they were recorded."),
        (SERVER_REJECTED, "Requests that were rejected before they reached a route, by reason."),
        (CLIENT_ERRORS, "Failed calls, by error kind."),
        (CLIENT_RETRIES, "Retries of calls whose connection could not be made."),
        (SPANS_STARTED, "Started spans, sampled or not."),
        (
            SPANS_PROCESSED,
            "Spans passed to the exporter; with error_type, spans that were dropped before.",
        ),
        (
            SPANS_EXPORTED,
            "Spans that the backend accepted; with error_type, spans that were dropped instead.",
        ),
        (LOG_LINES_LOST, "Log lines that were not written."),
    ] {
        recorder.describe_counter(name.into(), None, help.into());
    }
}
