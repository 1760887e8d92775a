//! Metrics.

use testkit::http::Request;
use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_a;

const DURATION: &str = "http_server_request_duration_seconds";

#[test]
fn request_sample_labels() {
    let service = service_a().serve();
    assert_eq!(service.get("/echo?msg=hello").status, 200);
    let page = service.metrics();
    assert_eq!(page.types[DURATION], "histogram");
    let counts: Vec<_> = page.named(&format!("{DURATION}_count")).collect();
    let [count] = counts.as_slice() else { panic!("{counts:?}") };
    let labels: Vec<_> = count.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        labels,
        [
            ("http_request_method", "GET"),
            ("http_response_status_code", "200"),
            ("http_route", "/echo"),
            ("url_scheme", "http"),
        ]
    );
    assert_eq!(count.value, 1.0);
    let bounds: Vec<_> = page
        .named(&format!("{DURATION}_bucket"))
        .map(|bucket| bucket.labels["le"].as_str())
        .collect();
    assert_eq!(
        bounds,
        [
            "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25",
            "0.5", "0.75", "1", "1.25", "2.5", "5", "7.5", "10", "+Inf"
        ]
    );
    assert_eq!(page.types["http_server_active_requests"], "gauge");
    let active = [("http_request_method", "GET"), ("url_scheme", "http")];
    assert_eq!(page.value("http_server_active_requests", &active), Some(0.0));
}

#[test]
fn metrics_page_is_prometheus_text() {
    // The metrics of spans are present only if an endpoint is set. It need not accept connections.
    let service = service_a().env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").serve();
    let response = service.get("/metrics");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let page = service.metrics();
    let build = [("service", "service-a"), ("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(page.value("build_info", &build), Some(1.0));
    let build = page.named("build_info").next().unwrap();
    assert!(build.labels.contains_key("revision"), "{build:?}");
    for counter in [
        "otel_sdk_span_started_total",
        "otel_sdk_exporter_span_exported_total",
        "otel_sdk_processor_span_processed_total",
        "log_lines_lost_total",
    ] {
        assert_eq!(page.types[counter], "counter");
        assert!(page.named(counter).next().is_some(), "{counter}");
        assert_eq!(page.sum(counter, &[]), 0.0, "{counter}");
    }
    if cfg!(target_os = "linux") {
        for (name, kind) in [
            ("process_cpu_seconds_total", "counter"),
            ("process_resident_memory_bytes", "gauge"),
            ("process_open_fds", "gauge"),
            ("process_start_time_seconds", "gauge"),
        ] {
            assert_eq!(page.types[name], kind);
            assert!(page.value(name, &[]) >= Some(0.0), "{name}");
        }
    }
}

/// Admin routes produce no access lines, spans or request samples.
#[test]
fn admin_routes_are_not_measured() {
    let collector = OtlpCollector::start();
    let service =
        service_a().env("FAULTS_ENABLED", "true").envs(collector.variables(Protocol::Grpc)).serve();
    for target in ["/metrics", "/health", "/livez", "/readyz", "/faults"] {
        for method in ["GET", "HEAD", "POST"] {
            Request::new(method, target).send(service.address());
        }
    }
    let response = service.get("/echo");
    service.wait_for_access_line(response.trace_id());
    collector.wait_for_trace(response.trace_id(), 1);
    assert_eq!(service.log().len(), 2, "the startup line and the access line of /echo");
    let page = service.metrics();
    assert_eq!(page.sum(&format!("{DURATION}_count"), &[]), 1.0);
    assert_eq!(page.sum("otel_sdk_span_started_total", &[]), 1.0);
    assert_eq!(collector.spans().len(), 1);
}

#[test]
fn client_input_is_not_a_label() {
    let service = service_a().serve();
    for index in 0..50 {
        for (method, target) in
            [("GET", format!("/secret-{index}")), (&*format!("SECRET{index}"), "/echo".to_owned())]
        {
            Request::new(method, &target)
                .header("Host", &format!("secret-{index}.test"))
                .header("X-Forwarded-Proto", "secret")
                .header("User-Agent", "secret")
                .send(service.address());
        }
    }
    let response = service.get("/metrics");
    assert!(!response.text().to_lowercase().contains("secret"), "{}", response.text());
    let page = service.metrics();
    assert_eq!(page.named(&format!("{DURATION}_count")).count(), 2);
    assert_eq!(page.sum(&format!("{DURATION}_count"), &[]), 100.0);
}

#[test]
fn exported_spans_are_counted() {
    let collector = OtlpCollector::start();
    let service = service_a().envs(collector.variables(Protocol::HttpProtobuf)).serve();
    for _ in 0..20 {
        service.get("/echo");
    }
    let page = service.wait_for_metrics("all spans exported", |page| {
        page.sum("otel_sdk_exporter_span_exported_total", &[]) == 20.0
    });
    assert_eq!(page.sum("otel_sdk_span_started_total", &[]), 20.0);
    assert_eq!(page.sum("otel_sdk_processor_span_processed_total", &[]), 20.0);
    assert_eq!(collector.spans().len(), 20);
}

const PROCESSOR: &str = "batching_span_processor";

#[test]
fn queue_full_spans_are_counted() {
    let backend = FakeServer::start(Reply::Stall(Vec::new()));
    let service = service_a()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", backend.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "5")
        .serve();
    service.get("/echo");
    // The exporter now waits for the response, so the queue takes 5 of the next 20 spans.
    backend.wait_for_request(1);
    for _ in 0..20 {
        assert_eq!(service.get("/echo").status, 200);
    }
    let page = service.metrics();
    for (name, labels, value) in [
        ("otel_sdk_span_started_total", ("otel_span_parent_origin", "none"), 21.0),
        ("otel_sdk_span_live", ("otel_span_sampling_result", "RECORD_AND_SAMPLE"), 0.0),
        ("otel_sdk_processor_span_queue_size", ("otel_component_type", PROCESSOR), 5.0),
        ("otel_sdk_processor_span_queue_capacity", ("otel_component_type", PROCESSOR), 5.0),
        ("otel_sdk_processor_span_processed_total", ("error_type", "queue_full"), 15.0),
        (
            "otel_sdk_exporter_span_inflight",
            ("otel_component_name", "otlp_http_span_exporter/0"),
            1.0,
        ),
    ] {
        assert_eq!(page.sum(name, &[labels]), value, "{name}");
    }
}

/// Every dropped span is counted by reason, but only the first is logged.
#[test]
fn export_failures_are_counted() {
    let collector = OtlpCollector::start();
    collector.set_behavior(Behavior::Fail { grpc: 3, http: 400 });
    let service = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    let failed = [("error_type", "failed")];
    for number in 1..=3 {
        assert_eq!(service.get("/echo").status, 200);
        service.wait_for_metrics("a failed span", |page| {
            page.value("otel_sdk_exporter_span_exported_total", &failed) == Some(number.into())
        });
    }
    service.wait_for_log_line("a warning", |line| line.get("level") == Some("warn"));
    let log = service.log();
    let warnings = log.iter().filter(|line| line.get("level") == Some("warn")).count();
    assert_eq!(warnings, 1, "{log:#?}");
}
