//! The examples: each runs as a process and does over a socket what its header says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed assumption fails the test")]

use std::net::SocketAddr;

use testkit::http::{Connection, Request, get};
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ProcessBuilder};
use tonic::Code;
use tonic_prost::ProstCodec;

const DURATION_COUNT: &str = "http_server_request_duration_seconds_count";

fn start(example: &str, collector: &OtlpCollector) -> Process {
    ProcessBuilder::example(example).envs(collector.variables(Protocol::Grpc)).serve()
}

#[test]
fn hello_is_recorded() {
    let collector = OtlpCollector::start();
    let service = start("hello", &collector);
    let response = service.get("/hello");
    assert_eq!(response.text(), "hello");
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!((&line["endpoint"], &line["http_status"]), ("/hello", "200"));
    assert_eq!(service.metrics().sum(DURATION_COUNT, &[("http_route", "/hello")]), 1.0);
    let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
    assert_eq!(span.name, "GET /hello");
}

#[cfg(unix)]
#[test]
fn axum_serve_flushes_at_shutdown() {
    let collector = OtlpCollector::start();
    let service = start("axum_serve", &collector);
    let response = service.get("/hello");
    assert_eq!(response.text(), "hello, 127.0.0.1");
    service.wait_for_access_line(response.trace_id());
    assert_eq!(service.metrics().sum(DURATION_COUNT, &[("http_route", "/hello")]), 1.0);
    assert_eq!(service.stop().code, Some(0));
    let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
    assert_eq!(span.attributes["client.address"], "127.0.0.1");
}

#[cfg(unix)]
#[test]
fn axum_serve_is_unready_while_draining() {
    let service = ProcessBuilder::example("axum_serve")
        .env("SHUTDOWN_TIMEOUT_MS", "600000")
        .env("DRAIN_DELAY_MS", "600000")
        .serve();
    assert_eq!(service.get("/readyz").status, 200);
    service.terminate();
    service.wait_for_message("stopping");
    assert_eq!(service.get("/readyz").status, 503);
    assert_eq!(service.get("/hello").status, 200);
    service.terminate();
    let output = service.wait();
    assert_eq!(output.code, Some(1));
    assert_eq!(output.stderr, ["second signal (SIGTERM): exiting immediately"]);
}

/// A client that sends half of a request holds `axum::serve` for ever.
#[cfg(unix)]
#[test]
fn axum_serve_exits_at_deadline() {
    let service = ProcessBuilder::example("axum_serve").env("SHUTDOWN_TIMEOUT_MS", "400").serve();
    let mut connection = Connection::open(service.address());
    connection.send(b"GET /hello HTTP/1.1\r\n");
    // The server accepts connections in order, so that it has that one.
    assert_eq!(service.get("/hello").status, 200);
    assert_eq!(service.stop().code, Some(0));
    service.wait_for_message("aborting requests in flight");
    service.wait_for_message("stopped");
}

#[test]
fn connect_info_is_address_of_client() {
    let service = ProcessBuilder::example("connect_info").serve();
    let client: SocketAddr = service.get("/client").text().parse().unwrap();
    assert_eq!(client.ip(), service.address().ip());
    assert_ne!(client.port(), service.address().port());
}

#[cfg(unix)]
#[test]
fn both_listeners_are_served() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let path = std::env::temp_dir().join(format!("observability-{}.sock", std::process::id()));
    let service = ProcessBuilder::example("unix_socket").env("SOCKET_PATH", &path).start();
    let line = service.wait_for_message("listening");
    let (tcp, unix) = line["address"].split_once(',').unwrap();
    assert_eq!(unix, format!("unix:{}", path.display()));
    assert_eq!(get(tcp.parse().unwrap(), "/hello").text(), "hello");

    let mut stream = UnixStream::connect(&path).unwrap();
    let request = "GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("\r\n\r\nhello"), "{response:?}");
    assert_eq!(service.stop().code, Some(0));
    assert!(!path.exists());
}

#[test]
fn custom_metrics_are_on_page() {
    let service = ProcessBuilder::example("custom_metrics").serve();
    let response = Request::new("POST", "/orders/3").send(service.address());
    assert_eq!(&service.wait_for_access_line(response.trace_id())["order.items"], "3");
    let page = service.metrics();
    assert_eq!(page.value("orders_total", &[("size", "small")]), Some(1.0));
    assert_eq!(page.sum("order_items_sum", &[]), 3.0);
}

#[test]
fn preflight_is_not_recorded() {
    let service = ProcessBuilder::example("custom_layer").serve();
    let preflight = Request::new("OPTIONS", "/hello")
        .header("Origin", "https://example.com")
        .header("Access-Control-Request-Method", "GET")
        .send(service.address());
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let response = Request::new("GET", "/hello").header("x-tenant", "acme").send(service.address());
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    assert_eq!(&service.wait_for_access_line(response.trace_id())["tenant"], "acme");
    assert_eq!(service.metrics().sum(DURATION_COUNT, &[]), 1.0);
}

#[test]
fn websocket_echoes_in_trace() {
    let service = ProcessBuilder::example("websocket_sse").serve();
    let mut socket = Request::new("GET", "/echo")
        .header("Connection", "upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .start(service.address());
    socket.read_until(b"\r\n\r\n").unwrap();
    let line =
        service.wait_for_log_line("an upgrade", |line| line.get("endpoint") == Some("/echo"));
    assert_eq!(&line["http_status"], "101");
    // A masked text frame whose mask is zero, and its echo without a mask (RFC 6455, section 5.2).
    socket.send(b"\x81\x85\0\0\0\0hello");
    socket.read_until(b"\x81\x05hello").unwrap();
    drop(socket);
    assert_eq!(&service.wait_for_message("socket closed")["trace_id"], &line["trace_id"]);
}

#[test]
fn event_stream_has_no_sample() {
    let service = ProcessBuilder::example("websocket_sse").serve();
    let mut events = Request::new("GET", "/events").start(service.address());
    events.read_until(b"data: 0\n\n").unwrap();
    drop(events);
    let line = service.wait_for_log_line("the end", |line| line.get("endpoint") == Some("/events"));
    assert_eq!((&line["status"], line.get("error")), ("ok", None));
    assert_eq!(service.metrics().sum(DURATION_COUNT, &[]), 0.0);
}

/// Message of the example, whose request and response have the same form.
#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// Calls a method and returns the messages of its response.
async fn call(
    address: SocketAddr,
    method: &'static str,
    text: &str,
) -> Result<Vec<String>, tonic::Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    let request = tonic::Request::new(Text { text: text.to_owned() });
    let codec = ProstCodec::<Text, Text>::default();
    let path = http::uri::PathAndQuery::from_static(method);
    let mut stream = client.server_streaming(request, path, codec).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(message.text);
    }
    Ok(messages)
}

#[test]
fn grpc_status_is_recorded() {
    const SAY: &str = "/helloworld.Greeter/SayHello";
    const STREAM: &str = "/helloworld.Greeter/StreamHello";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let collector = OtlpCollector::start();
    for (method, name, code, status, error) in [
        (SAY, "Ada", Code::Ok, "OK", None),
        (SAY, "stranger", Code::NotFound, "NOT_FOUND", None),
        (SAY, "database", Code::Internal, "INTERNAL", Some("INTERNAL")),
        (STREAM, "Ada", Code::Ok, "OK", None),
        (STREAM, "database", Code::Internal, "INTERNAL", Some("INTERNAL")),
        (
            "/helloworld.Greeter/Other",
            "",
            Code::Unimplemented,
            "UNIMPLEMENTED",
            Some("UNIMPLEMENTED"),
        ),
    ] {
        let case = format!("{method} {name}");
        let service = start("tonic_grpc", &collector);
        let result = runtime.block_on(call(service.address(), method, name));
        assert_eq!(result.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok), code, "{case}");
        if let Ok(messages) = result {
            let count = if method == STREAM { 3 } else { 1 };
            assert_eq!(messages, vec![format!("hello {name}"); count], "{case}");
        }
        let route = if code == Code::Unimplemented { "unmatched" } else { method };
        let line = service.wait_for_log_line(&case, |line| line.get("endpoint") == Some(route));
        let span = collector.wait_for_trace(&line["trace_id"], 1).remove(0);
        assert_eq!(span.attributes["rpc.response.status_code"], status, "{case}");
        let error_type = span.attributes.get("error.type").and_then(|value| value.as_str());
        assert_eq!(error_type, error, "{case}");
        assert_eq!(service.metrics().sum(DURATION_COUNT, &[("http_route", route)]), 1.0, "{case}");
    }
}

#[cfg(feature = "tls")]
#[test]
fn tls_listener_sets_scheme() {
    use testkit::tls::{self, Certificate};

    let collector = OtlpCollector::start();
    let certificate = Certificate::generate("localhost", 0);
    let service = ProcessBuilder::example("tls")
        .env("TLS_CERTIFICATE_FILE", &certificate.certificate_file)
        .env("TLS_KEY_FILE", &certificate.key_file)
        .envs(collector.variables(Protocol::Grpc))
        .serve();
    let address = service.address();
    // A client that sends nothing delays no other.
    let _idle = Connection::open(address);
    let response = tls::get(address, "localhost", &certificate.certificate_file, "/hello");
    assert!(response.ends_with("\r\n\r\nhello"), "{response:?}");
    let line = service.wait_for_log_line("a request", |line| line.get("endpoint").is_some());
    let span = collector.wait_for_trace(&line["trace_id"], 1).remove(0);
    assert_eq!(span.attributes["url.scheme"], "https");
}
