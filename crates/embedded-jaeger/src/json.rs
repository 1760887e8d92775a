//! Responses in the JSON that Jaeger's UI reads (`internal/uimodel` in Jaeger's source).
//!
//! Traces are serialized span by span, so that a trace is never in memory as a whole JSON document.

use std::collections::{BTreeMap, HashMap};
use std::mem::take;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::Link;
use serde::{Serialize, Serializer};

use crate::clock_skew::{host_key, skew_warnings};
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
    pub(crate) fn new(data: T) -> Self {
        Self { data, total: 0, limit: 0, offset: 0, errors: None }
    }

    pub(crate) fn with_errors(data: T, errors: Vec<ApiError>) -> Self {
        Self { errors: (!errors.is_empty()).then_some(errors), ..Self::new(data) }
    }
}

impl<T> Envelope<Vec<T>> {
    pub(crate) fn counted(data: Vec<T>) -> Self {
        Self { total: data.len(), ..Self::new(data) }
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

/// Error response to a request.
#[derive(Debug)]
pub(crate) struct QueryError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl QueryError {
    pub(crate) fn bad_request(message: impl ToString) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.to_string() }
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let code = Some(self.status.as_u16());
        let error = ApiError { code, msg: self.message, trace_id: None };
        (self.status, Json(Envelope::with_errors((), vec![error]))).into_response()
    }
}

/// List of traces.
pub(crate) struct TracesJson(pub(crate) Vec<Arc<Trace>>);

impl Serialize for TracesJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|trace| TraceJson::new(trace)))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TraceJson<'a> {
    #[serde(rename = "traceID")]
    trace_id: TraceId,
    spans: SpansJson<'a>,
    /// Processes by id.
    processes: BTreeMap<String, ProcessJson<'a>>,
    warnings: Option<Vec<String>>,
}

/// A resource.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessJson<'a> {
    service_name: &'a str,
    tags: Vec<Tag>,
}

impl<'a> TraceJson<'a> {
    fn new(trace: &'a Trace) -> Self {
        let mut ids = HashMap::new();
        let mut sources = HashMap::new();
        let mut processes = BTreeMap::new();
        for span in &trace.spans {
            sources.entry(&*span.source).or_insert_with_key(|source| {
                let resource = source.decode_resource();
                let host = host_key(&resource);
                let next = ids.len() + 1;
                let id = format!("p{}", ids.entry(&source.resource).or_insert(next));
                processes.entry(id.clone()).or_insert_with(|| ProcessJson {
                    service_name: &source.service,
                    tags: tags::process_tags(resource),
                });
                DecodedSource { process_id: id, scope: source.decode_scope(), host }
            });
        }
        let tree = TraceTree::new(trace);
        let skew_warnings = skew_warnings(&tree, |span| &sources[&*span.source].host);
        let spans = SpansJson { trace: trace.id, tree, sources, skew_warnings };
        Self { trace_id: trace.id, spans, processes, warnings: None }
    }
}

struct SpansJson<'a> {
    trace: TraceId,
    tree: TraceTree<'a>,
    sources: HashMap<&'a SpanSource, DecodedSource>,
    /// Warnings of clock skew, in the order of the tree's nodes.
    skew_warnings: Vec<Option<String>>,
}

struct DecodedSource {
    process_id: String,
    scope: InstrumentationScope,
    host: String,
}

impl Serialize for SpansJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            self.tree
                .nodes
                .iter()
                .zip(&self.skew_warnings)
                .map(|(node, skew_warning)| self.span(node, skew_warning.clone())),
        )
    }
}

impl SpansJson<'_> {
    fn span<'s>(&'s self, node: &'s Node<'_>, skew_warning: Option<String>) -> SpanJson<'s> {
        let record = node.span;
        let mut span = record.decode_remaining_fields();
        let source = &self.sources[&*record.source];
        let mut warnings = Vec::from_iter(skew_warning);
        let references = self.references(node, &span.links, &mut warnings);
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
        let logs = take(&mut span.events).into_iter().map(|event| LogJson {
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
            tags: tags::span_tags(record, span, &source.scope),
            logs: logs.collect(),
            process_id: &source.process_id,
            warnings: (!warnings.is_empty()).then_some(warnings),
        }
    }

    /// Returns the references to the parent, then to links, without those that the tree rejects.
    fn references(
        &self,
        node: &Node<'_>,
        links: &[Link],
        warnings: &mut Vec<String>,
    ) -> Vec<ReferenceJson> {
        let mut references = Vec::new();
        let parent = node.span.parent;
        match &node.parent_warning {
            Some(warning) => warnings.push(warning.clone()),
            None if parent == SpanId::ZERO => {}
            None => references.push(ReferenceJson::new("CHILD_OF", self.trace, parent)),
        }
        let has_parent = !references.is_empty();
        for link in links {
            let ids = TraceId::from_otlp(&link.trace_id).zip(SpanId::from_otlp(&link.span_id));
            let Some((trace_id, span_id)) = ids else {
                warnings.push("Invalid span link removed".to_owned());
                continue;
            };
            let ref_type = reference_type(link);
            if has_parent && (trace_id, span_id) == (self.trace, parent) {
                references[0].ref_type = ref_type;
                continue;
            }
            // The UI builds the tree from the span id of the first reference, whatever its trace, or from
            // that of the first which is in this trace.
            let has_ancestor = references.iter().any(|to| self.tree.position(to.span_id).is_some());
            if has_ancestor || self.tree.allows_link(node, span_id) {
                references.push(ReferenceJson::new(ref_type, trace_id, span_id));
            } else {
                warnings.push(format!("the link to {span_id}, a span further down, is left out"));
            }
        }
        references
    }
}

/// Returns the type of a link. OpenTracing's is in an attribute:
/// <https://opentelemetry.io/docs/specs/semconv/registry/attributes/opentracing/>
fn reference_type(link: &Link) -> &'static str {
    let is_child = |attribute: &KeyValue| {
        attribute.key == "opentracing.ref_type"
            && Tag::from_attribute(attribute.clone()).text() == "child_of"
    };
    if link.attributes.iter().any(is_child) { "CHILD_OF" } else { "FOLLOWS_FROM" }
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
    tags: Vec<Tag>,
    logs: Vec<LogJson>,
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

impl ReferenceJson {
    fn new(ref_type: &'static str, trace_id: TraceId, span_id: SpanId) -> Self {
        Self { ref_type, trace_id, span_id }
    }
}

#[derive(Serialize)]
struct LogJson {
    /// Microseconds since the Unix epoch.
    timestamp: u64,
    fields: Vec<Tag>,
}
