//! Tests on a current-thread runtime: flushing must not block the thread that drives the exporter.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::net::TcpListener;
use std::thread;

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, ProcessBuilder, Reply, ReservedPort};

fn current_thread() -> ProcessBuilder {
    ProcessBuilder::example("current_thread").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
}

/// Spans are exported while the service runs and when it shuts down.
#[test]
fn exports_on_current_thread_runtime() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let service = current_thread().envs(collector.variables(protocol)).serve();
        let response = service.get("/hello");
        collector.wait_for_trace(response.trace_id(), 1);
        collector.set_behavior(Behavior::Fail { grpc: 3, http: 400 });
        assert_eq!(service.get("/hello").text(), "hello");
        service.wait_for_metrics("a failed span", |page| {
            page.sum("otel_sdk_exporter_span_exported_total", &[("error_type", "failed")]) == 1.0
        });
        collector.set_behavior(Behavior::Accept);
        for _ in 0..20 {
            assert_eq!(service.get("/hello").status, 200);
        }
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(collector.spans().len(), 21, "{protocol:?}");
    }
}

/// A flush ends when the backend has accepted the spans, or fails.
#[test]
fn flush_waits_for_backend() {
    let port = ReservedPort::bind();
    let service = || {
        current_thread()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", port.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
    };
    let failing = service().env("OTEL_BSP_EXPORT_TIMEOUT", "100").serve();
    assert_eq!(failing.get("/hello").status, 200);
    assert_eq!(failing.get("/flush").status, 504);
    drop(failing);

    let service = service().serve();
    assert_eq!(service.get("/hello").status, 200);
    let collector = thread::scope(|scope| {
        let flush = scope.spawn(|| service.get("/flush").status);
        service.wait_for_message("span export failed, retrying");
        let collector = OtlpCollector::start_on(port.listen());
        assert_eq!(flush.join().unwrap(), 200);
        collector
    });
    assert_eq!(collector.spans().len(), 1);
}

/// `Duration::MAX` is no limit.
#[test]
fn shutdown_without_limit_exports_spans() {
    let collector = OtlpCollector::start();
    let service = current_thread().envs(collector.variables(Protocol::Grpc)).serve();
    assert_eq!(service.get("/hello").status, 200);
    assert_eq!(service.get("/stop").status, 200);
    assert_eq!(collector.spans().len(), 1);
}

#[test]
fn hung_backend_does_not_block_shutdown() {
    for protocol in ["grpc", "http/protobuf"] {
        let collector = FakeServer::start(Reply::Stall(Vec::new()));
        let service = current_thread()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("SHUTDOWN_TIMEOUT_MS", "500")
            .serve();
        for _ in 0..20 {
            assert_eq!(service.get("/hello").text(), "hello");
        }
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(&service.wait_for_message("spans dropped")["spans"], "20", "{protocol}");
    }
}

/// `--help` and an invalid setting have their exit codes if `main` returns a `Result`, and an error is printed
/// as its message.
#[test]
fn main_result_prints_message() {
    let help = current_thread().arg("--help").run_to_exit();
    assert_eq!((help.code, help.stderr.as_slice()), (Some(0), [].as_slice()));
    assert!(help.stdout.iter().any(|line| line.starts_with("Usage: ")));

    let invalid = current_thread().env("LISTEN_ADDR", "nowhere").run_to_exit();
    assert_eq!(invalid.code, Some(2));
    assert_eq!(invalid.stderr[0], "current-thread: 1 invalid setting");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let in_use = current_thread().env("LISTEN_ADDR", &address).run_to_exit();
    assert_eq!(in_use.code, Some(1));
    let message = format!("Error: cannot listen on {address}: Address already in use");
    assert!(in_use.stderr.iter().any(|line| line.starts_with(&message)), "{:?}", in_use.stderr);
}
