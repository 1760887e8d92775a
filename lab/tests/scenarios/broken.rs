//! Runs against services with one defect each.

use std::future::pending;
use std::net::SocketAddr;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use testkit::ReservedPort;

use crate::Report;

/// Tests of calls that fail because A is down or broken.
const FAILED_CALLS: [&str; 8] = [
    "A down: B responds 503",
    "concurrent requests: B responds 503 to 20 calls if A hangs",
    "error response format: A closes the connection",
    "error response format: A hangs",
    "error response format: A is down",
    "error response format: A responds 500",
    "error response format: A sends malformed JSON",
    "timeouts: B responds 503 in time if A hangs",
];

/// Test that fails because the services B of this module never call A.
const SLOW_CALL: &str = "timeouts: B waits for a slow A";

const INVALID_CALLS: [&str; 4] = [
    "error response format: call without msg",
    "invalid requests: B rejects a call without msg",
    "invalid requests: B rejects an empty msg",
    "invalid requests: B rejects it even if A is down",
];

type Msg = Query<std::collections::HashMap<String, String>>;

/// Response to a call with a message.
type Call = fn(String) -> Response;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Starts a service B that responds with `call` to a call with a message, and with `invalid` to one without.
async fn service_b(call: Call, invalid: (u16, &'static str)) -> String {
    let call_echo = async move |Query(params): Msg| match params.get("msg") {
        Some(msg) if !msg.is_empty() => call(msg.clone()),
        _ => error(invalid.0, invalid.1),
    };
    let health = async || Json(json!({"status": "ok"}));
    serve(Router::new().route("/health", get(health)).route("/call-echo", get(call_echo))).await
}

fn error(status: u16, key: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(json!({key: "text"}))).into_response()
}

/// Runs the scenarios while A is down, and checks that exactly these tests and [`SLOW_CALL`] fail.
fn assert_failures(service_b: &str, expected: impl IntoIterator<Item = &'static str>) -> Report {
    let a = format!("http://{}", ReservedPort::bind().release());
    let report = Report::run(&["--service-a", &a, "--service-b", service_b, "--time-limit=1s"]);
    let mut expected: Vec<_> = expected.into_iter().chain([SLOW_CALL]).collect();
    expected.sort_unstable();
    assert_eq!((report.code, report.named("failed")), (Some(1), to_strings(&expected)));
    report
}

fn to_strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn correct_failures_pass() {
    let b = service_b(|_| error(503, "error"), (400, "error")).await;
    assert_failures(&b, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_echo_fails() {
    let echo = async || Json(json!({"echo": "other"}));
    let health = async || Json(json!({"status": "ok"}));
    let a = serve(Router::new().route("/health", get(health)).route("/echo", get(echo))).await;
    let wrong: Call =
        |_| Json(json!({"service_a": {"echo": "other"}, "service_b": "ok"})).into_response();
    let report = Report::of_services(&a, &service_b(wrong, (400, "error")).await);
    let expected = [
        "concurrent requests: A echoes 20 messages at once",
        "concurrent requests: B returns 20 echoes at once",
        "success: A echoes a long message",
        "success: A echoes a message",
        "success: A echoes an empty message",
        "success: A echoes special characters",
        "success: B passes a long message on",
        "success: B passes special characters on",
        "success: B returns the echo of A",
    ];
    assert_eq!((report.code, report.named("failed")), (Some(1), to_strings(&expected)));
}

#[tokio::test(flavor = "multi_thread")]
async fn success_despite_failure_fails() {
    let b = service_b(|_| error(200, "error"), (400, "error")).await;
    let report = assert_failures(&b, FAILED_CALLS);
    let test = report.tests()["A down: B responds 503"].clone();
    assert_eq!(test["reason"], "expected status 503, not 200");
    assert_eq!(test["response"]["body"], r#"{"error":"text"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_error_key_fails() {
    let b = service_b(|_| error(503, "message"), (400, "message")).await;
    let is_format = |name: &&str| name.starts_with("error response format");
    assert_failures(&b, FAILED_CALLS.into_iter().chain(INVALID_CALLS).filter(is_format));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_status_fails() {
    let b = service_b(|_| error(500, "error"), (500, "error")).await;
    assert_failures(&b, FAILED_CALLS.into_iter().chain(INVALID_CALLS));
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_service_fails() {
    let call_echo = async |Query(params): Msg| match params.get("msg") {
        Some(msg) if !msg.is_empty() => pending().await,
        _ => error(400, "error"),
    };
    let health = async || Json(json!({"status": "ok"}));
    let b = Router::new().route("/health", get(health)).route("/call-echo", get(call_echo));
    let report = assert_failures(&serve(b).await, FAILED_CALLS);
    for name in FAILED_CALLS {
        let test = report.tests()[name].clone();
        assert_eq!(test["reason"], "no response within the time limit", "{name}");
        assert!(test["response"].is_null(), "{name}: {test}");
    }
}
