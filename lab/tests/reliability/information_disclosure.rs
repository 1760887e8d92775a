//! Information that responses, logs and metrics disclose.

use testkit::http::{Connection, Request};
use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{FakeServer, Process, Reply, ReservedPort};

use crate::support::{service_a, service_b};

/// Error responses repeat no part of the request and name no software.
#[test]
fn error_responses_disclose_nothing() {
    let service_a = service_a().env("FAULTS_ENABLED", "true").serve();
    let service_b = service_b(service_a.url()).serve();
    let mut responses = 1;
    for service in [&service_a, &service_b] {
        for (method, target, status) in [
            ("GET", "/%3Cscript%3E", 404),
            ("GET", "/marker", 404),
            ("POST", "/echo", 405),
            ("POST", "/call-echo", 405),
            ("POST", "/health", 405),
            ("DELETE", "/metrics", 405),
            ("GET", "/echo?msg=%ffmarker", 400),
            ("GET", "/call-echo?msg=%ffmarker", 400),
            ("GET", "/call-echo", 400),
        ] {
            let response = Request::new(method, target).send(service.address());
            // A service returns 404 for the routes of the other one.
            assert!(response.status == status || response.status == 404, "{response:?}");
            assert!(!response.text().contains("marker"), "{response:?}");
            if response.status != 400 {
                assert_eq!(response.text(), "", "{method} {target}");
            }
            assert_expected_headers(&response);
            responses += 1;
        }
        let mut connection = Connection::open(service.address());
        connection.send(b"marker\r\n\r\n");
        connection.shutdown_write();
        let response = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
        let (headers, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(headers.starts_with("HTTP/1.1 400 ") && body.is_empty(), "{response}");
        assert!(!headers.to_lowercase().contains("server:"), "{response}");
        responses += 1;
    }
    assert_expected_headers(&service_b.get("/call-echo?msg=hello"));
    println!("{responses} of {responses} responses disclose nothing");
}

/// Checks that a response has no headers beyond these.
fn assert_expected_headers(response: &testkit::http::Response) {
    const EXPECTED: [&str; 7] = [
        "allow",
        "content-length",
        "content-type",
        "connection",
        "date",
        "retry-after",
        "x-trace-id",
    ];
    for (name, value) in &response.headers {
        assert!(EXPECTED.contains(&name.as_str()), "{name}: {value}");
    }
}

const SECRET: &str = "hunter2";

/// Checks that the log and the metrics do not contain the secret.
fn assert_no_secret(service: &Process, case: &str) {
    let page = service.get("/metrics");
    let output = [service.stdout().join("\n"), service.stderr().join("\n"), page.text().to_owned()];
    for text in output {
        assert!(!text.contains(SECRET), "{case}: {text}");
    }
}

/// Credentials for the OTLP backend appear in no log, metric, span, error message or help text.
#[test]
fn exporter_credentials_are_redacted() {
    let (mut services, mut lines) = (0, 0);
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let (refusing, hanging) = (ReservedPort::bind(), FakeServer::start(Reply::Stall(vec![])));
        let (healthy, failing) = (OtlpCollector::start(), OtlpCollector::start());
        failing.set_behavior(Behavior::Fail { grpc: 16, http: 401 });
        for (case, endpoint) in [
            ("healthy", healthy.url()),
            ("failing", failing.url()),
            ("refusing", refusing.url()),
            ("hanging", hanging.url()),
        ] {
            let endpoint = endpoint.replace("http://", &format!("http://user:{SECRET}@"));
            let builder = || {
                service_a()
                    .envs(healthy.variables(protocol))
                    .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
                    .env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer {SECRET}"))
                    .env("OTEL_BSP_EXPORT_TIMEOUT", "200")
                    .env("RUST_LOG", "trace")
            };
            let service = builder().serve();
            assert_eq!(service.get("/echo").status, 200);
            if matches!(case, "healthy" | "failing") {
                service.wait_for_metrics("an exported or failed span", |page| {
                    page.sum("otel_sdk_exporter_span_exported_total", &[]) == 1.0
                });
            } else {
                service.wait_for_message("span export failed, retrying");
            }
            assert_no_secret(&service, case);
            let exit = service.stop();
            let output = [exit.stdout, exit.stderr].concat();
            (services, lines) = (services + 1, lines + output.len());
            let output = output.join("\n");
            assert!(!output.contains(SECRET), "{case}: {output}");
            for flag in ["--help", "--version", "--no-such-flag"] {
                let exit = builder().arg(flag).run_to_exit();
                let output = [exit.stdout, exit.stderr].concat().join("\n");
                assert!(!output.contains(SECRET), "{flag}: {output}");
            }
        }
        let exports = healthy.exports();
        assert_eq!(exports[0].headers["authorization"], format!("Bearer {SECRET}"));
        let spans: Vec<_> = exports.into_iter().map(|export| export.spans).collect();
        assert!(!format!("{spans:?}").contains(SECRET));
    }
    println!("{services} services, {lines} log lines without secrets");
    let exit = service_a().env("OTEL_EXPORTER_OTLP_ENDPOINT", SECRET).run_to_exit();
    assert_eq!(exit.code, Some(2));
    assert!(!exit.stderr.join("\n").contains(SECRET), "{exit:?}");
}
