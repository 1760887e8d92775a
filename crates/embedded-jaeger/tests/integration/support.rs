//! Spans for the tests and the example.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

pub(crate) fn int(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as u64)
}

/// Returns a distinct trace id for each number.
pub(crate) fn trace_id(number: u64) -> Vec<u8> {
    (u128::from(number) | 0xA5 << 120).to_be_bytes().to_vec()
}

pub(crate) fn trace_hex(number: u64) -> String {
    format!("{:032x}", u128::from(number) | 0xA5 << 120)
}

pub(crate) fn span_id(number: u64) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

/// Returns a span of one millisecond that starts now. The parent 0 makes it a root.
pub(crate) fn span(trace: u64, id: u64, parent: u64, name: &str) -> Span {
    let start = now_ns();
    Span {
        trace_id: trace_id(trace),
        span_id: span_id(id),
        parent_span_id: if parent == 0 { Vec::new() } else { span_id(parent) },
        name: name.to_owned(),
        kind: SpanKind::Internal as i32,
        start_time_unix_nano: start,
        end_time_unix_nano: start + 1_000_000,
        ..Span::default()
    }
}

pub(crate) fn of_service(service: &str, spans: Vec<Span>) -> ResourceSpans {
    let attributes = vec![
        text("service.name", service),
        text("service.version", "0.1.0"),
        text("telemetry.sdk.language", "rust"),
        text("telemetry.sdk.name", "opentelemetry"),
    ];
    let scope = InstrumentationScope {
        name: "observability".to_owned(),
        version: "0.1.0".to_owned(),
        ..InstrumentationScope::default()
    };
    ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

pub(crate) fn request(resource_spans: Vec<ResourceSpans>) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { resource_spans }
}

/// Returns the spans that one `GET /call-echo` exports: the server and client spans of service-b,
/// and the server span of service-a.
pub(crate) fn call_echo(trace: u64, start_ns: u64, failed: bool) -> Vec<ResourceSpans> {
    let base = trace * 4;
    let (b_status, a_status) = if failed { (503, 500) } else { (200, 200) };
    let server = SpanKind::Server;
    let [b_server, b_client, a_server] = [
        (base + 1, 0, "GET /call-echo", server, 0, 4_200_000, b_status),
        (base + 2, base + 1, "GET", SpanKind::Client, 400_000, 3_300_000, a_status),
        (base + 3, base + 2, "GET /echo", server, 1_300_000, 1_500_000, a_status),
    ]
    .map(|(id, parent, name, kind, delay_ns, duration_ns, status)| {
        let mut span = span(trace, id, parent, name);
        span.kind = kind as i32;
        span.start_time_unix_nano = start_ns + delay_ns;
        span.end_time_unix_nano = start_ns + delay_ns + duration_ns;
        span.attributes = vec![
            text("http.request.method", "GET"),
            text("url.scheme", "http"),
            text("server.address", "127.0.0.1"),
            int("server.port", if id == base + 1 { 8081 } else { 8080 }),
            int("http.response.status_code", status),
            match kind {
                SpanKind::Client => text("url.full", "http://127.0.0.1:8080/echo"),
                _ => text("http.route", name.trim_start_matches("GET ")),
            },
        ];
        if failed {
            span.attributes.push(text("error.type", &status.to_string()));
            span.status = Some(Status { code: StatusCode::Error as i32, message: String::new() });
        }
        span
    });
    vec![of_service("service-b", vec![b_server, b_client]), of_service("service-a", vec![a_server])]
}
