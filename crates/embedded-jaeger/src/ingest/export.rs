//! Export of an OTLP request into the store.
//!
//! Spans are read one at a time. If a request was decoded as a whole, empty messages would take more
//! than a hundred times their encoded size.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use prost::{DecodeError, Message};
use tonic::Status;

use super::encoded_span::{SpanFields, normalize};
use crate::ids::{SpanId, TraceId};
use crate::span::{SERVICE_NAME, SpanRecord, SpanSource};
use crate::store::{Limits, Store};

// Jaeger's placeholders for absent, empty and invalid names.
const MISSING_SERVICE: &str = "missing-service-name";
const EMPTY_SERVICE: &str = "empty-service-name";
const WRONG_TYPE_SERVICE: &str = "service-name-wrong-type";
const EMPTY_SPAN_NAME: &str = "empty-span-name";

/// Decodes a request in the JSON encoding of OTLP.
///
/// # Errors
/// The body is not such a request.
pub(crate) fn decode_json(body: &[u8]) -> Result<ExportRequest, Status> {
    // serde would also take the fields of a message from a list.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(invalid_request("expecting a JSON object"));
    }
    let request: ExportTraceServiceRequest =
        serde_json::from_slice(body).map_err(invalid_request)?;
    ExportRequest::decode(request.encode_to_vec().as_slice()).map_err(invalid_request)
}

/// An `ExportTraceServiceRequest` whose messages are still encoded. Bytes and messages have the same
/// wire type.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ExportRequest {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    resource_spans: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(bytes = "bytes", tag = "1")]
    resource: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    scope_spans: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(bytes = "bytes", tag = "1")]
    scope: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    spans: Vec<Bytes>,
}

/// Exports one request into the store. The response names the spans that the store rejects.
///
/// # Errors
/// An invalid request is rejected as a whole.
pub(crate) fn export(
    store: &Store,
    request: ExportRequest,
) -> Result<ExportTraceServiceResponse, Status> {
    let limits = store.limits();
    let mut accepted = Vec::new();
    let mut rejected = RejectedSpans::default();
    decode(request, limits, &mut accepted, &mut rejected).map_err(invalid_request)?;
    rejected.trace_full = store.add(accepted);
    store.update_stats(|stats| {
        stats.rejected_invalid_id += rejected.invalid_id;
        stats.rejected_span_too_large += rejected.too_large;
    });
    Ok(ExportTraceServiceResponse { partial_success: rejected.partial_success(limits) })
}

pub(super) fn invalid_request(error: impl fmt::Display) -> Status {
    Status::invalid_argument(format!("invalid ExportTraceServiceRequest: {error}"))
}

/// Numbers of rejected spans of one request, by reason.
#[derive(Default)]
struct RejectedSpans {
    invalid_id: u64,
    too_large: u64,
    trace_full: u64,
}

impl RejectedSpans {
    fn partial_success(&self, limits: &Limits) -> Option<ExportTracePartialSuccess> {
        let Limits { max_span_bytes, max_spans_per_trace, max_bytes, .. } = limits;
        let invalid_id = "a trace, span or parent id is empty, zero or has a wrong length";
        let too_large =
            format!("the span with its resource and scope is larger than {max_span_bytes} bytes");
        let trace_full =
            format!("the trace is full at {max_spans_per_trace} spans or {} bytes", max_bytes / 2);
        let (mut total, mut messages) = (0, Vec::new());
        for (count, reason) in [
            (self.invalid_id, invalid_id),
            (self.too_large, &too_large),
            (self.trace_full, &trace_full),
        ] {
            if count > 0 {
                total += count as i64;
                messages.push(format!("{count} rejected: {reason}"));
            }
        }
        let error_message = messages.join("; ");
        (total > 0).then_some(ExportTracePartialSuccess { rejected_spans: total, error_message })
    }
}

fn decode(
    request: ExportRequest,
    limits: &Limits,
    accepted: &mut Vec<(TraceId, SpanRecord)>,
    rejected: &mut RejectedSpans,
) -> Result<(), DecodeError> {
    let mut remaining_fields = Vec::new();
    for resource_spans in request.resource_spans {
        let ResourceSpans { resource, scope_spans } = ResourceSpans::decode(resource_spans)?;
        let service = Arc::from(service_name(&Resource::decode(resource.clone())?));
        for scope_spans in scope_spans {
            let ScopeSpans { scope, spans } = ScopeSpans::decode(scope_spans)?;
            InstrumentationScope::decode(scope.clone())?;
            let source = Arc::new(SpanSource::new(Arc::clone(&service), &resource, &scope));
            for span in spans {
                if resource.len() + scope.len() + span.len() > limits.max_span_bytes {
                    rejected.too_large += 1;
                    continue;
                }
                let normalized;
                let mut fields = SpanFields::read(&span, &mut remaining_fields);
                if fields.is_none() {
                    // prost rejects the span, or removes what OTLP does not define.
                    normalized = normalize(&span)?;
                    fields = SpanFields::read(&normalized, &mut remaining_fields);
                }
                let record = fields.and_then(|span| span_record(&span, &remaining_fields, &source));
                match record {
                    Some(record) => accepted.push(record),
                    None => rejected.invalid_id += 1,
                }
            }
        }
    }
    Ok(())
}

fn service_name(resource: &Resource) -> &str {
    let attribute = resource.attributes.iter().find(|attribute| attribute.key == SERVICE_NAME);
    let Some(attribute) = attribute else { return MISSING_SERVICE };
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(name)) if name.is_empty() => EMPTY_SERVICE,
        Some(Value::StringValue(name)) => name,
        _ => WRONG_TYPE_SERVICE,
    }
}

/// Returns the span as the store keeps it with its trace id, or `None` if an id is invalid.
fn span_record(
    span: &SpanFields<'_>,
    remaining_fields: &[u8],
    source: &Arc<SpanSource>,
) -> Option<(TraceId, SpanRecord)> {
    let trace = TraceId::from_otlp(span.trace_id)?;
    let id = SpanId::from_otlp(span.span_id)?;
    let parent = match span.parent_span_id {
        // Some exporters encode the absent parent of a root span as eight zero bytes.
        [] | [0, 0, 0, 0, 0, 0, 0, 0] => SpanId::ZERO,
        parent => SpanId::from_otlp(parent)?,
    };
    let record = SpanRecord {
        id,
        parent,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        source: Arc::clone(source),
        name: Arc::from(if span.name.is_empty() { EMPTY_SPAN_NAME } else { span.name }),
        kind: SpanKind::try_from(span.kind).unwrap_or_default(),
        failed: span.status_code == StatusCode::Error as i32,
        remaining_fields: Box::from(remaining_fields),
    };
    Some((trace, record))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, ArrayValue, KeyValue, any_value::Value,
    };
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
    use opentelemetry_proto::tonic::trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status as SpanStatus,
    };

    use super::*;
    use crate::json::TracesJson;

    /// Returns a request that has every field that affects the JSON.
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
            kind: SpanKind::Server as i32,
            start_time_unix_nano: 1,
            end_time_unix_nano: 2,
            attributes: vec![attribute("list", Value::ArrayValue(array.clone()))],
            events: vec![Event { name: "event".to_owned(), ..Event::default() }],
            links: vec![Link { trace_id: vec![1; 16], span_id: vec![2; 8], ..Link::default() }],
            status: Some(SpanStatus { code: StatusCode::Error as i32, message: "bad".to_owned() }),
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

    fn export_bytes(store: &Store, body: &[u8]) -> Result<ExportTraceServiceResponse, Status> {
        export(store, ExportRequest::decode(body).map_err(invalid_request)?)
    }

    #[test]
    fn bit_flips_never_panic() {
        let request = full_request();
        let (mut accepted, mut rejected) = (0, 0);
        for bit in 0..request.len() * 8 {
            let mut damaged = request.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let store = Store::new(Limits::default());
            match export_bytes(&store, &damaged) {
                Ok(_) => accepted += 1,
                Err(_) => rejected += 1,
            }
            let traces = store.traces(|_| true);
            let json = serde_json::to_vec(&TracesJson(traces)).unwrap();
            serde_json::from_slice::<serde_json::Value>(&json).unwrap();
        }
        assert!(rejected > 100 && accepted > 100, "{rejected} rejected, {accepted} accepted");
    }

    #[test]
    fn truncated_request_stores_nothing() {
        let request = full_request();
        for length in 0..request.len() {
            let store = Store::new(Limits::default());
            let result = export_bytes(&store, &request[..length]);
            assert_eq!(result.is_ok(), length == 0, "truncated at {length}");
            assert_eq!(store.stats().spans, 0, "truncated at {length}");
        }
    }
}
