//! `process_*` metrics.
//!
//! They are absent on macOS because the crate that reads them needs libclang to build there.

use metrics::Recorder;

pub(super) struct ProcessMetrics {
    #[cfg(not(target_os = "macos"))]
    collector: metrics_process::Collector,
}

impl ProcessMetrics {
    #[cfg(not(target_os = "macos"))]
    pub(super) fn new(recorder: &impl Recorder) -> Self {
        let collector = metrics_process::Collector::default();
        metrics::with_local_recorder(recorder, || collector.describe());
        Self { collector }
    }

    #[cfg(target_os = "macos")]
    pub(super) fn new(_: &impl Recorder) -> Self {
        Self {}
    }

    /// Reads the current values.
    #[cfg(not(target_os = "macos"))]
    pub(super) fn collect(&self, recorder: &impl Recorder) {
        metrics::with_local_recorder(recorder, || self.collector.collect());
    }

    #[cfg(target_os = "macos")]
    pub(super) fn collect(&self, _: &impl Recorder) {}
}
