//! Batch span processor: a bounded queue, and one thread with a runtime that exports it.
//!
//! The worker keeps a batch until the backend has accepted or refused it. Meanwhile the queue fills. It is
//! bounded in spans and in bytes, and drops the newest span if it is full. Each sampled span is in exactly
//! one of the [`SpanCounts`](crate::metrics::SpanCounts).
//!
//! The thread does not share the service's runtime, so that a service with one worker thread can wait
//! for a flush, and a slow backend delays no request. See docs/adr/0002-dedicated-export-runtime.md.

use std::fmt;
use std::io;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::Status;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use reqwest::Url;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::attributes::normalize_attributes;
use super::end::resolve_end;
use super::otlp::Exporter;
use super::queue::SpanQueue;
use super::worker::{Command, Worker};
use crate::config::{OtelConfig, SpanLimits};
use crate::metrics::{Metrics, ParentOrigin};

/// Handle to the queue. A clone shares it.
#[derive(Clone)]
pub(crate) struct BatchSpanProcessor {
    queue: Arc<SpanQueue>,
    limits: SpanLimits,
    commands: mpsc::UnboundedSender<Command>,
    deadline: Arc<watch::Sender<Option<Instant>>>,
}

impl BatchSpanProcessor {
    /// Starts the thread. `runtime` is the one in which `exporter` was built.
    pub(super) fn start(
        exporter: Exporter,
        endpoint: &Url,
        runtime: Runtime,
        otel: &OtelConfig,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let queue = Arc::new(SpanQueue::new(otel.batch.clone()));
        let capacity = queue.config.max_queue_size;
        let counts = {
            let queue = Arc::clone(&queue);
            move || queue.counts()
        };
        let durations =
            metrics.observe_spans(exporter.component_type(), endpoint, capacity, counts);
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (deadline, deadline_rx) = watch::channel(None);
        let worker = Worker::new(Arc::clone(&queue), exporter, endpoint, durations, deadline_rx);
        thread::Builder::new()
            .name("span-export".to_owned())
            .spawn(move || runtime.block_on(worker.run(command_rx)))?;
        let limits = otel.span_limits;
        Ok(Self { queue, limits, commands, deadline: Arc::new(deadline) })
    }

    /// Closes the queue and exports the queued spans within `limit`. Spans that have not ended are counted
    /// as dropped. Returns `true` if all were exported or counted in time. Blocks the calling thread.
    pub(crate) fn stop(&self, limit: Duration) -> bool {
        self.queue.close();
        self.deadline.send_replace(Instant::now().checked_add(limit));
        // The worker responds at the deadline. The margin is for a machine under load.
        self.request(Command::Stop, limit.saturating_add(Duration::from_secs(1)))
    }

    /// Returns the number of spans dropped so far, for any reason.
    pub(crate) fn dropped(&self) -> u64 {
        self.queue.counts().dropped()
    }

    fn request(
        &self,
        command: impl FnOnce(std_mpsc::SyncSender<()>) -> Command,
        limit: Duration,
    ) -> bool {
        let (done_tx, done) = std_mpsc::sync_channel(1);
        self.commands.send(command(done_tx)).is_ok() && done.recv_timeout(limit).is_ok()
    }
}

impl fmt::Debug for BatchSpanProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchSpanProcessor")
            .field("config", &self.queue.config)
            .finish_non_exhaustive()
    }
}

impl SpanProcessor for BatchSpanProcessor {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        if opentelemetry::trace::Span::span_context(span).is_sampled() {
            self.queue.start(ParentOrigin::of(parent));
        }
    }

    fn on_end(&self, mut span: SpanData) {
        if span.span_context.is_sampled() {
            finish_span(&mut span, &self.limits);
            self.queue.enqueue(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        let limit = self.queue.config.export_timeout;
        if self.request(Command::Flush, limit) { Ok(()) } else { Err(OTelSdkError::Timeout(limit)) }
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        if self.stop(limit) { Ok(()) } else { Err(OTelSdkError::Timeout(limit)) }
    }
}

/// Completes a span that has ended, before it is exported.
pub(super) fn finish_span(span: &mut SpanData, limits: &SpanLimits) {
    resolve_end(span);
    normalize_attributes(span, limits);
    clear_status_of_events(span);
}

/// Resets the status of an HTTP span that is not a failed one.
///
/// tracing-opentelemetry sets the status error at each event of the level error. By the semantic
/// conventions, the outcome of the request decides, which sets `error.type` as well.
fn clear_status_of_events(span: &mut SpanData) {
    let has = |key: &str| span.attributes.iter().any(|attribute| attribute.key.as_str() == key);
    if matches!(span.status, Status::Error { .. })
        && has("http.request.method")
        && !has("error.type")
    {
        span.status = Status::Unset;
    }
}
