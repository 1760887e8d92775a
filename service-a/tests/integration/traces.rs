//! The server span: what it says, whose child it is, and where it is sent.

use serde_json::json;
use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};

use crate::{service_a, set_faults};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-0{}", u8::from(sampled))
}

#[test]
fn server_span_attributes() {
    let backend = OtlpCollector::start();
    let service = service_a().envs(backend.variables(Protocol::Grpc)).serve();
    let answer = Request::new("GET", "/echo?msg=secret")
        .header("User-Agent", "test/1")
        .header("Authorization", "Bearer secret")
        .send(service.address());
    let spans = backend.wait_for_trace(answer.trace_id(), 1);
    let span = &spans[0];
    assert_eq!((span.name.as_str(), span.kind, span.status), ("GET /echo", "server", ""));
    assert_eq!(span.parent_span_id, "");
    assert_eq!(
        json!(span.attributes),
        json!({
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "http.route": "/echo",
            "network.protocol.version": "1.1",
            "url.path": "/echo",
            "url.scheme": "http",
            "user_agent.original": "test/1",
        })
    );
    assert!(!format!("{:?}", backend.exports()).contains("secret"));
    let line = service.wait_for_access(answer.trace_id());
    assert_eq!(&line["span_id"], span.span_id);
}

#[test]
fn span_name_fallbacks() {
    let backend = OtlpCollector::start();
    let service = service_a().envs(backend.variables(Protocol::Grpc)).serve();
    for (method, target, name) in
        [("GET", "/nowhere", "GET"), ("BREW", "/echo", "HTTP /echo"), ("BREW", "/nowhere", "HTTP")]
    {
        let answer = Request::new(method, target).send(service.address());
        let span = backend.wait_for_trace(answer.trace_id(), 1).remove(0);
        assert_eq!(span.name, name);
        assert_eq!(span.attributes.contains_key("http.route"), target == "/echo");
        let original = span.attributes.get("http.request.method_original");
        assert_eq!(original.is_some_and(|original| original == "BREW"), method == "BREW");
        // A client's mistake is no error of the server's.
        assert_eq!(span.status, "");
        assert!(!span.attributes.contains_key("error.type"));
    }
}

#[test]
fn a_5xx_is_an_error_and_a_4xx_is_not() {
    let backend = OtlpCollector::start();
    let service =
        service_a().env("FAULTS_ENABLED", "true").envs(backend.variables(Protocol::Grpc)).serve();
    for (status, error) in [(500, true), (503, true), (404, false), (302, false)] {
        set_faults(&service, &format!(r#"{{"status":{status}}}"#));
        let answer = service.get("/echo");
        let span = backend.wait_for_trace(answer.trace_id(), 1).remove(0);
        assert_eq!(span.status, if error { "error" } else { "" }, "{status}");
        assert_eq!(span.attributes["http.response.status_code"], status);
        let error_type = span.attributes.get("error.type");
        assert_eq!(error_type, error.then_some(&json!(status.to_string())));
    }
}

#[test]
fn remote_parent_is_used() {
    let backend = OtlpCollector::start();
    let service = service_a().envs(backend.variables(Protocol::Grpc)).serve();
    let answer = Request::new("GET", "/echo")
        .header("traceparent", &traceparent(true))
        .header("tracestate", "a=1,b@c=2")
        .header("tracestate", "d=3")
        .send(service.address());
    assert_eq!(answer.trace_id(), TRACE);
    let span = backend.wait_for_trace(TRACE, 1).remove(0);
    assert_eq!(span.parent_span_id, PARENT);
    assert_eq!(span.trace_state, "a=1,b@c=2,d=3");
}

#[test]
fn unsampled_parent_is_propagated() {
    let backend = OtlpCollector::start();
    let service = service_a().envs(backend.variables(Protocol::Grpc)).serve();
    let answer = Request::new("GET", "/echo")
        .header("traceparent", &traceparent(false))
        .send(service.address());
    assert_eq!(answer.trace_id(), TRACE);
    service.wait_for_access(TRACE);
    assert_eq!(service.metrics().value("otel_sdk_span_started_total", &[]), Some(0.0));
}

#[test]
fn samplers_follow_specification() {
    // The sampler, its argument, whether the caller samples, and whether there is a span then.
    for (sampler, arg, caller, sampled) in [
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
            // Nobody is there, but that is enough for spans to be counted.
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
            .serve();
        let mut request = Request::new("GET", "/echo");
        if let Some(sampled) = caller {
            request = request.header("traceparent", &traceparent(sampled));
        }
        let answer = request.send(service.address());
        service.wait_for_access(answer.trace_id());
        let started = service.metrics().value("otel_sdk_span_started_total", &[]);
        let case = format!("{sampler} {arg} {caller:?}");
        assert_eq!(started, Some(f64::from(u8::from(sampled))), "{case}");
        assert_eq!(answer.trace_id() == TRACE, caller.is_some(), "{case}");
    }
}

#[test]
fn disabled_sdk_keeps_trace_ids() {
    for (variable, value) in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        let backend = OtlpCollector::start();
        let service =
            service_a().envs(backend.variables(Protocol::Grpc)).env(variable, value).serve();
        let fresh = service.get("/echo").trace_id().to_owned();
        let other = service.get("/echo").trace_id().to_owned();
        assert_ne!(fresh, other, "{variable}");
        let given = Request::new("GET", "/echo")
            .header("traceparent", &traceparent(true))
            .send(service.address());
        assert_eq!(given.trace_id(), TRACE, "{variable}");
        for trace_id in [&fresh, &other, TRACE] {
            assert_eq!(service.wait_for_access(trace_id)["span_id"].len(), 16, "{variable}");
        }
        // Whatever there is would be sent at the end.
        #[cfg(unix)]
        assert_eq!(service.stop().code, Some(0));
        assert_eq!(backend.spans().len(), 0, "{variable}");
    }
}

#[test]
fn spans_say_which_service_they_are_of() {
    let backend = OtlpCollector::start();
    let resource = |variables: &[(&'static str, &str)]| {
        let service = service_a()
            .envs(backend.variables(Protocol::Grpc))
            .envs(variables.iter().copied())
            .serve();
        let answer = service.get("/echo");
        let pid = service.id();
        let resource = backend.wait_for_trace(answer.trace_id(), 1).remove(0).resource;
        assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(resource["process.pid"], pid);
        assert_eq!(resource["telemetry.sdk.language"], "rust");
        resource
    };
    assert_eq!(resource(&[])["service.name"], "service-a");
    let named = resource(&[
        ("OTEL_SERVICE_NAME", "echo"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ignored,deployment.environment.name=test"),
    ]);
    assert_eq!(named["service.name"], "echo");
    assert_eq!(named["deployment.environment.name"], "test");
    let by_attribute = resource(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=attribute")]);
    assert_eq!(by_attribute["service.name"], "attribute");
}

#[test]
fn unknown_compression_warns() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let backend = OtlpCollector::start();
        let service = service_a()
            .envs(backend.variables(protocol))
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli")
            .serve();
        backend.wait_for_trace(service.get("/echo").trace_id(), 1);
        service.wait_for_line("the warning", |line| {
            line.get("level") == Some("warn")
                && line.get("msg").is_some_and(|msg| msg.contains("OTEL_EXPORTER_OTLP_COMPRESSION"))
        });
    }
}

#[test]
fn spans_are_sent_as_the_variables_say() {
    for (protocol, encoding_header) in
        [(Protocol::Grpc, "grpc-encoding"), (Protocol::HttpProtobuf, "content-encoding")]
    {
        let backend = OtlpCollector::start();
        let service = service_a()
            .envs(backend.variables(protocol))
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret%20key")
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .serve();
        backend.wait_for_trace(service.get("/echo").trace_id(), 1);
        let export = &backend.exports()[0];
        assert_eq!(export.protocol, protocol);
        assert_eq!(export.headers["x-key"], "secret key");
        assert_eq!(export.headers.get(encoding_header).map(String::as_str), Some("gzip"));
        assert!(!service.stdout().iter().any(|line| line.contains("secret key")));
    }
}
