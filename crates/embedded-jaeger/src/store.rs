//! The bounded store: traces in order of arrival, of which the oldest is evicted first.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::mem::size_of;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;

use crate::ids::TraceId;
use crate::red::RedMetrics;
use crate::span::{SpanRecord, SpanSource};

/// Limits of the store. Over them, it evicts the oldest traces or rejects the span or request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Maximum number of traces. Default: 50,000.
    pub max_traces: usize,
    /// Maximum number of spans of one trace; further spans are rejected. Default: 50,000.
    pub max_spans_per_trace: usize,
    /// Maximum memory in bytes, as the store estimates it: contents, records and allocator
    /// overhead. Half of it is the maximum for one trace. Default: 96 MiB.
    pub max_bytes: usize,
    /// Maximum size of one encoded span with its resource and scope in bytes; a larger one is
    /// rejected. Default: 1 MiB.
    pub max_span_bytes: usize,
    /// Maximum size of an export request in bytes after decompression; a larger one is rejected.
    /// Default: 16 MiB.
    pub max_request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_traces: 50_000,
            max_spans_per_trace: 50_000,
            max_bytes: 96 << 20,
            max_span_bytes: 1 << 20,
            max_request_bytes: 16 << 20,
        }
    }
}

/// Current contents of the store, and counters since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Number of traces in the store.
    pub traces: usize,
    /// Number of spans in the store.
    pub spans: usize,
    /// Memory in bytes, estimated as for [`Limits::max_bytes`].
    pub bytes: usize,
    /// Spans accepted.
    pub accepted_spans: u64,
    /// Spans rejected because an id is empty, zero or has a wrong length.
    pub rejected_invalid_id: u64,
    /// Spans rejected because they are larger than [`Limits::max_span_bytes`].
    pub rejected_span_too_large: u64,
    /// Spans rejected because their trace was full.
    pub rejected_trace_full: u64,
    /// Requests rejected because they are malformed, too large or have an unsupported media type.
    pub rejected_requests: u64,
    /// Traces evicted.
    pub evicted_traces: u64,
    /// Spans evicted with their traces.
    pub evicted_spans: u64,
}

/// The spans of a trace that have arrived so far.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    pub(crate) spans: Vec<SpanRecord>,
    bytes: usize,
}

impl Trace {
    /// Start of the earliest span, in nanoseconds since the Unix epoch.
    pub(crate) fn start_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.start_ns).min().unwrap_or(0)
    }

    /// Returns `true` if the trace has no room for `next`. Without the limit in bytes, a trace
    /// could evict all others and then itself.
    fn is_full(&self, next: &SpanRecord, limits: &Limits) -> bool {
        self.spans.len() >= limits.max_spans_per_trace
            || self.bytes + next.remaining_fields.len() > limits.max_bytes / 2
    }

    /// Adds a span. Returns the number of bytes by which the trace grows.
    fn push(&mut self, span: SpanRecord) -> usize {
        let before = self.bytes;
        let capacity = self.spans.capacity();
        if self.spans.len() == capacity {
            // Doubling would waste more memory because most traces are small and numerous.
            self.spans.reserve_exact(capacity / 2 + 1);
            self.bytes += (self.spans.capacity() - capacity) * size_of::<SpanRecord>();
        }
        self.bytes += span.remaining_fields.len() + ALLOCATION_OVERHEAD;
        self.spans.push(span);
        self.bytes - before
    }
}

/// Estimated bytes that common allocators add to each allocation.
const ALLOCATION_OVERHEAD: usize = 16;
/// Estimated bytes of a trace without its spans: entries in the map and the queue, and the header.
const TRACE_OVERHEAD: usize =
    3 * size_of::<(TraceId, Arc<Trace>)>() + size_of::<Trace>() + 2 * ALLOCATION_OVERHEAD;

fn name_bytes(name: &str) -> usize {
    name.len() + 2 * ALLOCATION_OVERHEAD + 2 * size_of::<(Arc<str>, usize)>()
}

fn source_bytes(source: &SpanSource) -> usize {
    let contents = source.service.len() + source.resource.len() + source.scope.len();
    let entry = size_of::<SpanSource>() + 2 * size_of::<(Arc<SpanSource>, usize)>();
    contents + 5 * ALLOCATION_OVERHEAD + entry
}

/// In-memory store of traces.
pub(crate) struct Store {
    limits: Limits,
    // A panic under the lock makes a counter wrong at worst. It leaves the traces valid.
    inner: Mutex<Inner>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    traces: HashMap<TraceId, Arc<Trace>>,
    arrival_order: VecDeque<TraceId>,
    /// Names and sources with the number of spans that share each.
    names: HashMap<Arc<str>, usize>,
    sources: HashMap<Arc<SpanSource>, usize>,
    stats: Stats,
    red: RedMetrics,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns a copy of the counters.
    pub(crate) fn stats(&self) -> Stats {
        self.inner.lock().stats.clone()
    }

    /// Adds spans. Returns the number of spans that were rejected because their trace is full.
    pub(crate) fn add(&self, spans: Vec<(TraceId, SpanRecord)>) -> u64 {
        let now_ms = UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64;
        let mut inner = self.inner.lock();
        let before = inner.stats.rejected_trace_full;
        for (id, record) in spans {
            inner.red.add(&record, now_ms);
            inner.add(id, record, &self.limits);
            inner.evict(&self.limits);
        }
        inner.stats.rejected_trace_full - before
    }

    /// Updates the counters.
    pub(crate) fn update_stats(&self, update: impl FnOnce(&mut Stats)) {
        update(&mut self.inner.lock().stats);
    }

    /// Calls `read` with the metrics of the spans. The store is locked meanwhile.
    pub(crate) fn red<T>(&self, read: impl FnOnce(&RedMetrics) -> T) -> T {
        read(&self.inner.lock().red)
    }

    pub(crate) fn trace(&self, id: TraceId) -> Option<Arc<Trace>> {
        self.inner.lock().traces.get(&id).cloned()
    }

    /// Returns the traces that `is_wanted` selects, in unspecified order. The store is locked
    /// meanwhile.
    pub(crate) fn traces(&self, is_wanted: impl Fn(&Trace) -> bool) -> Vec<Arc<Trace>> {
        let inner = self.inner.lock();
        inner.traces.values().filter(|trace| is_wanted(trace)).cloned().collect()
    }

    /// Returns the sorted names of all services that have a span in the store.
    pub(crate) fn services(&self) -> Vec<String> {
        let inner = self.inner.lock();
        let services: BTreeSet<&Arc<str>> =
            inner.sources.keys().map(|source| &source.service).collect();
        services.into_iter().map(ToString::to_string).collect()
    }
}

impl Inner {
    fn add(&mut self, id: TraceId, mut record: SpanRecord, limits: &Limits) {
        let trace = match self.traces.entry(id) {
            Entry::Occupied(trace) if trace.get().is_full(&record, limits) => {
                self.stats.rejected_trace_full += 1;
                return;
            }
            Entry::Occupied(trace) => trace.into_mut(),
            Entry::Vacant(entry) => {
                self.arrival_order.push_back(id);
                self.stats.traces += 1;
                self.stats.bytes += TRACE_OVERHEAD;
                entry.insert(Arc::new(Trace { id, spans: Vec::new(), bytes: 0 }))
            }
        };
        if intern(&mut self.names, &mut record.name) {
            self.stats.bytes += name_bytes(&record.name);
        }
        if intern(&mut self.sources, &mut record.source) {
            self.stats.bytes += source_bytes(&record.source);
        }
        // Copies the trace only if a response that contains it is being written.
        self.stats.bytes += Arc::make_mut(trace).push(record);
        self.stats.spans += 1;
        self.stats.accepted_spans += 1;
    }

    /// Removes the oldest traces until the store is within its limits.
    fn evict(&mut self, limits: &Limits) {
        while self.stats.traces > limits.max_traces || self.stats.bytes > limits.max_bytes {
            let oldest = self.arrival_order.pop_front().and_then(|id| self.traces.remove(&id));
            let Some(trace) = oldest else { return };
            for span in &trace.spans {
                if release(&mut self.names, &span.name) {
                    self.stats.bytes -= name_bytes(&span.name);
                }
                if release(&mut self.sources, &span.source) {
                    self.stats.bytes -= source_bytes(&span.source);
                }
            }
            self.stats.bytes -= TRACE_OVERHEAD + trace.bytes;
            self.stats.traces -= 1;
            self.stats.spans -= trace.spans.len();
            self.stats.evicted_traces += 1;
            self.stats.evicted_spans += trace.spans.len() as u64;
        }
    }
}

/// Replaces `value` by its shared copy and adds one to the uses. Returns `true` if it is the first use.
fn intern<T: ?Sized + Eq + Hash>(uses: &mut HashMap<Arc<T>, usize>, value: &mut Arc<T>) -> bool {
    let entry = uses.entry(Arc::clone(value));
    *value = Arc::clone(entry.key());
    let count = entry.or_insert(0);
    *count += 1;
    *count == 1
}

/// Subtracts one from the uses of `value`. Returns `true` if it was the last use.
fn release<T: ?Sized + Eq + Hash>(uses: &mut HashMap<Arc<T>, usize>, value: &Arc<T>) -> bool {
    let Entry::Occupied(mut entry) = uses.entry(Arc::clone(value)) else { return false };
    *entry.get_mut() -= 1;
    let was_last = *entry.get() == 0;
    if was_last {
        entry.remove();
    }
    was_last
}
