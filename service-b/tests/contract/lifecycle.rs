//! How it stops while it waits for service A.

use std::io::ErrorKind;

use testkit::http::{Connection, Request};
use testkit::otlp::{Protocol, Receiver};
use testkit::{FakeServer, Reply};

use crate::service_b;

#[test]
fn a_call_in_flight_is_answered_and_its_spans_are_sent_before_it_stops() {
    let backend = Receiver::start();
    let service_a = FakeServer::start(Reply::Held(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .set("SERVICE_A_TIMEOUT_MS", "60000")
        .set("SHUTDOWN_TIMEOUT_MS", "60000")
        .set_all(backend.variables(Protocol::HttpProtobuf))
        .set("OTEL_BSP_SCHEDULE_DELAY", "3600000")
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
fn new_connections_are_refused_once_it_stops() {
    let service_a = FakeServer::start(Reply::Held(200, r#"{"echo":"hello"}"#.to_owned()));
    let service = service_b(service_a.url())
        .set("SERVICE_A_TIMEOUT_MS", "60000")
        .set("SHUTDOWN_TIMEOUT_MS", "60000")
        .serve();
    let mut connection = Connection::open(service.address());
    connection.send(&Request::new("GET", "/call-echo?msg=hello").bytes());
    service_a.wait_for_request(1);
    service.terminate();
    // The call keeps the process alive, so what refuses is a closed listener.
    let deadline = std::time::Instant::now() + testkit::PATIENCE;
    let connect = || std::net::TcpStream::connect_timeout(&service.address(), testkit::PATIENCE);
    while connect().map_or_else(|error| error.kind() != ErrorKind::ConnectionRefused, |_| true) {
        assert!(std::time::Instant::now() < deadline, "connections are not refused");
    }
    service_a.release();
    assert_eq!(connection.answer().unwrap().status, 200);
    assert_eq!(service.wait().code, Some(0));
}
