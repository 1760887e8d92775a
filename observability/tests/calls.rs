//! Ends of calls: what the caller gets, and what metrics and client span record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::{
    io,
    net::{Shutdown, TcpListener},
    thread,
};

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol, Span};
use testkit::{FakeServer, Process, ProcessBuilder, Reply, ReservedPort};

const DURATION_SUM: &str = "http_client_request_duration_seconds_sum";
const DURATION_COUNT: &str = "http_client_request_duration_seconds_count";
const ERRORS: &str = "http_client_request_errors_total";

/// Timeout of calls that time out, in milliseconds. The other calls have a timeout that they do not reach.
const SHORT_TIMEOUT: &str = "300";
const LONG_TIMEOUT: &str = "30000";

fn caller_process(collector: &OtlpCollector, url: &str, timeout_ms: &str) -> ProcessBuilder {
    ProcessBuilder::example("caller")
        .envs(collector.variables(Protocol::Grpc))
        .env("UPSTREAM_URL", url)
        .env("CALL_TIMEOUT_MS", timeout_ms)
}

/// A call, and what must be recorded about it.
struct Case {
    name: &'static str,
    /// Path at the caller: the client and the reader.
    target: &'static str,
    reply: Reply,
    /// Response of the caller.
    result: &'static str,
    status: Option<u16>,
    error_type: Option<&'static str>,
}

/// A call that succeeds.
fn ok(name: &'static str, target: &'static str, reply: Reply, result: &'static str) -> Case {
    let status = result.get(..3).and_then(|status| status.parse().ok());
    Case { name, target, reply, result, status: status.or(Some(200)), error_type: None }
}

/// A call whose response has a status of 4xx or 5xx.
fn failed_status(name: &'static str, target: &'static str, status: u16) -> Case {
    let result = if status == 404 { "404" } else { "500" };
    let reply = Reply::Json(status, "{}".to_owned());
    Case { name, target, reply, result, status: Some(status), error_type: Some(result) }
}

/// A call that fails with `error`, after headers with status 200 or before.
fn failed(
    name: &'static str,
    target: &'static str,
    reply: Reply,
    status: Option<u16>,
    error: &'static str,
) -> Case {
    Case { name, target, reply, result: error, status, error_type: Some(error) }
}

/// A response in these bytes, after which the server closes the connection.
fn raw(head: &str, body: &[u8]) -> Reply {
    Reply::Close([head.as_bytes(), b"\r\n", body].concat())
}

fn cases() -> Vec<Case> {
    let hello = || Reply::Json(200, "hello".to_owned());
    let no_content = || raw("HTTP/1.1 204 No Content\r\n", b"");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let folded = "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 5\r\n";
    vec![
        ok("whole body", "/plain/text", hello(), "200 hello"),
        ok("unread body", "/plain/status", hello(), "200"),
        ok("checked status", "/plain/checked", hello(), "200"),
        failed_status("unread 404", "/plain/status", 404),
        failed_status("unread 500", "/plain/status", 500),
        failed_status("checked 404", "/plain/checked", 404),
        failed_status("checked 500", "/plain/checked", 500),
        failed_status("JSON 500", "/plain/json", 500),
        ok("304", "/plain/text", raw("HTTP/1.1 304 Not Modified\r\n", b""), "304"),
        ok(
            "307",
            "/plain/text",
            raw("HTTP/1.1 307 X\r\nLocation: /\r\nContent-Length: 0\r\n", b""),
            "307",
        ),
        Case { status: Some(204), ..ok("204 into ()", "/plain/unit", no_content(), "()") },
        failed("204 into JSON", "/plain/json", no_content(), Some(204), "decode"),
        ok("HEAD", "/plain/head", raw(announced, b""), "200"),
        ok(
            "trailers",
            "/plain/text",
            raw(chunked, b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
            "200 hello",
        ),
        ok(
            "interim responses",
            "/plain/text",
            raw(&format!("{early}{announced}"), b"hello"),
            "200 hello",
        ),
        ok(
            "HTTP/1.0 until close",
            "/plain/text",
            raw("HTTP/1.0 200 OK\r\n", b"hello"),
            "200 hello",
        ),
        ok("folded header", "/plain/text", raw(folded, b"hello"), "200 hello"),
        failed("wrong JSON", "/plain/json", hello(), Some(200), "decode"),
        failed("cut body", "/plain/text", raw(announced, b"hel"), Some(200), "reset"),
        failed("cut JSON", "/plain/json", raw(announced, b"hel"), Some(200), "reset"),
        failed(
            "cut chunked body",
            "/plain/text",
            raw(chunked, b"5\r\nhello\r\n"),
            Some(200),
            "reset",
        ),
        failed("closed before head", "/plain/text", Reply::Close(Vec::new()), None, "reset"),
        failed("reset before head", "/plain/text", Reply::Reset(Vec::new()), None, "reset"),
        failed("foreign local address", "/unbindable/text", hello(), None, "local"),
        failed("timeout in head", "/plain/text", Reply::Stall(Vec::new()), None, "timeout"),
        failed(
            "timeout in body",
            "/plain/text",
            Reply::Stall(Reply::start_of(5, "hel")),
            Some(200),
            "timeout",
        ),
    ]
}

/// Each way in which a call ends has the right outcome for the caller, in the metrics and in the one
/// client span, and they agree on the duration.
#[test]
fn call_end_is_recorded() {
    let collector = OtlpCollector::start();
    for case in cases() {
        assert_call(&case, &collector);
    }
}

fn assert_call(case: &Case, collector: &OtlpCollector) {
    let upstream = FakeServer::start(case.reply.clone());
    let is_timeout = case.error_type == Some("timeout");
    let timeout = if is_timeout { SHORT_TIMEOUT } else { LONG_TIMEOUT };
    let caller = caller_process(collector, &upstream.url(), timeout).serve();
    assert_result(case, &caller, collector, upstream.address());
}

fn assert_result(case: &Case, caller: &Process, collector: &OtlpCollector, upstream: SocketAddr) {
    let response = caller.get(case.target);
    assert_eq!(response.text(), case.result, "{}", case.name);
    let spans = collector.wait_for_trace(response.trace_id(), 2);
    assert_recorded(case, caller, &spans, upstream);
}

/// Checks the span and the metrics of a call to `upstream`. The first of `spans` is the caller's.
fn assert_recorded(case: &Case, caller: &Process, spans: &[Span], upstream: SocketAddr) {
    let name = case.name;
    let [parent, span] = spans else { panic!("{name}: {spans:?}") };
    let page = caller.metrics();
    let status = case.status.map(|status| status.to_string());
    let labels =
        [("http_response_status_code", status.as_deref()), ("error_type", case.error_type)];
    let samples: Vec<_> = page.named(DURATION_COUNT).filter(|sample| sample.value > 0.0).collect();
    assert_eq!(samples.len(), 1, "{name}: {samples:?}");
    assert_eq!(samples[0].value, 1.0, "{name}");
    for (label, value) in labels {
        assert_eq!(samples[0].labels.get(label).map(String::as_str), value, "{name}: {label}");
    }
    let errors: Vec<_> = page.named(ERRORS).filter(|sample| sample.value > 0.0).collect();
    let error_types: Vec<_> = errors.iter().map(|sample| &*sample.labels["error_type"]).collect();
    assert_eq!(error_types, case.error_type.as_slice(), "{name}");
    assert_eq!(page.sum(ERRORS, &[]), error_types.len() as f64, "{name}");
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0, "{name}");

    assert_eq!((span.kind, &span.parent_span_id), ("client", &parent.span_id), "{name}");
    let method = if case.target == "/plain/head" { "HEAD" } else { "GET" };
    assert_eq!(span.name, method, "{name}");
    // Cancellation by the caller is not an error of the call.
    let span_error = case.error_type.filter(|error| *error != "canceled");
    assert_eq!(span.status, if span_error.is_some() { "error" } else { "" }, "{name}");
    let text = |key: &str| span.attributes.get(key).and_then(|value| value.as_str());
    let number = |key: &str| span.attributes.get(key).and_then(|value| value.as_u64());
    assert_eq!(text("error.type"), span_error, "{name}");
    assert_eq!(text("http.request.method"), Some(method), "{name}");
    assert_eq!(number("http.response.status_code"), case.status.map(u64::from), "{name}");
    assert_eq!(text("server.address"), Some(&*upstream.ip().to_string()), "{name}");
    assert_eq!(number("server.port"), Some(upstream.port().into()), "{name}");
    let scheme = if case.error_type == Some("tls") { "https" } else { "http" };
    assert_eq!(text("url.full"), Some(&*format!("{scheme}://{upstream}/")), "{name}");
    assert_eq!(number("http.request.resend_count"), None, "{name}");
    let span_seconds = span.duration_ns as f64 / 1e9;
    let seconds = page.sum(DURATION_SUM, &[]);
    assert!((span_seconds - seconds).abs() < 1e-8, "{name}: span {span_seconds}, metric {seconds}");
}

#[test]
fn refused_call_is_recorded() {
    let collector = OtlpCollector::start();
    let upstream = ReservedPort::bind();
    let caller = caller_process(&collector, &upstream.url(), LONG_TIMEOUT).serve();
    let case = failed("refused", "/plain/text", Reply::Close(Vec::new()), None, "refused");
    assert_result(&case, &caller, &collector, upstream.address());
}

/// The caller's client disconnects, so that the caller drops the call before its headers or in its body.
#[test]
fn dropped_call_is_canceled() {
    let collector = OtlpCollector::start();
    for (name, reply, received, status) in [
        ("dropped before head", Reply::Stall(Vec::new()), None, None),
        ("dropped in body", Reply::Stall(Reply::start_of(5, "hel")), Some("hel"), Some(200)),
    ] {
        let case = failed(name, "/plain/stream", reply, status, "canceled");
        let upstream = FakeServer::start(case.reply.clone());
        let caller = caller_process(&collector, &upstream.url(), LONG_TIMEOUT).serve();
        let mut connection = Request::new("GET", case.target).start(caller.address());
        upstream.wait_for_request(1);
        if let Some(received) = received {
            connection.read_until(received.as_bytes()).expect(name);
        }
        drop(connection);
        let line = caller.wait_for_log_line(name, |line| line.get("endpoint").is_some());
        let spans = collector.wait_for_trace(&line["trace_id"], 2);
        assert_recorded(&case, &caller, &spans, upstream.address());
    }
}

/// Each attempt of a call is a client span below the caller's span.
#[test]
fn retried_call_has_span_per_attempt() {
    let collector = OtlpCollector::start();
    let upstream = ReservedPort::bind();
    let caller = caller_process(&collector, &upstream.url(), LONG_TIMEOUT).serve();
    let response = caller.get("/retrying/text");
    assert_eq!(response.text(), "refused");
    let spans = collector.wait_for_trace(response.trace_id(), 4);
    let attempts = &spans[1..];
    assert!(attempts.iter().all(|span| span.parent_span_id == spans[0].span_id), "{spans:?}");
    let count = |span: &Span| span.attributes.get("http.request.resend_count")?.as_u64();
    let mut counts: Vec<_> = attempts.iter().map(count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [None, Some(1), Some(2)]);
    let page = caller.metrics();
    assert_eq!(page.sum(ERRORS, &[("error_type", "refused")]), 3.0);
    assert_eq!(page.sum(DURATION_COUNT, &[]), 3.0);
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0);
}

/// A call that is not made is counted and has neither span nor duration.
#[test]
fn rejected_call_has_no_span() {
    let collector = OtlpCollector::start();
    let upstream = FakeServer::start(Reply::Json(500, "{}".to_owned()));
    let caller = caller_process(&collector, &upstream.url(), LONG_TIMEOUT).serve();
    assert_eq!(caller.get("/breaking/status").text(), "500");
    let response = caller.get("/breaking/status");
    assert_eq!(response.text(), "circuit_open");
    collector.wait_for_trace(response.trace_id(), 1);
    let page = caller.metrics();
    assert_eq!(page.sum(ERRORS, &[("error_type", "circuit_open")]), 1.0);
    assert_eq!(page.sum(DURATION_COUNT, &[]), 1.0);
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0);
    assert_eq!(upstream.requests().len(), 1);
}

/// An address that swallows SYNs: alone, the call times out. Beside a healthy address, it succeeds.
#[cfg(target_os = "linux")]
#[test]
fn silent_address_leaves_time() {
    let collector = OtlpCollector::start();
    let (silent, _sockets) = testkit::listener_with_full_backlog();
    let caller = caller_process(&collector, &format!("http://{silent}"), SHORT_TIMEOUT).serve();
    let case = failed("silent", "/plain/text", Reply::Close(Vec::new()), None, "timeout");
    assert_result(&case, &caller, &collector, silent);

    let upstream = FakeServer::start(Reply::Json(200, "hello".to_owned()));
    let addresses = format!("{silent},{}", upstream.address());
    let caller = caller_process(&collector, "http://upstream.test", "2000")
        .env("UPSTREAM_ADDRESSES", addresses)
        .serve();
    assert_eq!(caller.get("/plain/text").text(), "200 hello");
}

/// A complete HTTP message whose content encoding is valid, ends early or is invalid.
#[cfg(feature = "gzip")]
#[test]
fn compressed_body_end_is_recorded() {
    use std::io::Write;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"hello").unwrap();
    let compressed = encoder.finish().unwrap();
    let gzip = |body: &[u8]| {
        let headers = format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", body.len());
        raw(&format!("HTTP/1.1 200 OK\r\n{headers}"), body)
    };
    let collector = OtlpCollector::start();
    for case in [
        ok("gzip", "/plain/text", gzip(&compressed), "200 hello"),
        failed("cut gzip stream", "/plain/text", gzip(&compressed[..15]), Some(200), "decode"),
        failed("cut gzip of JSON", "/plain/json", gzip(&compressed[..15]), Some(200), "decode"),
        failed("invalid gzip", "/plain/text", gzip(b"hello"), Some(200), "decode"),
    ] {
        assert_call(&case, &collector);
    }
}

/// A peer that closes or resets the connection during the TLS handshake.
#[cfg(feature = "tls")]
#[test]
fn aborted_tls_handshake_is_recorded() {
    let collector = OtlpCollector::start();
    for (name, is_reset) in [("FIN in handshake", false), ("RST in handshake", true)] {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut stream, _) = upstream.accept().unwrap();
            if is_reset {
                // A socket that is closed with unread data resets the connection.
                return stream.peek(&mut [0]).map(drop);
            }
            stream.shutdown(Shutdown::Write)?;
            io::copy(&mut stream, &mut io::sink()).map(drop)
        });
        let caller =
            caller_process(&collector, &format!("https://{address}"), LONG_TIMEOUT).serve();
        let case = failed(name, "/plain/text", Reply::Close(Vec::new()), None, "tls");
        assert_result(&case, &caller, &collector, address);
        peer.join().unwrap().expect(name);
    }
}
