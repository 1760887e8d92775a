//! Spans of a service: which exist, their parents, attributes and flags.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::collections::BTreeSet;

use testkit::http::Request;
use testkit::otlp::{OtlpCollector, Protocol, Span};
use testkit::{FakeServer, ProcessBuilder, Reply, ReservedPort};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn service(collector: &OtlpCollector) -> ProcessBuilder {
    ProcessBuilder::example("spans").envs(collector.variables(Protocol::Grpc))
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    spans.iter().find(|span| span.name == name).expect(name)
}

/// The log filter changes neither the spans nor their parents, attributes and events.
#[test]
fn trace_is_independent_of_log_filter() {
    let mut first = None;
    for filter in ["info", "debug", "trace", "warn", "off", "info,spans=trace", "spans=debug"] {
        let collector = OtlpCollector::start();
        // Without its log, the address of the service is not known.
        let address = ReservedPort::bind().release();
        let service = service(&collector)
            .env("RUST_LOG", filter)
            .env("LISTEN_ADDR", address.to_string())
            .start();
        testkit::wait_until("the service to listen", || {
            std::net::TcpStream::connect(address).is_ok()
        });
        let response = testkit::http::get(address, "/debug-span");
        let spans = collector.wait_for_trace(response.trace_id(), 2);
        assert_eq!(spans[1].parent_span_id, spans[0].span_id, "{filter}");
        assert_eq!(spans[0].attributes["user.id"], 7, "{filter}");
        let trace: Vec<_> = spans
            .into_iter()
            .map(|mut span| {
                span.attributes.remove("network.peer.port");
                (span.name, span.attributes, span.events, span.status)
            })
            .collect();
        assert_eq!(*first.get_or_insert(trace.clone()), trace, "{filter}");
        drop(service);
    }
}

/// Each attribute occurs once with its last value, and no limit drops the outcome.
#[test]
fn attributes_are_unique_and_limited() {
    for (limit, protocol) in [
        (None, Protocol::Grpc),
        (Some(5), Protocol::Grpc),
        (Some(5), Protocol::HttpProtobuf),
        (Some(0), Protocol::Grpc),
    ] {
        let collector = OtlpCollector::start();
        let mut service = ProcessBuilder::example("spans").envs(collector.variables(protocol));
        if let Some(limit) = limit {
            service = service.env("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", limit.to_string());
        }
        let service = service.serve();
        let response = service.get("/attributes");
        // The collector rejects a duplicate key of a span or an event.
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        assert_eq!(span.attributes["http.request.method"], "GET");
        assert_eq!(span.attributes["http.route"], "/custom");
        assert_eq!(span.attributes["http.response.status_code"], 500);
        assert_eq!(span.attributes["error.type"], "500");
        let count = limit.unwrap_or(128).max(4);
        assert_eq!(span.attributes.len(), count);
        if limit.is_none() {
            assert_eq!(span.attributes["progress"], 199);
        }
        // 201 attributes of the handler, and those of the request.
        let set = usize::try_from(span.dropped_attributes).unwrap() + count;
        assert_eq!(set, 201 + 12, "{span:#?}");
        let (name, event) = &span.events[0];
        assert_eq!((name.as_str(), &event["level"]), ("an event", &"INFO".into()));
    }
}

/// Events, links, their attributes and texts are limited.
#[test]
fn span_limits_are_honoured() {
    let collector = OtlpCollector::start();
    let service = service(&collector)
        .env("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "4")
        .env("OTEL_SPAN_EVENT_COUNT_LIMIT", "2")
        .env("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1")
        .env("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
        .serve();
    let response = service.get("/limits");
    let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
    assert_eq!(span.attributes["text"], "äbcd");
    assert_eq!(span.links.len(), 1);
    let event = |name: &str| (name.to_owned(), [("a".to_owned(), "1234".into())].into());
    assert_eq!(span.events, [event("1"), event("2")]);
}

/// A thread and a task that run in the span of a request continue its trace.
#[test]
fn thread_and_task_continue_trace() {
    let target = FakeServer::start(Reply::Json(200, String::new()));
    for disabled in ["false", "true"] {
        let collector = OtlpCollector::start();
        let service = service(&collector).env("OTEL_SDK_DISABLED", disabled).serve();
        let parent = format!("00-{TRACE}-b7ad6b7169203331-03");
        let earlier = target.requests().len();
        let response = Request::new("GET", "/elsewhere")
            .header("traceparent", &parent)
            .header("x-target", &target.url())
            .send(service.address());
        assert_eq!(response.text(), format!("{TRACE} {TRACE}"), "disabled: {disabled}");
        let sent = target.wait_for_request(earlier + 1).headers["traceparent"].clone();
        let line = service.wait_for_message("on a thread");
        assert_eq!(&line["trace_id"], TRACE);
        if disabled == "true" {
            assert_eq!(sent, parent);
        } else {
            let spans = collector.wait_for_trace(TRACE, 2);
            assert_eq!(spans[1].parent_span_id, spans[0].span_id);
            assert_eq!(sent, format!("00-{TRACE}-{}-03", spans[1].span_id));
            assert_eq!(&line["span_id"], spans[0].span_id);
        }
    }
}

/// Spans of OpenTelemetry and of `tracing` are children of the innermost span of either.
#[test]
fn spans_of_both_apis_nest() {
    let collector = OtlpCollector::start();
    let service = service(&collector).serve();
    let response = service.get("/instrumented");
    let spans = collector.wait_for_trace(response.trace_id(), 4);
    let line = service.wait_for_message("in the innermost span");
    let mut parent = "";
    for name in ["GET /instrumented", "instrumented", "opentelemetry", "innermost"] {
        let span = named(&spans, name);
        assert_eq!(span.parent_span_id, parent, "{name}");
        parent = &span.span_id;
    }
    assert_eq!(&line["span_id"], parent);
}

/// Baggage goes on to the calls of a request as it came. `OTEL_PROPAGATORS` selects the headers.
#[test]
fn propagators_select_headers() {
    const BAGGAGE: [&str; 2] = ["user=a%20b,tenant=7", "flag=1"];
    let target = FakeServer::start(Reply::Json(200, String::new()));
    for (list, has_trace, has_baggage, warning) in [
        ("", true, true, None),
        ("tracecontext", true, false, None),
        (
            "baggage,b3",
            false,
            true,
            Some("OTEL_PROPAGATORS: ignoring b3; expected tracecontext, baggage or none"),
        ),
        ("none", false, false, None),
    ] {
        let collector = OtlpCollector::start();
        let service = service(&collector).env("OTEL_PROPAGATORS", list).serve();
        let earlier = target.requests().len();
        let response = Request::new("GET", "/elsewhere")
            .header("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-03"))
            .header("baggage", BAGGAGE[0])
            .header("baggage", BAGGAGE[1])
            .header("x-target", &target.url())
            .send(service.address());
        let sent = target.wait_for_request(earlier + 1).headers;
        assert_eq!(sent.contains_key("traceparent"), has_trace, "{list}");
        assert_eq!(response.trace_id() == TRACE, has_trace, "{list}");
        let baggage = sent.get("baggage").map(|list| list.split(',').collect::<BTreeSet<_>>());
        let expected = BTreeSet::from(["user=a%20b", "tenant=7", "flag=1"]);
        assert_eq!(baggage, has_baggage.then_some(expected), "{list}");
        if let Some(warning) = warning {
            service.wait_for_message(warning);
        }
    }
}

/// A propagator that the service adds continues the trace of its header, beside those of `OTEL_PROPAGATORS`.
/// Its header does not tell whether the trace id is random.
#[test]
fn added_propagator_continues_trace() {
    let target = FakeServer::start(Reply::Json(200, String::new()));
    for (list, has_trace) in [("", true), ("none", false)] {
        let collector = OtlpCollector::start();
        let service =
            service(&collector).env("OTEL_PROPAGATORS", list).env("OWN_PROPAGATOR", "1").serve();
        let earlier = target.requests().len();
        let response = Request::new("GET", "/elsewhere")
            .header("x-ids", &format!("{TRACE}:b7ad6b7169203331"))
            .header("x-target", &target.url())
            .send(service.address());
        assert_eq!(response.trace_id(), TRACE);
        let spans = collector.wait_for_trace(TRACE, 2);
        assert_eq!(named(&spans, "GET /elsewhere").parent_span_id, "b7ad6b7169203331");
        let sent = target.wait_for_request(earlier + 1).headers;
        let call = &named(&spans, "GET").span_id;
        assert_eq!(sent["x-ids"], format!("{TRACE}:{call}"));
        let traceparent = has_trace.then(|| format!("00-{TRACE}-{call}-01"));
        assert_eq!(sent.get("traceparent"), traceparent.as_ref());
        // Without the header, the trace is that of `traceparent`.
        let other = TRACE.replace('a', "b");
        let response = Request::new("GET", "/any")
            .header("traceparent", &format!("00-{other}-b7ad6b7169203331-01"))
            .send(service.address());
        assert_eq!(response.trace_id() == other, has_trace);
    }
}

/// A trace that starts here has the flag `random-trace-id`. The trace of a caller keeps the caller's flag.
#[test]
fn random_flag_is_set_and_kept() {
    let target = FakeServer::start(Reply::Json(200, String::new()));
    for (variable, value) in [
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_SDK_DISABLED", "true"),
    ] {
        let collector = OtlpCollector::start();
        let service = service(&collector).env(variable, value).serve();
        for caller in [None, Some("00"), Some("01"), Some("02"), Some("03")] {
            let random = caller.is_none_or(|flags| flags >= "02");
            let earlier = target.requests().len();
            let mut request = Request::new("GET", "/elsewhere").header("x-target", &target.url());
            if let Some(flags) = caller {
                let trace = format!("{TRACE:.31}{}", &flags[1..]);
                let parent = format!("00-{trace}-b7ad6b7169203331-{flags}");
                request = request.header("traceparent", &parent);
            }
            request.send(service.address());
            let sent = target.wait_for_request(earlier + 1).headers["traceparent"].clone();
            let flags = u8::from_str_radix(&sent[53..55], 16).unwrap();
            assert_eq!(flags & 2 == 2, random, "{value}: {caller:?} sends {sent}");
        }
    }
}

/// The variable replaces the default list, and the methods are case-sensitive.
#[test]
fn known_methods_are_configurable() {
    let collector = OtlpCollector::start();
    let service =
        service(&collector).env("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "GET,PURGE").serve();
    for (method, known) in [("GET", true), ("PURGE", true), ("POST", false), ("purge", false)] {
        let response = Request::new(method, "/any").send(service.address());
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        let original = span.attributes.get("http.request.method_original");
        if known {
            assert_eq!(span.name, format!("{method} /any"));
            assert_eq!((&span.attributes["http.request.method"], original), (&method.into(), None));
        } else {
            assert_eq!(span.name, "HTTP /any");
            assert_eq!(span.attributes["http.request.method"], "_OTHER");
            assert_eq!(original.unwrap(), method);
        }
    }
    let page = service.metrics();
    let count = |method| {
        let labels = [("http_request_method", method), ("http_route", "/any")];
        page.sum("http_server_request_duration_seconds_count", &labels)
    };
    assert_eq!([count("GET"), count("PURGE"), count("_OTHER")], [1.0, 1.0, 2.0]);
}

/// The response to HEAD has no body, even if the method is not known.
#[test]
fn unknown_head_ends_with_its_head() {
    let collector = OtlpCollector::start();
    let service = service(&collector).env("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "GET").serve();
    let response = Request::new("HEAD", "/any").send(service.address());
    let line = service.wait_for_access_line(response.trace_id());
    assert_eq!((&line["status"], &line["method"]), ("ok", "_OTHER"));
}

/// Both encodings have version and schema URL of the scope.
#[test]
fn scope_has_version_and_schema() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let collector = OtlpCollector::start();
        let service = ProcessBuilder::example("spans").envs(collector.variables(protocol)).serve();
        let response = service.get("/any");
        let span = collector.wait_for_trace(response.trace_id(), 1).remove(0);
        let (name, version, schema_url) = &span.scope;
        assert_eq!((name.as_str(), version.as_str()), ("observability", env!("CARGO_PKG_VERSION")));
        assert!(schema_url.starts_with("https://opentelemetry.io/schemas/1."), "{schema_url}");
    }
}
