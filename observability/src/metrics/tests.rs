use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use opentelemetry::trace::SpanContext;

use super::*;
use crate::error::ErrorKind;
use crate::http::{KnownMethods, UrlScheme};

fn metrics() -> Metrics {
    Metrics::new("service-a", "1.2.3", "abc", 2000, false)
}

fn render(metrics: &Metrics, format: Format) -> String {
    String::from_utf8(metrics.render(format)).unwrap()
}

fn outcome(status: u16, error: Option<ErrorKind>) -> Outcome {
    Outcome {
        method: KnownMethods::default().classify(&Method::GET),
        status: Some(StatusCode::from_u16(status).unwrap()),
        error,
    }
}

#[test]
fn request_records_histogram_sample() {
    let metrics = metrics();
    metrics.route("/echo").record(
        UrlScheme::Http,
        outcome(200, None),
        Duration::from_millis(30),
        None,
    );
    let page = render(&metrics, Format::Text);
    let labels = r#"http_request_method="GET",http_response_status_code="200",http_route="/echo",url_scheme="http""#;
    for line in [
        "# TYPE http_server_request_duration_seconds histogram".to_owned(),
        format!("http_server_request_duration_seconds_bucket{{{labels},le=\"0.025\"}} 0"),
        format!("http_server_request_duration_seconds_bucket{{{labels},le=\"0.05\"}} 1"),
        format!("http_server_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
        format!("http_server_request_duration_seconds_count{{{labels}}} 1"),
    ] {
        assert!(page.lines().any(|l| l == line), "no {line} in {page}");
    }
}

#[test]
fn error_counters_start_at_zero() {
    let metrics = metrics();
    let url = "http://127.0.0.1:8080/".parse().unwrap();
    let server = metrics.client(&url);
    let line = |kind: &str, n| {
        format!(
            r#"http_client_request_errors_total{{error_type="{kind}",server_address="127.0.0.1",server_port="8080"}} {n}"#
        )
    };
    let _breaker = server.circuit_breaker_open();
    let page = render(&metrics, Format::Text);
    for kind in ErrorKind::ALL_NAMED.into_iter().chain([ErrorKind::CircuitOpen]) {
        assert!(page.contains(&line(kind.as_str(), 0)), "{kind} in {page}");
    }
    server.record(
        outcome(500, Some(ErrorKind::Status(StatusCode::INTERNAL_SERVER_ERROR))),
        Duration::ZERO,
        None,
    );
    assert!(render(&metrics, Format::Text).contains(&line("500", 1)));

    let route = metrics.route("/echo");
    let line = |kind: &str, n| {
        format!(r#"http_server_request_errors_total{{error_type="{kind}",http_route="/echo"}} {n}"#)
    };
    let page = render(&metrics, Format::Text);
    let kinds = ErrorKind::ALL_NAMED.map(|kind| kind.as_str().to_owned());
    for kind in kinds.iter().map(String::as_str).chain(["500", "overload", "circuit_open"]) {
        assert!(page.contains(&line(kind, 0)), "{kind} in {page}");
    }
    route.record(UrlScheme::Http, outcome(503, Some(ErrorKind::Refused)), Duration::ZERO, None);
    assert!(render(&metrics, Format::Text).contains(&line("refused", 1)));
}

#[test]
fn server_address_is_taken_from_url() {
    let url = "https://user:secret@[::1]/x".parse().unwrap();
    assert_eq!(ServerAddressRef::from_url(&url), ServerAddressRef { address: "::1", port: 443 });
}

#[test]
fn build_info_and_process_metrics() {
    let page = render(&metrics(), Format::Text);
    assert!(
        page.contains(r#"build_info{revision="abc",service="service-a",version="1.2.3"} 1"#),
        "{page}"
    );
    for name in ["log_lines_lost_total{error_type=\"too_long\"} 0", "process_start_time_seconds "] {
        assert!(page.contains(name), "no {name} in {page}");
    }
    #[cfg(target_os = "linux")]
    assert!(page.contains("# TYPE process_cpu_seconds_total counter"), "{page}");
}

#[test]
fn exemplars_keep_latest_trace() {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};
    let span = |id: u128| {
        let span_id = SpanId::from(0xab);
        SpanContext::new(id.into(), span_id, TraceFlags::SAMPLED, false, TraceState::NONE)
    };
    let metrics = metrics();
    let timeout = Some(ErrorKind::Timeout);
    for (id, ms) in [(1, 900), (2, 1000), (3, 30)] {
        metrics.route("/e\"o").record(
            UrlScheme::Http,
            outcome(200, None),
            Duration::from_millis(ms),
            Some(&span(id)),
        );
    }
    let server = metrics.client(&"http://127.0.0.1:8080/".parse().unwrap());
    server.record(outcome(503, timeout), Duration::from_secs(20), Some(&span(4)));
    server.record(outcome(503, timeout), Duration::from_secs(20), None);

    let page = render(&metrics, Format::OpenMetrics);
    let exemplar = |part: &str| {
        let line = page.lines().find(|line| line.contains(part) && line.contains(" # "));
        line.and_then(|line| line.split_once(" # ")).map(|(_, exemplar)| exemplar.to_owned())
    };
    let assert_exemplar = |part: &str, id: u32, value: &str| {
        let start = format!("{{trace_id=\"{id:032x}\",span_id=\"00000000000000ab\"}} {value} ");
        let found = exemplar(part).unwrap_or_default();
        assert!(found.starts_with(&start), "{part}: {found} in {page}");
    };
    assert_exemplar(
        "server_request_duration_seconds_bucket{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/e\\\"o\",url_scheme=\"http\",le=\"1.0\"}",
        2,
        "1",
    );
    assert_exemplar("url_scheme=\"http\",le=\"0.05\"}", 3, "0.03");
    assert_exemplar("le=\"+Inf\"}", 4, "20");
    assert_exemplar(
        "http_client_request_errors_total{error_type=\"timeout\",server_address=\"127.0.0.1\",server_port=\"8080\"} 2",
        4,
        "1",
    );
    assert_eq!(exemplar("errors_total{error_type=\"refused\""), None);
    assert!(!render(&metrics, Format::Text).contains(" # {"), "the text format has no exemplars");
}

#[test]
fn servers_over_limit_are_other() {
    let metrics = metrics();
    for n in 0..3000 {
        let url = format!("http://host-{n}/").parse().unwrap();
        let client = metrics.client(&url);
        assert_eq!(*client.server.address, format!("host-{n}"));
        client.record(outcome(503, Some(ErrorKind::Timeout)), Duration::ZERO, None);
    }
    let page = render(&metrics, Format::Text);
    for line in [
        r#"http_client_request_errors_total{error_type="timeout",server_address="host-124",server_port="80"} 1"#,
        r#"http_client_request_errors_total{error_type="timeout",server_address="_OTHER",server_port="_OTHER"} 2875"#,
        r#"metrics_rejected_total{error_type="series_limit"} 2875"#,
    ] {
        assert!(page.lines().any(|l| l == line), "no {line}");
    }
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
}

#[test]
fn grpc_methods_over_limit_are_unmatched() {
    let metrics = metrics();
    let ok = GrpcStatus::from_headers(&HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]))
    .unwrap();
    // Other routes do not count.
    for n in 0..20 {
        metrics.route(&format!("/{n}"));
    }
    let routes = (0..3000).map(|n| metrics.grpc_route(&format!("/test.Service/{n}"), ok));
    let unmatched = routes.filter(|route| route.template == UNMATCHED_ROUTE).count();
    assert_eq!(unmatched, 2875);
    assert_eq!(metrics.grpc_route("/test.Service/0", ok).template, "/test.Service/0");
    let rejected = r#"metrics_rejected_total{error_type="series_limit"} 2875"#;
    assert!(render(&metrics, Format::Text).lines().any(|line| line == rejected));
}

#[test]
fn target_info_has_resource_attributes() {
    let metrics = metrics();
    let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    metrics.set_target_info(
        [attribute("service.name", "a"), attribute("service.instance.id", "x")].into_iter(),
    );
    let line = r#"target_info{service_instance_id="x",service_name="a"} 1"#;
    for (format, kind) in
        [(Format::Text, "# TYPE target_info gauge"), (Format::OpenMetrics, "# TYPE target info")]
    {
        let page = render(&metrics, format);
        assert!(page.lines().any(|l| l == line) && page.contains(kind), "{page}");
    }
}

#[tokio::test]
async fn runtime_metrics_are_current() {
    let (_stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let _task = tokio::spawn(stopped);
    let page = render(&metrics(), Format::OpenMetrics);
    for line in ["tokio_workers 1", "tokio_alive_tasks 1", "tokio_global_queue_depth 0"] {
        assert!(page.lines().any(|l| l == line), "no {line} in {page}");
    }
    for line in ["# TYPE tokio_workers_busy_seconds counter", "\ntokio_workers_busy_seconds_total "]
    {
        assert!(page.contains(line), "no {line} in {page}");
    }
}
