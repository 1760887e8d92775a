//! On a runtime of one thread, where whoever waits for the exporter must not be whom it waits for.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use testkit::otlp::{Manner, Protocol, Receiver};
use testkit::{FakeServer, Launch, Reply};

fn current_thread() -> Launch {
    Launch::example("current_thread").set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
}

#[test]
fn spans_are_exported_while_it_runs_and_when_it_stops() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let backend = Receiver::start();
        let service = current_thread().set_all(backend.variables(protocol)).serve();
        let first = service.get("/hello").trace_id().to_owned();
        backend.wait_for_trace(&first, 1);
        backend.behave(Manner::Refuse { grpc: 14, http: 503 });
        assert_eq!(service.get("/hello").text(), "hello");
        service.wait_for_metrics("a lost span", |page| {
            page.sum("otel_sdk_exporter_span_exported_total", &[("error_type", "failed")]) == 1.0
        });
        backend.behave(Manner::Take);
        for _ in 0..20 {
            assert_eq!(service.get("/hello").status, 200);
        }
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(backend.spans().len(), 21, "{protocol:?}");
    }
}

#[test]
fn a_backend_that_hangs_keeps_nobody_and_its_spans_are_counted_at_the_end() {
    for protocol in ["grpc", "http/protobuf"] {
        let backend = FakeServer::start(Reply::Silence(Vec::new()));
        let service = current_thread()
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url())
            .set("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .set("OTEL_BSP_SCHEDULE_DELAY", "10")
            .set("SHUTDOWN_TIMEOUT_MS", "500")
            .serve();
        for _ in 0..20 {
            assert_eq!(service.get("/hello").text(), "hello");
        }
        assert_eq!(service.stop().code, Some(0));
        let log = service.log();
        let lost = log.iter().find(|line| line.get("msg") == Some("spans were lost")).unwrap();
        assert_eq!(&lost["spans"], "20", "{protocol}");
    }
}
