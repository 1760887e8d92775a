//! Export status of the spans of a service, from its `otel_sdk_*` counters.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::Process;

/// Maximum time until the last batch is exported.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until every span is exported and returns the number of spans.
///
/// # Errors
/// Fails if a span was dropped, or not exported in time.
pub(crate) fn wait_for_export(service: &Process) -> Result<f64> {
    let deadline = Instant::now() + EXPORT_TIMEOUT;
    loop {
        let page = service.metrics();
        // Series of dropped spans have labels.
        let sum = |name: &str, has_labels: bool| -> f64 {
            let samples = page.named(name).filter(|sample| sample.labels.is_empty() != has_labels);
            samples.map(|sample| sample.value).sum()
        };
        let started = sum("otel_sdk_span_started_total", false);
        let exported = sum("otel_sdk_exporter_span_exported_total", false);
        let dropped = sum("otel_sdk_exporter_span_exported_total", true)
            + sum("otel_sdk_processor_span_processed_total", true);
        ensure!(dropped == 0.0, "{dropped} of {started} spans were dropped");
        if started == exported {
            return Ok(exported);
        }
        ensure!(Instant::now() < deadline, "only {exported} of {started} spans were exported");
        thread::sleep(Duration::from_millis(100));
    }
}
