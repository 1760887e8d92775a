//! On a runtime of one thread, where whoever waits for the exporter must not be whom it waits for.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, ProcessBuilder, Reply};

fn current_thread() -> ProcessBuilder {
    ProcessBuilder::example("current_thread").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
}

#[test]
fn exports_on_current_thread_runtime() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let backend = OtlpCollector::start();
        let service = current_thread().envs(backend.variables(protocol)).serve();
        let first = service.get("/hello").trace_id().to_owned();
        backend.wait_for_trace(&first, 1);
        backend.set_behavior(Behavior::Fail { grpc: 14, http: 503 });
        assert_eq!(service.get("/hello").text(), "hello");
        service.wait_for_metrics("a lost span", |page| {
            page.sum("otel_sdk_exporter_span_exported_total", &[("error_type", "failed")]) == 1.0
        });
        backend.set_behavior(Behavior::Accept);
        for _ in 0..20 {
            assert_eq!(service.get("/hello").status, 200);
        }
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(backend.spans().len(), 21, "{protocol:?}");
    }
}

#[test]
fn hung_backend_does_not_block_shutdown() {
    for protocol in ["grpc", "http/protobuf"] {
        let backend = FakeServer::start(Reply::Stall(Vec::new()));
        let service = current_thread()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("SHUTDOWN_TIMEOUT_MS", "500")
            .serve();
        for _ in 0..20 {
            assert_eq!(service.get("/hello").text(), "hello");
        }
        assert_eq!(service.stop().code, Some(0));
        let log = service.log();
        let lost = log.iter().find(|line| line.get("msg") == Some("spans dropped")).unwrap();
        assert_eq!(&lost["spans"], "20", "{protocol}");
    }
}
