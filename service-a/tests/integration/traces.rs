//! Server spans: attributes, parents, sampling and export.

use serde_json::json;
use testkit::Process;
use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};

use crate::service_a;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

#[test]
fn server_span_attributes() {
    let collector = OtlpCollector::start();
    let service = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    let response = Request::new("GET", "/echo?msg=secret")
        .header("User-Agent", "test/1")
        .header("Authorization", "Bearer secret")
        .send(service.address());
    let spans = collector.wait_for_trace(response.trace_id(), 1);
    let span = &spans[0];
    assert_eq!((span.name.as_str(), span.kind, span.status), ("GET /echo", "server", ""));
    assert_eq!(span.parent_span_id, "");
    assert_eq!(
        json!(span.attributes),
        json!({
            "client.address": "127.0.0.1",
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "http.route": "/echo",
            "network.peer.address": "127.0.0.1",
            "network.peer.port": span.attributes["network.peer.port"],
            "network.protocol.version": "1.1",
            "server.address": "localhost",
            "server.port": 80,
            "url.path": "/echo",
            "url.scheme": "http",
            "user_agent.original": "test/1",
        })
    );
    assert!(!format!("{:?}", collector.exports()).contains("secret"));
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!(&line["span_id"], span.span_id);
}

#[test]
fn span_name_fallbacks() {
    let collector = OtlpCollector::start();
    let service = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    for (method, target, name) in
        [("GET", "/nowhere", "GET"), ("BREW", "/echo", "HTTP /echo"), ("BREW", "/nowhere", "HTTP")]
    {
        let response = Request::new(method, target).send(service.address());
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        assert_eq!(span.name, name);
        assert_eq!(span.attributes.contains_key("http.route"), target == "/echo");
        let original = span.attributes.get("http.request.method_original");
        assert_eq!(original.is_some_and(|original| original == "BREW"), method == "BREW");
        // The server span of a 4xx response is not an error.
        assert_eq!(span.status, "");
        assert!(!span.attributes.contains_key("error.type"));
    }
}

#[test]
fn only_5xx_sets_span_error() {
    let collector = OtlpCollector::start();
    let service =
        service_a().env("FAULTS_ENABLED", "true").envs(collector.variables(Protocol::Grpc)).serve();
    for (status, is_error) in [(500, true), (503, true), (404, false), (302, false)] {
        service.set_faults(&format!(r#"{{"status":{status}}}"#));
        let response = service.get("/echo");
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        assert_eq!(span.status, if is_error { "error" } else { "" }, "{status}");
        assert_eq!(span.attributes["http.response.status_code"], status);
        let error_type = span.attributes.get("error.type");
        assert_eq!(error_type, is_error.then_some(&json!(status.to_string())));
    }
}

/// The caller's span is the parent, and its `tracestate` headers are joined.
#[test]
fn remote_parent_is_used() {
    let collector = OtlpCollector::start();
    let service = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    let response = Request::new("GET", "/echo")
        .header("traceparent", &traceparent(true))
        .header("tracestate", "a=1,b@c=2")
        .header("tracestate", "d=3")
        .send(service.address());
    assert_eq!(response.trace_id(), TRACE);
    let span = collector.wait_for_trace(TRACE, 1).remove(0);
    assert_eq!(span.parent_span_id, PARENT);
    assert_eq!(span.trace_state, "a=1,b@c=2,d=3");
}

fn started(service: &Process, result: &str) -> f64 {
    let labels = [("otel_span_sampling_result", result)];
    service.metrics().sum("otel_sdk_span_started_total", &labels)
}

/// An unsampled request keeps its trace id, and its span is not exported.
#[test]
fn unsampled_parent_is_propagated() {
    let collector = OtlpCollector::start();
    let service = service_a().envs(collector.variables(Protocol::Grpc)).serve();
    let response = Request::new("GET", "/echo")
        .header("traceparent", &traceparent(false))
        .send(service.address());
    assert_eq!(response.trace_id(), TRACE);
    service.wait_for_access_line(TRACE);
    assert_eq!(started(&service, "RECORD_AND_SAMPLE"), 0.0);
    assert_eq!(started(&service, "DROP"), 1.0);
}

#[test]
fn samplers_follow_specification() {
    for (sampler, arg, parent_sampled, sampled) in [
        ("always_on", "", Some(false), true),
        ("always_off", "", Some(true), false),
        ("traceidratio", "0", None, false),
        ("traceidratio", "1", None, true),
        ("parentbased_always_on", "", None, true),
        ("parentbased_always_on", "", Some(false), false),
        ("parentbased_always_off", "", None, false),
        ("parentbased_always_off", "", Some(true), true),
        ("parentbased_traceidratio", "0", None, false),
        ("parentbased_traceidratio", "0", Some(true), true),
        ("no_such_sampler", "", None, true),
    ] {
        let service = service_a()
            .env("OTEL_TRACES_SAMPLER", sampler)
            .env("OTEL_TRACES_SAMPLER_ARG", arg)
            // Spans are counted only if an endpoint is set. It need not accept connections.
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .serve();
        let mut request = Request::new("GET", "/echo");
        if let Some(sampled) = parent_sampled {
            request = request.header("traceparent", &traceparent(sampled));
        }
        let response = request.send(service.address());
        service.wait_for_access_line(response.trace_id());
        let counts = ["RECORD_AND_SAMPLE", "DROP"].map(|result| started(&service, result));
        let case = format!("{sampler} {arg} {parent_sampled:?}");
        assert_eq!(counts, if sampled { [1.0, 0.0] } else { [0.0, 1.0] }, "{case}");
        assert_eq!(response.trace_id() == TRACE, parent_sampled.is_some(), "{case}");
    }
}

/// Without export, requests still have trace ids and the caller's trace id is kept.
#[test]
fn disabled_sdk_keeps_trace_ids() {
    for (variable, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let collector = OtlpCollector::start();
        let service =
            service_a().envs(collector.variables(Protocol::Grpc)).env(variable, value).serve();
        let first = service.get("/echo").trace_id().to_owned();
        let second = service.get("/echo").trace_id().to_owned();
        assert_ne!(first, second, "{variable}");
        let response = Request::new("GET", "/echo")
            .header("traceparent", &traceparent(true))
            .send(service.address());
        assert_eq!(response.trace_id(), TRACE, "{variable}");
        for trace_id in [&first, &second, TRACE] {
            assert_eq!(service.wait_for_access_line(trace_id)["span_id"].len(), 16, "{variable}");
        }
        // The shutdown would export any remaining spans.
        #[cfg(unix)]
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(collector.spans().len(), 0, "{variable}");
    }
}

#[test]
fn resource_identifies_service() {
    let collector = OtlpCollector::start();
    let resource = |variables: &[(&'static str, &str)]| {
        let service = service_a()
            .envs(collector.variables(Protocol::Grpc))
            .envs(variables.iter().copied())
            .serve();
        let response = service.get("/echo");
        let pid = service.id();
        let resource = collector.wait_for_trace(response.trace_id(), 1).remove(0).resource;
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(resource["process.pid"], pid);
        assert_eq!(resource["telemetry.sdk.language"], "rust");
        resource
    };
    assert_eq!(resource(&[])["service.name"], "service-a");
    let renamed = resource(&[
        ("OTEL_SERVICE_NAME", "echo"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ignored,deployment.environment.name=test"),
    ]);
    assert_eq!(renamed["service.name"], "echo");
    assert_eq!(renamed["deployment.environment.name"], "test");
    let renamed = resource(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=attribute")]);
    assert_eq!(renamed["service.name"], "attribute");
}

#[test]
fn unknown_compression_warns() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let service = service_a()
            .envs(collector.variables(protocol))
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
            .serve();
        collector.wait_for_trace(service.get("/echo").trace_id(), 1);
        service.wait_for_log_line("a warning about the compression", |line| {
            line.get("level") == Some("warn")
                && line.get("msg").is_some_and(|msg| msg.contains("OTEL_EXPORTER_OTLP_COMPRESSION"))
        });
    }
}

#[test]
fn exporter_variables_are_applied() {
    for (protocol, encoding_header) in
        [(Protocol::Grpc, "grpc-encoding"), (Protocol::HttpProtobuf, "content-encoding")]
    {
        let collector = OtlpCollector::start();
        let service = service_a()
            .envs(collector.variables(protocol))
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret%20key")
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .serve();
        collector.wait_for_trace(service.get("/echo").trace_id(), 1);
        let export = &collector.exports()[0];
        assert_eq!(export.protocol, protocol);
        assert_eq!(export.headers["x-key"], "secret key");
        assert_eq!(export.headers[encoding_header], "gzip");
        assert!(!service.stdout().iter().any(|line| line.contains("secret key")));
    }
}
