//! Batch span processor: a bounded queue, and one thread with a runtime that exports it.
//!
//! A batch stays in the queue until the backend has accepted or refused it. The queue is bounded in spans
//! and in bytes, and drops the newest span if it is full. Each sampled span ends in exactly one counter of
//! [`SpanMetrics`](crate::metrics::SpanMetrics).
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
use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::attributes::normalize_attributes;
use super::end::resolve_end;
use super::otlp::{SendError, SpanTransport, rejected_spans};
use super::queue::SpanQueue;
use crate::config::{OtelConfig, SpanLimits};
use crate::metrics::{ExportFailure, Metrics};

/// Minimum interval between warnings about a failing backend.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Delay before the first retry. It doubles with each failure up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Maximum delay that a receiver may demand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Handle to the queue. A clone shares it.
#[derive(Clone)]
pub(crate) struct BatchSpanProcessor {
    queue: Arc<SpanQueue>,
    limits: SpanLimits,
    commands: mpsc::UnboundedSender<Command>,
    deadline: Arc<watch::Sender<Option<Instant>>>,
}

enum Command {
    Flush(std_mpsc::SyncSender<()>),
    Stop(std_mpsc::SyncSender<()>),
}

impl BatchSpanProcessor {
    /// Starts the thread. `runtime` is the one in which `transport` was built, and `url` names the
    /// receiver in the log.
    pub(super) fn start(
        transport: impl SpanTransport + Send + 'static,
        url: String,
        runtime: Runtime,
        otel: &OtelConfig,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let queue = Arc::new(SpanQueue::new(otel.batch.clone(), metrics));
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (deadline, deadline_rx) = watch::channel(None);
        let worker = Worker {
            queue: Arc::clone(&queue),
            transport,
            url,
            deadline: deadline_rx,
            failures: 0,
            retry_at: None,
            outage: OutageWarning::default(),
            full_queue: OutageWarning::default(),
            drops: Default::default(),
        };
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
            .field("config", &self.queue.config)
            .finish_non_exhaustive()
    }
}

impl SpanProcessor for BatchSpanProcessor {
    fn on_start(&self, span: &mut Span, _: &Context) {
        if opentelemetry::trace::Span::span_context(span).is_sampled() {
            self.queue.start();
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

struct Worker<T> {
    queue: Arc<SpanQueue>,
    transport: T,
    url: String,
    deadline: watch::Receiver<Option<Instant>>,
    /// Number of attempts that have failed in a row.
    failures: u32,
    /// Time of the next attempt, while the backend fails.
    retry_at: Option<Instant>,
    outage: OutageWarning,
    full_queue: OutageWarning,
    drops: [OutageWarning; ExportFailure::ALL.len()],
}

impl<T: SpanTransport> Worker<T> {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let queue = Arc::clone(&self.queue);
        let schedule_delay = queue.config.schedule_delay;
        let mut next_export = Instant::now() + schedule_delay;
        loop {
            tokio::select! {
                // Under load only full batches are exported. The rest waits for more spans or the schedule.
                () = queue.batch_is_full.notified(), if self.retry_at.is_none() => {
                    self.drain(true).await;
                }
                () = sleep_until(self.retry_at.unwrap_or(next_export)) => self.drain(false).await,
                command = commands.recv() => match command {
                    Some(Command::Flush(done)) => {
                        self.drain(false).await;
                        let _ = done.send(());
                    }
                    Some(Command::Stop(done)) => {
                        self.drain(false).await;
                        queue.clear();
                        let _ = done.send(());
                    }
                    None => return,
                },
            }
            next_export = Instant::now() + schedule_delay;
            self.warn_if_queue_was_full();
        }
    }

    /// Exports batches until the queue has none, or an attempt fails that is to be retried.
    async fn drain(&mut self, only_full: bool) {
        self.retry_at = None;
        while let Some(batch) = self.queue.dequeue(only_full) {
            self.export(batch).await;
            if self.retry_at.is_some() {
                return;
            }
        }
    }

    /// Sends a batch, in parts if the receiver refuses its size. Returns it to the queue if it is to be
    /// retried.
    async fn export(&mut self, batch: Vec<SpanData>) {
        // The last part is the oldest.
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let size = part.len() as u64;
            match self.send(&part).await {
                Ok(partial) => self.record_success(size, partial),
                Err(SendError::Retryable(delay, details)) => {
                    parts.push(part);
                    parts.into_iter().for_each(|part| self.queue.requeue(part));
                    return self.retry_later(delay, &details);
                }
                Err(SendError::TooLarge(_)) if size > 1 => {
                    let newer = part.split_off(part.len() / 2);
                    parts.extend([newer, part]);
                }
                Err(SendError::TooLarge(details)) => {
                    self.drop_spans(size, ExportFailure::TooLarge, &details);
                }
                Err(SendError::Permanent(details)) => {
                    self.drop_spans(size, ExportFailure::Failed, &details);
                }
            }
        }
    }

    async fn send(&mut self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError> {
        let limit = self.queue.config.export_timeout;
        tokio::select! {
            biased;
            result = timeout(limit, self.transport.send(batch)) => result.unwrap_or_else(|_| {
                Err(SendError::Retryable(None, format!("no response within {limit:?}")))
            }),
            () = deadline_elapsed(&mut self.deadline) => {
                Err(SendError::Retryable(None, "the service stopped first".to_owned()))
            }
        }
    }

    fn record_success(&mut self, size: u64, partial: ExportTracePartialSuccess) {
        let (rejected, details) = rejected_spans(partial, size);
        let spans = &self.queue.metrics.spans;
        spans.processed(size - rejected);
        spans.exported(size - rejected);
        self.failures = 0;
        let warned =
            [self.outage.recovered(), self.drops[ExportFailure::Failed as usize].recovered()];
        if warned.contains(&true) {
            tracing::info!(target: "observability", "span export recovered");
        }
        if rejected > 0 {
            self.drop_spans(rejected, ExportFailure::Rejected, &details);
        } else {
            self.drops[ExportFailure::Rejected as usize].recovered();
        }
    }

    /// Schedules the next attempt with exponential backoff and jitter, but not before `min_delay`.
    fn retry_later(&mut self, min_delay: Option<Duration>, details: &str) {
        let backoff = MIN_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        let backoff = backoff.mul_f64(rand::random_range(0.5..=1.0));
        let min_delay = min_delay.unwrap_or_default().min(MAX_RETRY_AFTER);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + backoff.max(min_delay));
        if self.outage.should_warn() {
            let url = &*self.url;
            tracing::warn!(target: "observability", url, details, "span export failed, retrying");
        }
    }

    /// Counts spans that the receiver refused.
    fn drop_spans(&mut self, count: u64, reason: ExportFailure, details: &str) {
        self.failures = 0;
        let spans = &self.queue.metrics.spans;
        spans.processed(count);
        spans.failed(count, reason);
        if !self.drops[reason as usize].should_warn() {
            return;
        }
        let (url, name) = (&*self.url, reason.as_str());
        match reason {
            ExportFailure::Rejected => {
                tracing::warn!(
                    target: "observability", reason = name, url, details, "backend rejected spans"
                );
            }
            ExportFailure::TooLarge => {
                tracing::warn!(
                    target: "observability", reason = name, url, details, "span is too large, dropped"
                );
            }
            ExportFailure::Failed | ExportFailure::Shutdown => tracing::warn!(
                target: "observability",
                reason = name,
                url,
                details,
                "span export failed, dropping spans until the backend recovers"
            ),
        }
    }

    fn warn_if_queue_was_full(&mut self) {
        let dropped = self.queue.take_dropped();
        if dropped == 0 {
            self.full_queue.recovered();
        } else if self.full_queue.should_warn() {
            let reason = "queue_full";
            tracing::warn!(target: "observability", reason, "span queue is full, dropping spans");
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
