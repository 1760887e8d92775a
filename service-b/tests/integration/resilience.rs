//! Connect retries, circuit breaker and load shedding.

use std::time::Instant;

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol, Span};
use testkit::{FakeServer, Process, Reply, ReservedPort};

use crate::{CLIENT_ERRORS, service_b};

/// Each attempt is a client span with its number, below the server span.
#[test]
fn connect_error_is_retried() {
    let (port, collector) = (ReservedPort::bind(), OtlpCollector::start());
    for (retries, refused) in [("0", 1.0), ("2", 3.0)] {
        let service = service_b(port.url())
            .env("SERVICE_A_CONNECT_RETRIES", retries)
            .envs(collector.variables(Protocol::Grpc))
            .serve();
        let response = service.get("/call-echo?msg=hello");
        assert_eq!(response.json()["error"], "refused", "{retries}");
        let page = service.metrics();
        assert_eq!(page.value(CLIENT_ERRORS, &[("error_type", "refused")]), Some(refused));
        assert_eq!(page.sum("http_client_request_retries_total", &[]), refused - 1.0);

        let spans = collector.wait_for_trace(response.trace_id(), 1 + refused as usize);
        let (server, attempts) = spans.split_first().unwrap();
        let resend_count = |span: &Span| span.attributes.get("http.request.resend_count").cloned();
        let mut counts: Vec<_> = attempts.iter().map(resend_count).collect();
        counts.sort_by_key(|count| count.as_ref().and_then(serde_json::Value::as_i64));
        let expected = [None, Some(1.into()), Some(2.into())];
        assert_eq!(counts, expected[..counts.len()]);
        assert!(attempts.iter().all(|span| span.parent_span_id == server.span_id));
    }
}

#[test]
fn sent_request_is_not_retried() {
    for reply in
        [Reply::Reset(Vec::new()), Reply::Close(Vec::new()), Reply::Json(503, String::new())]
    {
        let service_a = FakeServer::start(reply);
        let service = service_b(service_a.url()).env("SERVICE_A_CONNECT_RETRIES", "3").serve();
        assert_eq!(service.get("/call-echo?msg=hello").status, 503);
        assert_eq!(service_a.requests().len(), 1);
    }
}

/// The breaker opens after two failures, rejects calls and closes after the first successful probe.
#[test]
fn breaker_opens_and_recovers() {
    let service_a = FakeServer::start(Reply::Json(500, String::new()));
    let service = service_b(service_a.url()).env("SERVICE_A_BREAKER_FAILURES", "2").serve();
    let call = || service.get("/call-echo?msg=hello").json()["error"].clone();
    assert_eq!([call(), call()], ["500", "500"]);
    service_a.set_reply(Reply::echo("hello"));
    let response = service.get("/call-echo?msg=hello");
    assert_eq!((response.status, &response.json()["error"]), (503, &"circuit_open".into()));
    assert_eq!(response.json()["http_status"], 503);
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!(&line["error"], "circuit_open");
    assert_eq!(service_a.requests().len(), 2);
    let open = || service.metrics().sum("http_client_circuit_breaker_open", &[]);
    assert_eq!(open(), 1.0);
    let opened = Instant::now();
    let mut rejected = 1;
    testkit::wait_until("a closed breaker", || {
        let is_closed = service.get("/call-echo?msg=hello").status == 200;
        rejected += usize::from(!is_closed);
        is_closed
    });
    println!(
        "open after 2 failures: {rejected} calls rejected, closed after {:.1?}",
        opened.elapsed()
    );
    assert_eq!(service_a.requests().len(), 3);
    assert_eq!(open(), 0.0);
}

#[test]
fn overload_returns_503() {
    at_capacity(|service| {
        let response = service.get("/call-echo?msg=hello");
        assert_eq!((response.status, response.text()), (503, r#"{"error":"overload"}"#));
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(&service.wait_for_access_line(response.trace_id())["error"], "overload");
    });
}

#[test]
fn probes_bypass_admission() {
    at_capacity(|service| assert_eq!(service.get("/health").status, 200));
}

/// Runs `check` while service B serves as many requests as it admits. The requests must succeed, and so
/// must one that follows.
fn at_capacity(check: impl FnOnce(&Process)) {
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("MAX_CONCURRENT_REQUESTS", "2")
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .serve();
    let request = Request::new("GET", "/call-echo?msg=hello");
    let pending = [request.start(service.address()), request.start(service.address())];
    service_a.wait_for_request(2);
    check(&service);
    service_a.send_delayed();
    for mut connection in pending {
        assert_eq!(connection.response().unwrap().status, 200);
    }
    assert_eq!(service.get("/call-echo?msg=hello").status, 200);
}
