use super::*;
use opentelemetry::trace::{TraceFlags, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use prost::Message;
use std::time::Duration;

fn context(state: &str) -> SpanContext {
    let state: TraceState = state.parse().unwrap();
    SpanContext::new(TraceId::from(7), SpanId::from(9), TraceFlags::SAMPLED, true, state)
}

fn plain() -> SpanData {
    SpanData {
        span_context: context(""),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Server,
        name: "GET /echo".into(),
        start_time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        end_time: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_223_456_789),
        attributes: vec![
            KeyValue::new("http.response.status_code", 200),
            KeyValue::new("http.request.method", "GET"),
        ],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("observability").build(),
    }
}

fn everything(kind: SpanKind, status: Status) -> SpanData {
    let attributes = || {
        // Lengths around those at which a length prefix needs one more byte.
        let texts = (110..130).chain(16_370..16_390).map(|n| KeyValue::new("text", "x".repeat(n)));
        let others = [
            KeyValue::new("", "no key"),
            KeyValue::new("empty", ""),
            KeyValue::new("long", "x".repeat(300)),
            KeyValue::new("negative", -1),
            KeyValue::new("zero", 0),
            KeyValue::new("large", i64::MAX),
            KeyValue::new("float", 1.5),
            KeyValue::new("yes", true),
            KeyValue::new("no", false),
            KeyValue::new("bools", Value::Array(Array::Bool(vec![true, false]))),
            KeyValue::new("ints", Value::Array(Array::I64(vec![0, -5]))),
            KeyValue::new("floats", Value::Array(Array::F64(vec![0.0, 2.5]))),
            KeyValue::new("strings", Value::Array(Array::String(vec!["".into(), "é".into()]))),
            KeyValue::new("none", Value::Array(Array::I64(vec![]))),
        ];
        texts.chain(others).collect::<Vec<_>>()
    };
    let mut span = plain();
    span.span_context = context("vendor=value,other=1");
    span.parent_span_id = SpanId::from(0xab);
    span.parent_span_is_remote = true;
    span.span_kind = kind;
    span.status = status;
    span.name = "".into();
    span.attributes = attributes();
    span.dropped_attributes_count = 300;
    span.events.events =
        vec![Event::new("retry", span.end_time, attributes(), 2), Event::with_name("")];
    span.events.dropped_count = 1;
    span.links.links =
        vec![Link::new(context("a=b"), attributes(), 3), Link::with_context(context(""))];
    span.links.dropped_count = 4;
    span
}

#[test]
fn encoding_matches_generated_types() {
    let mut other_scope = everything(SpanKind::Internal, Status::Ok);
    other_scope.instrumentation_scope = InstrumentationScope::builder("other")
        .with_version("1.2")
        .with_schema_url("https://opentelemetry.io/schemas/1.30.0")
        .with_attributes([KeyValue::new("k", "v")])
        .build();
    let batch = vec![
        plain(),
        everything(SpanKind::Server, Status::error("it broke")),
        everything(SpanKind::Client, Status::error("")),
        everything(SpanKind::Producer, Status::Ok),
        everything(SpanKind::Consumer, Status::Unset),
        other_scope,
    ];
    for attributes in [vec![], vec![KeyValue::new("service.name", "service-a")]] {
        let schema = "https://opentelemetry.io/schemas/1.31.0";
        let sent_by = Resource::builder_empty().with_schema_url(attributes, schema).build();
        let mut encoded = Vec::new();
        request(&mut encoded, &resource(&sent_by), &batch);
        let decoded = ExportTraceServiceRequest::decode(&encoded[..]).unwrap();
        let expected = ResourceAttributesWithSchema::from(&sent_by);
        let expected = group_spans_by_resource_and_scope(batch.clone(), &expected);
        assert_eq!(decoded, ExportTraceServiceRequest { resource_spans: expected });
        // The size is compared too, so that no field is written twice.
        assert_eq!(encoded.len(), decoded.encoded_len());
    }
}

#[test]
fn max_size_bounds_encoding() {
    for span in [plain(), everything(SpanKind::Server, Status::error("it broke"))] {
        let size = max_size(&span);
        let mut encoded = Vec::new();
        request(&mut encoded, &[], &[span]);
        assert!(encoded.len() <= size, "{} > {size}", encoded.len());
    }
}
