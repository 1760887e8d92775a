//! Export of spans to a backend that fails, is slow to return, or refuses batches.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::time::{Duration, Instant};

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, Process, ProcessBuilder, Reply, ReservedPort};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const PROCESSED: &str = "otel_sdk_processor_span_processed_total";
const INFLIGHT: &str = "otel_sdk_exporter_span_inflight";
const EXPORTED: &str = "otel_sdk_exporter_span_exported_total";
const DURATION: &str = "otel_sdk_exporter_operation_duration_seconds";
const RETRYING: &str = "span export failed, retrying";

fn service(protocol: Protocol, url: String) -> ProcessBuilder {
    ProcessBuilder::example("current_thread")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name())
}

fn send_requests(service: &Process, count: usize) {
    for _ in 0..count {
        assert_eq!(service.get("/hello").status, 200);
    }
}

/// While the queue has room, an outage loses no span.
#[test]
fn outage_loses_no_queued_span() {
    for protocol in PROTOCOLS {
        let port = ReservedPort::bind();
        let service = service(protocol, port.url()).env("OTEL_BSP_SCHEDULE_DELAY", "10").serve();
        send_requests(&service, 100);
        service.wait_for_message(RETRYING);
        send_requests(&service, 100);
        let collector = OtlpCollector::start_on(port.listen());
        let page =
            service.wait_for_metrics("all spans exported", |page| page.exported_spans() == 200.0);
        service.wait_for_message("span export recovered");
        assert_eq!((collector.spans().len(), page.dropped_spans()), (200, 0.0), "{protocol:?}");
    }
}

/// The delay that a receiver demands applies even if it is longer than the export timeout.
#[test]
fn throttled_batch_waits_as_told() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        collector.set_behavior(Behavior::Throttle(Duration::from_secs(2)));
        let service = service(protocol, collector.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "10")
            .env("OTEL_BSP_EXPORT_TIMEOUT", "1000")
            .serve();
        let start = Instant::now();
        let response = service.get("/hello");
        let details = &service.wait_for_message(RETRYING)["details"];
        assert!(details.ends_with("refused"), "{protocol:?}: {details}");
        let page = service.metrics();
        let counts = [PROCESSED, INFLIGHT, EXPORTED].map(|name| page.sum(name, &[]));
        assert_eq!(counts, [1.0, 1.0, 0.0], "{protocol:?}");
        collector.set_behavior(Behavior::Accept);
        collector.wait_for_trace(response.trace_id(), 1);
        assert!(start.elapsed() >= Duration::from_secs(2), "{protocol:?}: {:?}", start.elapsed());
        let page = service.wait_for_metrics("the end of the export", |page| {
            page.sum(&format!("{DURATION}_count"), &[]) > 0.0
        });
        assert_eq!(page.sum(&format!("{DURATION}_count"), &[]), 1.0, "{protocol:?}");
        assert!(page.sum(&format!("{DURATION}_sum"), &[]) >= 2.0, "{protocol:?}");
    }
}

/// A batch that the receiver refuses because of its size is sent in parts.
#[test]
fn oversized_batch_is_halved() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        collector.set_behavior(Behavior::LimitSpans(3));
        let service = service(protocol, collector.url())
            .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
            .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
            .serve();
        send_requests(&service, 16);
        let page =
            service.wait_for_metrics("all spans exported", |page| page.exported_spans() == 16.0);
        let sizes: Vec<_> = collector.exports().iter().map(|export| export.spans.len()).collect();
        assert_eq!((sizes, page.dropped_spans()), (vec![2; 8], 0.0), "{protocol:?}");
    }
}

#[test]
fn oversized_span_is_dropped_alone() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        collector.set_behavior(Behavior::LimitSpans(0));
        let service =
            service(protocol, collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "10").serve();
        send_requests(&service, 1);
        let warning = service.wait_for_message("span is too large, dropped");
        assert_eq!(&warning["reason"], "too_large", "{protocol:?}");
        let page = service.metrics();
        assert_eq!(page.value(EXPORTED, &[("error_type", "too_large")]), Some(1.0));
    }
}

/// A receiver such as grpc-go compresses its response if the request is compressed.
#[test]
fn compressed_response_is_read() {
    let collector = OtlpCollector::start();
    collector.set_behavior(Behavior::Reject(1));
    let service = service(Protocol::Grpc, collector.url())
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_BSP_SCHEDULE_DELAY", "10")
        .serve();
    send_requests(&service, 1);
    service.wait_for_metrics("a rejected span", |page| {
        page.value(EXPORTED, &[("error_type", "rejected")]) == Some(1.0)
    });
    assert_eq!(collector.exports()[0].headers["grpc-accept-encoding"], "gzip,identity");
}

/// Under load only full batches are exported. The rest waits for the schedule.
#[test]
fn partial_batch_waits_for_schedule() {
    let collector = OtlpCollector::start();
    collector.set_behavior(Behavior::AcceptAfter(Duration::from_millis(500)));
    let service = service(Protocol::Grpc, collector.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
        .serve();
    send_requests(&service, 40);
    service.wait_for_metrics("two batches", |page| page.exported_spans() >= 32.0);
    send_requests(&service, 8);
    service.wait_for_metrics("three batches", |page| page.exported_spans() >= 48.0);
    let sizes: Vec<_> = collector.exports().iter().map(|export| export.spans.len()).collect();
    assert_eq!(sizes, [16; 3]);
}

/// Spans are sent to the endpoint itself, like the calls of a client.
#[test]
fn env_proxy_is_ignored() {
    for protocol in PROTOCOLS {
        let (collector, proxy) = (OtlpCollector::start(), FakeServer::start(Reply::echo("proxy")));
        let mut service = service(protocol, collector.url()).env("OTEL_BSP_SCHEDULE_DELAY", "10");
        for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            service = service.env(variable, proxy.url());
        }
        let service = service.serve();
        collector.wait_for_trace(service.get("/hello").trace_id(), 1);
    }
}

/// An empty variable is the same as an unset one, and values are decoded.
#[test]
fn configured_headers_are_sent() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        let service = service(protocol, collector.url())
            .env("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20secret,broken")
            .serve();
        send_requests(&service, 1);
        service.stop();
        let export = collector.exports().remove(0);
        assert_eq!(export.headers["api-key"], "a secret", "{protocol:?}");
    }
}
