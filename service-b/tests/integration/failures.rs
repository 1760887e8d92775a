//! Failures of service A and the error kinds that the response, log, spans and metrics of service B
//! report. `call_timeout.rs` covers the time until a response.

use std::time::Duration;

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply, ReservedPort};

use crate::{CLIENT_DURATION_COUNT, CLIENT_ERRORS, SERVER_DURATION_COUNT, service_b};

/// Expected report of a failure.
#[derive(Debug, Clone, Copy)]
struct Failure {
    kind: &'static str,
    /// Status that a gateway would send.
    http_status: u16,
    /// Status of the response from service A, if there was one.
    upstream_status: Option<u16>,
}

const fn failure(kind: &'static str, http_status: u16, upstream_status: Option<u16>) -> Failure {
    Failure { kind, http_status, upstream_status }
}

/// Calls service A once and checks that the response, log, spans and metrics of service B report the
/// expected failure. Returns `details` of the response.
fn assert_degraded(service_a_url: &str, expected: Failure) -> String {
    let Failure { kind, http_status, upstream_status } = expected;
    let collector = OtlpCollector::start();
    let service = service_b(service_a_url).envs(collector.variables(Protocol::Grpc)).serve();
    let response = service.get("/call-echo?msg=hello");
    let trace_id = response.trace_id();
    println!("{service_a_url}: {kind} after {:?}", response.elapsed);

    let details = response.json()["details"].as_str().unwrap().to_owned();
    let body = format!(
        r#"{{"details":{},"error":"{kind}","http_status":{http_status},"service_a":"unavailable","service_b":"ok","trace_id":"{trace_id}"}}"#,
        serde_json::Value::from(details.as_str())
    );
    assert_eq!((response.status, response.text()), (503, body.as_str()));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert!(details.starts_with(&format!("GET {service_a_url}/echo: ")), "{details}");
    assert!(!details.contains("hello"), "query in details: {details}");

    let line = service.wait_for_access_line(trace_id);
    let fields = [
        "ts",
        "level",
        "service",
        "endpoint",
        "status",
        "http_status",
        "error",
        "complete_error",
        "latency_ms",
        "method",
        "trace_id",
        "span_id",
    ];
    assert_eq!(line.keys(), fields);
    assert_eq!(
        [&line["level"], &line["service"], &line["endpoint"], &line["status"], &line["method"]],
        ["error", "B", "/call-echo", "error", "GET"]
    );
    assert_eq!((&line["error"], &line["complete_error"]), (kind, details.as_str()));
    assert_eq!(&line["http_status"], http_status.to_string());
    let latency = Duration::from_millis(line["latency_ms"].parse().unwrap());
    assert!(latency <= response.elapsed, "{latency:?}");

    let spans = collector.wait_for_trace(trace_id, 2);
    let [server, client] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!(
        (server.name.as_str(), server.kind, server.status),
        ("GET /call-echo", "server", "error")
    );
    assert_eq!(server.attributes["error.type"], kind);
    assert_eq!(server.attributes["http.response.status_code"], 503);
    assert_eq!(server.span_id, line["span_id"]);
    assert_eq!((client.name.as_str(), client.kind, client.status), ("GET", "client", "error"));
    assert_eq!(client.attributes["error.type"], kind);
    assert_eq!(client.parent_span_id, server.span_id);
    let code = client.attributes.get("http.response.status_code").and_then(|code| code.as_u64());
    assert_eq!(code, upstream_status.map(u64::from));

    let page = service.metrics();
    let failed = [("error_type", kind)];
    assert_eq!(page.value(CLIENT_ERRORS, &failed), Some(1.0));
    assert_eq!(page.sum(CLIENT_ERRORS, &[]), 1.0);
    assert_eq!(page.value(CLIENT_DURATION_COUNT, &failed), Some(1.0));
    let call = page.named(CLIENT_DURATION_COUNT).next().unwrap();
    let code = call.labels.get("http_response_status_code");
    assert_eq!(code.cloned(), upstream_status.map(|status| status.to_string()));
    let served = [("http_route", "/call-echo"), ("http_response_status_code", "503"), failed[0]];
    assert_eq!(page.value(SERVER_DURATION_COUNT, &served), Some(1.0));
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0);
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0);

    // Service B remains healthy.
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.get("/call-echo").status, 400);
    details
}

/// Like [`assert_degraded`], with a fake service A that must receive one request.
fn assert_reply_degrades(reply: Reply, expected: Failure) -> String {
    let service_a = FakeServer::start(reply);
    let details = assert_degraded(&service_a.url(), expected);
    assert_eq!(service_a.requests().len(), 1);
    details
}

#[test]
fn connection_refused() {
    let port = ReservedPort::bind();
    let details = assert_degraded(&port.url(), failure("refused", 503, None));
    assert!(details.to_lowercase().contains("connection refused"), "{details}");
}

#[test]
fn dns_failure() {
    // A label of more than 63 characters is invalid, so the resolver sends no query.
    let name = format!("http://{}.invalid:8080", "a".repeat(64));
    assert_degraded(&name, failure("dns", 503, None));
}

#[test]
fn connect_timeout() {
    #[cfg(target_os = "linux")]
    {
        let (address, _sockets) = testkit::listener_with_full_backlog();
        assert_degraded(&format!("http://{address}"), failure("timeout", 504, None));
    }
}

/// Connecting to the broadcast address of the loopback network fails with `ENETUNREACH`.
#[cfg(target_os = "linux")]
#[test]
fn broadcast_address_is_unreachable() {
    let details = assert_degraded("http://127.255.255.255:8080", failure("unreachable", 503, None));
    assert!(details.ends_with("Network is unreachable (os error 101)"), "{details}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs a network namespace: .ci/run reliability"]
fn isolated_network_is_unreachable() {
    use testkit::network::{UNREACHABLE_HOST, UNREACHABLE_NETWORK, in_isolated_network};
    in_isolated_network("failures::isolated_network_is_unreachable", || {
        for (host, error) in [
            (UNREACHABLE_NETWORK, "Network is unreachable (os error 101)"),
            (UNREACHABLE_HOST, "No route to host (os error 113)"),
        ] {
            let url = format!("http://{host}:8080");
            let details = assert_degraded(&url, failure("unreachable", 503, None));
            assert!(details.ends_with(error), "{details}");
        }
    });
}

#[test]
fn response_timeout() {
    assert_reply_degrades(Reply::Stall(Vec::new()), failure("timeout", 504, None));
}

#[test]
fn slow_headers() {
    let slow = Reply::SlowBody(b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec());
    assert_reply_degrades(slow, failure("timeout", 504, None));
}

#[test]
fn stalled_body() {
    let stalled = Reply::Stall(Reply::start_of(100, r#"{"echo":"#));
    assert_reply_degrades(stalled, failure("timeout", 504, Some(200)));
}

#[test]
fn slow_body() {
    let slow = Reply::SlowBody(Reply::start_of(100_000, r#"{"echo":""#));
    assert_reply_degrades(slow, failure("timeout", 504, Some(200)));
}

#[test]
fn reset_before_response() {
    assert_reply_degrades(Reply::Reset(Vec::new()), failure("reset", 503, None));
}

#[test]
fn close_before_response() {
    assert_reply_degrades(Reply::Close(Vec::new()), failure("reset", 503, None));
}

#[test]
fn close_in_headers() {
    let partial = Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec());
    assert_reply_degrades(partial, failure("reset", 503, None));
}

#[test]
fn reset_in_body() {
    let partial = Reply::Reset(Reply::start_of(100, r#"{"echo":"#));
    let service_a = FakeServer::start(partial);
    let service = service_b(service_a.url()).serve();
    let response = service.get("/call-echo?msg=hello");
    // The reset may discard the headers, so the status of service A is not checked.
    assert_eq!((response.status, &response.json()["error"]), (503, &"reset".into()));
    let failed = [("error_type", "reset")];
    assert_eq!(service.metrics().value(CLIENT_ERRORS, &failed), Some(1.0));
}

#[test]
fn truncated_body() {
    let partial = Reply::Close(Reply::start_of(100, r#"{"echo":"#));
    assert_reply_degrades(partial, failure("reset", 502, Some(200)));
}

#[test]
fn truncated_chunked_body() {
    let partial = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ech";
    assert_reply_degrades(Reply::Close(partial.into()), failure("reset", 502, Some(200)));
}

#[test]
fn invalid_body() {
    for body in [
        "",
        "hello",
        "null",
        "[]",
        "{}",
        r#"{"echo":1}"#,
        r#"{"echo":null}"#,
        r#"{"Echo":"a"}"#,
        r#"{"echo":"a"#,
        r#"{"echo":"a"}x"#,
        r#"{"echo":"a","echo":"b"}"#,
        "<html>hello</html>",
    ] {
        let service_a = FakeServer::start(Reply::Json(200, body.to_owned()));
        let service = service_b(service_a.url()).serve();
        let response = service.get("/call-echo?msg=hello");
        assert_eq!((response.status, &response.json()["error"]), (503, &"decode".into()), "{body}");
        assert_eq!(response.json()["http_status"], 502, "{body}");
    }
    assert_reply_degrades(Reply::Json(200, "hello".to_owned()), failure("decode", 502, Some(200)));
}

#[test]
fn long_body_is_truncated_in_details() {
    let body = serde_json::Value::from("é".repeat(400_000)).to_string();
    let details = assert_reply_degrades(Reply::Json(200, body), failure("decode", 502, Some(200)));
    assert!(details.len() < 1024, "{} bytes", details.len());
}

#[test]
fn non_utf8_body() {
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"echo\":\"\xff\"}".to_vec();
    assert_reply_degrades(Reply::Close(response), failure("decode", 502, Some(200)));
}

#[test]
fn success_without_body() {
    assert_reply_degrades(
        Reply::Close(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        failure("decode", 502, Some(204)),
    );
}

#[test]
fn endless_body() {
    let endless = Reply::EndlessBody(b"HTTP/1.1 200 OK\r\n\r\n{\"echo\":\"".to_vec());
    let details = assert_reply_degrades(endless, failure("decode", 502, Some(200)));
    assert!(details.contains("more than 1048576 bytes"), "{details}");
}

#[test]
fn non_success_status() {
    for status in ["301", "404", "429", "500", "503", "599"] {
        let code = status.parse().unwrap();
        let reply = Reply::Json(code, r#"{"echo":"hello"}"#.to_owned());
        assert_reply_degrades(reply, failure(status, 502, Some(code)));
    }
}

#[test]
fn non_http_response() {
    for bytes in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0\0\0\0\0"] {
        assert_reply_degrades(Reply::Close(bytes.into()), failure("other", 502, None));
    }
}

/// Probes and invalid requests are served while 50 calls wait for service A.
#[test]
fn pending_calls_do_not_block() {
    const CALLS: usize = 50;
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url()).env("SERVICE_A_TIMEOUT_MS", "60000").serve();
    let request = Request::new("GET", "/call-echo?msg=hello");
    let pending: Vec<_> = (0..CALLS).map(|_| request.start(service.address())).collect();
    service_a.wait_for_request(CALLS);
    let page = service.metrics();
    let get = [("http_request_method", "GET")];
    assert_eq!(page.value("http_server_active_requests", &get), Some(CALLS as f64));
    assert_eq!(page.value("http_client_active_requests", &get), Some(CALLS as f64));
    for target in ["/health", "/livez", "/readyz"] {
        assert_eq!(service.get(target).status, 200, "{target}");
    }
    assert_eq!(service.get("/call-echo").status, 400);
    service_a.send_delayed();
    for mut connection in pending {
        assert_eq!(connection.response().unwrap().status, 200);
    }
    assert_eq!(service.metrics().sum("http_server_active_requests", &[]), 0.0);
}

/// The first call after service A recovers succeeds.
#[test]
fn restarted_service_a_is_used() {
    let port = ReservedPort::bind();
    let service = service_b(port.url()).serve();
    for _ in 0..3 {
        assert_eq!(service.get("/call-echo?msg=hello").json()["error"], "refused");
    }
    let service_a = FakeServer::start_on(port.listen(), Reply::echo("hello"));
    assert_eq!(service.get("/call-echo?msg=hello").status, 200);
    for failure in [
        Reply::Close(Vec::new()),
        Reply::Reset(Vec::new()),
        Reply::Json(500, String::new()),
        Reply::Close(Reply::start_of(100, "")),
    ] {
        service_a.set_reply(failure.clone());
        assert_eq!(service.get("/call-echo?msg=hello").status, 503, "{failure:?}");
        service_a.set_reply(Reply::echo("hello"));
        assert_eq!(service.get("/call-echo?msg=hello").status, 200, "{failure:?}");
    }
}
