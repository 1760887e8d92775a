//! Connections: requests that never reach a route, limits of HTTP/2, and what proxies and clients may decide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::http::{Connection, Request};
use testkit::http2;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ProcessBuilder};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;
const REFUSED_STREAM: u32 = 7;

fn zoo() -> ProcessBuilder {
    ProcessBuilder::example("zoo")
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS frame of `GET path`, which ends the request (RFC 7541, appendix A).
fn get_frame(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x41, 4];
    block.extend(b"test");
    block.extend([0x44, u8::try_from(path.len()).unwrap()]);
    block.extend(path.as_bytes());
    frame(1, 0x5, stream, &block)
}

/// Opens an HTTP/2 connection with an initial window of `window` bytes for each stream.
fn open_http2(service: &Process, window: u32) -> Connection {
    let mut connection = Connection::open(service.address());
    let settings = [&[0, 4], &window.to_be_bytes()[..]].concat();
    connection.send(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat());
    connection
}

/// Frames of a connection: kind, stream and error code.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u32, u32)> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        let code = if head[3] == GOAWAY { payload.get(4..) } else { Some(payload) };
        let code = code.and_then(<[u8]>::first_chunk).map_or(0, |code| u32::from_be_bytes(*code));
        frames.push((head[3], stream, code));
        bytes = rest;
    }
    frames
}

/// Requests that hyper rejects are counted by reason, and the first of each reason is logged.
#[test]
fn rejected_request_is_counted() {
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    let broken_http2 = [PREFACE, &frame(SETTINGS, 0, 1, &[])].concat();
    let service = zoo().env("IDLE_TIMEOUT_MS", "300").serve();
    for (reason, bytes) in [
        ("400", b"GET / HTTP/1.1\r\nbad header\r\n\r\n".as_slice()),
        ("431", many_headers.as_bytes()),
        ("timeout", b"GET / HTTP/1.1\r\nHost:"),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("http2", &broken_http2),
    ] {
        for _ in 0..2 {
            let mut connection = Connection::open(service.address());
            connection.send(bytes);
            // A reset may discard the response.
            let _ = connection.read_to_end();
        }
        let line = service.wait_for_log_line(reason, |line| line.get("reason") == Some(reason));
        assert_eq!(&line["level"], "warn");
        let labels = [("error_type", reason)];
        service.wait_for_metrics(reason, |page| {
            page.value("http_server_rejected_requests_total", &labels) == Some(2.0)
        });
    }
    let warnings = service.log().iter().filter(|line| line.get("reason").is_some()).count();
    assert_eq!(warnings, 5);
}

/// A client that disconnects, or keeps an idle connection until it is closed, is not rejected.
#[test]
fn idle_connection_is_not_rejected() {
    let service = zoo().env("IDLE_TIMEOUT_MS", "300").serve();
    let mut idle = Connection::open(service.address());
    assert_eq!(idle.read_to_end().unwrap(), b"");
    let mut partial = Connection::open(service.address());
    partial.send(b"GET / HT");
    drop(partial);
    let mut kept_alive = Request::new("GET", "/announced").start(service.address());
    kept_alive.response().unwrap();
    assert_eq!(kept_alive.read_to_end().unwrap(), b"");
    assert_eq!(service.metrics().sum("http_server_rejected_requests_total", &[]), 0.0);
}

#[test]
fn idle_http2_connection_is_closed() {
    let service = zoo().env("IDLE_TIMEOUT_MS", "300").serve();
    let mut connection = open_http2(&service, 65_535);
    connection.send(&get_frame(1, "/announced"));
    let received = frames(&connection.read_to_end().unwrap());
    assert!(received.iter().any(|(kind, _, code)| (*kind, *code) == (GOAWAY, 0)), "{received:?}");
}

/// A client that grants no flow-control window does not hold its request for ever.
#[test]
fn stalled_http2_reader_is_closed() {
    let service = zoo().env("IDLE_TIMEOUT_MS", "300").serve();
    let mut connection = open_http2(&service, 0);
    connection.send(&get_frame(1, "/endless"));
    let _ = connection.read_to_end();
    let is_canceled = |line: &testkit::LogLine| line.get("error") == Some("canceled");
    service.wait_for_log_line("canceled", is_canceled);
}

#[test]
fn excess_http2_stream_is_refused() {
    let service = zoo().serve();
    let mut connection = open_http2(&service, 65_535);
    let streams = (0..101).map(|index| 2 * index + 1);
    connection.send(&streams.flat_map(|stream| get_frame(stream, "/pending")).collect::<Vec<_>>());
    service.wait_for_metrics("100 requests", |page| {
        page.sum("http_server_active_requests", &[]) == 100.0
    });
    connection.shutdown_write();
    let received = frames(&connection.read_to_end().unwrap_or_default());
    assert!(received.contains(&(RST_STREAM, 201, REFUSED_STREAM)), "{received:?}");
}

/// A client that opens and resets streams in a loop is disconnected, and its requests end.
#[test]
fn rapid_reset_closes_connection() {
    let service = zoo().serve();
    let mut connection = open_http2(&service, 65_535);
    let cancel = 8u32.to_be_bytes();
    let pair = |stream| [get_frame(stream, "/pending"), frame(RST_STREAM, 0, stream, &cancel)];
    let attack: Vec<u8> = (0..2000).flat_map(|index| pair(2 * index + 1).concat()).collect();
    connection.send(&attack);
    let received = frames(&connection.read_to_end().unwrap_or_default());
    let is_calmed =
        |(kind, _, code): &(u8, u32, u32)| (*kind, *code) == (GOAWAY, ENHANCE_YOUR_CALM);
    // A reset may discard the last frame.
    assert!(received.is_empty() || received.iter().any(is_calmed), "{received:?}");
    service.wait_for_metrics("no requests", |page| {
        page.sum("http_server_active_requests", &[]) == 0.0
            && page.value("http_server_rejected_requests_total", &[("error_type", "http2")])
                == Some(1.0)
    });
    assert_eq!(service.get("/announced").status, 200);
}

#[test]
fn oversized_http2_headers_return_431() {
    let service = zoo().serve();
    let value = "x".repeat(70 * 1024);
    let headers = [("x-large", value.as_str())];
    let received = http2::exchange(service.address(), "GET", "/announced", &headers, None);
    assert_eq!(received.head.expect("a response").status(), 431);
}

/// A handler that reads a body waits at most the idle timeout for the next bytes of the client.
#[test]
fn stalled_upload_is_aborted() {
    let service = zoo().env("IDLE_TIMEOUT_MS", "300").serve();
    let mut http1 = Connection::open(service.address());
    http1.send(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhel");
    let mut http2 = open_http2(&service, 65_535);
    let mut post = get_frame(1, "/upload");
    // No END_STREAM, and the method POST of the static table.
    (post[4], post[9]) = (0x4, 0x83);
    http2.send(&[post, frame(0, 0, 1, b"hel")].concat());
    assert_eq!(http1.response().unwrap().status, 400);
    let labels = [("http_route", "/upload"), ("http_response_status_code", "400")];
    service.wait_for_metrics("two aborted uploads", |page| {
        page.sum("http_server_request_duration_seconds_count", &labels) == 2.0
            && page.sum("http_server_active_requests", &[]) == 0.0
    });
}

/// An idle HTTP/2 connection does not delay the shutdown.
#[cfg(unix)]
#[test]
fn idle_http2_connection_is_drained() {
    let service = zoo().env("SHUTDOWN_TIMEOUT_MS", "60000").serve();
    let mut connection = open_http2(&service, 65_535);
    connection.send(&get_frame(1, "/announced"));
    service.wait_for_log_line("a request", |line| line.get("endpoint") == Some("/announced"));
    assert_eq!(service.stop().code, Some(0));
}

/// Headers of a trusted proxy name client, scheme and host; those of a stranger do not.
#[test]
fn forwarded_headers_need_trust() {
    let collector = OtlpCollector::start();
    for (trusted, client, scheme, server, port) in [
        ("127.0.0.0/8", "192.0.2.1", "https", "a.test", 443),
        ("", "127.0.0.1", "http", "localhost", 80),
    ] {
        let variables = collector.variables(Protocol::Grpc);
        let service = zoo().envs(variables).env("TRUSTED_PROXIES", trusted).serve();
        let response = Request::new("GET", "/announced")
            .header("Forwarded", "for=192.0.2.1;proto=https;host=a.test")
            .send(service.address());
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        assert_eq!(span.attributes["client.address"], client);
        assert_eq!(span.attributes["network.peer.address"], "127.0.0.1");
        assert_eq!(span.attributes["url.scheme"], scheme);
        assert_eq!(span.attributes["server.address"], server);
        assert_eq!(span.attributes["server.port"], port);
        let samples = service.metrics();
        let count = "http_server_request_duration_seconds_count";
        assert_eq!(samples.sum(count, &[("url_scheme", scheme)]), 1.0);
    }
}

/// On a public endpoint, the client decides neither trace id nor sampling. Its trace is a link.
#[test]
fn public_endpoint_starts_new_trace() {
    const STRANGER: &str = "0af7651916cd43dd8448eb211c80319c";
    let collector = OtlpCollector::start();
    let service =
        zoo().envs(collector.variables(Protocol::Grpc)).env("PUBLIC_ENDPOINT", "true").serve();
    let traceparent = format!("00-{STRANGER}-b7ad6b7169203331-00");
    let response = Request::new("GET", "/announced")
        .header("traceparent", &traceparent)
        .send(service.address());
    assert_ne!(response.trace_id(), STRANGER);
    let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
    assert_eq!(span.parent_span_id, "");
    assert_eq!(span.links, [STRANGER]);
}

/// The log line has the path, and the span has the names of the parameters, if the settings say so.
#[test]
fn path_and_query_are_opt_in() {
    let collector = OtlpCollector::start();
    for is_on in [true, false] {
        let value = is_on.to_string();
        let service = zoo()
            .envs(collector.variables(Protocol::Grpc))
            .env("LOG_PATH", &value)
            .env("RECORD_URL_QUERY", &value)
            .serve();
        let response = service.get("/nested/a%20b?id=7&flag&name=secret");
        let line = service.wait_for_access_line(response.trace_id());
        assert_eq!(line.get("path"), is_on.then_some("/nested/a%20b"));
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        let query = span.attributes.get("url.query").and_then(|value| value.as_str());
        assert_eq!(query, is_on.then_some("id=REDACTED&flag&name=REDACTED"));
    }
}
