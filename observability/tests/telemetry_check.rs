//! Tests of `--check-telemetry` with wrong settings, each of which the report names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::otlp::{Behavior, OtlpCollector, Protocol};
use testkit::{ProcessBuilder, ReservedPort};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

/// Runs the check and returns its exit code and report.
fn check(variables: &[(&'static str, &str)]) -> (Option<i32>, String) {
    let check = ProcessBuilder::example("hello").arg("--check-telemetry");
    let output = check.envs(variables.iter().copied()).run_to_exit();
    (output.code, output.stdout.join("\n"))
}

/// Runs the check and expects a line that begins with `WRONG`, the check and the problem.
#[track_caller]
fn assert_found(variables: &[(&'static str, &str)], name: &str, problem: &str) {
    let (code, report) = check(variables);
    assert_eq!(code, Some(1), "{report}");
    let line = report.lines().find(|line| line.starts_with(&format!("WRONG  {name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {report}"));
    assert!(line.contains(problem), "{problem} is not in {line}");
}

#[test]
fn correct_setup_passes() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        let url = format!("{}?key=s3cret", collector.url());
        let (code, report) = check(&[
            (ENDPOINT, &url),
            (PROTOCOL, protocol.name()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "77"),
            ("https_proxy", "http://s3cret@h"),
        ]);
        assert_eq!(code, Some(0), "{report}");
        assert!(report.contains(" 77 events with 128 attributes"), "{report}");
        assert!(report.contains("note   https_proxy "), "{report}");
        assert!(!report.contains("s3cret"), "{report}");
        let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["check-telemetry"]);
    }
}

#[test]
fn unreachable_backend_is_found() {
    let port = ReservedPort::bind();
    assert_found(&[(ENDPOINT, &port.url())], "connect", "refused");
    assert_found(&[(ENDPOINT, "http://no-such-host.invalid:4317")], "resolve", "does not resolve");
    assert_found(&[], "export", "no endpoint");
}

#[test]
fn refused_credentials_are_found() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        collector.set_behavior(Behavior::Fail { grpc: 16, http: 401 });
        let variables = [(ENDPOINT, &*collector.url()), (PROTOCOL, protocol.name())];
        assert_found(&variables, "empty export", "refuses the credentials");
    }
}

#[test]
fn wrong_protocol_is_found() {
    for (of_port, of_service) in [(PROTOCOLS[0], PROTOCOLS[1]), (PROTOCOLS[1], PROTOCOLS[0])] {
        let collector = OtlpCollector::start_only(of_port);
        let variables = [(ENDPOINT, &*collector.url()), (PROTOCOL, of_service.name())];
        let problem = format!("the port expects {}", of_port.name());
        assert_found(&variables, "empty export", &problem);
    }
}

#[test]
fn wrong_path_is_found() {
    let collector = OtlpCollector::start_only(Protocol::HttpProtobuf);
    let url = format!("{}/v1/traces", collector.url());
    let variables = [(ENDPOINT, &*url), (PROTOCOL, "http/protobuf")];
    assert_found(&variables, "empty export", "the path is wrong");
}

#[test]
fn rejected_span_is_found() {
    for protocol in PROTOCOLS {
        let collector = OtlpCollector::start();
        collector.set_behavior(Behavior::Reject(1));
        let variables = [(ENDPOINT, &*collector.url()), (PROTOCOL, protocol.name())];
        assert_found(&variables, "test span", "not these");
    }
}

#[test]
fn wrong_settings_are_found() {
    let collector = OtlpCollector::start();
    let url = collector.url();
    let misspelt = "OTEL_EXPORTER_OTLP_ENDPIONT";
    assert_found(&[(misspelt, "http://h")], misspelt, ENDPOINT);
    let sampler = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "half")];
    let variables = [(ENDPOINT, &*url), sampler[0], sampler[1]];
    assert_found(&variables, "OTEL_TRACES_SAMPLER_ARG", "expected a number");
    assert_found(&[(ENDPOINT, &*url), ("RUST_LOG", "off")], "log filter", "hides the warnings");
}

#[cfg(feature = "tls")]
mod tls {
    use testkit::TlsProxy;

    use super::*;

    #[test]
    fn tls_mismatch_is_found() {
        for protocol in PROTOCOLS {
            let collector = OtlpCollector::start();
            let proxy = TlsProxy::start("127.0.0.1", collector.address());
            let found = |url: &str, problem| {
                let variables = [(ENDPOINT, url), (PROTOCOL, protocol.name())];
                assert_found(&variables, "empty export", problem);
            };
            found(&proxy.url().replace("https", "http"), "the port expects TLS");
            found(&collector.url().replace("http", "https"), "the port has no TLS");
            found(&proxy.url(), "is not trusted");
        }
    }
}
