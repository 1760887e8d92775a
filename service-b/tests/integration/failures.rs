//! Why service A could not be used: one word, the same in the answer, the metrics, the spans and the
//! log. That it is said in time is in tests/budget.rs.

use std::time::Duration;

use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply, ReservedPort};

use crate::{CLIENT_DURATION_COUNT, CLIENT_ERRORS, SERVER_DURATION_COUNT, service_b};

/// What is said of a failure.
#[derive(Debug, Clone, Copy)]
struct Failure {
    kind: &'static str,
    /// What a gateway would have said.
    http_status: u16,
    /// The status of A's answer, where there was one.
    answered: Option<u16>,
}

const fn failure(kind: &'static str, http_status: u16, answered: Option<u16>) -> Failure {
    Failure { kind, http_status, answered }
}

/// Calls a service A like this one, and looks for what is said of it wherever it is said. Gives the
/// details.
fn assert_degraded(service_a_url: &str, expected: Failure) -> String {
    let Failure { kind, http_status, answered } = expected;
    let backend = OtlpCollector::start();
    let service = service_b(service_a_url).envs(backend.variables(Protocol::Grpc)).serve();
    let answer = service.get("/call-echo?msg=hello");
    let trace_id = answer.trace_id();
    println!("{service_a_url}: {kind} after {:?}", answer.elapsed);

    // The answer.
    let details = answer.json()["details"].as_str().unwrap().to_owned();
    let body = format!(
        r#"{{"details":{},"error":"{kind}","http_status":{http_status},"service_a":"unavailable","service_b":"ok","trace_id":"{trace_id}"}}"#,
        serde_json::Value::from(details.as_str())
    );
    assert_eq!((answer.status, answer.text()), (503, body.as_str()));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(details.starts_with(&format!("GET {service_a_url}/echo: ")), "{details}");
    assert!(!details.contains("hello"), "the query is in the details: {details}");

    // The log.
    let line = service.wait_for_access(trace_id);
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
    assert!(latency <= answer.elapsed, "{latency:?}");

    // The spans.
    let spans = backend.wait_for_trace(trace_id, 2);
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
    assert_eq!(code, answered.map(u64::from));

    // The metrics.
    let page = service.metrics();
    let failed = [("error_type", kind)];
    assert_eq!(page.value(CLIENT_ERRORS, &failed), Some(1.0));
    assert_eq!(page.sum(CLIENT_ERRORS, &[]), 1.0);
    assert_eq!(page.value(CLIENT_DURATION_COUNT, &failed), Some(1.0));
    let call = page.named(CLIENT_DURATION_COUNT).next().unwrap();
    let code = call.labels.get("http_response_status_code");
    assert_eq!(code.cloned(), answered.map(|status| status.to_string()));
    let served = [("http_route", "/call-echo"), ("http_response_status_code", "503"), failed[0]];
    assert_eq!(page.value(SERVER_DURATION_COUNT, &served), Some(1.0));
    assert_eq!(page.sum("http_client_active_requests", &[]), 0.0);
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0);

    // And B is as well as ever.
    assert_eq!(service.get("/health").status, 200);
    assert_eq!(service.get("/readyz").status, 200);
    assert_eq!(service.get("/call-echo").status, 400);
    details
}

/// As [`assert_degraded`], of a service A that replies so, and is asked once.
fn assert_reply_degrades(reply: Reply, expected: Failure) -> String {
    let service_a = FakeServer::start(reply);
    let details = assert_degraded(&service_a.url(), expected);
    assert_eq!(service_a.requests().len(), 1);
    details
}

#[test]
fn connection_refused() {
    let nobody = ReservedPort::take();
    let details =
        assert_degraded(&format!("http://{}", nobody.address()), failure("refused", 503, None));
    assert!(details.to_lowercase().contains("connection refused"), "{details}");
}

#[test]
fn the_name_does_not_resolve() {
    // No name server is asked for a name with a part of more than 63 letters.
    let name = format!("http://{}.invalid:8080", "a".repeat(64));
    assert_degraded(&name, failure("dns", 503, None));
}

#[test]
fn the_connection_is_never_made() {
    #[cfg(target_os = "linux")]
    {
        let (address, _sockets) = testkit::listener_with_full_backlog();
        assert_degraded(&format!("http://{address}"), failure("timeout", 504, None));
    }
}

/// No connection is ever made to a broadcast address, be it loopback's own.
#[cfg(target_os = "linux")]
#[test]
fn no_route_leads_to_the_address() {
    let details = assert_degraded("http://127.255.255.255:8080", failure("unreachable", 503, None));
    assert!(details.ends_with("Network is unreachable (os error 101)"), "{details}");
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs a network namespace: .ci/run reliability"]
fn service_b_is_cut_off_from_the_network() {
    use testkit::network::{UNREACHABLE_HOST, UNREACHABLE_NETWORK, in_isolated_network};
    in_isolated_network("failures::service_b_is_cut_off_from_the_network", || {
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
fn the_headers_come_too_slowly() {
    let slow = Reply::SlowBody(b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec());
    assert_reply_degrades(slow, failure("timeout", 504, None));
}

#[test]
fn the_body_stops_coming() {
    let stopped = Reply::Stall(Reply::start_of(100, r#"{"echo":"#));
    assert_reply_degrades(stopped, failure("timeout", 504, Some(200)));
}

#[test]
fn the_body_comes_too_slowly() {
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
    let half = Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec());
    assert_reply_degrades(half, failure("reset", 503, None));
}

#[test]
fn reset_in_body() {
    let half = Reply::Reset(Reply::start_of(100, r#"{"echo":"#));
    let service_a = FakeServer::start(half);
    let service = service_b(service_a.url()).serve();
    let answer = service.get("/call-echo?msg=hello");
    // A reset may overtake what was sent before it, so that B never saw the headers.
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"reset".into()));
    let failed = [("error_type", "reset")];
    assert_eq!(service.metrics().value(CLIENT_ERRORS, &failed), Some(1.0));
}

#[test]
fn truncated_body() {
    let half = Reply::Close(Reply::start_of(100, r#"{"echo":"#));
    assert_reply_degrades(half, failure("reset", 502, Some(200)));
}

#[test]
fn half_an_answer_in_chunks_comes() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ech";
    assert_reply_degrades(Reply::Close(head.into()), failure("reset", 502, Some(200)));
}

#[test]
fn the_body_is_no_echo() {
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
        let answer = service.get("/call-echo?msg=hello");
        assert_eq!((answer.status, &answer.json()["error"]), (503, &"decode".into()), "{body}");
        assert_eq!(answer.json()["http_status"], 502, "{body}");
    }
    assert_reply_degrades(Reply::Json(200, "hello".to_owned()), failure("decode", 502, Some(200)));
}

#[test]
fn what_a_body_says_is_told_in_short() {
    let body = serde_json::Value::from("é".repeat(400_000)).to_string();
    let details = assert_reply_degrades(Reply::Json(200, body), failure("decode", 502, Some(200)));
    assert!(details.len() < 1024, "{} bytes", details.len());
}

#[test]
fn the_body_is_no_utf8() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"echo\":\"\xff\"}".to_vec();
    assert_reply_degrades(Reply::Close(head), failure("decode", 502, Some(200)));
}

#[test]
fn a_success_has_no_body() {
    assert_reply_degrades(
        Reply::Close(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        failure("decode", 502, Some(204)),
    );
}

#[test]
fn the_body_does_not_end() {
    let endless = Reply::EndlessBody(b"HTTP/1.1 200 OK\r\n\r\n{\"echo\":\"".to_vec());
    let details = assert_reply_degrades(endless, failure("decode", 502, Some(200)));
    assert!(details.contains("more than 1048576 bytes"), "{details}");
}

#[test]
fn non_success_status() {
    for status in ["301", "404", "429", "500", "503", "599"] {
        let number = status.parse().unwrap();
        let reply = Reply::Json(number, r#"{"echo":"hello"}"#.to_owned());
        assert_reply_degrades(reply, failure(status, 502, Some(number)));
    }
}

#[test]
fn the_answer_is_no_http() {
    for bytes in ["SSH-2.0-OpenSSH_9.6\r\n", "HTTP/1.1 abc\r\n\r\n", "\0\0\0\0\0\0\0\0"] {
        assert_reply_degrades(Reply::Close(bytes.into()), failure("other", 502, None));
    }
}

#[test]
fn pending_calls_do_not_block() {
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url()).env("SERVICE_A_TIMEOUT_MS", "60000").serve();
    let address = service.address();
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(move || testkit::http::get(address, "/call-echo?msg=hello").status)
            })
            .collect();
        service_a.wait_for_request(50);
        let page = service.metrics();
        let get = [("http_request_method", "GET")];
        assert_eq!(page.value("http_server_active_requests", &get), Some(50.0));
        assert_eq!(page.value("http_client_active_requests", &get), Some(50.0));
        for target in ["/health", "/livez", "/readyz"] {
            assert_eq!(service.get(target).status, 200, "{target}");
        }
        assert_eq!(service.get("/call-echo").status, 400);
        service_a.release();
        assert!(calls.into_iter().all(|call| call.join().unwrap() == 200));
    });
    assert_eq!(service.metrics().sum("http_server_active_requests", &[]), 0.0);
}

#[test]
fn restarted_service_a_is_used() {
    let port = ReservedPort::take();
    let service = service_b(format!("http://{}", port.address())).serve();
    for _ in 0..3 {
        assert_eq!(service.get("/call-echo?msg=hello").json()["error"], "refused");
    }
    let service_a = port.serve(Reply::echo("hello"));
    assert_eq!(service.get("/call-echo?msg=hello").status, 200);
    for broken in [
        Reply::Close(Vec::new()),
        Reply::Reset(Vec::new()),
        Reply::Json(500, String::new()),
        Reply::Close(Reply::start_of(100, "")),
    ] {
        service_a.reply(broken.clone());
        assert_eq!(service.get("/call-echo?msg=hello").status, 503, "{broken:?}");
        service_a.reply(Reply::echo("hello"));
        assert_eq!(service.get("/call-echo?msg=hello").status, 200, "{broken:?}");
    }
}
