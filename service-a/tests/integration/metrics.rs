//! What `/metrics` says.

use testkit::http::Request;

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
            "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1", "2.5",
            "5", "7.5", "10", "+Inf"
        ]
    );
    assert_eq!(page.types["http_server_active_requests"], "gauge");
    let active = [("http_request_method", "GET"), ("url_scheme", "http")];
    assert_eq!(page.value("http_server_active_requests", &active), Some(0.0));
}

#[test]
fn metrics_page_is_prometheus_text() {
    let service = service_a().serve();
    let answer = service.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
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

#[test]
fn admin_routes_are_not_measured() {
    let backend = testkit::otlp::OtlpCollector::start();
    let service = service_a()
        .env("FAULTS_ENABLED", "true")
        .envs(backend.variables(testkit::otlp::Protocol::Grpc))
        .serve();
    for target in ["/metrics", "/health", "/livez", "/readyz", "/faults"] {
        for method in ["GET", "HEAD", "POST"] {
            Request::new(method, target).send(service.address());
        }
    }
    let answer = service.get("/echo");
    service.wait_for_access(answer.trace_id());
    backend.wait_for_trace(answer.trace_id(), 1);
    assert_eq!(service.log().len(), 2, "the first line and that of /echo");
    let page = service.metrics();
    assert_eq!(page.sum(&format!("{DURATION}_count"), &[]), 1.0);
    assert_eq!(page.sum("otel_sdk_span_started_total", &[]), 1.0);
    assert_eq!(backend.spans().len(), 1);
}

#[test]
fn client_input_is_not_a_label() {
    let service = service_a().serve();
    for at in 0..50 {
        for (method, target) in
            [("GET", format!("/secret-{at}")), (&*format!("SECRET{at}"), "/echo".to_owned())]
        {
            Request::new(method, &target)
                .header("Host", &format!("secret-{at}.test"))
                .header("X-Forwarded-Proto", "secret")
                .header("User-Agent", "secret")
                .send(service.address());
        }
    }
    let answer = service.get("/metrics");
    assert!(!answer.text().to_lowercase().contains("secret"), "{}", answer.text());
    let page = service.metrics();
    assert_eq!(page.named(&format!("{DURATION}_count")).count(), 2);
    assert_eq!(page.sum(&format!("{DURATION}_count"), &[]), 100.0);
}

#[test]
fn spans_are_counted_from_start_to_arrival() {
    let backend = testkit::otlp::OtlpCollector::start();
    let service =
        service_a().envs(backend.variables(testkit::otlp::Protocol::HttpProtobuf)).serve();
    for _ in 0..20 {
        service.get("/echo");
    }
    let page = service.wait_for_metrics("all spans exported", |page| {
        page.sum("otel_sdk_exporter_span_exported_total", &[]) == 20.0
    });
    assert_eq!(page.value("otel_sdk_span_started_total", &[]), Some(20.0));
    assert_eq!(page.sum("otel_sdk_processor_span_processed_total", &[]), 20.0);
    assert_eq!(backend.spans().len(), 20);
}

#[test]
fn spans_that_find_no_room_are_counted() {
    let stuck = testkit::FakeServer::start(testkit::Reply::Stall(Vec::new()));
    let service = service_a()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", stuck.url())
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .env("OTEL_BSP_MAX_QUEUE_SIZE", "5")
        .serve();
    service.get("/echo");
    // From here on the exporter waits for the answer to the first.
    stuck.wait_for_request(1);
    for _ in 0..20 {
        assert_eq!(service.get("/echo").status, 200);
    }
    let page = service.metrics();
    let full = [("error_type", "queue_full")];
    assert_eq!(page.value("otel_sdk_span_started_total", &[]), Some(21.0));
    assert_eq!(page.value("otel_sdk_processor_span_processed_total", &full), Some(15.0));
}

#[test]
fn export_failures_are_counted() {
    let nobody = testkit::ReservedPort::take();
    let service = service_a()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", nobody.address()))
        .env("OTEL_BSP_SCHEDULE_DELAY", "1")
        .serve();
    let failed = [("error_type", "failed")];
    for number in 1..=3 {
        assert_eq!(service.get("/echo").status, 200);
        service.wait_for_metrics("a span that failed", |page| {
            page.value("otel_sdk_exporter_span_exported_total", &failed) == Some(number.into())
        });
    }
    let complaints = |service: &testkit::Process| {
        let log = service.log();
        log.iter().filter(|line| line.get("level") == Some("warn")).count()
    };
    service.wait_for_line("the complaint", |line| line.get("level") == Some("warn"));
    assert_eq!(complaints(&service), 1, "{:#?}", service.log());
}
