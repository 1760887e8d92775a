//! Queue of ended spans, bounded in number and in bytes, and the count of live spans.

use std::collections::VecDeque;
use std::sync::Arc;

use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::otlp::encode;
use crate::config::BatchConfig;
use crate::metrics::{ExportFailure, Metrics};

/// Maximum size of the queued spans. At the default capacity it is 16 KiB for each span.
const MAX_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of one export. Receivers accept 4 MiB by default, and the resource needs some of it.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Queue that the service fills and the worker empties.
pub(super) struct SpanQueue {
    state: Mutex<State>,
    pub(super) batch_is_full: Notify,
    pub(super) config: BatchConfig,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
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

impl SpanQueue {
    pub(super) fn new(config: BatchConfig, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), batch_is_full: Notify::new(), config, metrics }
    }

    pub(super) fn start(&self) {
        self.metrics.spans.started();
        let mut state = self.state.lock();
        state.live += 1;
        if state.is_closed {
            self.metrics.spans.failed(1, ExportFailure::Shutdown);
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.is_closed, true) {
            self.metrics.spans.failed(state.live, ExportFailure::Shutdown);
        }
    }

    pub(super) fn enqueue(&self, span: SpanData) {
        let size = encode::max_size(&span);
        let mut state = self.state.lock();
        state.live -= 1;
        if state.is_closed {
            // Counted already, when the queue was closed or when the span started.
            return;
        }
        if state.spans.len() >= self.config.max_queue_size || state.bytes + size > MAX_QUEUE_BYTES {
            state.dropped += 1;
            drop(state);
            return self.metrics.spans.queue_full();
        }
        state.spans.push_back((span, size));
        state.bytes += size;
        let is_full = state.spans.len().is_multiple_of(self.config.max_export_batch_size)
            || state.bytes / MAX_BATCH_BYTES > (state.bytes - size) / MAX_BATCH_BYTES;
        drop(state);
        if is_full {
            self.batch_is_full.notify_one();
        }
    }

    /// Returns a batch to the front of the queue, even if the queue is full meanwhile.
    pub(super) fn requeue(&self, batch: Vec<SpanData>) {
        let mut state = self.state.lock();
        for span in batch.into_iter().rev() {
            let size = encode::max_size(&span);
            state.bytes += size;
            state.spans.push_front((span, size));
        }
    }

    /// Returns the oldest spans, at most one batch, or `None` if there is no span or `only_full` is set and
    /// the batch is not full.
    pub(super) fn dequeue(&self, only_full: bool) -> Option<Vec<SpanData>> {
        let max_len = self.config.max_export_batch_size;
        let mut state = self.state.lock();
        let is_full = state.spans.len() >= max_len || state.bytes >= MAX_BATCH_BYTES;
        if state.spans.is_empty() || (only_full && !is_full) {
            return None;
        }
        let (mut len, mut bytes) = (0, 0);
        for (_, size) in state.spans.iter().take(max_len) {
            // A span that is too large is sent alone because the receiver may have a higher limit.
            if len > 0 && bytes + size > MAX_BATCH_BYTES {
                break;
            }
            len += 1;
            bytes += size;
        }
        state.bytes -= bytes;
        Some(state.spans.drain(..len).map(|(span, _)| span).collect())
    }

    /// Drops what is left in the queue when the service stops.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.bytes = 0;
        let spans = std::mem::take(&mut state.spans);
        drop(state);
        self.metrics.spans.failed(spans.len() as u64, ExportFailure::Shutdown);
    }

    /// Returns the number of spans that the full queue dropped since the last call.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state.lock().dropped)
    }
}

#[cfg(test)]
mod tests;
