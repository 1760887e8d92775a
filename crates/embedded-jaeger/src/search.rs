//! Queries over all traces of the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use crate::span::{SpanRecord, SpanSource, kind_name};
use crate::store::{Store, Trace};
use crate::tags::{self, Tag};

/// Conditions of a search. A trace matches if one of its spans meets all of them.
#[derive(Debug)]
pub(crate) struct TraceQuery {
    /// `None` for any service.
    pub(crate) service: Option<String>,
    pub(crate) operation: Option<String>,
    pub(crate) tags: Vec<(String, String)>,
    /// First and last start of the span, in nanoseconds since the Unix epoch.
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) min_duration_ns: Option<u64>,
    pub(crate) max_duration_ns: Option<u64>,
    pub(crate) limit: u32,
}

impl TraceQuery {
    /// Returns up to `limit` matching traces, the newest first.
    pub(crate) fn run(&self, store: &Store) -> Vec<Arc<Trace>> {
        let is_candidate = |trace: &Trace| trace.spans.iter().any(|span| self.matches_record(span));
        let candidates = store.traces(is_candidate).into_iter();
        let mut found: Vec<_> =
            candidates.map(|trace| (Reverse((trace.start_ns(), trace.id)), trace)).collect();
        let limit = self.limit as usize;
        if self.tags.is_empty() && limit < found.len() {
            // All candidates match, so that only the newest are sorted.
            found.select_nth_unstable_by_key(limit, |&(newest_first, _)| newest_first);
            found.truncate(limit);
        }
        found.sort_unstable_by_key(|&(newest_first, _)| newest_first);
        // Tags are decoded here because decoding under the lock would block exporters.
        let mut sources = HashMap::new();
        let matching = found.iter().filter(|(_, trace)| self.matches_tags(trace, &mut sources));
        matching.take(limit).map(|(_, trace)| Arc::clone(trace)).collect()
    }

    fn matches_record(&self, span: &SpanRecord) -> bool {
        self.service.as_deref().is_none_or(|service| *span.source.service == *service)
            && self.operation.as_deref().is_none_or(|operation| *span.name == *operation)
            && (self.start_ns..=self.end_ns).contains(&span.start_ns)
            && self.min_duration_ns.is_none_or(|min| span.duration_ns() >= min)
            && self.max_duration_ns.is_none_or(|max| span.duration_ns() <= max)
    }

    fn matches_tags<'a>(
        &self,
        trace: &'a Trace,
        sources: &mut HashMap<&'a SpanSource, (Vec<Tag>, InstrumentationScope)>,
    ) -> bool {
        let mut records = trace.spans.iter().filter(|span| self.matches_record(span));
        self.tags.is_empty()
            || records.any(|record| {
                let (process_tags, scope) =
                    sources.entry(&record.source).or_insert_with_key(|source| {
                        let attributes = source.decode_resource().attributes.into_iter();
                        (attributes.map(Tag::from_attribute).collect(), source.decode_scope())
                    });
                let span = SearchedSpan::new(record, scope, process_tags);
                self.tags.iter().all(|(key, value)| span.matches(key, value))
            })
    }
}

/// Span with everything to which a condition on a tag may refer.
struct SearchedSpan<'a> {
    status: StatusCode,
    kind: SpanKind,
    scope: &'a InstrumentationScope,
    process_tags: &'a [Tag],
    /// Tags of the span, its events and its links.
    tags: Vec<Tag>,
}

impl<'a> SearchedSpan<'a> {
    fn new(record: &SpanRecord, scope: &'a InstrumentationScope, process_tags: &'a [Tag]) -> Self {
        let mut span = record.decode_remaining_fields();
        let status = span.status.clone().unwrap_or_default().code();
        let status = if record.failed { StatusCode::Error } else { status };
        let (events, links) = (take(&mut span.events), take(&mut span.links));
        let mut tags = tags::span_tags(record, span, scope);
        tags.extend(events.into_iter().flat_map(tags::event_fields));
        tags.extend(links.into_iter().flat_map(|link| link.attributes).map(Tag::from_attribute));
        Self { status, kind: record.kind, scope, process_tags, tags }
    }

    /// Evaluates a condition as Jaeger does. Some keys are names of fields.
    fn matches(&self, key: &str, value: &str) -> bool {
        let has = |tags: &[Tag], key: &str| tags.iter().any(|tag| tag.matches(key, value));
        match key {
            // A span without status is neither.
            "error" => match parse_bool(value) {
                Some(true) => self.status == StatusCode::Error,
                Some(false) => self.status == StatusCode::Ok,
                None => false,
            },
            "span.status" => status_name(self.status).eq_ignore_ascii_case(value),
            "span.kind" => kind_name(self.kind).eq_ignore_ascii_case(value),
            "scope.name" => self.scope.name == value,
            "scope.version" => self.scope.version == value,
            _ => match key.strip_prefix("resource.") {
                Some(key) => has(self.process_tags, key),
                None => has(&self.tags, key) || has(self.process_tags, key),
            },
        }
    }
}

/// Parses a truth value as Go does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn status_name(status: StatusCode) -> &'static str {
    match status {
        StatusCode::Unset => "unset",
        StatusCode::Ok => "ok",
        StatusCode::Error => "error",
    }
}

/// Returns the operations of a service, of one kind if `kind` is given, sorted by name and kind.
pub(crate) fn operations(
    store: &Store,
    service: &str,
    kind: Option<&str>,
) -> BTreeSet<(Arc<str>, SpanKind)> {
    let is_of_service = |span: &&SpanRecord| *span.source.service == *service;
    let traces = store.traces(|trace| trace.spans.iter().any(|span| is_of_service(&span)));
    let spans = traces.iter().flat_map(|trace| &trace.spans).filter(is_of_service);
    let of_kind = spans.filter(|span| kind.is_none_or(|kind| kind == kind_name(span.kind)));
    of_kind.map(|span| (Arc::clone(&span.name), span.kind)).collect()
}

/// Number of calls by calling and called service.
pub(crate) type Dependencies = BTreeMap<(Arc<str>, Arc<str>), u64>;

/// Counts the spans whose parent belongs to another service, in all traces that started between
/// two times in nanoseconds since the Unix epoch.
pub(crate) fn dependencies(store: &Store, (from_ns, to_ns): (u64, u64)) -> Dependencies {
    let mut calls = Dependencies::new();
    for trace in store.traces(|trace| (from_ns..=to_ns).contains(&trace.start_ns())) {
        let services: HashMap<_, _> =
            trace.spans.iter().map(|span| (span.id, &span.source.service)).collect();
        for span in &trace.spans {
            let child = &span.source.service;
            if let Some(&parent) = services.get(&span.parent)
                && parent != child
            {
                *calls.entry((Arc::clone(parent), Arc::clone(child))).or_default() += 1;
            }
        }
    }
    calls
}
