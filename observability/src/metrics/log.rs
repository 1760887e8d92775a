//! Metrics of the log.

use metrics::Counter;

use super::registry::Registry;
use super::{LOG_LINES_LOST, label};

/// Counters of log lines that were not written, by reason.
#[derive(Clone)]
pub(crate) struct DroppedLines {
    pub(crate) queue_full: Counter,
    pub(crate) write_failed: Counter,
    pub(crate) too_long: Counter,
}

impl DroppedLines {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |reason| registry.counter(LOG_LINES_LOST, vec![label("error_type", reason)]);
        Self {
            queue_full: counter("queue_full"),
            write_failed: counter("write_failed"),
            too_long: counter("too_long"),
        }
    }

    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        Self {
            queue_full: Counter::noop(),
            write_failed: Counter::noop(),
            too_long: Counter::noop(),
        }
    }
}
