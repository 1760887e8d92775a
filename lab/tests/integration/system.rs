//! Service B calls service A, both of them real.

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ProcessBuilder};
#[cfg(unix)]
use testkit::{ReservedPort, http::Connection};

use crate::lab;

fn service_a() -> ProcessBuilder {
    lab().arg("service-a").env("FAULTS_ENABLED", "true")
}

fn service_b(a: &Process) -> ProcessBuilder {
    lab().arg("service-b").env("SERVICE_A_URL", format!("http://{}", a.address()))
}

fn set_faults(a: &Process, plan: &str) {
    let answer = Request::new("PUT", "/faults").body(plan).send(a.address());
    assert_eq!(answer.status, 200, "{plan}");
}

fn assert_well(b: &Process) {
    let answer = b.get("/call-echo?msg=hello");
    let body = r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#;
    assert_eq!((answer.status, answer.text()), (200, body));
}

#[test]
fn call_produces_one_trace() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let backend = OtlpCollector::start();
        let a = service_a().envs(backend.variables(protocol)).serve();
        let b = service_b(&a).envs(backend.variables(protocol)).serve();
        let answer = b.get("/call-echo?msg=hello");
        assert_eq!(answer.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);

        let spans = backend.wait_for_trace(answer.trace_id(), 3);
        let seen: Vec<_> =
            spans.iter().map(|span| (span.service(), span.kind, span.name.as_str())).collect();
        assert_eq!(
            seen,
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
        assert!(backend.exports().iter().all(|export| export.protocol == protocol));

        for (service, span, route) in [(&b, &spans[0], "/call-echo"), (&a, &spans[2], "/echo")] {
            let line = service.wait_for_access(answer.trace_id());
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
fn a_message_comes_back_as_it_was_sent() {
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
        let answer = b.get(&format!("/call-echo?msg={query}"));
        assert_eq!(answer.status, 200, "{query}");
        let body = format!(
            r#"{{"service_a":{{"echo":{}}},"service_b":"ok"}}"#,
            serde_json::Value::from(echo)
        );
        assert_eq!(answer.text(), body);
        // One line each, and no more, whatever was in the message.
        b.wait_for_access(answer.trace_id());
        a.wait_for_access(answer.trace_id());
    }
    assert_eq!((a.log().len(), b.log().len()), (8, 8));
}

#[test]
fn a_fault_of_service_a_is_told_by_its_name() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    for (plan, kind, http_status) in [
        (r#"{"delay_ms":1500}"#, "timeout", 504),
        (r#"{"hang":true}"#, "timeout", 504),
        (r#"{"reset":true}"#, "reset", 503),
        (r#"{"garbage":true}"#, "decode", 502),
        (r#"{"status":404}"#, "404", 502),
        (r#"{"error_rate":1}"#, "500", 502),
    ] {
        set_faults(&a, plan);
        let answer = b.get("/call-echo?msg=hello");
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]), (503, &kind.into()), "{plan}");
        assert_eq!(body["http_status"], http_status, "{plan}");
        assert_eq!(body["trace_id"], answer.trace_id());
        assert_eq!(&b.wait_for_access(answer.trace_id())["error"], kind);
        Request::new("DELETE", "/faults").send(a.address());
        assert_well(&b);
    }
}

#[test]
fn upstream_error_marks_all_spans() {
    let backend = OtlpCollector::start();
    let a = service_a().envs(backend.variables(Protocol::Grpc)).serve();
    let b = service_b(&a).envs(backend.variables(Protocol::Grpc)).serve();
    set_faults(&a, r#"{"status":500}"#);
    let answer = b.get("/call-echo?msg=hello");
    let spans = backend.wait_for_trace(answer.trace_id(), 3);
    for span in &spans {
        assert_eq!((span.status, &span.attributes["error.type"]), ("error", &"500".into()));
    }
    let lines = [b.wait_for_access(answer.trace_id()), a.wait_for_access(answer.trace_id())];
    assert!(lines.iter().all(|line| &line["error"] == "500"), "{lines:?}");
}

#[cfg(unix)]
#[test]
fn suspended_service_a_times_out() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    assert_well(&b);
    a.suspend();
    for _ in 0..2 {
        let answer = b.get("/call-echo?msg=hello");
        assert_eq!((answer.status, &answer.json()["error"]), (503, &"timeout".into()));
        assert_eq!(answer.json()["http_status"], 504);
        assert_eq!(b.get("/health").status, 200);
        assert_eq!(b.get("/call-echo").status, 400);
    }
    a.resume();
    assert_well(&b);
    let failed = [("error_type", "timeout")];
    assert_eq!(b.metrics().value("http_client_request_errors_total", &failed), Some(2.0));
}

#[cfg(unix)]
#[test]
fn restarted_service_a_is_used() {
    let address = ReservedPort::take().leave();
    let start = || service_a().env("LISTEN_ADDR", address.to_string()).serve();
    let mut a = start();
    let b = service_b(&a).serve();
    for killed in [true, false, true, false] {
        assert_well(&b);
        if killed {
            a.kill();
            assert_eq!(a.wait().code, None);
        } else {
            // The connection that B keeps open is in nobody's way.
            assert_eq!(a.stop().code, Some(0));
        }
        let answer = b.get("/call-echo?msg=hello");
        assert_eq!((answer.status, &answer.json()["error"]), (503, &"refused".into()), "{killed}");
        a = start();
        assert_well(&b);
    }
}

#[cfg(unix)]
#[test]
fn call_survives_upstream_shutdown() {
    let a = service_a().serve();
    let b = service_b(&a).serve();
    set_faults(&a, r#"{"delay_ms":500}"#);
    let mut connection = Connection::open(b.address());
    connection.send(&Request::new("GET", "/call-echo?msg=hello").bytes());
    a.wait_for_metrics("the call to arrive", |page| {
        page.sum("http_server_active_requests", &[]) == 1.0
    });
    a.terminate();
    assert_eq!(connection.answer().unwrap().status, 200);
    assert_eq!(a.wait().code, Some(0));
}
