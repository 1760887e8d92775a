//! Export of an OTLP request into the store.
//!
//! A request is walked field by field, and its spans are decoded one at a time. If it were decoded
//! as a whole, a few megabytes of empty messages would take hundreds of megabytes of memory.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, status::StatusCode};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::ids::{SpanId, TraceId};
use crate::span::{IncomingSpan, SpanRecord, SpanSource};
use crate::store::Store;

// Jaeger's placeholders for absent and empty names.
const MISSING_SERVICE: &str = "missing-service-name";
const EMPTY_SERVICE: &str = "empty-service-name";
const EMPTY_SPAN_NAME: &str = "empty-span-name";

/// Error of a request that is not a valid `ExportTraceServiceRequest`.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("invalid ExportTraceServiceRequest: {0}")]
    Protobuf(#[from] prost::DecodeError),
    #[error("invalid ExportTraceServiceRequest: field {0} is not a message")]
    WireType(u32),
    #[error("invalid ExportTraceServiceRequest: field {0} is longer than its message")]
    Length(u32),
    #[error("invalid ExportTraceServiceRequest: the {message} is larger than {limit} bytes")]
    TooLarge { message: &'static str, limit: usize },
}

/// Exports one request into the store. The response names the spans that the store rejects.
///
/// # Errors
/// An invalid request is rejected as a whole and counted.
pub(super) fn export(
    store: &Store,
    request: Bytes,
) -> Result<ExportTraceServiceResponse, DecodeError> {
    let mut accepted = Vec::new();
    let mut rejected = RejectedSpans::default();
    decode(request, store.limits().max_span_bytes, &mut accepted, &mut rejected)
        .inspect_err(|_| store.update_stats(|stats| stats.rejected_requests += 1))?;
    rejected.trace_full = store.add(accepted);
    store.update_stats(|stats| {
        stats.rejected_invalid_id += rejected.invalid_id as u64;
        stats.rejected_span_too_large += rejected.too_large as u64;
    });
    Ok(ExportTraceServiceResponse { partial_success: rejected.partial_success(store) })
}

/// Numbers of rejected spans of one request, by reason.
#[derive(Default)]
struct RejectedSpans {
    invalid_id: usize,
    too_large: usize,
    trace_full: usize,
}

impl RejectedSpans {
    fn partial_success(&self, store: &Store) -> Option<ExportTracePartialSuccess> {
        let limits = store.limits();
        let (max_spans, max_bytes) = (limits.max_spans_per_trace, limits.max_bytes / 2);
        let reasons: [(usize, &dyn Display); 3] = [
            (self.invalid_id, &"a trace, span or parent id is empty, zero or has a wrong length"),
            (
                self.too_large,
                &format_args!("the span is larger than {} bytes", limits.max_span_bytes),
            ),
            (
                self.trace_full,
                &format_args!("the trace is full at {max_spans} spans or {max_bytes} bytes"),
            ),
        ];
        let total: usize = reasons.iter().map(|(count, _)| count).sum();
        let messages: Vec<String> = reasons
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, reason)| format!("{count} rejected: {reason}"))
            .collect();
        (total > 0).then(|| ExportTracePartialSuccess {
            rejected_spans: total as i64,
            error_message: messages.join("; "),
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
    accepted: &mut Vec<IncomingSpan>,
    rejected: &mut RejectedSpans,
) -> Result<(), DecodeError> {
    let check_size = |message, bytes: &Bytes| match bytes.len() > max_span_bytes {
        true => Err(DecodeError::TooLarge { message, limit: max_span_bytes }),
        false => Ok(()),
    };
    for_each(request, RESOURCE_SPANS, |resource_spans| {
        let resource = last(resource_spans.clone(), RESOURCE)?;
        check_size("resource", &resource)?;
        let service = service_name(&Resource::decode(resource.clone())?);
        for_each(resource_spans, SCOPE_SPANS, |scope_spans| {
            let scope = last(scope_spans.clone(), SCOPE)?;
            check_size("scope", &scope)?;
            InstrumentationScope::decode(scope.clone())?;
            let source = Arc::new(SpanSource {
                service: service.clone(),
                resource: Box::from(&*resource),
                scope: Box::from(&*scope),
            });
            for_each(scope_spans, SPANS, |span| {
                if span.len() > max_span_bytes {
                    rejected.too_large += 1;
                    return Ok(());
                }
                match incoming_span(Span::decode(span)?, &source) {
                    Some(span) => accepted.push(span),
                    None => rejected.invalid_id += 1,
                }
                Ok(())
            })
        })
    })
}

/// Calls `f` with every length-delimited field `number` of a message. Skips the other fields.
fn for_each(
    mut message: Bytes,
    number: u32,
    mut f: impl FnMut(Bytes) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !message.is_empty() {
        let (field, wire_type) = decode_key(&mut message)?;
        if field != number {
            skip_field(wire_type, field, &mut message, DecodeContext::default())?;
            continue;
        }
        if wire_type != WireType::LengthDelimited {
            return Err(DecodeError::WireType(number));
        }
        let length = decode_varint(&mut message)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= message.len());
        f(message.split_to(length.ok_or(DecodeError::Length(number))?))?;
    }
    Ok(())
}

/// Returns the last field `number`, because protobuf defines that the last one of a field that is
/// not repeated takes effect. Returns empty bytes if there is none.
fn last(message: Bytes, number: u32) -> Result<Bytes, DecodeError> {
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

/// Returns the span as the store keeps it, or `None` if an id is invalid.
fn incoming_span(mut span: Span, source: &Arc<SpanSource>) -> Option<IncomingSpan> {
    let trace = TraceId::from_otlp(&span.trace_id)?;
    let id = SpanId::from_otlp(&span.span_id)?;
    let parent = match span.parent_span_id.as_slice() {
        // Some exporters encode the absent parent of a root span as eight zero bytes.
        [] | [0, 0, 0, 0, 0, 0, 0, 0] => SpanId::NONE,
        parent => SpanId::from_otlp(parent)?,
    };
    let name = if span.name.is_empty() { EMPTY_SPAN_NAME } else { &span.name };
    let mut record = SpanRecord {
        id,
        parent,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        source: Arc::clone(source),
        name: Arc::from(name),
        kind: span.kind(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
        remaining_fields: Box::default(),
    };
    // The record holds these fields already.
    span.trace_id = Vec::new();
    span.span_id = Vec::new();
    span.parent_span_id = Vec::new();
    span.name = String::new();
    (span.kind, span.start_time_unix_nano, span.end_time_unix_nano) = (0, 0, 0);
    record.remaining_fields = span.encode_to_vec().into_boxed_slice();
    Some(IncomingSpan { trace, record })
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

    use super::*;
    use crate::json::TracesJson;
    use crate::store::Limits;

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
        let (mut accepted, mut rejected) = (0, 0);
        for bit in 0..request.len() * 8 {
            let mut damaged = request.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let store = Store::new(Limits::default());
            match export(&store, damaged.into()) {
                Ok(_) => accepted += 1,
                Err(_) => rejected += 1,
            }
            let traces = store.read(|traces| traces.cloned().collect());
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
            let result = export(&store, Bytes::copy_from_slice(&request[..length]));
            assert_eq!(result.is_ok(), length == 0, "truncated at {length}");
            assert_eq!(store.stats().spans, 0, "truncated at {length}");
        }
    }
}
