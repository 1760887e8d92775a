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

/// Maximum number of spans for which a new batch has room at once.
const MAX_RESERVED_SPANS: usize = 512;

/// Queue that the service fills and the worker empties.
pub(super) struct SpanQueue {
    state: Mutex<State>,
    pub(super) batch_is_full: Notify,
    pub(super) config: BatchConfig,
}

#[derive(Default)]
struct State {
    /// Batches that are full, the oldest first.
    full: VecDeque<Batch>,
    /// Batch that spans are added to.
    open: Batch,
    /// Size of all batches.
    bytes: usize,
    counts: SpanCounts,
    is_closed: bool,
}

#[derive(Default)]
struct Batch {
    spans: Vec<SpanData>,
    /// Sum of [`encode::max_size`].
    bytes: usize,
}

impl SpanQueue {
    pub(super) fn new(config: BatchConfig) -> Self {
        Self { state: Mutex::default(), batch_is_full: Notify::new(), config }
    }

    /// Returns the numbers of spans at this moment.
    pub(super) fn counts(&self) -> SpanCounts {
        self.state.lock().counts
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
        let is_full = state.counts.queued >= self.config.max_queue_size as u64;
        if is_full || state.bytes + size > MAX_QUEUE_BYTES {
            state.counts.queue_full += 1;
            return;
        }
        state.counts.queued += 1;
        state.bytes += size;
        let max_len = self.config.max_export_batch_size;
        // A span that is too large is sent alone because the receiver may have a higher limit.
        let had_no_room = !state.open.spans.is_empty() && state.open.bytes + size > MAX_BATCH_BYTES;
        if had_no_room {
            state.complete_batch();
        }
        let open = &mut state.open;
        if open.spans.is_empty() {
            open.spans.reserve(max_len.min(MAX_RESERVED_SPANS));
        }
        open.spans.push(span);
        open.bytes += size;
        let is_complete = state.open.spans.len() >= max_len;
        if is_complete {
            state.complete_batch();
        }
        drop(state);
        if had_no_room || is_complete {
            self.batch_is_full.notify_one();
        }
    }

    /// Removes the oldest batch and counts its spans as in flight. Returns `None` if there is no span, or
    /// `only_full` is set and no batch is full.
    pub(super) fn dequeue(&self, only_full: bool) -> Option<Vec<SpanData>> {
        let mut state = self.state.lock();
        let batch = match state.full.pop_front() {
            Some(batch) => batch,
            None if only_full || state.open.spans.is_empty() => return None,
            None => std::mem::take(&mut state.open),
        };
        state.bytes -= batch.bytes;
        state.counts.queued -= batch.spans.len() as u64;
        state.counts.inflight += batch.spans.len() as u64;
        Some(batch.spans)
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

impl State {
    fn complete_batch(&mut self) {
        let batch = std::mem::take(&mut self.open);
        self.full.push_back(batch);
    }
}

#[cfg(test)]
mod tests;
