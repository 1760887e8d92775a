//! OTLP requests over both transports: accepted, partially rejected and rejected.

use std::io::Write as _;

use embedded_jaeger::Limits;
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::jaeger::{Jaeger, encoded};
use crate::support::{call_echo, int, now_ns, of_service, request, span, text, trace_hex};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(body).unwrap();
    gzip.finish().unwrap()
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[tokio::test]
async fn all_protocols_and_encodings() {
    let jaeger = Jaeger::start().await;
    let mut grpc = jaeger.grpc().await;
    grpc.export(request(call_echo(1, now_ns(), false))).await.unwrap();
    let mut gzip_client = jaeger.grpc().await.send_compressed(CompressionEncoding::Gzip);
    gzip_client.export(request(call_echo(2, now_ns(), false))).await.unwrap();
    let plain = encoded(call_echo(3, now_ns(), false));
    let packed = gzip(&encoded(call_echo(4, now_ns(), false)));
    for (body, headers) in
        [(plain, &[PROTOBUF][..]), (packed, &[PROTOBUF, ("content-encoding", "gzip")])]
    {
        let response = jaeger.post(body, headers).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], PROTOBUF.1);
        let body = response.bytes().await.unwrap();
        let decoded = ExportTraceServiceResponse::decode(body).unwrap();
        assert_eq!(decoded.partial_success, None);
    }
    for trace in 1..=4 {
        let data = jaeger.data(&format!("/api/traces/{}", trace_hex(trace))).await;
        assert_eq!(data[0]["spans"].as_array().unwrap().len(), 3, "trace {trace}");
    }
    assert_eq!(jaeger.stats().accepted_spans, 12);
}

#[tokio::test]
async fn json_is_accepted_and_returned() {
    let jaeger = Jaeger::start().await;
    let json = [("content-type", "Application/JSON; charset=utf-8"), ("content-encoding", "GZIP")];
    let body = serde_json::to_vec(&request(call_echo(1, now_ns(), false))).unwrap();
    let response = jaeger.post(gzip(&body), &json).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let decoded: ExportTraceServiceResponse =
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    assert_eq!(decoded.partial_success, None);
    assert_eq!(jaeger.stats().accepted_spans, 3);

    for invalid in [&b"{\"resourceSpans\":7}"[..], b"[]"] {
        let response = jaeger.post(invalid.to_vec(), &json[..1]).await;
        assert_eq!(response.status(), 400);
        let status: serde_json::Value =
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert_eq!(status["code"], Code::InvalidArgument as i32);
    }
}

#[tokio::test]
async fn number_is_no_service_name() {
    let jaeger = Jaeger::start().await;
    let mut spans = of_service("", vec![span(1, 1, 0, "work")]);
    spans.resource.as_mut().unwrap().attributes = vec![int("service.name", 7)];
    jaeger.export(vec![spans]).await;
    assert_eq!(jaeger.search("service=service-name-wrong-type").await, [trace_hex(1)]);
}

#[tokio::test]
async fn invalid_protobuf_returns_400() {
    let jaeger = Jaeger::start().await;
    let valid = encoded(call_echo(1, now_ns(), false));
    let mut invalid_utf8 = encoded(vec![of_service("service", vec![span(1, 1, 0, "NAME")])]);
    let name = invalid_utf8.windows(4).position(|bytes| bytes == b"NAME").unwrap();
    invalid_utf8[name] = 0xFF;
    let mut with_truncated_field = valid.clone();
    with_truncated_field.extend([0x0A, 0x7F, 0x00]);
    let bodies = [
        b"not protobuf at all".to_vec(),
        valid[..valid.len() - 1].to_vec(),
        with_truncated_field,
        invalid_utf8,
        // resource_spans as a number, and with a length that exceeds any memory.
        vec![0x08, 0x01],
        vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
    ];
    let count = bodies.len() as u64;
    for body in bodies {
        let response = jaeger.post(body.clone(), &[PROTOBUF]).await;
        assert_eq!(response.status(), 400, "{body:?}");
        let status = RpcStatus::decode(response.bytes().await.unwrap()).unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32);
        assert!(status.message.contains("ExportTraceServiceRequest"), "{}", status.message);
    }
    assert_eq!(jaeger.stats().spans, 0);
    assert_eq!(jaeger.stats().rejected_requests, count);
}

#[tokio::test]
async fn invalid_protobuf_returns_invalid_argument() {
    let jaeger = Jaeger::start().await;
    let mut grpc = tonic::client::Grpc::new(jaeger.channel().await);
    grpc.ready().await.unwrap();
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export".parse().unwrap();
    // A span whose name is invalid UTF-8. The wire type of bytes and messages is the same.
    let codec = tonic_prost::ProstCodec::<RawMessage, RawMessage>::default();
    let message = RawMessage { field: b"\x12\x04\x12\x02\x2A\xFF".to_vec() };
    let status = grpc.unary(tonic::Request::new(message), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawMessage {
    #[prost(bytes = "vec", tag = "1")]
    field: Vec<u8>,
}

#[tokio::test]
async fn unsupported_media_type_returns_415() {
    let jaeger = Jaeger::start().await;
    for (headers, hint) in [
        (&[("content-type", "text/plain")][..], "http/protobuf"),
        (&[], "http/protobuf"),
        (&[PROTOBUF, ("content-encoding", "zstd")], "gzip"),
    ] {
        let response = jaeger.post(b"{}".to_vec(), headers).await;
        assert_eq!(response.status(), 415, "{headers:?}");
        let text = response.text().await.unwrap();
        assert!(text.contains(hint), "{text}");
    }
    let url = format!("http://{}/v1/traces", jaeger.handle.otlp_http_addr());
    assert_eq!(jaeger.http.get(url).send().await.unwrap().status(), 405);
    let response =
        jaeger.post(b"not gzip".to_vec(), &[PROTOBUF, ("content-encoding", "gzip")]).await;
    assert_eq!(response.status(), 400);
}

/// Returns a request that is larger than 200,000 bytes.
fn oversized_request() -> Vec<ResourceSpans> {
    let mut large = span(1, 1, 0, "large");
    large.attributes = vec![text("filler", &"x".repeat(200_000))];
    vec![of_service("service", vec![large])]
}

/// Sends the oversized request over both transports to a Jaeger with a limit of 100,000 bytes.
async fn assert_oversized_is_rejected(body: Vec<u8>, headers: &[(&str, &str)], gzip_grpc: bool) {
    let limits = Limits { max_request_bytes: 100_000, ..Limits::default() };
    let jaeger = Jaeger::with(limits).await;
    let response = jaeger.post(body, headers).await;
    assert_eq!(response.status(), 413);
    let status = RpcStatus::decode(response.bytes().await.unwrap()).unwrap();
    assert_eq!(status.code, Code::ResourceExhausted as i32);
    assert!(status.message.contains("100000"), "{}", status.message);
    let mut grpc = jaeger.grpc().await;
    if gzip_grpc {
        grpc = grpc.send_compressed(CompressionEncoding::Gzip);
    }
    let status = grpc.export(request(oversized_request())).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(jaeger.stats().spans, 0);
    assert_eq!(jaeger.stats().rejected_requests, 2);
}

#[tokio::test]
async fn oversized_request_is_rejected() {
    assert_oversized_is_rejected(encoded(oversized_request()), &[PROTOBUF], false).await;
}

/// The limit applies to the decompressed request.
#[tokio::test]
async fn decompression_bomb_is_rejected() {
    let body = gzip(&encoded(oversized_request()));
    assert!(body.len() < 10_000);
    assert_oversized_is_rejected(body, &[PROTOBUF, ("content-encoding", "gzip")], true).await;
}

#[tokio::test]
async fn invalid_ids_are_partial_success() {
    let jaeger = Jaeger::start().await;
    let invalid: [fn(&mut Span); 7] = [
        |span| span.trace_id = Vec::new(),
        |span| span.trace_id = vec![0; 16],
        |span| span.trace_id = vec![1; 15],
        |span| span.span_id = Vec::new(),
        |span| span.span_id = vec![0; 8],
        |span| span.span_id = vec![1; 9],
        |span| span.parent_span_id = vec![1; 7],
    ];
    let mut spans = vec![span(1, 1, 0, "good")];
    spans.extend(invalid.map(|damage| {
        let mut span = span(1, 2, 1, "bad");
        damage(&mut span);
        span
    }));
    let mut root = span(1, 3, 0, "root with a zero parent id");
    root.parent_span_id = vec![0; 8];
    spans.push(root);
    let rejected = jaeger.export_spans(spans).await.unwrap();
    assert_eq!(rejected.rejected_spans, 7);
    assert!(rejected.error_message.contains("7 rejected"), "{}", rejected.error_message);
    assert!(rejected.error_message.contains("id"), "{}", rejected.error_message);
    let stats = jaeger.stats();
    assert_eq!((stats.spans, stats.rejected_invalid_id), (2, 7));
}

#[tokio::test]
async fn unknown_grpc_method_is_unimplemented() {
    let jaeger = Jaeger::start().await;
    let channel = jaeger.channel().await;
    for path in [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<RawMessage, RawMessage>::default();
        let request = tonic::Request::new(RawMessage::default());
        let status = grpc.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    jaeger.grpc().await.export(request(Vec::new())).await.unwrap();
}
