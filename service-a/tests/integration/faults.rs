//! Fault injection.

use testkit::Process;
use testkit::http::{Request, Response};

use crate::{service_a, service_a_with_faults, start_echo};

fn put_faults(service: &Process, faults: &str) -> Response {
    Request::new("PUT", "/faults")
        .header("Content-Type", "application/json")
        .body(faults)
        .send(service.address())
}

#[test]
fn faults_disabled_by_default() {
    for service in [service_a().serve(), service_a().env("FAULTS_ENABLED", "false").serve()] {
        for method in ["GET", "PUT", "DELETE", "POST"] {
            let response = Request::new(method, "/faults").send(service.address());
            assert_eq!((response.status, response.text()), (404, ""), "{method}");
        }
    }
}

/// `PUT` replaces all faults, `GET` returns them and `DELETE` clears them.
#[test]
fn faults_are_kept_until_deleted() {
    let service = service_a_with_faults(
        r#"{"delay_ms":1,"status":500,"hang":true,"reset":true,"garbage":true}"#,
    );
    let faults = service.get("/faults");
    assert_eq!(
        faults.text(),
        r#"{"delay_ms":1,"garbage":true,"hang":true,"reset":true,"status":500}"#
    );
    assert_eq!(put_faults(&service, r#"{"error_rate":0.5}"#).status, 200);
    let faults = service.get("/faults");
    assert_eq!(
        faults.text(),
        r#"{"delay_ms":0,"error_rate":0.5,"garbage":false,"hang":false,"reset":false}"#
    );
    assert_eq!(Request::new("DELETE", "/faults").send(service.address()).status, 200);
    let faults = service.get("/faults");
    assert_eq!(faults.text(), r#"{"delay_ms":0,"garbage":false,"hang":false,"reset":false}"#);
    assert_eq!(service.get("/echo?msg=hello").text(), r#"{"echo":"hello"}"#);
}

/// An invalid configuration receives 400 and leaves the faults unchanged.
#[test]
fn invalid_fault_config_is_rejected() {
    let service = service_a_with_faults(r#"{"status":404}"#);
    for faults in [
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
        let response = put_faults(&service, faults);
        assert_eq!(response.status, 400, "{faults}");
        assert!(response.json()["error"].is_string(), "{faults}");
    }
    assert_eq!(service.get("/echo").status, 404);
}

#[test]
fn delay_postpones_response() {
    let service = service_a_with_faults(r#"{"delay_ms":300}"#);
    let response = service.get("/echo?msg=hello");
    assert_eq!((response.status, response.text()), (200, r#"{"echo":"hello"}"#));
    assert!(response.elapsed.as_millis() >= 300, "{:?}", response.elapsed);
    let latency = service.wait_for_access_line(response.trace_id())["latency_ms"].parse::<u64>();
    assert!(latency.as_ref().is_ok_and(|&ms| ms >= 300), "{latency:?}");
}

#[test]
fn injected_status_sets_error() {
    let service = service_a_with_faults(r#"{"status":503}"#);
    let response = service.get("/echo?msg=hello");
    assert_eq!((response.status, response.text()), (503, r#"{"error":"fault"}"#));
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!((&line["level"], &line["error"], &line["http_status"]), ("error", "503", "503"));
    let failed = [("http_route", "/echo"), ("error_type", "503")];
    let count = service.metrics().value("http_server_request_duration_seconds_count", &failed);
    assert_eq!(count, Some(1.0));
}

/// A rate of 1 fails every request and a rate of 0 fails none.
#[test]
fn error_rate_bounds() {
    let service = service_a_with_faults(r#"{"error_rate":1}"#);
    assert_eq!(service.get("/echo").status, 500);
    service.set_faults(r#"{"error_rate":0,"status":500}"#);
    assert_eq!(service.get("/echo").status, 200);
}

#[test]
fn reset_truncates_response() {
    let service = service_a_with_faults(r#"{"reset":true}"#);
    let mut connection = Request::new("GET", "/echo").start(service.address());
    let error = connection.response().unwrap_err();
    assert!(
        matches!(
            error.kind(),
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
        ),
        "{error:?}"
    );
    let line = service.wait_for_log_line("an access line", |line| line.get("endpoint").is_some());
    assert_eq!((&line["endpoint"], &line["status"]), ("/echo", "error"));
}

#[test]
fn malformed_body_has_status_200() {
    let service = service_a_with_faults(r#"{"garbage":true}"#);
    let response = service.get("/echo?msg=hello");
    assert_eq!(response.status, 200);
    assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_err());
}

/// A request whose client disconnects is logged and counted as `canceled`.
#[test]
fn hanging_request_is_canceled() {
    let service = service_a_with_faults(r#"{"hang":true}"#);
    drop(start_echo(&service));
    let line = service.wait_for_log_line("an access line", |line| line.get("endpoint").is_some());
    assert_eq!((&line["level"], &line["status"], &line["error"]), ("warn", "error", "canceled"));
    assert_eq!(line.get("http_status"), None);
    let page = service.metrics();
    let canceled = [("http_route", "/echo"), ("error_type", "canceled")];
    assert_eq!(page.value("http_server_request_duration_seconds_count", &canceled), Some(1.0));
    let get = [("http_request_method", "GET")];
    assert_eq!(page.value("http_server_active_requests", &get), Some(0.0));
}

#[test]
fn faults_affect_echo_only() {
    let service = service_a_with_faults(r#"{"hang":true,"status":500,"reset":true}"#);
    for target in ["/health", "/livez", "/readyz", "/metrics", "/faults"] {
        assert_eq!(service.get(target).status, 200, "{target}");
    }
    assert_eq!(service.get("/nowhere").status, 404);
}
