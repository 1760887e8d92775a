//! From ended spans to the backend: a bounded queue and one thread with a runtime of its own.
//!
//! The rule of loss: a full queue refuses the newest span. Every span that was started and sampled
//! ends in exactly one counter, see `SpanMetrics` in `metrics.rs`.
//!
//! The exporter does not share the service's runtime, so that a service with one worker thread can
//! wait for a flush without standing in its way, and a slow backend slows nobody.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::metrics::Metrics;
use crate::otel::BatchConfig;

mod encode;
mod grpc;
mod http;

pub(crate) use grpc::GrpcExporter;
pub(crate) use http::HttpExporter;

/// Why a span that left the queue did not arrive: the `error_type` values of
/// [`SPANS_EXPORTED`](crate::metrics::SPANS_EXPORTED).
pub(crate) const FAILURES: [&str; 4] = ["timeout", "failed", "rejected", "shutdown"];

/// The min_len time from one complaint about the backend to the next: one that comes and goes fills
/// no log.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// The spans of the last export that arrived and were not taken, and why: OTLP's partial success,
/// which no exporter of the SDK's can return. A clone is the same place.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartialSuccess(Arc<Mutex<ExportTracePartialSuccess>>);

impl PartialSuccess {
    fn put(&self, answer: ExportTraceServiceResponse) {
        *lock(&self.0) = answer.partial_success.unwrap_or_default();
    }

    /// Of an export of so many: no more than there were, and none where a receiver says less than none.
    fn take(&self, size: u64) -> (u64, String) {
        let mut said = std::mem::take(&mut *lock(&self.0));
        said.error_message.truncate(said.error_message.floor_char_boundary(1024));
        (u64::try_from(said.rejected_spans).unwrap_or(0).min(size), said.error_message)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The queue's end that spans go into. A clone is the same queue.
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
    spans: VecDeque<SpanData>,
    closed: bool,
}

enum Command {
    Flush(std_mpsc::SyncSender<()>),
    Stop(std_mpsc::SyncSender<()>),
}

impl BatchSpanProcessor {
    /// Starts the thread. `runtime` is the one the exporter was built in; `rejected` is where it puts
    /// what arrived and was not taken.
    pub(crate) fn start(
        exporter: impl SpanExporter + 'static,
        rejected: PartialSuccess,
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
        let (commands, received) = mpsc::unbounded_channel();
        let (deadline, deadline_rx) = watch::channel(None);
        let worker = Worker {
            shared: Arc::clone(&shared),
            exporter,
            rejected,
            deadline_rx,
            outage: OutageWarning::default(),
            rejection: OutageWarning::default(),
        };
        thread::Builder::new()
            .name("span-export".to_owned())
            .spawn(move || runtime.block_on(worker.run(received)))?;
        Ok(Self { shared, commands, deadline: Arc::new(deadline) })
    }

    /// Sends what waits, and no more after that; gives up at the end of `limit`. Says whether all
    /// was sent. Blocks the calling thread.
    pub(crate) fn stop(&self, limit: Duration) -> bool {
        self.shared.lock().closed = true;
        self.deadline.send_replace(Some(Instant::now() + limit));
        // The thread answers at the deadline by itself; the margin is for a machine under load.
        self.request(Command::Stop, limit + Duration::from_secs(1))
    }

    fn request(
        &self,
        command: impl FnOnce(std_mpsc::SyncSender<()>) -> Command,
        limit: Duration,
    ) -> bool {
        let (reply, done) = std_mpsc::sync_channel(1);
        self.commands.send(command(reply)).is_ok() && done.recv_timeout(limit).is_ok()
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
            self.shared.metrics.spans.started();
        }
    }

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
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
    fn enqueue(&self, span: SpanData) {
        let mut queue = self.lock();
        if queue.closed || queue.spans.len() >= self.config.max_queue_size {
            let closed = queue.closed;
            drop(queue);
            return if closed {
                self.metrics.spans.failed(1, "shutdown");
            } else {
                self.metrics.spans.refused();
            };
        }
        queue.spans.push_back(span);
        let full = queue.spans.len().is_multiple_of(self.config.max_export_batch_size);
        drop(queue);
        if full {
            self.batch_is_full.notify_one();
        }
    }

    /// The oldest spans, a batch at most, where at min_len `min_len` wait.
    fn dequeue(&self, min_len: usize) -> Option<Vec<SpanData>> {
        let mut queue = self.lock();
        let waiting = queue.spans.len();
        let size = waiting.min(self.config.max_export_batch_size);
        (waiting >= min_len).then(|| queue.spans.drain(..size).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

struct Worker<E> {
    shared: Arc<Shared>,
    exporter: E,
    rejected: PartialSuccess,
    deadline_rx: watch::Receiver<Option<Instant>>,
    outage: OutageWarning,
    rejection: OutageWarning,
}

/// Something that is said once, however long it lasts.
#[derive(Default)]
struct OutageWarning {
    said: Option<Instant>,
    /// The last thing that was said of it is that it is there.
    lasts: bool,
}

impl OutageWarning {
    /// It is there: whether that is to be said.
    fn should_warn(&mut self) -> bool {
        let is_quiet = self.said.is_some_and(|at| at.elapsed() < WARN_INTERVAL);
        if self.lasts || is_quiet {
            return false;
        }
        *self = Self { said: Some(Instant::now()), lasts: true };
        true
    }

    /// It is not there: whether that is news.
    fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.lasts)
    }
}

impl<E: SpanExporter> Worker<E> {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let shared = Arc::clone(&self.shared);
        let mut due = Instant::now() + shared.config.schedule_delay;
        loop {
            tokio::select! {
                // Under load only whole batches go; the rest waits for the next span or the clock.
                () = shared.batch_is_full.notified() => {
                    self.drain(shared.config.max_export_batch_size).await;
                }
                () = sleep_until(due) => {
                    self.drain(1).await;
                    due = Instant::now() + shared.config.schedule_delay;
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

    /// Exports while at min_len `min_len` spans wait.
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
        let result = tokio::select! {
            biased;
            result = timeout(limit, self.exporter.export(batch)) => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(OTelSdkError::Timeout(after))) => Err(("timeout", format!("no answer within {after:?}"))),
                Ok(Err(error)) => Err(("failed", error.to_string())),
                Err(_) => Err(("timeout", format!("no answer within {limit:?}"))),
            },
            () = deadline_elapsed(&mut self.deadline_rx) => Err(("shutdown", "the service stopped first".to_owned())),
        };
        match result {
            Ok(()) => {
                let (rejected, details) = self.rejected.take(size);
                spans.exported(size - rejected);
                if self.outage.recovered() {
                    tracing::info!(target: "observability", "spans are exported again");
                }
                if rejected == 0 {
                    self.rejection.recovered();
                    return;
                }
                spans.failed(rejected, "rejected");
                if self.rejection.should_warn() {
                    tracing::warn!(target: "observability", reason = "rejected", details, "spans are rejected and lost");
                }
            }
            Err((reason, details)) => {
                spans.failed(size, reason);
                if self.outage.should_warn() {
                    tracing::warn!(
                        target: "observability", reason,
                        details,
                        "spans cannot be exported and are lost until they can"
                    );
                }
            }
        }
    }
}

/// Resolves once there is a deadline and it has passed.
async fn deadline_elapsed(deadline_rx: &mut watch::Receiver<Option<Instant>>) {
    let deadline = match deadline_rx.wait_for(Option::is_some).await {
        Ok(deadline) => *deadline,
        Err(_) => None,
    };
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
