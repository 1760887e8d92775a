//! What the query API asks of the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::render;
use crate::store::{Origin, SpanKind, SpanRecord, Store, Trace};
use crate::tags;

/// A search: a trace is found where one of its spans meets all of it.
#[derive(Debug)]
pub(crate) struct TraceQuery {
    pub(crate) service: String,
    pub(crate) operation: Option<String>,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) min_duration_ns: Option<u64>,
    pub(crate) max_duration_ns: Option<u64>,
    pub(crate) limit: usize,
}

impl TraceQuery {
    /// The traces found, the newest first.
    pub(crate) fn run(&self, store: &Store) -> Vec<Arc<Trace>> {
        let candidate = |trace: &&Arc<Trace>| trace.spans.iter().any(|span| self.record_fits(span));
        let mut found: Vec<_> = store.read(|traces| traces.filter(candidate).cloned().collect());
        found.sort_by_cached_key(|trace| Reverse((trace.start_ns(), trace.id)));
        if !self.tags.is_empty() {
            // Tags are decoded outside the store's lock, and no further than the limit.
            let mut origins = Origins::default();
            let mut left = self.limit;
            found.retain(|trace| {
                let fits = left > 0 && self.tags_fit(trace, &mut origins);
                left -= usize::from(fits);
                fits
            });
        }
        found.truncate(self.limit);
        found
    }

    fn record_fits(&self, span: &SpanRecord) -> bool {
        span.origin.service == self.service
            && self.operation.as_deref().is_none_or(|operation| *span.name == *operation)
            && (self.start_ns..=self.end_ns).contains(&span.start_ns)
            && self.min_duration_ns.is_none_or(|min| span.duration_ns() >= min)
            && self.max_duration_ns.is_none_or(|max| span.duration_ns() <= max)
    }

    fn tags_fit(&self, trace: &Trace, origins: &mut Origins) -> bool {
        trace.spans.iter().any(|span| {
            if !self.record_fits(span) {
                return false;
            }
            let rest = render::rest(span);
            let (_, resource, scope) = origins.decoded(&span.origin);
            let of_span = tags::of_span(span, &rest, scope);
            let of_resource = tags::of_resource(resource);
            self.tags.iter().all(|(key, value)| {
                of_span.iter().chain(&of_resource).any(|tag| tag.is(key, value))
                    || rest
                        .events
                        .iter()
                        .any(|event| tags::of_event(event).iter().any(|field| field.is(key, value)))
            })
        })
    }
}

/// Decoded origins, by their address; each is held, so that the address stays its own.
#[derive(Default)]
struct Origins(HashMap<*const Origin, (Arc<Origin>, Resource, InstrumentationScope)>);

impl Origins {
    fn decoded(&mut self, origin: &Arc<Origin>) -> &(Arc<Origin>, Resource, InstrumentationScope) {
        self.0.entry(Arc::as_ptr(origin)).or_insert_with(|| {
            (Arc::clone(origin), render::resource(origin), render::scope(origin))
        })
    }
}

/// The operations of a service, by name and kind.
pub(crate) fn operations(store: &Store, service: &str) -> BTreeSet<(Arc<str>, SpanKind)> {
    store.read(|traces| {
        let spans = traces.flat_map(|trace| &trace.spans);
        let of_service = spans.filter(|span| span.origin.service == service);
        of_service.map(|span| (Arc::clone(&span.name), span.kind)).collect()
    })
}

/// How often a service called another: caller and callee, and the count.
pub(crate) type Dependencies = BTreeMap<(String, String), u64>;

/// Counts the spans whose parent is another service's, over the traces that began in a window.
pub(crate) fn dependencies(store: &Store, (from_ns, to_ns): (u64, u64)) -> Dependencies {
    let in_window = |trace: &&Arc<Trace>| (from_ns..=to_ns).contains(&trace.start_ns());
    let traces: Vec<_> = store.read(|traces| traces.filter(in_window).cloned().collect());
    let mut calls: HashMap<(&str, &str), u64> = HashMap::new();
    for trace in &traces {
        let services: HashMap<_, _> =
            trace.spans.iter().map(|span| (span.id, &*span.origin.service)).collect();
        for span in &trace.spans {
            let child = &*span.origin.service;
            match services.get(&span.parent) {
                Some(&parent) if parent != child => *calls.entry((parent, child)).or_default() += 1,
                _ => {}
            }
        }
    }
    let owned = |((parent, child), count): ((&str, &str), u64)| {
        ((parent.to_owned(), child.to_owned()), count)
    };
    calls.into_iter().map(owned).collect()
}
