//! Traces in the JSON that Jaeger's interface reads (`uimodel` in Jaeger's source).
//!
//! Written span by span straight to the answer: a trace is never a whole tree of JSON in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use crate::ids::{SpanId, TraceId};
use crate::store::{Origin, SpanRecord, Trace};
use crate::tags::{self, Tag};
use crate::tree::{Node, Shape};

/// The envelope of every answer. `total` counts `data` where Jaeger counts it.
#[derive(Serialize)]
pub(crate) struct Envelope<T> {
    pub(crate) data: T,
    pub(crate) total: usize,
    pub(crate) limit: usize,
    pub(crate) offset: usize,
    pub(crate) errors: Option<Vec<ApiError>>,
}

impl<T> Envelope<T> {
    pub(crate) fn new(data: T, total: usize) -> Self {
        Self { data, total, limit: 0, offset: 0, errors: None }
    }
}

/// What went wrong, in words and as an HTTP status; the trace where it is about one.
#[derive(Debug, Serialize)]
pub(crate) struct ApiError {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<u16>,
    pub(crate) msg: String,
    #[serde(rename = "traceID", skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<TraceId>,
}

/// The traces of an answer.
pub(crate) struct Traces(pub(crate) Vec<Arc<Trace>>);

impl Serialize for Traces {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|trace| TraceJson(trace)))
    }
}

/// A span's fields that its record does not hold.
pub(crate) fn rest(record: &SpanRecord) -> Span {
    // It was encoded here, so that it decodes; an empty span otherwise.
    Span::decode(&*record.rest).unwrap_or_default()
}

pub(crate) fn scope(origin: &Origin) -> InstrumentationScope {
    InstrumentationScope::decode(&*origin.scope).unwrap_or_default()
}

pub(crate) fn resource(origin: &Origin) -> Resource {
    Resource::decode(&*origin.resource).unwrap_or_default()
}

struct TraceJson<'a>(&'a Trace);

impl Serialize for TraceJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = Shape::of(self.0);
        let processes = Processes::of(self.0);
        let mut trace = serializer.serialize_struct("Trace", 4)?;
        trace.serialize_field("traceID", &self.0.id)?;
        trace.serialize_field(
            "spans",
            &Spans { trace: self.0.id, shape: &shape, processes: &processes },
        )?;
        trace.serialize_field("processes", &processes.json())?;
        trace.serialize_field("warnings", &None::<Vec<String>>)?;
        trace.end()
    }
}

/// The processes of a trace: one for each resource, named p1, p2, …
struct Processes<'a> {
    resources: HashMap<&'a [u8], (String, &'a Origin)>,
    /// By the address of the origin, which the spans share.
    of_origin: HashMap<*const Origin, (String, InstrumentationScope)>,
}

impl<'a> Processes<'a> {
    fn of(trace: &'a Trace) -> Self {
        let mut resources = HashMap::new();
        let mut of_origin = HashMap::new();
        for span in &trace.spans {
            of_origin.entry(Arc::as_ptr(&span.origin)).or_insert_with(|| {
                let name = format!("p{}", resources.len() + 1);
                let resource = &*span.origin.resource;
                let (name, _) = resources.entry(resource).or_insert((name, &*span.origin));
                (name.clone(), scope(&span.origin))
            });
        }
        Self { resources, of_origin }
    }

    fn json(&self) -> BTreeMap<&str, ProcessJson<'a>> {
        self.resources.values().map(|(name, origin)| (name.as_str(), ProcessJson(origin))).collect()
    }
}

struct ProcessJson<'a>(&'a Origin);

impl Serialize for ProcessJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let resource = resource(self.0);
        let mut process = serializer.serialize_struct("Process", 2)?;
        process.serialize_field("serviceName", &self.0.service)?;
        process.serialize_field("tags", &tags::of_resource(&resource))?;
        process.end()
    }
}

struct Spans<'a> {
    trace: TraceId,
    shape: &'a Shape<'a>,
    processes: &'a Processes<'a>,
}

impl Serialize for Spans<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut spans = serializer.serialize_seq(Some(self.shape.nodes.len()))?;
        for node in &self.shape.nodes {
            let rest = rest(node.span);
            spans.serialize_element(&self.span(node, &rest))?;
        }
        spans.end()
    }
}

impl Spans<'_> {
    fn span<'s>(&'s self, node: &'s Node<'_>, rest: &'s Span) -> SpanJson<'s> {
        let record = node.span;
        let (process_id, scope) = &self.processes.of_origin[&Arc::as_ptr(&record.origin)];
        let mut warnings = Vec::new();
        let references = self.references(node, rest, &mut warnings);
        if node.repeats > 0 {
            warnings.push(format!("this span arrived {} times", node.repeats + 1));
        }
        if record.end_ns < record.start_ns {
            warnings.push("the span ends before it starts; shown with no duration".to_owned());
        }
        let dropped = [
            (rest.dropped_attributes_count, "attributes"),
            (rest.dropped_events_count, "events"),
            (rest.dropped_links_count, "links"),
        ];
        for (count, what) in dropped.into_iter().filter(|(count, _)| *count > 0) {
            warnings.push(format!("{count} {what} were dropped before export"));
        }
        SpanJson {
            trace_id: self.trace,
            span_id: record.id,
            operation_name: &record.name,
            references,
            start_time: record.start_ns / 1_000,
            duration: record.duration_ns() / 1_000,
            tags: tags::of_span(record, rest, scope),
            logs: rest
                .events
                .iter()
                .map(|event| Log {
                    timestamp: event.time_unix_nano / 1_000,
                    fields: tags::of_event(event),
                })
                .collect(),
            process_id,
            warnings: (!warnings.is_empty()).then_some(warnings),
        }
    }

    /// The parent first, then the links, without those that would lead in a circle.
    fn references(
        &self,
        node: &Node<'_>,
        rest: &Span,
        warnings: &mut Vec<String>,
    ) -> Vec<Reference> {
        let mut references = Vec::new();
        let parent = node.span.parent;
        match node.broken {
            Some(broken) => warnings.push(broken.warning(parent)),
            None if parent == SpanId::NONE => {}
            None => references.push(Reference {
                ref_type: "CHILD_OF",
                trace_id: self.trace,
                span_id: parent,
            }),
        }
        for link in &rest.links {
            let ids = TraceId::from_otlp(&link.trace_id).zip(SpanId::from_otlp(&link.span_id));
            match ids {
                None => warnings.push("a link without valid ids is left out".to_owned()),
                Some((_, span_id)) if !self.shape.may_link(node, span_id) => {
                    warnings
                        .push(format!("the link to {span_id}, a span further down, is left out"));
                }
                Some((trace_id, span_id)) => {
                    references.push(Reference { ref_type: "FOLLOWS_FROM", trace_id, span_id });
                }
            }
        }
        references
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    #[serde(rename = "traceID")]
    trace_id: TraceId,
    #[serde(rename = "spanID")]
    span_id: SpanId,
    operation_name: &'a str,
    references: Vec<Reference>,
    /// Microseconds since the epoch.
    start_time: u64,
    /// Microseconds.
    duration: u64,
    tags: Vec<Tag<'a>>,
    logs: Vec<Log<'a>>,
    #[serde(rename = "processID")]
    process_id: &'a str,
    warnings: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: &'static str,
    #[serde(rename = "traceID")]
    trace_id: TraceId,
    #[serde(rename = "spanID")]
    span_id: SpanId,
}

#[derive(Serialize)]
struct Log<'a> {
    /// Microseconds since the epoch.
    timestamp: u64,
    fields: Vec<Tag<'a>>,
}
