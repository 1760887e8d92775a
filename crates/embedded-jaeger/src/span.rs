//! Spans as the store keeps them.

use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;

use crate::ids::{SpanId, TraceId};

pub(crate) const SERVICE_NAME: &str = "service.name";

/// Resource and instrumentation scope of a span, encoded as received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SpanSource {
    /// Hash of the other fields, which are longer than most spans and the same in all spans of a request.
    hash: u64,
    /// The resource attribute `service.name`, or Jaeger's placeholder for it.
    pub(crate) service: Arc<str>,
    /// A protobuf `Resource`.
    pub(crate) resource: Box<[u8]>,
    /// A protobuf `InstrumentationScope`.
    pub(crate) scope: Box<[u8]>,
}

/// Its keys are random, so that clients cannot send sources with the same hash.
static SOURCE_HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Hash for SpanSource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl SpanSource {
    pub(crate) fn new(service: Arc<str>, resource: &[u8], scope: &[u8]) -> Self {
        let hash = SOURCE_HASHER.hash_one((&service, resource, scope));
        Self { hash, service, resource: resource.into(), scope: scope.into() }
    }

    /// Decodes the resource, whose attribute `service.name` is the service. It is valid because ingest has
    /// decoded the same bytes.
    pub(crate) fn decode_resource(&self) -> Resource {
        let mut resource = Resource::decode(&*self.resource).unwrap_or_default();
        resource.attributes.retain(|attribute| attribute.key != SERVICE_NAME);
        let value = Some(Value::StringValue(self.service.to_string()));
        let (key, value) = (SERVICE_NAME.to_owned(), Some(AnyValue { value }));
        resource.attributes.insert(0, KeyValue { key, value, ..KeyValue::default() });
        resource
    }

    /// Decodes the scope. It is valid because ingest has decoded the same bytes.
    pub(crate) fn decode_scope(&self) -> InstrumentationScope {
        InstrumentationScope::decode(&*self.scope).unwrap_or_default()
    }
}

/// One span. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SpanRecord {
    pub(crate) id: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) source: Arc<SpanSource>,
    pub(crate) name: Arc<str>,
    pub(crate) kind: SpanKind,
    /// The status code is `ERROR`.
    pub(crate) failed: bool,
    /// A protobuf `Span` without the fields above. Decoded attributes take several times as much.
    pub(crate) remaining_fields: Box<[u8]>,
}

impl SpanRecord {
    /// Duration in nanoseconds; 0 if the span ends before it starts.
    pub(crate) fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    /// Returns the span as it was received.
    pub(crate) fn to_otlp(&self, trace: TraceId) -> Span {
        Span {
            trace_id: trace.to_otlp(),
            span_id: self.id.to_otlp(),
            parent_span_id: self.parent.to_otlp(),
            name: self.name.to_string(),
            kind: self.kind as i32,
            start_time_unix_nano: self.start_ns,
            end_time_unix_nano: self.end_ns,
            ..self.decode_remaining_fields()
        }
    }

    /// Decodes the fields that the record does not hold. They are valid because ingest has checked them.
    pub(crate) fn decode_remaining_fields(&self) -> Span {
        Span::decode(&*self.remaining_fields).unwrap_or_default()
    }
}

/// Value of Jaeger's tag `span.kind`; empty if the kind is unspecified.
pub(crate) fn kind_name(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Unspecified => "",
        SpanKind::Internal => "internal",
        SpanKind::Server => "server",
        SpanKind::Client => "client",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
    }
}
