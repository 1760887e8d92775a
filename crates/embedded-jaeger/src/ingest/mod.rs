//! OTLP in: a protobuf `ExportTraceServiceRequest` taken apart and handed to the store.
//!
//! The request is walked and its spans are decoded one by one. Decoded as a whole, a few
//! megabytes of empty messages would grow to hundreds in memory.

pub(crate) mod grpc;
pub(crate) mod http;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span, status::StatusCode};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::ids::{SpanId, TraceId};
use crate::store::{NewSpan, Origin, SpanKind, SpanRecord, Store};

/// What Jaeger calls a service whose spans do not say its name, and one that says an empty name.
const MISSING_SERVICE: &str = "missing-service-name";
const EMPTY_SERVICE: &str = "empty-service-name";
const EMPTY_SPAN_NAME: &str = "empty-span-name";

/// The request is no valid protobuf; nothing of it was taken.
#[derive(Debug)]
pub(crate) struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the body is no valid ExportTraceServiceRequest: {}", self.0)
    }
}

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Takes one export request into the store.
///
/// Spans that cannot be kept are refused by OTLP's partial success; a request that is no valid
/// protobuf is refused whole.
pub(crate) fn export(store: &Store, request: Bytes) -> Result<ExportTraceServiceResponse, Broken> {
    let mut taken = Vec::new();
    let mut refused = Refused::default();
    let decoded = decode(request, store.limits().max_span_bytes, &mut taken, &mut refused);
    if let Err(broken) = decoded {
        store.count(|stats| stats.refused_requests += 1);
        return Err(broken);
    }
    refused.trace_full = store.add(taken);
    store.count(|stats| {
        stats.refused_invalid_id += refused.invalid_id as u64;
        stats.refused_span_too_large += refused.too_large as u64;
    });
    Ok(ExportTraceServiceResponse { partial_success: refused.partial_success(store) })
}

/// How many spans of one request were refused, and why.
#[derive(Default)]
struct Refused {
    invalid_id: usize,
    too_large: usize,
    trace_full: usize,
}

impl Refused {
    fn partial_success(&self, store: &Store) -> Option<ExportTracePartialSuccess> {
        let limits = store.limits();
        let reasons = [
            (
                self.invalid_id,
                "a trace, span or parent id is empty, zero or of a wrong length".into(),
            ),
            (self.too_large, format!("the span is larger than {} bytes", limits.max_span_bytes)),
            (
                self.trace_full,
                format!(
                    "the trace is full at {} spans or {} bytes",
                    limits.max_spans_per_trace,
                    limits.max_bytes / 2
                ),
            ),
        ];
        let total = self.invalid_id + self.too_large + self.trace_full;
        let message: Vec<String> = reasons
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason): &(usize, String)| format!("{count} refused: {reason}"))
            .collect();
        (total > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: total as i64,
            error_message: message.join("; "),
        })
    }
}

// Field numbers of opentelemetry/proto/collector/trace/v1/trace_service.proto and trace.proto.
const RESOURCE_SPANS: u32 = 1;
const RESOURCE: u32 = 1;
const SCOPE_SPANS: u32 = 2;
const SCOPE: u32 = 1;
const SPANS: u32 = 2;

fn decode(
    request: Bytes,
    max_span_bytes: usize,
    taken: &mut Vec<NewSpan>,
    refused: &mut Refused,
) -> Result<(), Broken> {
    for_each(request, RESOURCE_SPANS, |resource_spans| {
        let resource = last(resource_spans.clone(), RESOURCE)?;
        if resource.len() > max_span_bytes {
            return Err(Broken(format!("a resource larger than {max_span_bytes} bytes")));
        }
        let service = service_name(&Resource::decode(resource.clone())?);
        for_each(resource_spans, SCOPE_SPANS, |scope_spans| {
            let scope = last(scope_spans.clone(), SCOPE)?;
            if scope.len() > max_span_bytes {
                return Err(Broken(format!("a scope larger than {max_span_bytes} bytes")));
            }
            InstrumentationScope::decode(scope.clone())?;
            let origin = Arc::new(Origin {
                service: service.clone(),
                resource: Box::from(&*resource),
                scope: Box::from(&*scope),
            });
            for_each(scope_spans, SPANS, |span| {
                if span.len() > max_span_bytes {
                    refused.too_large += 1;
                    return Ok(());
                }
                match new_span(Span::decode(span)?, &origin) {
                    Some(span) => taken.push(span),
                    None => refused.invalid_id += 1,
                }
                Ok(())
            })
        })
    })
}

/// Calls `each` with every length-delimited field `number` of a message; skips the others.
fn for_each(
    mut message: Bytes,
    number: u32,
    mut each: impl FnMut(Bytes) -> Result<(), Broken>,
) -> Result<(), Broken> {
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        if field != number {
            skip_field(wire_type, field, &mut message, DecodeContext::default())?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return Err(Broken(format!("field {number} is no message")));
        }
        let length = usize::try_from(decode_varint(&mut message)?)?;
        if length > message.len() {
            return Err(Broken(format!("field {number} is longer than the message it is in")));
        }
        each(message.split_to(length))?;
    }
    Ok(())
}

/// The last field `number`, as protobuf reads a field that may stand once; empty without one.
fn last(message: Bytes, number: u32) -> Result<Bytes, Broken> {
    let mut found = Bytes::new();
    for_each(message, number, |field| {
        found = field;
        Ok(())
    })?;
    Ok(found)
}

fn service_name(resource: &Resource) -> String {
    let attribute = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
    match attribute.and_then(|attribute| attribute.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(name)) if !name.is_empty() => name.clone(),
        Some(_) => EMPTY_SERVICE.to_owned(),
        None => MISSING_SERVICE.to_owned(),
    }
}

/// The span as the store keeps it; `None` where an id is invalid.
fn new_span(mut span: Span, origin: &Arc<Origin>) -> Option<NewSpan> {
    let trace = TraceId::from_otlp(&span.trace_id)?;
    let id = SpanId::from_otlp(&span.span_id)?;
    let parent = match span.parent_span_id.as_slice() {
        [] => SpanId::NONE,
        // Some exporters write the absent parent of a root as eight zero bytes.
        [0, 0, 0, 0, 0, 0, 0, 0] => SpanId::NONE,
        parent => SpanId::from_otlp(parent)?,
    };
    let name = if span.name.is_empty() { EMPTY_SPAN_NAME } else { &span.name };
    let name = Arc::from(name);
    let kind = kind(&span);
    let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
    let (start_ns, end_ns) = (span.start_time_unix_nano, span.end_time_unix_nano);

    // What the record holds itself is not kept a second time.
    span.trace_id = Vec::new();
    span.span_id = Vec::new();
    span.parent_span_id = Vec::new();
    span.name = String::new();
    (span.kind, span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0, 0);
    let rest = span.encode_to_vec().into_boxed_slice();
    let origin = Arc::clone(origin);
    let record = SpanRecord { id, parent, start_ns, end_ns, origin, name, kind, failed, rest };
    Some(NewSpan { trace, record })
}

fn kind(span: &Span) -> SpanKind {
    match span.kind() {
        span::SpanKind::Unspecified => SpanKind::Unspecified,
        span::SpanKind::Internal => SpanKind::Internal,
        span::SpanKind::Server => SpanKind::Server,
        span::SpanKind::Client => SpanKind::Client,
        span::SpanKind::Producer => SpanKind::Producer,
        span::SpanKind::Consumer => SpanKind::Consumer,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

    use super::*;
    use crate::render::Traces;
    use crate::store::Limits;

    /// A request that has every field a reader looks at.
    fn full_request() -> Vec<u8> {
        let value = |value| Some(AnyValue { value: Some(value) });
        let array = ArrayValue { values: vec![AnyValue { value: Some(Value::IntValue(-1)) }] };
        let attribute = |key: &str, of| KeyValue {
            key: key.to_owned(),
            value: value(of),
            ..KeyValue::default()
        };
        let span = |id: u8| Span {
            trace_id: vec![1; 16],
            span_id: vec![id; 8],
            parent_span_id: vec![id - 1; 8],
            name: "work".to_owned(),
            kind: span::SpanKind::Server as i32,
            start_time_unix_nano: 1,
            end_time_unix_nano: 2,
            attributes: vec![attribute("list", Value::ArrayValue(array.clone()))],
            events: vec![Event { name: "event".to_owned(), ..Event::default() }],
            links: vec![Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Link::default() }],
            status: Some(Status { code: StatusCode::Error as i32, message: "bad".to_owned() }),
            ..Span::default()
        };
        let resource = Resource {
            attributes: vec![attribute("service.name", Value::StringValue("a".to_owned()))],
            ..Resource::default()
        };
        let scope_spans = ScopeSpans {
            scope: Some(InstrumentationScope::default()),
            spans: vec![span(1), span(2)],
            ..ScopeSpans::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(resource),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
    }

    #[test]
    fn bit_flips_never_panic() {
        let request = full_request();
        let (mut refused, mut taken) = (0, 0);
        for bit in 0..request.len() * 8 {
            let mut damaged = request.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let store = Store::new(Limits::default());
            match export(&store, damaged.into()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            let traces = store.read(|traces| traces.cloned().collect());
            let json = serde_json::to_vec(&Traces(traces)).unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        }
        assert!(refused > 100 && taken > 100, "{refused} refused, {taken} taken");
    }

    #[test]
    fn truncated_request_stores_nothing() {
        let request = full_request();
        for length in 0..request.len() {
            let store = Store::new(Limits::default());
            let answer = export(&store, Bytes::copy_from_slice(&request[..length]));
            assert_eq!(answer.is_ok(), length == 0, "cut at {length}");
            assert_eq!(store.stats().spans, 0, "cut at {length}");
        }
    }
}
