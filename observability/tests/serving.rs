//! Addresses of a service, and its admin routes beside its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed assumption fails the test")]

use std::net::TcpListener;

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{ProcessBuilder, listener_with_full_backlog};

/// `/readyz` names the check that fails or takes too long.
#[test]
fn readiness_reports_failed_check() {
    let accepting = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (stalled, _connections) = listener_with_full_backlog();
    for (address, status, body, text) in [
        (accepting.local_addr().unwrap(), 200, r#"{"status":"ok"}"#, "ok"),
        (closed, 503, r#"{"status":"unavailable"}"#, "refused"),
        (stalled, 503, r#"{"status":"unavailable"}"#, "no result within 200ms"),
    ] {
        let service = ProcessBuilder::example("readiness")
            .env("DEPENDENCY_ADDR", address.to_string())
            .serve();
        let brief = service.get("/internal/readyz");
        assert_eq!((brief.status, brief.text()), (status, body));
        let verbose = service.get("/internal/readyz?verbose").json();
        let result = verbose["checks"]["dependency"].as_str().unwrap();
        assert!(result.contains(text), "{result}");
    }
}

/// A service may have routes with the names of the admin routes if those have a prefix.
#[test]
fn admin_prefix_moves_admin_routes() {
    let dependency = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = || {
        ProcessBuilder::example("readiness")
            .env("DEPENDENCY_ADDR", dependency.local_addr().unwrap().to_string())
    };
    let running = service().serve();
    assert_eq!(running.get("/health").text(), "healthy");
    assert_eq!(running.get("/internal/health").text(), r#"{"status":"ok"}"#);
    assert_eq!(running.get("/metrics").status, 404);
    let page = running.get("/internal/metrics");
    assert!(page.text().contains(r#"http_route="/health""#), "{}", page.text());
    let probe = service().env("LISTEN_ADDR", running.address().to_string()).arg("--health-check");
    assert_eq!(probe.run_to_exit().code, Some(0));
}

/// A route that is an admin route as well ends the start with a message that says what to do.
#[test]
fn route_conflict_names_remedy() {
    let output = ProcessBuilder::example("route_conflict").run_to_exit();
    assert_eq!(output.code, Some(1));
    let message = output.stderr.last().unwrap();
    assert!(message.contains("ServiceInfo::admin_prefix"), "{message}");
}

/// `LISTEN_ADDR` may be a host name.
#[test]
fn host_name_is_resolved() {
    let service = ProcessBuilder::example("hello").env("LISTEN_ADDR", "localhost:0").serve();
    assert!(service.address().ip().is_loopback());
    assert_eq!(service.get("/hello").text(), "hello");
    let address = format!("localhost:{}", service.address().port());
    let probe = ProcessBuilder::example("hello").env("LISTEN_ADDR", address).arg("--health-check");
    assert_eq!(probe.run_to_exit().code, Some(0));
}

/// A Unix socket serves requests and the probe. Its file is replaced after a crash, and removed at the end.
#[cfg(unix)]
#[test]
fn unix_socket_serves_requests() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let directory = std::env::temp_dir().join(format!("serving-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("hello.sock");
    let address = format!("unix:{}", path.display());
    let hello = || ProcessBuilder::example("hello").env("LISTEN_ADDR", &address);
    let crashed = hello().start();
    crashed.wait_for_message("listening");
    crashed.kill();
    crashed.wait();
    assert!(path.exists());

    let service = hello().start();
    assert_eq!(&service.wait_for_message("listening")["address"], address);
    let mut stream = UnixStream::connect(&path).unwrap();
    let request = Request::new("GET", "/hello").header("Connection", "close").to_bytes();
    stream.write_all(&request).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("\r\n\r\nhello"), "{response}");
    assert_eq!(hello().arg("--health-check").run_to_exit().code, Some(0));

    let second = hello().run_to_exit();
    assert_eq!(second.code, Some(1));
    assert!(second.stderr.last().unwrap().contains(&address), "{second:?}");
    assert_eq!(service.stop().code, Some(0));
    assert!(!path.exists());
    std::fs::remove_dir(&directory).unwrap();
}

/// A process with a subscriber of its own has spans, metrics, log lines, drain and flush.
#[cfg(unix)]
#[test]
fn own_subscriber_has_telemetry() {
    let collector = OtlpCollector::start();
    let service =
        ProcessBuilder::example("own_subscriber").envs(collector.variables(Protocol::Grpc)).serve();
    let response = service.get("/hello");
    assert!(response.text().starts_with("127.0.0.1:"), "{}", response.text());
    service.wait_for_access_line(response.trace_id());
    assert_eq!(service.get("/readyz").status, 200);
    let page = service.metrics();
    let labels = [("http_route", "/hello")];
    assert_eq!(page.sum("http_server_request_duration_seconds_count", &labels), 1.0);
    assert_eq!(service.stop().code, Some(0));
    assert_eq!(collector.spans().len(), 1);
}
