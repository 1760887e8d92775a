//! Batch span processor: a bounded queue, and one thread with a runtime that exports it.
//!
//! A batch stays in the queue until the backend has accepted or refused it. The queue is bounded in spans
//! and in bytes, and drops the newest span if it is full. Each sampled span ends in exactly one counter of
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
use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::otlp::{SendError, SpanTransport, encode, rejected_spans};
use crate::config::BatchConfig;
use crate::metrics::{ExportFailure, Metrics};

/// Minimum interval between warnings about a failing backend.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum size of the queued spans. At the default capacity it is 16 KiB for each span.
const MAX_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of one export. Receivers accept 4 MiB by default, and the resource needs some of it.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Delay before the first retry. It doubles with each failure up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Maximum delay that a receiver may demand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

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
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Queue {
    /// Spans with [`encode::max_size`].
    spans: VecDeque<(SpanData, usize)>,
    /// Sum of the sizes.
    bytes: usize,
    /// Number of spans that the full queue dropped since the last warning was considered.
    dropped: u64,
    /// Number of sampled spans that have started and not ended.
    live: u64,
    is_closed: bool,
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
        config: BatchConfig,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            batch_is_full: Notify::new(),
            config,
            metrics,
        });
        let (commands, command_rx) = mpsc::unbounded_channel();
        let (deadline, deadline_rx) = watch::channel(None);
        let worker = Worker {
            shared: Arc::clone(&shared),
            transport,
            url,
            deadline: deadline_rx,
            failures: 0,
            retry_at: None,
            outage: OutageWarning::default(),
            queue_full: OutageWarning::default(),
            drops: Default::default(),
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
            clear_status_of_events(&mut span);
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
        let size = encode::max_size(&span);
        let mut queue = self.queue.lock();
        queue.live -= 1;
        if queue.is_closed {
            // Counted already, when the queue was closed or when the span started.
            return;
        }
        if queue.spans.len() >= self.config.max_queue_size || queue.bytes + size > MAX_QUEUE_BYTES {
            queue.dropped += 1;
            drop(queue);
            return self.metrics.spans.queue_full();
        }
        queue.spans.push_back((span, size));
        queue.bytes += size;
        let is_full = queue.spans.len().is_multiple_of(self.config.max_export_batch_size)
            || queue.bytes / MAX_BATCH_BYTES > (queue.bytes - size) / MAX_BATCH_BYTES;
        drop(queue);
        if is_full {
            self.batch_is_full.notify_one();
        }
    }

    /// Returns a batch to the front of the queue, even if the queue is full meanwhile.
    fn requeue(&self, batch: Vec<SpanData>) {
        let mut queue = self.queue.lock();
        for span in batch.into_iter().rev() {
            let size = encode::max_size(&span);
            queue.bytes += size;
            queue.spans.push_front((span, size));
        }
    }

    /// Returns the oldest spans, at most one batch, or `None` if there is no span or `only_full` is set and
    /// the batch is not full.
    fn dequeue(&self, only_full: bool) -> Option<Vec<SpanData>> {
        let max_len = self.config.max_export_batch_size;
        let mut queue = self.queue.lock();
        let is_full = queue.spans.len() >= max_len || queue.bytes >= MAX_BATCH_BYTES;
        if queue.spans.is_empty() || (only_full && !is_full) {
            return None;
        }
        let (mut len, mut bytes) = (0, 0);
        for (_, size) in queue.spans.iter().take(max_len) {
            // A span that is too large is sent alone because the receiver may have a higher limit.
            if len > 0 && bytes + size > MAX_BATCH_BYTES {
                break;
            }
            len += 1;
            bytes += size;
        }
        queue.bytes -= bytes;
        Some(queue.spans.drain(..len).map(|(span, _)| span).collect())
    }

    /// Drops what is left in the queue when the service stops.
    fn clear(&self) {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        let spans = std::mem::take(&mut queue.spans);
        drop(queue);
        self.metrics.spans.failed(spans.len() as u64, ExportFailure::Shutdown);
    }
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
    shared: Arc<Shared>,
    transport: T,
    url: String,
    deadline: watch::Receiver<Option<Instant>>,
    /// Number of attempts that have failed in a row.
    failures: u32,
    /// Time of the next attempt, while the backend fails.
    retry_at: Option<Instant>,
    outage: OutageWarning,
    queue_full: OutageWarning,
    drops: [OutageWarning; ExportFailure::ALL.len()],
}

impl<T: SpanTransport> Worker<T> {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let shared = Arc::clone(&self.shared);
        let schedule_delay = shared.config.schedule_delay;
        let mut next_export = Instant::now() + schedule_delay;
        loop {
            tokio::select! {
                // Under load only full batches are exported. The rest waits for more spans or the schedule.
                () = shared.batch_is_full.notified(), if self.retry_at.is_none() => {
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
                        shared.clear();
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
        while let Some(batch) = self.shared.dequeue(only_full) {
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
                    parts.into_iter().for_each(|part| self.shared.requeue(part));
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
        let limit = self.shared.config.export_timeout;
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
        let spans = &self.shared.metrics.spans;
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
        let spans = &self.shared.metrics.spans;
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
        let dropped = std::mem::take(&mut self.shared.queue.lock().dropped);
        if dropped == 0 {
            self.queue_full.recovered();
        } else if self.queue_full.should_warn() {
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
