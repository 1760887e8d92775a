//! The bounded store: traces in the order of their arrival, the oldest out first.
//!
//! A span is kept as a small record beside its remaining fields in protobuf, and what spans share
//! (name, resource, scope) is kept once: a tree of decoded attributes takes several times as much.

use std::collections::hash_map::{Entry, Values};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{SpanId, TraceId};

/// How much is kept. What is over it goes: the oldest trace first, or the span is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Traces kept at once. Default: 50,000.
    pub max_traces: usize,
    /// Spans kept of one trace; further ones are refused. Default: 50,000.
    pub max_spans_per_trace: usize,
    /// Bytes kept in all, by the store's own count: contents, records and what the allocator adds
    /// to them. Default: 96 MiB.
    pub max_bytes: usize,
    /// Bytes of one encoded span; a larger one is refused. Default: 1 MiB.
    pub max_span_bytes: usize,
    /// Bytes of one export request after decompression; a larger one is refused whole.
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

/// What the store holds and what it has taken, refused and evicted since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Traces held now.
    pub traces: usize,
    /// Spans held now.
    pub spans: usize,
    /// Bytes held now, as [`Limits::max_bytes`] counts them.
    pub bytes: usize,
    /// Spans taken since the start.
    pub accepted_spans: u64,
    /// Spans refused since the start for an id that is empty, zero or of a wrong length.
    pub refused_invalid_id: u64,
    /// Spans refused since the start for being larger than [`Limits::max_span_bytes`].
    pub refused_span_too_large: u64,
    /// Spans refused since the start because their trace was full.
    pub refused_trace_full: u64,
    /// Requests refused whole since the start: broken, too large or of another media type.
    pub refused_requests: u64,
    /// Traces evicted since the start to make room.
    pub evicted_traces: u64,
    /// Spans evicted since the start, with their traces.
    pub evicted_spans: u64,
}

/// Where a span comes from: its resource and its instrumentation scope, both as received.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) service: String,
    /// A protobuf `Resource`.
    pub(crate) resource: Box<[u8]>,
    /// A protobuf `InstrumentationScope`.
    pub(crate) scope: Box<[u8]>,
}

/// One span. `rest` is the protobuf `Span` without the fields that stand here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpanRecord {
    pub(crate) id: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) origin: Arc<Origin>,
    pub(crate) name: Arc<str>,
    pub(crate) kind: SpanKind,
    pub(crate) failed: bool,
    pub(crate) rest: Box<[u8]>,
}

/// OTLP's span kinds by Jaeger's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SpanKind {
    Unspecified,
    Internal,
    Server,
    Client,
    Producer,
    Consumer,
}

impl SpanKind {
    /// The value of the tag `span.kind`; empty where the kind is unspecified.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

impl SpanRecord {
    /// How long the span took; 0 where it ends before it starts.
    pub(crate) fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// A trace as far as it has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    pub(crate) id: TraceId,
    pub(crate) spans: Vec<SpanRecord>,
    bytes: usize,
}

impl Trace {
    fn new(id: TraceId) -> Self {
        Self { id, spans: Vec::new(), bytes: 0 }
    }

    /// When its first span began, in nanoseconds since the epoch.
    pub(crate) fn start_ns(&self) -> u64 {
        self.spans.iter().map(|span| span.start_ns).min().unwrap_or(0)
    }

    /// A trace may not push out all the others and then itself.
    fn is_full(&self, next: &SpanRecord, limits: &Limits) -> bool {
        self.spans.len() >= limits.max_spans_per_trace
            || self.bytes + next.rest.len() > limits.max_bytes / 2
    }

    /// Adds a span; answers how many more bytes the trace takes now.
    fn push(&mut self, span: SpanRecord) -> usize {
        let before = self.bytes;
        let capacity = self.spans.capacity();
        if self.spans.len() == capacity {
            // By half and not by double: most traces are small, and there are many of them.
            self.spans.reserve_exact(capacity / 2 + 1);
            self.bytes += (self.spans.capacity() - capacity) * size_of::<SpanRecord>();
        }
        self.bytes += span.rest.len() + ALLOCATION;
        self.spans.push(span);
        self.bytes - before
    }
}

/// A span on its way in. Its name and origin are copies of its own until the store shares them.
pub(crate) struct NewSpan {
    pub(crate) trace: TraceId,
    pub(crate) record: SpanRecord,
}

/// What an allocation costs beyond its contents; near enough for the common allocators.
const ALLOCATION: usize = 16;
/// A trace without its spans: its places in the map and in the queue, and its header.
const TRACE: usize = 3 * size_of::<(TraceId, Arc<Trace>)>() + size_of::<Trace>() + 2 * ALLOCATION;

fn cost_of_name(name: &str) -> usize {
    name.len() + 2 * ALLOCATION + 2 * size_of::<(Arc<str>, usize)>()
}

fn cost_of_origin(origin: &Origin) -> usize {
    let contents = origin.service.len() + origin.resource.len() + origin.scope.len();
    contents + 5 * ALLOCATION + size_of::<Origin>() + 2 * size_of::<(Arc<Origin>, usize)>()
}

/// The traces held in memory, and the counts of what came and went.
pub struct Store {
    limits: Limits,
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
    arrival: VecDeque<TraceId>,
    names: HashMap<Arc<str>, usize>,
    origins: HashMap<Arc<Origin>, usize>,
    stats: Stats,
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What it holds, and what it has taken, refused and evicted.
    pub fn stats(&self) -> Stats {
        self.lock().stats.clone()
    }

    /// Takes spans; answers how many were refused because their trace is full.
    pub(crate) fn add(&self, spans: Vec<NewSpan>) -> usize {
        let mut inner = self.lock();
        let before = inner.stats.refused_trace_full;
        for span in spans {
            inner.add(span, &self.limits);
            inner.evict(&self.limits);
        }
        (inner.stats.refused_trace_full - before) as usize
    }

    /// Changes the counts alone.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut self.lock().stats);
    }

    pub(crate) fn trace(&self, id: TraceId) -> Option<Arc<Trace>> {
        self.lock().traces.get(&id).cloned()
    }

    /// Reads over all traces, in no order. The store waits meanwhile, so `read` is quick.
    pub(crate) fn read<T>(&self, read: impl FnOnce(Values<'_, TraceId, Arc<Trace>>) -> T) -> T {
        read(self.lock().traces.values())
    }

    /// The names of all services with a span here, in order.
    pub(crate) fn services(&self) -> BTreeSet<String> {
        self.lock().origins.keys().map(|origin| origin.service.clone()).collect()
    }

    /// A panic under the lock leaves a count wrong at worst: the traces are still good.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, NewSpan { trace: id, record }: NewSpan, limits: &Limits) {
        if self.traces.get(&id).is_some_and(|trace| trace.is_full(&record, limits)) {
            self.stats.refused_trace_full += 1;
            return;
        }
        let record = self.share(record);
        if !self.traces.contains_key(&id) {
            self.arrival.push_back(id);
            self.stats.traces += 1;
            self.stats.bytes += TRACE;
        }
        let trace = self.traces.entry(id).or_insert_with(|| Arc::new(Trace::new(id)));
        // Copies the trace only while an answer about it is being written.
        self.stats.bytes += Arc::make_mut(trace).push(record);
        self.stats.spans += 1;
        self.stats.accepted_spans += 1;
    }

    /// Exchanges the record's own copies of name and origin for the shared ones.
    fn share(&mut self, mut record: SpanRecord) -> SpanRecord {
        let (name, new_name) = share(&mut self.names, record.name);
        let (origin, new_origin) = share(&mut self.origins, record.origin);
        if new_name {
            self.stats.bytes += cost_of_name(&name);
        }
        if new_origin {
            self.stats.bytes += cost_of_origin(&origin);
        }
        record.name = name;
        record.origin = origin;
        record
    }

    fn evict(&mut self, limits: &Limits) {
        while self.stats.traces > limits.max_traces || self.stats.bytes > limits.max_bytes {
            let oldest = self.arrival.pop_front().and_then(|id| self.traces.remove(&id));
            let Some(trace) = oldest else { return };
            for span in &trace.spans {
                if release(&mut self.names, &span.name) {
                    self.stats.bytes -= cost_of_name(&span.name);
                }
                if release(&mut self.origins, &span.origin) {
                    self.stats.bytes -= cost_of_origin(&span.origin);
                }
            }
            self.stats.bytes -= TRACE + trace.bytes;
            self.stats.traces -= 1;
            self.stats.spans -= trace.spans.len();
            self.stats.evicted_traces += 1;
            self.stats.evicted_spans += trace.spans.len() as u64;
        }
    }
}

/// The shared copy of `value` with one more use, and whether it is the first.
fn share<T: ?Sized + Eq + Hash>(
    uses: &mut HashMap<Arc<T>, usize>,
    value: Arc<T>,
) -> (Arc<T>, bool) {
    match uses.entry(value) {
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += 1;
            (Arc::clone(entry.key()), false)
        }
        Entry::Vacant(entry) => {
            let shared = Arc::clone(entry.key());
            entry.insert(1);
            (shared, true)
        }
    }
}

/// Takes one use back; whether it was the last.
fn release<T: ?Sized + Eq + Hash>(uses: &mut HashMap<Arc<T>, usize>, value: &Arc<T>) -> bool {
    let Some(count) = uses.get_mut(value) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        uses.remove(value);
    }
    last
}
