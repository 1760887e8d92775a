//! Graceful shutdown during calls to service A.

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_b;

/// The call in flight succeeds, and its spans and access line are written before the process exits.
#[test]
fn shutdown_completes_in_flight_call() {
    let collector = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .env("SHUTDOWN_TIMEOUT_MS", "60000")
        .envs(collector.variables(Protocol::HttpProtobuf))
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        .serve();
    let mut connection = Request::new("GET", "/call-echo?msg=hello").start(service.address());
    service_a.wait_for_request(1);
    service.terminate();
    service.wait_for_message("stopping");
    service_a.send_delayed();
    let response = connection.response().unwrap();
    assert_eq!(response.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
    assert_eq!(service.wait().code, Some(0));
    collector.wait_for_trace(response.trace_id(), 2);
    let log = service.log();
    assert_eq!(log.last().unwrap().get("msg"), Some("stopped"));
    assert!(log.iter().any(|line| line.get("trace_id") == Some(response.trace_id())));
}

#[test]
fn shutdown_refuses_new_connections() {
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .env("SHUTDOWN_TIMEOUT_MS", "60000")
        .serve();
    let mut connection = Request::new("GET", "/call-echo?msg=hello").start(service.address());
    service_a.wait_for_request(1);
    service.terminate();
    // The call keeps the process running, so connections are refused because the listener is closed.
    testkit::wait_until_refused(service.address());
    service_a.send_delayed();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(service.wait().code, Some(0));
}
