//! What became of a service's spans, read from its own `otel_sdk_*` counters.

use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::Process;

/// How long the last batch may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until each started span is accounted for; says how many arrived, or that some were lost.
pub(crate) fn all_exported(service: &Process) -> Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = service.get("/metrics")?;
        let sum = |prefix: &str| -> u64 {
            let samples = page.lines().filter(|line| line.starts_with(prefix));
            let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
            values.sum()
        };
        let started = sum("otel_sdk_span_started_total ");
        let exported = sum("otel_sdk_exporter_span_exported_total ");
        let lost = sum("otel_sdk_exporter_span_exported_total{")
            + sum("otel_sdk_processor_span_processed_total{");
        if lost > 0 {
            return Err(format!("{lost} of {started} spans were lost").into());
        }
        if started == exported {
            return Ok(exported);
        }
        if Instant::now() > deadline {
            return Err(format!("{exported} of {started} spans were exported").into());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
