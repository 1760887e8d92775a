//! Queue of ended spans, bounded in number and in bytes, and the numbers of spans by state.

use std::collections::VecDeque;

use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::otlp::encode;
use crate::config::BatchConfig;
use crate::metrics::{ExportFailure, ParentOrigin, SpanCounts};

/// Maximum size of the queued spans. At the default capacity it is 16 KiB for each span.
const MAX_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// Maximum size of one export. Receivers accept 4 MiB by default, and the resource needs some of it.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Queue that the service fills and the worker empties.
pub(super) struct SpanQueue {
    state: Mutex<State>,
    pub(super) batch_is_full: Notify,
    pub(super) config: BatchConfig,
}

#[derive(Default)]
struct State {
    /// Spans with [`encode::max_size`].
    spans: VecDeque<(SpanData, usize)>,
    /// Sum of the sizes.
    bytes: usize,
    /// Numbers of spans, except `queued`, which is the length of `spans`.
    counts: SpanCounts,
    is_closed: bool,
}

impl SpanQueue {
    pub(super) fn new(config: BatchConfig) -> Self {
        Self { state: Mutex::default(), batch_is_full: Notify::new(), config }
    }

    /// Returns the numbers of spans at this moment.
    pub(super) fn counts(&self) -> SpanCounts {
        let state = self.state.lock();
        SpanCounts { queued: state.spans.len() as u64, ..state.counts }
    }

    /// Counts a span that has started.
    pub(super) fn start(&self, parent: ParentOrigin) {
        let mut state = self.state.lock();
        state.counts.started[parent as usize] += 1;
        if state.is_closed {
            state.counts.already_shutdown += 1;
        } else {
            state.counts.live += 1;
        }
    }

    /// Counts the live spans as dropped, and each span that starts from now on.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.counts.already_shutdown += std::mem::take(&mut state.counts.live);
    }

    pub(super) fn enqueue(&self, span: SpanData) {
        let size = encode::max_size(&span);
        let mut state = self.state.lock();
        if state.is_closed {
            // Counted already, when the queue was closed or when the span started.
            return;
        }
        state.counts.live -= 1;
        if state.spans.len() >= self.config.max_queue_size || state.bytes + size > MAX_QUEUE_BYTES {
            state.counts.queue_full += 1;
            return;
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

    /// Removes the oldest spans, at most one batch, and counts them as in flight. Returns `None` if there is no
    /// span, or `only_full` is set and the batch is not full.
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
        state.counts.inflight += len as u64;
        Some(state.spans.drain(..len).map(|(span, _)| span).collect())
    }

    /// Counts spans in flight that the backend accepted.
    pub(super) fn exported(&self, spans: u64) {
        let counts = &mut self.state.lock().counts;
        counts.inflight -= spans;
        counts.exported += spans;
    }

    /// Counts spans in flight that are dropped.
    pub(super) fn failed(&self, spans: u64, reason: ExportFailure) {
        let counts = &mut self.state.lock().counts;
        counts.inflight -= spans;
        counts.failed[reason as usize] += spans;
    }
}

#[cfg(test)]
mod tests;
