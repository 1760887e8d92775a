//! Batch span processor: a bounded queue, and one thread with a runtime that exports it.
//!
//! A full queue drops the newest span. Each sampled span ends in exactly one counter of
//! [`SpanMetrics`](crate::metrics::SpanMetrics).
//!
//! The thread does not share the service's runtime, so that a service with one worker thread can wait
//! for a flush, and a slow backend delays no request. See docs/adr/0002-dedicated-export-runtime.md.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry::trace::Status;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::attributes::normalize_attributes;
use super::end::resolve_end;
use super::otlp::PartialSuccess;
use crate::config::{BatchConfig, OtelConfig};
use crate::metrics::{ExportFailure, Metrics};

/// Minimum interval between warnings about a failing backend.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Handle to the queue. A clone shares it.
#[derive(Clone)]
pub(crate) struct BatchSpanProcessor {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
    deadline: Arc<watch::Sender<Option<Instant>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    batch_is_full: Notify,
    config: BatchConfig,
    attribute_limit: usize,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    spans: VecDeque<SpanData>,
    /// Number of sampled spans that have started and not ended.
    live: u64,
    is_closed: bool,
}

enum Command {
    Flush(std_mpsc::SyncSender<()>),
    Stop(std_mpsc::SyncSender<()>),
}

impl BatchSpanProcessor {
    /// Starts the thread. `runtime` is the one in which `exporter` was built, and `partial_success` is
    /// where the exporter puts the receiver's responses.
    pub(super) fn start(
        exporter: impl SpanExporter + 'static,
        partial_success: PartialSuccess,
        runtime: Runtime,
        otel: &OtelConfig,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            batch_is_full: Notify::new(),
            config: otel.batch.clone(),
            attribute_limit: otel.attribute_limit,
            metrics,
        });
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (deadline, deadline_rx) = watch::channel(None);
        let worker = Worker {
            shared: Arc::clone(&shared),
            exporter,
            partial_success,
            deadline: deadline_rx,
            outage: OutageWarning::default(),
            rejection: OutageWarning::default(),
        };
        thread::Builder::new()
            .name("span-export".to_owned())
            .spawn(move || runtime.block_on(worker.run(command_rx)))?;
        Ok(Self { shared, commands, deadline: Arc::new(deadline) })
    }

    /// Closes the queue and exports the queued spans within `limit`. Spans that have not ended are counted
    /// as dropped. Returns `true` if all were exported or counted in time. Blocks the calling thread.
    pub(crate) fn stop(&self, limit: Duration) -> bool {
        self.shared.close();
        self.deadline.send_replace(Some(Instant::now() + limit));
        // The worker responds at the deadline. The margin is for a machine under load.
        self.request(Command::Stop, limit + Duration::from_secs(1))
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
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl SpanProcessor for BatchSpanProcessor {
    fn on_start(&self, span: &mut Span, _: &Context) {
        if opentelemetry::trace::Span::span_context(span).is_sampled() {
            self.shared.start();
        }
    }

    fn on_end(&self, mut span: SpanData) {
        if span.span_context.is_sampled() {
            finish_span(&mut span, self.shared.attribute_limit);
            self.shared.enqueue(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        let limit = self.shared.config.export_timeout;
        if self.request(Command::Flush, limit) { Ok(()) } else { Err(OTelSdkError::Timeout(limit)) }
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        if self.stop(limit) { Ok(()) } else { Err(OTelSdkError::Timeout(limit)) }
    }
}

impl Shared {
    fn start(&self) {
        self.metrics.spans.started();
        let mut queue = self.queue.lock();
        queue.live += 1;
        if queue.is_closed {
            self.metrics.spans.failed(1, ExportFailure::Shutdown);
        }
    }

    fn close(&self) {
        let mut queue = self.queue.lock();
        if !std::mem::replace(&mut queue.is_closed, true) {
            self.metrics.spans.failed(queue.live, ExportFailure::Shutdown);
        }
    }

    fn enqueue(&self, span: SpanData) {
        let mut queue = self.queue.lock();
        queue.live -= 1;
        if queue.is_closed {
            // Counted already, when the queue was closed or when the span started.
            return;
        }
        if queue.spans.len() >= self.config.max_queue_size {
            drop(queue);
            return self.metrics.spans.queue_full();
        }
        queue.spans.push_back(span);
        let is_full = queue.spans.len().is_multiple_of(self.config.max_export_batch_size);
        drop(queue);
        if is_full {
            self.batch_is_full.notify_one();
        }
    }

    /// Returns the oldest spans, at most one batch, if at least `min_len` are queued.
    fn dequeue(&self, min_len: usize) -> Option<Vec<SpanData>> {
        let mut queue = self.queue.lock();
        let queued = queue.spans.len();
        let size = queued.min(self.config.max_export_batch_size);
        (queued >= min_len).then(|| queue.spans.drain(..size).collect())
    }
}

/// Completes a span that has ended, before it is exported.
pub(super) fn finish_span(span: &mut SpanData, attribute_limit: usize) {
    resolve_end(span);
    normalize_attributes(span, attribute_limit);
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

struct Worker<E> {
    shared: Arc<Shared>,
    exporter: E,
    partial_success: PartialSuccess,
    deadline: watch::Receiver<Option<Instant>>,
    outage: OutageWarning,
    rejection: OutageWarning,
}

impl<E: SpanExporter> Worker<E> {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let shared = Arc::clone(&self.shared);
        let mut next_export = Instant::now() + shared.config.schedule_delay;
        loop {
            tokio::select! {
                // Under load only full batches are exported. The rest waits for more spans or the schedule.
                () = shared.batch_is_full.notified() => {
                    self.drain(shared.config.max_export_batch_size).await;
                }
                () = sleep_until(next_export) => {
                    self.drain(1).await;
                    next_export = Instant::now() + shared.config.schedule_delay;
                }
                command = commands.recv() => match command {
                    Some(Command::Flush(done)) => {
                        self.drain(1).await;
                        let _ = done.send(());
                    }
                    Some(Command::Stop(done)) => {
                        self.drain(1).await;
                        let _ = self.exporter.shutdown();
                        let _ = done.send(());
                    }
                    None => return,
                },
            }
        }
    }

    /// Exports batches while at least `min_len` spans are queued.
    async fn drain(&mut self, min_len: usize) {
        while let Some(batch) = self.shared.dequeue(min_len) {
            self.export(batch).await;
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let size = batch.len() as u64;
        let spans = &self.shared.metrics.spans;
        spans.processed(size);
        let limit = self.shared.config.export_timeout;
        let timed_out = |after| (ExportFailure::Timeout, format!("no response within {after:?}"));
        let result = tokio::select! {
            biased;
            result = timeout(limit, self.exporter.export(batch)) => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(OTelSdkError::Timeout(after))) => Err(timed_out(after)),
                Ok(Err(error)) => Err((ExportFailure::Failed, error.to_string())),
                Err(_) => Err(timed_out(limit)),
            },
            () = deadline_elapsed(&mut self.deadline) => {
                Err((ExportFailure::Shutdown, "the service stopped first".to_owned()))
            }
        };
        match result {
            Ok(()) => {
                let (rejected, details) = self.partial_success.take(size);
                spans.exported(size - rejected);
                if self.outage.recovered() {
                    tracing::info!(target: "observability", "span export recovered");
                }
                if rejected == 0 {
                    self.rejection.recovered();
                    return;
                }
                let reason = ExportFailure::Rejected;
                spans.failed(rejected, reason);
                if self.rejection.should_warn() {
                    let reason = reason.as_str();
                    tracing::warn!(
                        target: "observability",
                        reason,
                        details,
                        "backend rejected spans"
                    );
                }
            }
            Err((reason, details)) => {
                spans.failed(size, reason);
                if self.outage.should_warn() {
                    let reason = reason.as_str();
                    tracing::warn!(
                        target: "observability",
                        reason,
                        details,
                        "span export failed, dropping spans until the backend recovers"
                    );
                }
            }
        }
    }
}

/// Limits the warnings about an outage to one.
#[derive(Default)]
struct OutageWarning {
    last_warning: Option<Instant>,
    is_ongoing: bool,
}

impl OutageWarning {
    /// Records a failure. Returns `true` if it starts an outage, unless the last warning is recent.
    fn should_warn(&mut self) -> bool {
        let is_recent = self.last_warning.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
        if self.is_ongoing || is_recent {
            return false;
        }
        *self = Self { last_warning: Some(Instant::now()), is_ongoing: true };
        true
    }

    /// Records a success. Returns `true` if it ends an outage that was warned about.
    fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.is_ongoing)
    }
}

/// Completes when the deadline of the shutdown has passed.
async fn deadline_elapsed(deadline: &mut watch::Receiver<Option<Instant>>) {
    let deadline = match deadline.wait_for(Option::is_some).await {
        Ok(deadline) => *deadline,
        Err(_) => None,
    };
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
