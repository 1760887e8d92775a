//! Responses in the JSON that Jaeger's UI reads (`internal/uimodel` in Jaeger's source).
//!
//! Traces are serialized span by span, so that a trace is never in memory as a whole JSON document.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use crate::ids::{SpanId, TraceId};
use crate::span::SpanSource;
use crate::store::Trace;
use crate::tags::{self, Tag};
use crate::trace_tree::{Node, TraceTree};

/// Envelope of every response.
#[derive(Serialize)]
pub(crate) struct Envelope<T> {
    data: T,
    /// Length of `data` if Jaeger counts it, otherwise 0.
    total: usize,
    limit: usize,
    offset: usize,
    errors: Option<Vec<ApiError>>,
}

impl<T> Envelope<T> {
    pub(crate) fn new(data: T, total: usize) -> Self {
        Self { data, total, limit: 0, offset: 0, errors: None }
    }

    pub(crate) fn with_errors(data: T, errors: Vec<ApiError>) -> Self {
        let errors = (!errors.is_empty()).then_some(errors);
        Self { errors, ..Self::new(data, 0) }
    }
}

/// Error of a request, or of one trace of several that were requested.
#[derive(Debug, Serialize)]
pub(crate) struct ApiError {
    /// HTTP status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<u16>,
    pub(crate) msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<TraceId>,
}

/// List of traces.
pub(crate) struct TracesJson(pub(crate) Vec<Arc<Trace>>);

impl Serialize for TracesJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|trace| TraceJson(trace)))
    }
}

struct TraceJson<'a>(&'a Trace);

impl Serialize for TraceJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(trace) = self;
        let (tree, processes) = (TraceTree::new(trace), Processes::new(trace));
        let spans = SpansJson { trace: trace.id, tree: &tree, processes: &processes };
        let mut json = serializer.serialize_struct("Trace", 4)?;
        json.serialize_field("traceID", &trace.id)?;
        json.serialize_field("spans", &spans)?;
        json.serialize_field("processes", &processes.json())?;
        json.serialize_field("warnings", &None::<Vec<String>>)?;
        json.end()
    }
}

/// Processes of a trace: one for each resource, with the ids p1, p2, …
struct Processes<'a> {
    by_resource: HashMap<&'a [u8], (String, &'a SpanSource)>,
    /// Process id and decoded scope by the address of the source, which spans share.
    by_source: HashMap<*const SpanSource, (String, InstrumentationScope)>,
}

impl<'a> Processes<'a> {
    fn new(trace: &'a Trace) -> Self {
        let mut by_resource = HashMap::new();
        let mut by_source = HashMap::new();
        for span in &trace.spans {
            by_source.entry(Arc::as_ptr(&span.source)).or_insert_with(|| {
                let next_id = format!("p{}", by_resource.len() + 1);
                let resource = &*span.source.resource;
                let (id, _) = by_resource.entry(resource).or_insert((next_id, &*span.source));
                (id.clone(), span.source.decode_scope())
            });
        }
        Self { by_resource, by_source }
    }

    fn json(&self) -> BTreeMap<&str, ProcessJson<'a>> {
        self.by_resource.values().map(|(id, source)| (id.as_str(), ProcessJson(source))).collect()
    }
}

struct ProcessJson<'a>(&'a SpanSource);

impl Serialize for ProcessJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let resource = self.0.decode_resource();
        let mut json = serializer.serialize_struct("Process", 2)?;
        json.serialize_field("serviceName", &self.0.service)?;
        json.serialize_field("tags", &tags::process_tags(&resource))?;
        json.end()
    }
}

struct SpansJson<'a> {
    trace: TraceId,
    tree: &'a TraceTree<'a>,
    processes: &'a Processes<'a>,
}

impl Serialize for SpansJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut json = serializer.serialize_seq(Some(self.tree.nodes.len()))?;
        for node in &self.tree.nodes {
            let remaining_fields = node.span.decode_remaining_fields();
            json.serialize_element(&self.span(node, &remaining_fields))?;
        }
        json.end()
    }
}

impl SpansJson<'_> {
    fn span<'s>(&'s self, node: &'s Node<'_>, span: &'s Span) -> SpanJson<'s> {
        let record = node.span;
        let (process_id, scope) = &self.processes.by_source[&Arc::as_ptr(&record.source)];
        let mut warnings = Vec::new();
        let references = self.references(node, span, &mut warnings);
        if node.duplicates > 0 {
            warnings.push(format!("this span arrived {} times", node.duplicates + 1));
        }
        if record.end_ns < record.start_ns {
            warnings.push("the span ends before it starts; shown with no duration".to_owned());
        }
        for (count, name) in [
            (span.dropped_attributes_count, "attributes"),
            (span.dropped_events_count, "events"),
            (span.dropped_links_count, "links"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} {name} were dropped before export"));
            }
        }
        let logs = span.events.iter().map(|event| LogJson {
            timestamp: event.time_unix_nano / 1_000,
            fields: tags::event_fields(event),
        });
        SpanJson {
            trace_id: self.trace,
            span_id: record.id,
            operation_name: &record.name,
            references,
            start_time: record.start_ns / 1_000,
            duration: record.duration_ns() / 1_000,
            tags: tags::span_tags(record, span, scope),
            logs: logs.collect(),
            process_id,
            warnings: (!warnings.is_empty()).then_some(warnings),
        }
    }

    /// Returns the references to the parent, then to links, without those that the tree rejects.
    fn references(
        &self,
        node: &Node<'_>,
        span: &Span,
        warnings: &mut Vec<String>,
    ) -> Vec<ReferenceJson> {
        let mut references = Vec::new();
        let mut push = |ref_type, trace_id, span_id| {
            references.push(ReferenceJson { ref_type, trace_id, span_id });
        };
        let parent = node.span.parent;
        match node.invalid_parent {
            Some(invalid_parent) => warnings.push(invalid_parent.warning(parent)),
            None if parent == SpanId::NONE => {}
            None => push("CHILD_OF", self.trace, parent),
        }
        for link in &span.links {
            match TraceId::from_otlp(&link.trace_id).zip(SpanId::from_otlp(&link.span_id)) {
                None => warnings.push("a link without valid ids is left out".to_owned()),
                Some((_, span_id)) if !self.tree.allows_link(node, span_id) => {
                    warnings
                        .push(format!("the link to {span_id}, a span further down, is left out"));
                }
                Some((trace_id, span_id)) => push("FOLLOWS_FROM", trace_id, span_id),
            }
        }
        references
    }
}

/// A span. Times are microseconds since the Unix epoch, durations are microseconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    #[serde(rename = "traceID")]
    trace_id: TraceId,
    #[serde(rename = "spanID")]
    span_id: SpanId,
    operation_name: &'a str,
    references: Vec<ReferenceJson>,
    start_time: u64,
    duration: u64,
    tags: Vec<Tag<'a>>,
    logs: Vec<LogJson<'a>>,
    #[serde(rename = "processID")]
    process_id: &'a str,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferenceJson {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: TraceId,
    #[serde(rename = "spanID")]
    span_id: SpanId,
}

#[derive(Serialize)]
struct LogJson<'a> {
    /// Microseconds since the Unix epoch.
    timestamp: u64,
    fields: Vec<Tag<'a>>,
}
