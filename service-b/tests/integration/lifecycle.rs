//! How it stops while it waits for service A.

use std::io::ErrorKind;

use testkit::http::{Connection, Request};
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_b;

#[test]
fn shutdown_completes_in_flight_call() {
    let backend = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .env("SHUTDOWN_TIMEOUT_MS", "60000")
        .envs(backend.variables(Protocol::HttpProtobuf))
        .env("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        .serve();
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/call-echo?msg=hello").bytes());
    service_a.wait_for_request(1);
    service.terminate();
    service
        .wait_for_line("the line that says it stops", |line| line.get("msg") == Some("stopping"));
    service_a.release();
    let answer = connection.answer().unwrap();
    assert_eq!(answer.text(), r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#);
    assert_eq!(service.wait().code, Some(0));
    backend.wait_for_trace(answer.trace_id(), 2);
    let log = service.log();
    assert_eq!(log.last().unwrap().get("msg"), Some("stopped"));
    assert!(log.iter().any(|line| line.get("trace_id") == Some(answer.trace_id())));
}

#[test]
fn shutdown_refuses_new_connections() {
    let service_a = FakeServer::start(Reply::Delayed(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .env("SERVICE_A_TIMEOUT_MS", "60000")
        .env("SHUTDOWN_TIMEOUT_MS", "60000")
        .serve();
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/call-echo?msg=hello").bytes());
    service_a.wait_for_request(1);
    service.terminate();
    // The call keeps the process alive, so what refuses is a closed listener.
    let deadline = std::time::Instant::now() + testkit::TEST_TIMEOUT;
    let connect =
        || std::net::TcpStream::connect_timeout(&service.address(), testkit::TEST_TIMEOUT);
    while connect().map_or_else(|error| error.kind() != ErrorKind::ConnectionRefused, |_| true) {
        assert!(std::time::Instant::now() < deadline, "connections are not refused");
    }
    service_a.release();
    assert_eq!(connection.answer().unwrap().status, 200);
    assert_eq!(service.wait().code, Some(0));
}
