//! `tokio_*` metrics, from the stable metrics of the runtime.

use std::time::Duration;

use metrics::Gauge;
use tokio::runtime::Handle;

use super::registry::Registry;
use super::{TOKIO_ALIVE_TASKS, TOKIO_BUSY, TOKIO_QUEUE_DEPTH, TOKIO_WORKERS};

pub(super) struct RuntimeMetrics {
    workers: Gauge,
    alive_tasks: Gauge,
    queue_depth: Gauge,
    busy: Gauge,
}

impl RuntimeMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name| registry.gauge(name, vec![]);
        Self {
            workers: gauge(TOKIO_WORKERS),
            alive_tasks: gauge(TOKIO_ALIVE_TASKS),
            queue_depth: gauge(TOKIO_QUEUE_DEPTH),
            busy: gauge(TOKIO_BUSY),
        }
    }

    /// Reads the current values of the runtime that serves the page.
    pub(super) fn collect(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        let runtime = runtime.metrics();
        let workers = runtime.num_workers();
        self.workers.set(workers as f64);
        self.alive_tasks.set(runtime.num_alive_tasks() as f64);
        self.queue_depth.set(runtime.global_queue_depth() as f64);
        let busy: Duration = (0..workers).map(|n| runtime.worker_total_busy_duration(n)).sum();
        self.busy.set(busy.as_secs_f64());
    }
}
