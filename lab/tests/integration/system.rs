//! Calls from service B to a real service A.

#[cfg(unix)]
use testkit::ReservedPort;
use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ProcessBuilder};

use crate::lab;

fn service_a() -> ProcessBuilder {
    lab().arg("service-a").env("FAULTS_ENABLED", "true")
}

fn service_b(a: &Process) -> ProcessBuilder {
    lab().arg("service-b").env("SERVICE_A_URL", a.url())
}

fn assert_call_succeeds(b: &Process) {
    let response = b.get("/call-echo?msg=hello");
    let body = r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#;
    assert_eq!((response.status, response.text()), (200, body));
}

/// A call is one trace of three spans, and an access line and a sample in each service.
#[test]
fn call_produces_one_trace() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let a = service_a().envs(collector.variables(protocol)).serve();
        let b = service_b(&a).envs(collector.variables(protocol)).serve();
        let response = b.get("/call-echo?msg=hello");
        assert_eq!(response.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);

        let spans = collector.wait_for_trace(response.trace_id(), 3);
        let summary: Vec<_> =
            spans.iter().map(|span| (span.service(), span.kind, span.name.as_str())).collect();
        assert_eq!(
            summary,
            [
                ("service-b", "server", "GET /call-echo"),
                ("service-b", "client", "GET"),
                ("service-a", "server", "GET /echo"),
            ]
        );
        assert_eq!(spans[0].parent_span_id, "");
        assert_eq!(spans[1].parent_span_id, spans[0].span_id);
        assert_eq!(spans[2].parent_span_id, spans[1].span_id);
        assert!(spans.iter().all(|span| span.status.is_empty()), "{spans:#?}");
        assert!(spans[1].duration_ns <= spans[0].duration_ns, "{spans:#?}");
        assert!(collector.exports().iter().all(|export| export.protocol == protocol));

        for (service, span, route) in [(&b, &spans[0], "/call-echo"), (&a, &spans[2], "/echo")] {
            let line = service.wait_for_access_line(response.trace_id());
            assert_eq!((&line["endpoint"], &line["status"]), (route, "ok"));
            assert_eq!(line["span_id"], span.span_id);
            let page = service.metrics();
            let count = "http_server_request_duration_seconds_count";
            assert_eq!(page.value(count, &[("http_route", route)]), Some(1.0));
            assert_eq!(service.log().len(), 2);
        }
    }
}

#[test]
fn message_round_trip() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    let long = "x".repeat(60 * 1024);
    for (query, echo) in [
        ("a+b%20c", "a b c"),
        ("%C3%A9%F0%9F%A6%80", "é🦀"),
        ("%26x%3D%23%25%2B", "&x=#%+"),
        ("%22%5C%3C%2Fscript%3E", "\"\\</script>"),
        ("%0Aservice=A%20status=ok", "\nservice=A status=ok"),
        ("%00%7F", "\0\u{7f}"),
        (&long, &long),
    ] {
        let response = b.get(&format!("/call-echo?msg={query}"));
        assert_eq!(response.status, 200, "{query}");
        let body = format!(
            r#"{{"service_a":{{"echo":{}}},"service_b":"ok"}}"#,
            serde_json::Value::from(echo)
        );
        assert_eq!(response.text(), body);
        b.wait_for_access_line(response.trace_id());
        a.wait_for_access_line(response.trace_id());
    }
    // A startup line and one line per message, whatever the message contains.
    assert_eq!((a.log().len(), b.log().len()), (8, 8));
}

#[test]
fn upstream_faults_set_error_kind() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    for (faults, kind, http_status) in [
        (r#"{"delay_ms":1500}"#, "timeout", 504),
        (r#"{"hang":true}"#, "timeout", 504),
        (r#"{"reset":true}"#, "reset", 503),
        (r#"{"garbage":true}"#, "decode", 502),
        (r#"{"status":404}"#, "404", 502),
        (r#"{"error_rate":1}"#, "500", 502),
    ] {
        a.set_faults(faults);
        let response = b.get("/call-echo?msg=hello");
        let body = response.json();
        assert_eq!((response.status, &body["error"]), (503, &kind.into()), "{faults}");
        assert_eq!(body["http_status"], http_status, "{faults}");
        assert_eq!(body["trace_id"], response.trace_id());
        assert_eq!(&b.wait_for_access_line(response.trace_id())["error"], kind);
        Request::new("DELETE", "/faults").send(a.address());
        assert_call_succeeds(&b);
    }
}

#[test]
fn upstream_error_marks_all_spans() {
    let collector = OtlpCollector::start();
    let a = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    let b = service_b(&a).envs(collector.variables(Protocol::Grpc)).serve();
    a.set_faults(r#"{"status":500}"#);
    let response = b.get("/call-echo?msg=hello");
    let spans = collector.wait_for_trace(response.trace_id(), 3);
    for span in &spans {
        assert_eq!((span.status, &span.attributes["error.type"]), ("error", &"500".into()));
    }
    let lines =
        [b.wait_for_access_line(response.trace_id()), a.wait_for_access_line(response.trace_id())];
    assert!(lines.iter().all(|line| &line["error"] == "500"), "{lines:?}");
}

/// Calls time out while service A is suspended and succeed as soon as it resumes.
#[cfg(unix)]
#[test]
fn suspended_service_a_times_out() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    assert_call_succeeds(&b);
    a.suspend();
    for _ in 0..2 {
        let response = b.get("/call-echo?msg=hello");
        assert_eq!((response.status, &response.json()["error"]), (503, &"timeout".into()));
        assert_eq!(response.json()["http_status"], 504);
        assert_eq!(b.get("/health").status, 200);
        assert_eq!(b.get("/call-echo").status, 400);
    }
    a.resume();
    assert_call_succeeds(&b);
    let failed = [("error_type", "timeout")];
    assert_eq!(b.metrics().value("http_client_request_errors_total", &failed), Some(2.0));
}

/// The first call after a restart of service A succeeds.
#[cfg(unix)]
#[test]
fn restarted_service_a_is_used() {
    let address = ReservedPort::bind().release();
    let start_service_a = || service_a().env("LISTEN_ADDR", address.to_string()).serve();
    let mut a = start_service_a();
    let b = service_b(&a).serve();
    for killed in [true, false, true, false] {
        assert_call_succeeds(&b);
        if killed {
            a.kill();
            assert_eq!(a.wait().code, None);
        } else {
            // The pooled connection of service B does not block the shutdown.
            assert_eq!(a.stop().code, Some(0));
        }
        let response = b.get("/call-echo?msg=hello");
        assert_eq!(
            (response.status, &response.json()["error"]),
            (503, &"refused".into()),
            "{killed}"
        );
        a = start_service_a();
        assert_call_succeeds(&b);
    }
}

/// Service A completes a call although it is shut down meanwhile.
#[cfg(unix)]
#[test]
fn call_survives_upstream_shutdown() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    a.set_faults(r#"{"delay_ms":500}"#);
    let mut connection = Request::new("GET", "/call-echo?msg=hello").start(b.address());
    a.wait_for_metrics("a request in flight", |page| {
        page.sum("http_server_active_requests", &[]) == 1.0
    });
    a.terminate();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(a.wait().code, Some(0));
}
