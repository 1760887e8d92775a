//! Faults on purpose, as a caller of `/echo` sees them.

use testkit::http::{Connection, Request};

use crate::{faulty, service_a, set_faults};

#[test]
fn faults_disabled_by_default() {
    for service in [service_a().serve(), service_a().env("FAULTS_ENABLED", "false").serve()] {
        for method in ["GET", "PUT", "DELETE", "POST"] {
            let answer = Request::new(method, "/faults").send(service.address());
            assert_eq!((answer.status, answer.text()), (404, ""), "{method}");
        }
    }
}

#[test]
fn what_is_set_is_shown_and_taken_away() {
    let service = faulty(r#"{"delay_ms":1,"status":500,"hang":true,"reset":true,"garbage":true}"#);
    let shown = service.get("/faults");
    assert_eq!(
        shown.text(),
        r#"{"delay_ms":1,"garbage":true,"hang":true,"reset":true,"status":500}"#
    );
    // The whole plan is set, not parts of it.
    assert_eq!(set_faults(&service, r#"{"error_rate":0.5}"#).status, 200);
    let shown = service.get("/faults");
    assert_eq!(
        shown.text(),
        r#"{"delay_ms":0,"error_rate":0.5,"garbage":false,"hang":false,"reset":false}"#
    );
    assert_eq!(Request::new("DELETE", "/faults").send(service.address()).status, 200);
    let shown = service.get("/faults");
    assert_eq!(shown.text(), r#"{"delay_ms":0,"garbage":false,"hang":false,"reset":false}"#);
    assert_eq!(service.get("/echo?msg=hello").text(), r#"{"echo":"hello"}"#);
}

#[test]
fn invalid_fault_config_is_rejected() {
    let service = faulty(r#"{"status":404}"#);
    for plan in [
        "",
        "{",
        "[]",
        r#"{"delay_ms":-1}"#,
        r#"{"delay_ms":60001}"#,
        r#"{"error_rate":2}"#,
        r#"{"status":200}"#,
        r#"{"status":9999}"#,
        r#"{"hangs":true}"#,
    ] {
        let answer = set_faults(&service, plan);
        assert_eq!(answer.status, 400, "{plan}");
        assert!(answer.json()["error"].is_string(), "{plan}");
    }
    assert_eq!(service.get("/echo").status, 404);
}

#[test]
fn a_delay_is_waited_out() {
    let service = faulty(r#"{"delay_ms":300}"#);
    let answer = service.get("/echo?msg=hello");
    assert_eq!((answer.status, answer.text()), (200, r#"{"echo":"hello"}"#));
    assert!(answer.elapsed.as_millis() >= 300, "{:?}", answer.elapsed);
    let latency = service.wait_for_access(answer.trace_id())["latency_ms"].parse::<u64>();
    assert!(latency.as_ref().is_ok_and(|&ms| ms >= 300), "{latency:?}");
}

#[test]
fn injected_status_sets_error() {
    let service = faulty(r#"{"status":503}"#);
    let answer = service.get("/echo?msg=hello");
    assert_eq!((answer.status, answer.text()), (503, r#"{"error":"fault"}"#));
    let line = service.wait_for_access(answer.trace_id());
    assert_eq!((&line["level"], &line["error"], &line["http_status"]), ("error", "503", "503"));
    let failed = [("http_route", "/echo"), ("error_type", "503")];
    let count = service.metrics().value("http_server_request_duration_seconds_count", &failed);
    assert_eq!(count, Some(1.0));
}

#[test]
fn error_rate_bounds() {
    let service = faulty(r#"{"error_rate":1}"#);
    assert_eq!(service.get("/echo").status, 500);
    set_faults(&service, r#"{"error_rate":0,"status":500}"#);
    assert_eq!(service.get("/echo").status, 200);
}

#[test]
fn reset_truncates_response() {
    let service = faulty(r#"{"reset":true}"#);
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/echo").bytes());
    let error = connection.answer().unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
        ),
        "{error:?}"
    );
    let line = service.wait_for_line("the request's line", |line| line.get("endpoint").is_some());
    assert_eq!((&line["endpoint"], &line["status"]), ("/echo", "error"));
}

#[test]
fn malformed_body_has_status_200() {
    let service = faulty(r#"{"garbage":true}"#);
    let answer = service.get("/echo?msg=hello");
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&answer.body).is_err());
}

#[test]
fn hanging_request_is_canceled() {
    let service = faulty(r#"{"hang":true}"#);
    let get = [("http_request_method", "GET")];
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/echo").bytes());
    service.wait_for_metrics("a request in flight", |page| {
        page.value("http_server_active_requests", &get) == Some(1.0)
    });
    drop(connection);
    let line = service.wait_for_line("the request's line", |line| line.get("endpoint").is_some());
    assert_eq!((&line["level"], &line["status"], &line["error"]), ("warn", "error", "canceled"));
    assert_eq!(line.get("http_status"), None);
    let page = service.metrics();
    let canceled = [("http_route", "/echo"), ("error_type", "canceled")];
    assert_eq!(page.value("http_server_request_duration_seconds_count", &canceled), Some(1.0));
    assert_eq!(page.value("http_server_active_requests", &get), Some(0.0));
}

#[test]
fn nothing_but_echo_is_struck() {
    let service = faulty(r#"{"hang":true,"status":500,"reset":true}"#);
    for target in ["/health", "/livez", "/readyz", "/metrics", "/faults"] {
        assert_eq!(service.get(target).status, 200, "{target}");
    }
    assert_eq!(service.get("/nowhere").status, 404);
}
