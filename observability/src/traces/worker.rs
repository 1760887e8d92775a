//! Worker that exports the queue, and what it says about failures.

use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use opentelemetry_sdk::trace::SpanData;
use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::otlp::{Exporter, SendError, SpanTransport, rejected_spans};
use super::queue::SpanQueue;
use crate::http::redact_url;
use crate::metrics::{ExportDurations, ExportFailure};

/// Minimum interval between warnings about a failing backend.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Delay before the first retry. It doubles with each failure up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Maximum delay that a receiver may demand.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// Request of the processor, with the channel for the response.
pub(super) enum Command {
    Flush(std_mpsc::SyncSender<()>),
    Stop(std_mpsc::SyncSender<()>),
}

/// Task of the export thread.
pub(super) struct Worker {
    queue: Arc<SpanQueue>,
    exporter: Exporter,
    url: String,
    durations: ExportDurations,
    /// Export that is to be retried.
    operation: Option<Operation>,
    deadline: watch::Receiver<Option<Instant>>,
    /// Number of attempts that have failed in a row.
    failures: u32,
    /// Time of the next attempt, while the backend fails.
    retry_at: Option<Instant>,
    outage: OutageWarning,
    full_queue: OutageWarning,
    /// Number of spans that the full queue had dropped when it was looked at last.
    queue_full: u64,
    drops: [OutageWarning; ExportFailure::ALL.len()],
}

/// Export of one batch, from its first attempt to the last.
struct Operation {
    start: Instant,
    /// Spans left to send, in parts if the receiver refused the size of the batch. The last part is the oldest.
    parts: Vec<Vec<SpanData>>,
    /// Reason of the last part that was dropped.
    failure: Option<ExportFailure>,
}

impl Operation {
    fn new(batch: Vec<SpanData>) -> Self {
        Self { start: Instant::now(), parts: vec![batch], failure: None }
    }
}

impl Worker {
    pub(super) fn new(
        queue: Arc<SpanQueue>,
        exporter: Exporter,
        endpoint: &Url,
        durations: ExportDurations,
        deadline: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self {
            queue,
            exporter,
            url: redact_url(endpoint),
            durations,
            operation: None,
            deadline,
            failures: 0,
            retry_at: None,
            outage: OutageWarning::default(),
            full_queue: OutageWarning::default(),
            queue_full: 0,
            drops: Default::default(),
        }
    }

    /// Runs until the sender of `commands` is dropped.
    pub(super) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        let queue = Arc::clone(&self.queue);
        let schedule_delay = queue.config.schedule_delay;
        let mut next_export = Instant::now() + schedule_delay;
        // Flushes that wait until the backend has accepted or refused all spans.
        let mut flushes = Vec::<std_mpsc::SyncSender<()>>::new();
        loop {
            tokio::select! {
                // Under load only full batches are exported. The rest waits for more spans or the schedule.
                () = queue.batch_is_full.notified(), if self.retry_at.is_none() => {
                    self.drain(true).await;
                }
                () = sleep_until(self.retry_at.unwrap_or(next_export)) => self.drain(false).await,
                command = commands.recv() => match command {
                    Some(Command::Flush(done)) => {
                        flushes.push(done);
                        if self.retry_at.is_none() {
                            self.drain(false).await;
                        }
                    }
                    Some(Command::Stop(done)) => {
                        self.drain(false).await;
                        self.drop_rest();
                        let _ = done.send(());
                    }
                    None => return,
                },
            }
            if self.retry_at.is_none() {
                for done in flushes.drain(..) {
                    // Fails if the time limit of the flush has passed.
                    let _ = done.send(());
                }
            }
            next_export = Instant::now() + schedule_delay;
            self.warn_if_queue_was_full();
        }
    }

    /// Exports batches until the queue has none, or an attempt fails that is to be retried.
    async fn drain(&mut self, only_full: bool) {
        self.retry_at = None;
        while let Some(operation) = self.next_operation(only_full) {
            self.export(operation).await;
            if self.retry_at.is_some() {
                return;
            }
        }
    }

    fn next_operation(&mut self, only_full: bool) -> Option<Operation> {
        self.operation.take().or_else(|| self.queue.dequeue(only_full).map(Operation::new))
    }

    /// Sends a batch, in parts if the receiver refuses its size. Keeps it if it is to be retried.
    async fn export(&mut self, mut operation: Operation) {
        while let Some(mut part) = operation.parts.pop() {
            let size = part.len() as u64;
            let failure = match self.send(&part).await {
                Ok(partial) => self.record_success(size, partial),
                Err(SendError::Retryable(delay, details)) => {
                    operation.parts.push(part);
                    self.operation = Some(operation);
                    return self.retry_later(delay, &details);
                }
                Err(SendError::TooLarge(_)) if size > 1 => {
                    let newer = part.split_off(part.len() / 2);
                    operation.parts.extend([newer, part]);
                    None
                }
                Err(SendError::TooLarge(details)) => {
                    self.drop_spans(size, ExportFailure::TooLarge, &details)
                }
                Err(SendError::Permanent(details)) => {
                    self.drop_spans(size, ExportFailure::Failed, &details)
                }
            };
            operation.failure = failure.or(operation.failure);
        }
        self.durations.record(operation.start.elapsed(), operation.failure);
    }

    /// Drops what is left when the service stops.
    fn drop_rest(&mut self) {
        if let Some(operation) = self.operation.take() {
            let spans = operation.parts.iter().map(Vec::len).sum::<usize>();
            self.queue.failed(spans as u64, ExportFailure::Shutdown);
            self.durations.record(operation.start.elapsed(), Some(ExportFailure::Shutdown));
        }
        while let Some(batch) = self.queue.dequeue(false) {
            self.queue.failed(batch.len() as u64, ExportFailure::Shutdown);
        }
    }

    async fn send(&mut self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError> {
        let limit = self.queue.config.export_timeout;
        tokio::select! {
            biased;
            result = timeout(limit, self.exporter.send(batch)) => result.unwrap_or_else(|_| {
                Err(SendError::Retryable(None, format!("no response within {limit:?}")))
            }),
            () = deadline_elapsed(&mut self.deadline) => {
                Err(SendError::Retryable(None, "the service stopped first".to_owned()))
            }
        }
    }

    /// Counts the spans of an accepted part. Returns the failure if some were rejected.
    fn record_success(
        &mut self,
        size: u64,
        partial: ExportTracePartialSuccess,
    ) -> Option<ExportFailure> {
        let (rejected, details) = rejected_spans(partial, size);
        self.queue.exported(size - rejected);
        self.failures = 0;
        let warned =
            [self.outage.recovered(), self.drops[ExportFailure::Failed as usize].recovered()];
        if warned.contains(&true) {
            tracing::info!(target: "observability", "span export recovered");
        }
        if rejected > 0 {
            return self.drop_spans(rejected, ExportFailure::Rejected, &details);
        }
        self.drops[ExportFailure::Rejected as usize].recovered();
        None
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

    /// Counts spans that the receiver refused. Returns the reason.
    fn drop_spans(
        &mut self,
        count: u64,
        reason: ExportFailure,
        details: &str,
    ) -> Option<ExportFailure> {
        self.failures = 0;
        self.queue.failed(count, reason);
        if self.drops[reason as usize].should_warn() {
            self.warn_about_drop(reason, details);
        }
        Some(reason)
    }

    fn warn_about_drop(&self, reason: ExportFailure, details: &str) {
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
        let dropped = self.queue.counts().queue_full;
        if dropped == std::mem::replace(&mut self.queue_full, dropped) {
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
