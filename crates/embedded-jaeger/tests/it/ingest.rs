//! What OTLP is taken, what is refused, and in which words.

use std::io::Write as _;

use embedded_jaeger::Limits;
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tonic::Code;
use tonic::codec::CompressionEncoding;

use crate::jaeger::{Jaeger, encoded};
use crate::support::{call_echo, now_ns, of_service, request, span, text, trace_hex};

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
    let mut zipped = jaeger.grpc().await.send_compressed(CompressionEncoding::Gzip);
    zipped.export(request(call_echo(2, now_ns(), false))).await.unwrap();
    let plain = encoded(call_echo(3, now_ns(), false));
    let packed = gzip(&encoded(call_echo(4, now_ns(), false)));
    for (body, headers) in
        [(plain, &[PROTOBUF][..]), (packed, &[PROTOBUF, ("content-encoding", "gzip")])]
    {
        let answer = jaeger.post(body, headers).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], PROTOBUF.1);
        let body = answer.bytes().await.unwrap();
        let taken = ExportTraceServiceResponse::decode(body).unwrap();
        assert_eq!(taken.partial_success, None);
    }
    for trace in 1..=4 {
        let data = jaeger.data(&format!("/api/traces/{}", trace_hex(trace))).await;
        assert_eq!(data[0]["spans"].as_array().unwrap().len(), 3, "trace {trace}");
    }
    assert_eq!(jaeger.stats().accepted_spans, 12);
}

#[tokio::test]
async fn invalid_protobuf_returns_400() {
    let jaeger = Jaeger::start().await;
    let good = encoded(call_echo(1, now_ns(), false));
    let mut invalid_utf8 = encoded(vec![of_service("service", vec![span(1, 1, 0, "NAME")])]);
    let name = invalid_utf8.windows(4).position(|bytes| bytes == b"NAME").unwrap();
    invalid_utf8[name] = 0xFF;
    let mut two_halves = good.clone();
    two_halves.extend([0x0A, 0x7F, 0x00]);
    let bodies = [
        b"not protobuf at all".to_vec(),
        good[..good.len() - 1].to_vec(),
        two_halves,
        invalid_utf8,
        // resource_spans as a number, and one that claims to be longer than any memory.
        vec![0x08, 0x01],
        vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
    ];
    let count = bodies.len() as u64;
    for body in bodies {
        let answer = jaeger.post(body.clone(), &[PROTOBUF]).await;
        assert_eq!(answer.status(), 400, "{body:?}");
        let status = RpcStatus::decode(answer.bytes().await.unwrap()).unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32);
        assert!(status.message.contains("ExportTraceServiceRequest"), "{}", status.message);
    }
    assert_eq!(jaeger.stats().spans, 0);
    assert_eq!(jaeger.stats().refused_requests, count);
}

#[tokio::test]
async fn invalid_protobuf_returns_invalid_argument() {
    let jaeger = Jaeger::start().await;
    let channel = tonic::transport::Channel::from_shared(format!(
        "http://{}",
        jaeger.running.otlp_grpc_addr()
    ));
    let mut grpc = tonic::client::Grpc::new(channel.unwrap().connect().await.unwrap());
    grpc.ready().await.unwrap();
    let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export".parse().unwrap();
    // A span whose name is no UTF-8, sent as the bytes field that it is on the wire.
    let codec = tonic_prost::ProstCodec::<Garbage, Garbage>::default();
    let garbage = Garbage { field: b"\x12\x04\x12\x02\x2A\xFF".to_vec() };
    let status = grpc.unary(tonic::Request::new(garbage), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    field: Vec<u8>,
}

#[tokio::test]
async fn unsupported_media_type_returns_415() {
    let jaeger = Jaeger::start().await;
    for (headers, hint) in [
        (&[("content-type", "application/json")][..], "http/protobuf"),
        (&[("content-type", "text/plain")], "http/protobuf"),
        (&[], "http/protobuf"),
        (&[PROTOBUF, ("content-encoding", "zstd")], "gzip"),
    ] {
        let answer = jaeger.post(b"{}".to_vec(), headers).await;
        assert_eq!(answer.status(), 415, "{headers:?}");
        let text = answer.text().await.unwrap();
        assert!(text.contains(hint), "{text}");
    }
    let url = format!("http://{}/v1/traces", jaeger.running.otlp_http_addr());
    assert_eq!(jaeger.http.get(url).send().await.unwrap().status(), 405);
    let answer = jaeger.post(b"not gzip".to_vec(), &[PROTOBUF, ("content-encoding", "gzip")]).await;
    assert_eq!(answer.status(), 400);
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_whole_also_when_it_unpacks_to_that() {
    let limits = Limits { max_request_bytes: 100_000, ..Limits::default() };
    let jaeger = Jaeger::with(limits).await;
    let mut large = span(1, 1, 0, "large");
    large.attributes = vec![text("filler", &"x".repeat(200_000))];
    let large = vec![of_service("service", vec![large])];
    let packed = gzip(&encoded(large.clone()));
    assert!(packed.len() < 10_000);
    for (body, headers) in [
        (encoded(large.clone()), &[PROTOBUF][..]),
        (packed, &[PROTOBUF, ("content-encoding", "gzip")]),
    ] {
        let answer = jaeger.post(body, headers).await;
        assert_eq!(answer.status(), 413);
        let status = RpcStatus::decode(answer.bytes().await.unwrap()).unwrap();
        assert_eq!(status.code, Code::ResourceExhausted as i32);
        assert!(status.message.contains("100000"), "{}", status.message);
    }
    for client in
        [jaeger.grpc().await, jaeger.grpc().await.send_compressed(CompressionEncoding::Gzip)]
    {
        let status = { client }.export(request(large.clone())).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    assert_eq!(jaeger.stats().spans, 0);
    assert_eq!(jaeger.stats().refused_requests, 4);
}

#[tokio::test]
async fn invalid_ids_are_partial_success() {
    let jaeger = Jaeger::start().await;
    let wrong: [fn(&mut Span); 7] = [
        |span| span.trace_id = Vec::new(),
        |span| span.trace_id = vec![0; 16],
        |span| span.trace_id = vec![1; 15],
        |span| span.span_id = Vec::new(),
        |span| span.span_id = vec![0; 8],
        |span| span.span_id = vec![1; 9],
        |span| span.parent_span_id = vec![1; 7],
    ];
    let mut spans = vec![span(1, 1, 0, "good")];
    spans.extend(wrong.map(|damage| {
        let mut span = span(1, 2, 1, "bad");
        damage(&mut span);
        span
    }));
    let mut root = span(1, 3, 0, "root that says so with zeros");
    root.parent_span_id = vec![0; 8];
    spans.push(root);
    let refused = jaeger.export_spans(spans).await.unwrap();
    assert_eq!(refused.rejected_spans, 7);
    assert!(refused.error_message.contains("7 refused"), "{}", refused.error_message);
    assert!(refused.error_message.contains("id"), "{}", refused.error_message);
    let stats = jaeger.stats();
    assert_eq!((stats.spans, stats.refused_invalid_id), (2, 7));
}

#[tokio::test]
async fn unknown_grpc_method_is_unimplemented() {
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
    let jaeger = Jaeger::start().await;
    let channel = tonic::transport::Channel::from_shared(format!(
        "http://{}",
        jaeger.running.otlp_grpc_addr()
    ));
    let channel = channel.unwrap().connect().await.unwrap();
    for path in [
        "/opentelemetry.proto.collector.trace.v1.TraceService/Import",
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    ] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Garbage, Garbage>::default();
        let request = tonic::Request::new(Garbage::default());
        let status = grpc.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
    TraceServiceClient::new(channel).export(request(Vec::new())).await.unwrap();
}
