//! Ends of responses: what the client receives, and what metric, span and log line record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::net::SocketAddr;

use testkit::http::Request;
use testkit::http2;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{Process, ProcessBuilder};

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
    /// End of what an HTTP/1.1 client receives.
    received: &'static str,
    /// Body that an HTTP/2 client receives; `None` if the case is not sent over HTTP/2.
    received2: Option<&'static str>,
    /// The client disconnects after it has received this.
    disconnects_after: Option<&'static str>,
    /// The client closes its half of the connection after the request.
    half_closes: bool,
    /// Template of the route, if it differs from the path.
    template: Option<&'static str>,
    /// Number of samples in the latency histogram.
    samples: f64,
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
    received2: Some("hello"),
    disconnects_after: None,
    half_closes: false,
    template: None,
    samples: 1.0,
    status: Some(200),
    error_type: None,
    level: "info",
    span_status: "",
};

const FAILED: Case = Case { level: "error", span_status: "error", ..OK };

const HEAD_ONLY: Case = Case { received: "\r\n\r\n", received2: Some(""), ..OK };

const UPGRADE: Case = Case {
    headers: &[("Connection", "upgrade"), ("Upgrade", "echo")],
    received: "\r\n\r\n",
    received2: None,
    status: Some(101),
    ..OK
};

/// The client leaves in the middle of the body.
const LEFT: Case = Case { received2: Some("tick"), disconnects_after: Some("tick"), ..OK };

const CASES: [Case; 29] = [
    Case { route: "/announced", received: "hello", ..OK },
    Case { route: "/too-long", received: "hello", received2: None, ..OK },
    Case { route: "/chunked", received: "hello\r\n0\r\n\r\n", ..OK },
    Case {
        route: "/trailers",
        headers: &[("TE", "trailers")],
        received: "0\r\nchecksum: 1\r\n\r\n",
        ..OK
    },
    Case { route: "/trailers", received: "0\r\n\r\n", ..OK },
    Case { route: "/no-content", status: Some(204), ..HEAD_ONLY },
    Case { route: "/not-modified", status: Some(304), ..HEAD_ONLY },
    Case { method: "HEAD", route: "/endless", ..HEAD_ONLY },
    Case { method: "HEAD", route: "/chunked", ..HEAD_ONLY },
    Case { route: "/upgrade", ..UPGRADE },
    Case { route: "/unready-upgrade", ..UPGRADE },
    Case { route: "/failing-body", received2: Some(""), error_type: Some("other"), ..FAILED },
    Case {
        route: "/panicking-body",
        received2: Some("hello"),
        error_type: Some("other"),
        ..FAILED
    },
    Case {
        route: "/panic",
        received2: Some(""),
        status: Some(500),
        error_type: Some("other"),
        ..FAILED
    },
    Case {
        route: "/error",
        received2: Some(""),
        status: Some(500),
        error_type: Some("500"),
        ..FAILED
    },
    Case { route: "/error-event", received: "hello", ..OK },
    Case { route: "/endless", error_type: Some("canceled"), level: "warn", ..LEFT },
    Case {
        route: "/pending",
        disconnects_after: Some(""),
        received2: Some(""),
        status: None,
        error_type: Some("canceled"),
        level: "warn",
        ..OK
    },
    Case { route: "/delayed", received: "hello", ..OK },
    Case { route: "/delayed", received: "hello", received2: None, half_closes: true, ..OK },
    Case { route: "/chunked", received: "0\r\n\r\n", received2: None, half_closes: true, ..OK },
    Case { route: "/events", samples: 0.0, ..LEFT },
    Case { route: "/long-lived", samples: 0.0, ..LEFT },
    Case { route: "/recorded", received: "hello", ..OK },
    Case { route: "/nested", received: "hello", ..OK },
    Case { route: "/nested/a/b", received: "hello", template: Some("/nested/*"), ..OK },
    Case { route: "/outer/nested/a", received: "hello", template: Some("/outer/nested/*"), ..OK },
    Case {
        route: "/no-route",
        received2: Some(""),
        status: Some(404),
        template: Some("unmatched"),
        level: "warn",
        ..OK
    },
    Case { route: "/spawned", received: "hello", ..OK },
];

impl Case {
    fn template(&self) -> &'static str {
        self.template.unwrap_or(self.route)
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.route)
    }

    fn exchange_http1(&self, address: SocketAddr) {
        let name = self.name();
        let mut request = Request::new(self.method, self.route);
        for (header, value) in self.headers {
            request = request.header(header, value);
        }
        if self.disconnects_after.is_none() && self.status != Some(101) {
            request = request.header("Connection", "close");
        }
        let mut connection = request.start(address);
        if self.half_closes {
            connection.shutdown_write();
        }
        if let Some(end) = self.disconnects_after {
            connection.read_until(end.as_bytes()).expect(&name);
            return;
        }
        // The server may reset the connection of a response that fails.
        let received = connection.read_to_end().unwrap_or_default();
        let received = String::from_utf8_lossy(&received).into_owned();
        assert!(received.ends_with(self.received), "{name}: {received:?}");
        let is_seen = received.is_empty() || received.contains("x-outer-layer: seen");
        assert!(is_seen, "{name}: {received:?}");
    }

    fn exchange_http2(&self, address: SocketAddr, body: &str) {
        let name = self.name();
        let until = self.disconnects_after.map(str::as_bytes);
        let received = http2::exchange(address, self.method, self.route, self.headers, until);
        // A reset may overtake what was sent before it.
        let is_broken = self.error_type == Some("other") && self.status != Some(500);
        assert_eq!(received.error.is_some(), is_broken, "{name}: {received:?}");
        assert!(is_broken || received.body == body.as_bytes(), "{name}: {received:?}");
        assert_eq!(received.head.is_some() || is_broken, self.status.is_some(), "{name}");
        if let Some(head) = received.head {
            assert_eq!(Some(head.status().as_u16()), self.status, "{name}");
            assert_eq!(head.headers()["x-outer-layer"], "seen", "{name}");
        }
        let has_trailers = self.route == "/trailers";
        assert_eq!(received.trailers.is_some(), has_trailers, "{name}");
    }
}

/// Each way in which a response ends has the right outcome in metric, span and log line, and they agree on
/// the duration.
#[test]
fn response_end_is_recorded_over_http1() {
    let collector = OtlpCollector::start();
    for case in CASES {
        let service = start_service(&collector);
        case.exchange_http1(service.address());
        assert_recorded(&case, "1.1", &service, &collector);
    }
}

#[test]
fn response_end_is_recorded_over_http2() {
    let collector = OtlpCollector::start();
    for case in CASES {
        let Some(body) = case.received2 else { continue };
        let service = start_service(&collector);
        case.exchange_http2(service.address(), body);
        assert_recorded(&case, "2", &service, &collector);
    }
}

fn assert_recorded(case: &Case, version: &str, service: &Process, collector: &OtlpCollector) {
    let name = &case.name();
    let line =
        service.wait_for_log_line(name, |line| line.get("endpoint") == Some(case.template()));
    let span = collector.wait_for_trace(&line["trace_id"], 1).remove(0);
    assert_eq!(&line["level"], case.level, "{name}: {line:?}");
    assert_eq!(
        line.get("error"),
        case.error_type.filter(|_| line.get("error").is_some()),
        "{name}"
    );

    let status = case.status.map(|status| status.to_string());
    let page = service.metrics();
    let labels: Vec<_> = [
        Some(("http_route", case.template())),
        status.as_deref().map(|status| ("http_response_status_code", status)),
        case.error_type.map(|error| ("error_type", error)),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(page.sum(DURATION_COUNT, &labels), case.samples, "{name}: {labels:?}");
    assert_eq!(page.sum(DURATION_COUNT, &[]), case.samples, "{name}");
    assert_eq!(page.sum("http_server_active_requests", &[]), 0.0, "{name}");
    if case.error_type.is_none() {
        let mut samples = page.named(DURATION_COUNT);
        assert!(samples.all(|sample| !sample.labels.contains_key("error_type")), "{name}");
    }

    let span_name = match case.template() {
        "unmatched" => case.method.to_owned(),
        template => format!("{} {template}", case.method),
    };
    assert_eq!(span.name, span_name);
    assert_eq!(span.attributes["network.protocol.version"], version, "{name}");
    assert_eq!(span.status, case.span_status, "{name}");
    let span_error = case.error_type.filter(|error| *error != "canceled");
    let error_type = span.attributes.get("error.type").and_then(|value| value.as_str());
    assert_eq!(error_type, span_error, "{name}");

    let span_seconds = span.duration_ns as f64 / 1e9;
    let seconds = if case.samples > 0.0 { page.sum(DURATION_SUM, &[]) } else { span_seconds };
    assert!((span_seconds - seconds).abs() < 1e-8, "{name}: span {span_seconds}, metric {seconds}");
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

/// The trace of a request is the current one while its body is polled.
#[test]
fn body_is_polled_in_trace() {
    let service = start_service(&OtlpCollector::start());
    let response = service.get("/current-trace");
    assert_eq!(response.text(), response.trace_id().repeat(2));
}

/// Fields that a handler records are on the span and on the log line, with their last values.
#[test]
fn recorded_field_reaches_span_and_line() {
    let collector = OtlpCollector::start();
    let service = start_service(&collector);
    let response = service.get("/recorded");
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!((&line["user.id"], &line["user.name"]), ("7", "a b"));
    let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
    assert_eq!(span.attributes["user.id"], 7);
    assert_eq!(span.attributes["user.name"], "a b");
}
