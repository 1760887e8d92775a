//! Ends of responses: what the client receives, and what metric, span and log line record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol, Span};
use testkit::{LogLine, Process, ProcessBuilder};

const DURATION_SUM: &str = "http_server_request_duration_seconds_sum";
const DURATION_COUNT: &str = "http_server_request_duration_seconds_count";

fn start_service(collector: &OtlpCollector) -> Process {
    ProcessBuilder::example("zoo").envs(collector.variables(Protocol::Grpc)).serve()
}

/// A request, and what must be recorded about it.
struct Case {
    method: &'static str,
    route: &'static str,
    headers: &'static [(&'static str, &'static str)],
    /// End of what the client receives.
    received: &'static str,
    /// The client disconnects after it has received `received`.
    disconnects: bool,
    status: Option<u16>,
    error_type: Option<&'static str>,
    level: &'static str,
    span_status: &'static str,
}

const OK: Case = Case {
    method: "GET",
    route: "",
    headers: &[],
    received: "",
    disconnects: false,
    status: Some(200),
    error_type: None,
    level: "info",
    span_status: "",
};

const FAILED: Case = Case { level: "error", span_status: "error", ..OK };

const CASES: [Case; 17] = [
    Case { route: "/announced", received: "hello", ..OK },
    Case { route: "/too-long", received: "hello", ..OK },
    Case { route: "/chunked", received: "hello\r\n0\r\n\r\n", ..OK },
    Case {
        route: "/trailers",
        headers: &[("TE", "trailers")],
        received: "0\r\nchecksum: 1\r\n\r\n",
        ..OK
    },
    Case { route: "/trailers", received: "0\r\n\r\n", ..OK },
    Case { route: "/no-content", received: "\r\n\r\n", status: Some(204), ..OK },
    Case { route: "/not-modified", received: "\r\n\r\n", status: Some(304), ..OK },
    Case { method: "HEAD", route: "/endless", received: "\r\n\r\n", ..OK },
    Case {
        route: "/upgrade",
        headers: &[("Connection", "upgrade"), ("Upgrade", "echo")],
        received: "\r\n\r\n",
        status: Some(101),
        ..OK
    },
    Case {
        route: "/unready-upgrade",
        headers: &[("Connection", "upgrade"), ("Upgrade", "echo")],
        received: "\r\n\r\n",
        status: Some(101),
        ..OK
    },
    Case { route: "/failing-body", error_type: Some("other"), ..FAILED },
    Case { route: "/panicking-body", error_type: Some("other"), ..FAILED },
    Case { route: "/panic", status: Some(500), error_type: Some("other"), ..FAILED },
    Case { route: "/error", status: Some(500), error_type: Some("500"), ..FAILED },
    Case { route: "/error-event", received: "hello", ..OK },
    Case {
        route: "/endless",
        received: "tick\r\n",
        disconnects: true,
        error_type: Some("canceled"),
        level: "warn",
        ..OK
    },
    Case { route: "/spawned", received: "hello", ..OK },
];

/// Each way in which a response ends has the right outcome in metric, span and log line, and they agree on
/// the duration.
#[test]
fn response_end_is_recorded() {
    let collector = OtlpCollector::start();
    for case in CASES {
        let service = start_service(&collector);
        let name = format!("{} {}", case.method, case.route);
        let mut request = Request::new(case.method, case.route);
        for (header, value) in case.headers {
            request = request.header(header, value);
        }
        if !case.disconnects && case.status != Some(101) {
            request = request.header("Connection", "close");
        }
        let mut connection = request.start(service.address());
        if case.disconnects {
            connection.read_until(case.received.as_bytes()).expect(&name);
        } else {
            // The server may reset the connection of a response that fails.
            let received = connection.read_to_end().unwrap_or_default();
            let received = String::from_utf8_lossy(&received).into_owned();
            assert!(received.ends_with(case.received), "{name}: {received:?}");
        }
        drop(connection);
        let line =
            service.wait_for_log_line(&name, |line| line.get("endpoint") == Some(case.route));
        let span = collector.wait_for_trace(&line["trace_id"], 1).remove(0);
        assert_recorded(&name, &case, &service, &line, &span);
    }
}

fn assert_recorded(name: &str, case: &Case, service: &Process, line: &LogLine, span: &Span) {
    assert_eq!(&line["level"], case.level, "{name}: {line:?}");
    assert_eq!(
        line.get("error"),
        case.error_type.filter(|_| line.get("error").is_some()),
        "{name}"
    );

    let status = case.status.map(|status| status.to_string());
    let page = service.metrics();
    let labels: Vec<_> = [
        Some(("http_route", case.route)),
        status.as_deref().map(|status| ("http_response_status_code", status)),
        case.error_type.map(|error| ("error_type", error)),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(page.value(DURATION_COUNT, &labels), Some(1.0), "{name}: {labels:?}");
    assert_eq!(page.sum(DURATION_COUNT, &[]), 1.0, "{name}");
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0, "{name}");
    if case.error_type.is_none() {
        let sample = page.named(DURATION_COUNT).next().unwrap();
        assert_eq!(sample.labels.get("error_type"), None, "{name}");
    }

    assert_eq!(span.name, name);
    assert_eq!(span.status, case.span_status, "{name}");
    let span_error = case.error_type.filter(|error| *error != "canceled");
    let error_type = span.attributes.get("error.type").and_then(|value| value.as_str());
    assert_eq!(error_type, span_error, "{name}");

    let seconds = page.sum(DURATION_SUM, &[]);
    let span_seconds = span.duration_ns as f64 / 1e9;
    assert!(
        (span_seconds - seconds).abs() < 0.001,
        "{name}: span {span_seconds}, metric {seconds}"
    );
    let latency_ms: f64 = line["latency_ms"].parse().unwrap();
    assert!(
        (latency_ms / 1e3 - seconds).abs() <= 0.001,
        "{name}: {latency_ms} ms, metric {seconds}"
    );
}

/// A child span that never ends is counted as dropped when the service stops.
#[cfg(unix)]
#[test]
fn unfinished_span_is_counted_at_shutdown() {
    let collector = OtlpCollector::start();
    let service = start_service(&collector);
    let response = service.get("/spawned");
    service.wait_for_access_line(response.trace_id());
    assert_eq!(service.stop().code, Some(0));
    let line = service.wait_for_message("spans dropped");
    assert_eq!(&line["spans"], "1");
    assert_eq!(collector.spans().len(), 1);
}
