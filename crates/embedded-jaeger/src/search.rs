//! Queries over all traces of the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use crate::span::{SpanRecord, SpanSource};
use crate::store::{Store, Trace};
use crate::tags;

/// Conditions of a search. A trace matches if one of its spans meets all of them.
#[derive(Debug)]
pub(crate) struct TraceQuery {
    pub(crate) service: String,
    pub(crate) operation: Option<String>,
    pub(crate) tags: Vec<(String, String)>,
    /// First and last start of the span, in nanoseconds since the Unix epoch.
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) min_duration_ns: Option<u64>,
    pub(crate) max_duration_ns: Option<u64>,
    pub(crate) limit: usize,
}

impl TraceQuery {
    /// Returns up to `limit` matching traces, the newest first.
    pub(crate) fn run(&self, store: &Store) -> Vec<Arc<Trace>> {
        let is_candidate =
            |trace: &&Arc<Trace>| trace.spans.iter().any(|span| self.matches_record(span));
        let mut found: Vec<_> = store.read(|traces| traces.filter(is_candidate).cloned().collect());
        found.sort_by_cached_key(|trace| Reverse((trace.start_ns(), trace.id)));
        if !self.tags.is_empty() {
            // Tags are decoded here because decoding under the lock would block exporters.
            let mut sources = DecodedSources::default();
            let mut left = self.limit;
            found.retain(|trace| {
                let matches = left > 0 && self.matches_tags(trace, &mut sources);
                left -= usize::from(matches);
                matches
            });
        }
        found.truncate(self.limit);
        found
    }

    fn matches_record(&self, span: &SpanRecord) -> bool {
        span.source.service == self.service
            && self.operation.as_deref().is_none_or(|operation| *span.name == *operation)
            && (self.start_ns..=self.end_ns).contains(&span.start_ns)
            && self.min_duration_ns.is_none_or(|min| span.duration_ns() >= min)
            && self.max_duration_ns.is_none_or(|max| span.duration_ns() <= max)
    }

    fn matches_tags(&self, trace: &Trace, sources: &mut DecodedSources) -> bool {
        trace.spans.iter().filter(|span| self.matches_record(span)).any(|span| {
            let remaining_fields = span.decode_remaining_fields();
            let (_, resource, scope) = sources.get(&span.source);
            let mut tags = tags::span_tags(span, &remaining_fields, scope);
            tags.extend(tags::process_tags(resource));
            tags.extend(remaining_fields.events.iter().flat_map(tags::event_fields));
            self.tags.iter().all(|(key, value)| tags.iter().any(|tag| tag.matches(key, value)))
        })
    }
}

/// Decoded sources by address. Each is held, so that its address is not reused.
#[derive(Default)]
struct DecodedSources(
    HashMap<*const SpanSource, (Arc<SpanSource>, Resource, InstrumentationScope)>,
);

impl DecodedSources {
    fn get(
        &mut self,
        source: &Arc<SpanSource>,
    ) -> &(Arc<SpanSource>, Resource, InstrumentationScope) {
        self.0.entry(Arc::as_ptr(source)).or_insert_with(|| {
            (Arc::clone(source), source.decode_resource(), source.decode_scope())
        })
    }
}

/// Returns the operations of a service, sorted by name and kind.
pub(crate) fn operations(store: &Store, service: &str) -> BTreeSet<(Arc<str>, SpanKind)> {
    store.read(|traces| {
        let spans = traces.flat_map(|trace| &trace.spans);
        let of_service = spans.filter(|span| span.source.service == service);
        of_service.map(|span| (Arc::clone(&span.name), span.kind)).collect()
    })
}

/// Number of calls by calling and called service.
pub(crate) type Dependencies = BTreeMap<(String, String), u64>;

/// Counts the spans whose parent belongs to another service, in all traces that started between
/// two times in nanoseconds since the Unix epoch.
pub(crate) fn dependencies(store: &Store, (from_ns, to_ns): (u64, u64)) -> Dependencies {
    let is_in_window = |trace: &&Arc<Trace>| (from_ns..=to_ns).contains(&trace.start_ns());
    let traces: Vec<_> = store.read(|traces| traces.filter(is_in_window).cloned().collect());
    let mut calls: HashMap<(&str, &str), u64> = HashMap::new();
    for trace in &traces {
        let services: HashMap<_, _> =
            trace.spans.iter().map(|span| (span.id, &*span.source.service)).collect();
        for span in &trace.spans {
            let child = &*span.source.service;
            if let Some(&parent) = services.get(&span.parent)
                && parent != child
            {
                *calls.entry((parent, child)).or_default() += 1;
            }
        }
    }
    let owned = |((parent, child), count): ((&str, &str), u64)| {
        ((parent.to_owned(), child.to_owned()), count)
    };
    calls.into_iter().map(owned).collect()
}
