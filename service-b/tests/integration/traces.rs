//! Client spans and the trace context that service A receives.

use serde_json::json;
use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol};
use testkit::{FakeServer, Reply};

use crate::service_b;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[test]
fn client_span_attributes() {
    let collector = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).envs(collector.variables(Protocol::Grpc)).serve();
    let response = service.get("/call-echo?msg=secret");
    let spans = collector.wait_for_trace(response.trace_id(), 2);
    let client = &spans[1];
    assert_eq!((client.name.as_str(), client.kind, client.status), ("GET", "client", ""));
    assert_eq!(client.service(), "service-b");
    assert_eq!(
        json!(client.attributes),
        json!({
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "server.address": service_a.address().ip().to_string(),
            "server.port": service_a.address().port(),
            "url.full": format!("{}/echo", service_a.url()),
        })
    );
    assert!(!format!("{spans:?}").contains("secret"));
}

/// The client span is the child of the server span of service B and the parent that service A receives.
#[test]
fn client_span_parents_upstream_span() {
    let collector = OtlpCollector::start();
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).envs(collector.variables(Protocol::Grpc)).serve();
    let response = service.get("/call-echo?msg=hello");
    let spans = collector.wait_for_trace(response.trace_id(), 2);
    let [server, client] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!(
        (server.name.as_str(), server.kind, server.status),
        ("GET /call-echo", "server", "")
    );
    assert_eq!(server.service(), "service-b");
    assert_eq!(server.parent_span_id, "");
    assert_eq!(client.parent_span_id, server.span_id);
    let request = service_a.wait_for_request(1);
    let traceparent = format!("00-{}-{}-03", client.trace_id, client.span_id);
    assert_eq!(request.headers["traceparent"], traceparent);
    assert_eq!(request.headers.get("tracestate"), None);
}

#[test]
fn remote_context_is_propagated() {
    for (sampled, variables) in [
        (true, &[][..]),
        (false, &[]),
        // The context is propagated even if no spans are recorded.
        (true, &[("OTEL_SDK_DISABLED", "true")]),
        (false, &[("OTEL_SDK_DISABLED", "true")]),
        (true, &[("OTEL_TRACES_EXPORTER", "none")]),
        (true, &[("RUST_LOG", "off,access=info,observability=info")]),
    ] {
        let service_a = FakeServer::start(Reply::echo("hello"));
        let service = service_b(service_a.url()).envs(variables.iter().copied()).serve();
        let flags = if sampled { "01" } else { "00" };
        let response = Request::new("GET", "/call-echo?msg=hello")
            .header("traceparent", &format!("00-{TRACE}-{PARENT}-{flags}"))
            .header("tracestate", "a=1,b@c=2")
            .header("tracestate", "d=3")
            .send(service.address());
        let case = format!("{sampled} {variables:?}");
        assert_eq!(response.trace_id(), TRACE, "{case}");
        let headers = service_a.wait_for_request(1).headers;
        let traceparent: Vec<_> = headers["traceparent"].split('-').collect();
        let [version, trace_id, _, sent_flags] = traceparent.as_slice() else {
            panic!("{headers:?}")
        };
        assert_eq!((*version, *trace_id, *sent_flags), ("00", TRACE, flags), "{case}");
        assert_eq!(headers["tracestate"], "a=1,b@c=2,d=3", "{case}");
    }
}

/// A new trace is propagated even if its spans are not recorded.
#[test]
fn unrecorded_trace_is_propagated() {
    for variables in
        [&[][..], &[("OTEL_SDK_DISABLED", "true")], &[("OTEL_TRACES_SAMPLER", "always_off")]]
    {
        let service_a = FakeServer::start(Reply::echo("hello"));
        let service = service_b(service_a.url()).envs(variables.iter().copied()).serve();
        let response = service.get("/call-echo?msg=hello");
        let headers = service_a.wait_for_request(1).headers;
        let traceparent: Vec<_> = headers["traceparent"].split('-').collect();
        assert_eq!(traceparent[1], response.trace_id(), "{variables:?}");
        assert_eq!(traceparent[3], if variables.is_empty() { "03" } else { "02" });
    }
}

#[test]
fn other_headers_are_not_forwarded() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    Request::new("GET", "/call-echo?msg=hello")
        .header("Authorization", "Bearer secret")
        .header("Cookie", "secret")
        .header("X-Secret", "secret")
        .send(service.address());
    let request = service_a.wait_for_request(1);
    assert!(!format!("{request:?}").contains("secret"), "{request:?}");
}

#[test]
fn invalid_traceparent_is_not_propagated() {
    let service_a = FakeServer::start(Reply::echo("hello"));
    let service = service_b(service_a.url()).serve();
    for (number, value) in
        ["garbage", "00-1-2-3", &format!("00-{TRACE}-{PARENT}-1")].into_iter().enumerate()
    {
        let response = Request::new("GET", "/call-echo?msg=hello")
            .header("traceparent", value)
            .header("tracestate", "a=1")
            .send(service.address());
        assert_eq!(response.status, 200, "{value}");
        let headers = service_a.wait_for_request(number + 1).headers;
        assert!(headers["traceparent"].contains(response.trace_id()), "{value}");
        assert_ne!(response.trace_id(), TRACE, "{value}");
        assert_eq!(headers.get("tracestate"), None, "{value}");
    }
}
