//! The layer around services of all kinds, and in processes with globals of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::convert::Infallible;
use std::future::Ready;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use observability::testing::TestTelemetry;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use testkit::{FakeServer, Reply, ReservedPort};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tower::{Layer, Service, service_fn};

const COUNT: &str = "http_server_request_duration_seconds_count";
const METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// gRPC service that fails with the code that the number of spans selects.
struct Failing;

#[tonic::async_trait]
impl TraceService for Failing {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        match i32::try_from(request.get_ref().resource_spans.len()).unwrap() {
            0 => Ok(tonic::Response::new(ExportTraceServiceResponse::default())),
            code => Err(Status::new(Code::from(code), "as requested")),
        }
    }
}

/// A gRPC call has its method as route, and its status decides the outcome.
#[tokio::test]
async fn grpc_status_is_outcome() {
    for (code, status, error_type, is_failure, level) in [
        (0, "OK", None, false, "info"),
        (5, "NOT_FOUND", Some("NOT_FOUND"), false, "warn"),
        (13, "INTERNAL", Some("INTERNAL"), true, "error"),
        (14, "UNAVAILABLE", Some("UNAVAILABLE"), true, "error"),
    ] {
        let test = TestTelemetry::start();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .layer(test.layer())
            .add_service(TraceServiceServer::new(Failing))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(server);
        let mut client = TraceServiceClient::connect(url).await.unwrap();
        let resource_spans = vec![ResourceSpans::default(); code];
        let result = client.export(ExportTraceServiceRequest { resource_spans }).await;
        let received = result.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(received, Code::from(i32::try_from(code).unwrap()));

        let route = format!("/{METHOD}");
        let mut labels = vec![("http_route", route.as_str())];
        labels.extend(error_type.map(|error| ("error_type", error)));
        assert_eq!(test.sample(COUNT, &labels), 1.0, "{status}");
        let span = test.span(METHOD);
        assert_eq!(span.attributes["rpc.system.name"], "grpc");
        assert_eq!(span.attributes["rpc.method"], METHOD);
        assert_eq!(span.attributes["rpc.response.status_code"], status);
        assert_eq!(span.error.is_some(), is_failure, "{status}");
        let span_error = error_type.filter(|_| is_failure);
        assert_eq!(span.attributes.get("error.type").map(String::as_str), span_error);
        assert_eq!(test.log_line(&route)["level"], level, "{status}");
        server.abort();
    }
}

/// A method that the server does not have, or that it rejects before it looks it up, is not a label.
#[tokio::test]
async fn unknown_grpc_method_is_unmatched() {
    for code in ["7", "8", "12", "16"] {
        let test = TestTelemetry::start();
        let rejecting = service_fn(async |_: Request<Body>| {
            let response = Response::builder().header("grpc-status", code);
            Ok::<_, Infallible>(response.body(Full::<Bytes>::default()).unwrap())
        });
        let request = Request::post("/made.up/Name").header("content-type", "application/grpc");
        let response = test.layer().layer(rejecting).call(request.body(Body::empty()).unwrap());
        response.await.unwrap();
        assert_eq!(test.sample(COUNT, &[("http_route", "unmatched")]), 1.0, "{code}");
        assert_eq!(test.span("grpc").attributes["rpc.method"], "_OTHER", "{code}");
    }
}

/// Any tower service with any body can be measured. An error of the service stays one.
#[tokio::test]
async fn tower_service_is_measured() {
    let test = TestTelemetry::start();
    let service = service_fn(async |request: Request<String>| match request.body().as_str() {
        "fail" => Err(io::Error::other("no response")),
        body => Ok(Response::new(Full::new(Bytes::from(body.to_owned())))),
    });
    let mut service = test.layer().layer(service);
    let response = service.call(Request::new("hello".to_owned())).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    let result = service.call(Request::new("fail".to_owned())).await;
    assert_eq!(result.err().unwrap().to_string(), "no response");
    assert_eq!(test.sample(COUNT, &[("http_response_status_code", "200")]), 1.0);
    assert_eq!(test.sample(COUNT, &[("error_type", "other")]), 1.0);
    assert!(test.spans().iter().any(|span| span.error.as_deref() == Some("service failed")));
    assert_eq!(test.sample("http_server_active_requests", &[]), 0.0);
}

/// A service may panic before it returns its future.
#[tokio::test]
async fn panic_in_call_is_recorded() {
    let test = TestTelemetry::start();
    let service = service_fn(|_: Request<String>| -> Ready<io::Result<Response<Full<Bytes>>>> {
        panic!("no future")
    });
    let mut service = test.layer().layer(service);
    let call = AssertUnwindSafe(|| drop(service.call(Request::new(String::new()))));
    assert!(catch_unwind(call).is_err());
    assert_eq!(test.span("GET").error.as_deref(), Some("handler panicked"));
}

/// The inner one of two layers does nothing, and a log line says so.
#[tokio::test]
async fn second_layer_is_reported() {
    let test = TestTelemetry::start();
    let app = Router::new().route("/hello", get(async || "hello"));
    let app = app.layer(test.layer()).layer(test.layer());
    assert_eq!(test.get(app, "/hello").await.body(), "hello");
    assert_eq!(test.sample(COUNT, &[]), 1.0);
    assert_eq!(test.spans().len(), 1);
    let lines = test.log_lines();
    let warning = lines.iter().find(|line| line["level"] == "warn").expect("a warning");
    assert!(warning["msg"].as_str().unwrap().contains("applied twice"), "{warning}");
}

/// Without the layer of `tracing`, requests still have ids and samples, and a log line says what to do.
#[tokio::test]
async fn missing_subscriber_is_reported() {
    let test = TestTelemetry::start();
    let app = Router::new().route("/hello", get(async || "hello")).layer(test.layer());
    let none = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
    let response = test.get(app, "/hello").await;
    drop(none);
    assert_eq!(test.sample(COUNT, &[]), 1.0);
    assert_eq!(
        test.log_line("/hello")["trace_id"],
        response.headers()["x-trace-id"].to_str().unwrap()
    );
    let lines = test.log_lines();
    let warning = lines.iter().find(|line| line["level"] == "warn").expect("a warning");
    assert!(warning["msg"].as_str().unwrap().contains("tracing_layer"), "{warning}");
}

/// A client that the service has built itself is measured.
#[tokio::test]
async fn own_client_is_measured() {
    let server = FakeServer::start(Reply::echo("hello"));
    let test = TestTelemetry::start();
    let client = test.instrument_client(reqwest::Client::new());
    let response = client.get(server.url()).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), r#"{"echo":"hello"}"#);
    assert_eq!(test.sample("http_client_request_duration_seconds_count", &[]), 1.0);
    let sent = server.wait_for_request(1).headers["traceparent"].clone();
    assert_eq!(sent[36..52], test.span("GET").span_id);
}

/// `Duration::MAX` is no limit.
#[tokio::test]
async fn call_without_limit_is_retried() {
    let port = ReservedPort::bind();
    let test = TestTelemetry::start();
    let client = test.client().timeout(Duration::MAX).max_connect_retries(1).build().unwrap();
    assert!(client.get(port.url()).send().await.is_err());
    assert_eq!(test.sample("http_client_request_retries_total", &[]), 1.0);
}
