//! W3C Trace Context level 2: property tests of extraction and injection, and tests of propagation over
//! sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use http::{HeaderMap, HeaderValue};
use observability::traces::propagation::{TRACEPARENT, TRACESTATE, extract, inject};
use opentelemetry::trace::TraceContextExt;
use proptest::prelude::*;

fn headers(parents: &[Vec<u8>], states: &[Vec<u8>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
        for value in values {
            // hyper rejects invalid header values before they reach the parser.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(&name, value);
            }
        }
    }
    headers
}

/// Checks the grammar of section 3.2.2, independently of the parser under test.
fn is_traceparent(value: &str) -> bool {
    let value = value.trim_matches([' ', '\t']);
    let parts: Vec<&str> = value.splitn(5, '-').collect();
    let hex = |text: &str, length: usize| {
        text.len() == length && text.chars().all(|c| "0123456789abcdef".contains(c))
    };
    let [version, trace, span, flags, rest @ ..] = parts.as_slice() else { return false };
    let ids = hex(trace, 32) && hex(span, 16) && hex(flags, 2) && hex(version, 2);
    let nonzero = |id: &str| id.contains(|c| c != '0');
    ids && nonzero(trace)
        && nonzero(span)
        && *version != "ff"
        && (rest.is_empty() || *version != "00")
}

/// Generates valid and almost valid values of `traceparent`.
fn near_traceparent() -> impl Strategy<Value = Vec<u8>> {
    let valid = "(00|01|cc|ff)-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}";
    prop_oneof![
        3 => valid.prop_map(String::into_bytes),
        1 => "00-0{32}-[0-9a-f]{16}-01|00-[0-9a-f]{32}-0{16}-01".prop_map(String::into_bytes),
        1 => "(00|01|cc|ff|0|000|F0)[-_][0-9a-fA-F]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-.{0,4})?"
            .prop_map(String::into_bytes),
        // A valid value with one byte replaced.
        3 => (valid, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(value, index, byte)| {
            let mut value = value.into_bytes();
            let index = index.index(value.len());
            value[index] = byte;
            value
        }),
        // A valid value with a prefix or suffix.
        2 => (" ?", valid, "-|-[a-z-]{0,3}|[.,;a0 \t]").prop_map(|(before, value, after)| {
            format!("{before}{value}{after}").into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

/// Generates valid and invalid values of `tracestate`.
fn near_tracestate() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => "([a-z][a-z0-9]{0,3}(@[a-z]{1,14})?=[!-+.-<>-~]{1,5}[ \t]{0,1},?){0,40}"
            .prop_map(String::into_bytes),
        1 => "([a-zA-Z0-9@=, ]{0,3}){0,10}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A `traceparent` is accepted if and only if the grammar allows it.
    #[test]
    fn traceparent_matches_grammar(value in near_traceparent()) {
        let headers = headers(std::slice::from_ref(&value), &[]);
        let Some(value) = headers.get(TRACEPARENT) else { return Ok(()) };
        let is_valid = value.to_str().is_ok_and(is_traceparent);
        prop_assert_eq!(extract(&headers).is_some(), is_valid, "{:?}", value);
    }

    /// An accepted context is sent on, and the receiver extracts the same context.
    #[test]
    fn propagation_round_trip(
        parents in prop::collection::vec(near_traceparent(), 0..3),
        states in prop::collection::vec(near_tracestate(), 0..4),
    ) {
        let incoming = headers(&parents, &states);
        let extracted = extract(&incoming);
        if incoming.get_all(TRACEPARENT).iter().count() != 1 {
            prop_assert!(extracted.is_none());
        }
        let Some(extracted) = extracted else { return Ok(()) };
        let span = extracted.span().span_context().clone();
        prop_assert!(span.is_valid() && span.is_remote());
        let mut outgoing = HeaderMap::new();
        inject(&extracted, &mut outgoing);
        prop_assert_eq!(outgoing.get_all(TRACEPARENT).iter().count(), 1);
        let flags = |headers: &HeaderMap| {
            let value = headers[TRACEPARENT].to_str().unwrap().trim();
            u8::from_str_radix(&value[53..55], 16).unwrap()
        };
        prop_assert!(outgoing[TRACEPARENT].to_str().is_ok_and(|value| value.starts_with("00-")));
        prop_assert_eq!(flags(&outgoing), flags(&incoming) & 0b11);
        if let Some(state) = outgoing.get(TRACESTATE) {
            let state = state.to_str().unwrap();
            prop_assert!((1..=32).contains(&state.split(',').count()), "{}", state);
            // Every member was received.
            let received: Vec<u8> = states.join(&b',');
            let received = String::from_utf8_lossy(&received);
            for member in state.split(',') {
                prop_assert!(received.contains(member.trim_end()), "{member:?} of {received:?}");
            }
        }
        let again = extract(&outgoing).unwrap();
        prop_assert_eq!(again.span().span_context().clone(), span);
        let mut injected_again = HeaderMap::new();
        inject(&again, &mut injected_again);
        prop_assert_eq!(injected_again, outgoing);
    }
}

#[cfg(unix)]
mod over_sockets {
    use super::*;
    use serde_json::json;
    use testkit::http::Request;
    use testkit::{FakeServer, Process, ProcessBuilder, ReceivedRequest, Reply};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn trace_context_harness() -> ProcessBuilder {
        ProcessBuilder::example("trace_context_harness")
    }

    /// Makes the harness call `target` once and returns the request that arrives.
    fn call_through(
        harness: &Process,
        target: &FakeServer,
        headers: &[(&str, &str)],
    ) -> ReceivedRequest {
        let earlier = target.requests().len();
        let calls = json!([{"url": format!("{}/callback", target.url()), "arguments": [1, "two"]}]);
        let mut request = Request::new("POST", "/test")
            .header("Content-Type", "application/json")
            .body(calls.to_string());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(request.send(harness.address()).status, 200);
        let received = target.wait_for_request(earlier + 1);
        assert_eq!(received.line, "POST /callback HTTP/1.1");
        assert_eq!(received.headers["content-type"], "application/json");
        assert_eq!(received.body, br#"[1,"two"]"#);
        received
    }

    #[test]
    fn w3c_harness_propagates_context() {
        let target = FakeServer::start(Reply::Json(200, String::new()));
        let harness = trace_context_harness().serve();
        let valid = format!("00-{TRACE}-b7ad6b7169203331-01");
        let future = format!("cc-{TRACE}-b7ad6b7169203331-01-future-field");
        let propagated = |headers: &[(&str, &str)]| {
            let received = call_through(&harness, &target, headers);
            let parent = received.headers["traceparent"].clone();
            assert!(is_traceparent(&parent) && parent.starts_with("00-"), "{parent}");
            (parent, received.headers.get("tracestate").cloned())
        };
        for parent in [&valid, &future] {
            let (sent, state) = propagated(&[
                ("traceparent", parent),
                ("tracestate", "a=1"),
                ("tracestate", "b=2"),
            ]);
            assert_eq!(&sent[3..35], TRACE, "{parent}");
            // The harness's client span is the parent.
            assert_ne!(&sent[36..52], "b7ad6b7169203331");
            assert_eq!(state.as_deref(), Some("a=1,b=2"));
        }
        let long = (0..33).map(|index| format!("k{index}=v")).collect::<Vec<_>>().join(",");
        for state in ["", long.as_str(), "A=1", "a=1,=2"] {
            let (sent, state) = propagated(&[("traceparent", &valid), ("tracestate", state)]);
            assert_eq!((&sent[3..35], state), (TRACE, None));
        }
        let zero = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let none: &[(&str, &str)] = &[];
        for headers in [
            none,
            &[("traceparent", &valid), ("traceparent", &valid), ("tracestate", "a=1")],
            &[("traceparent", &zero), ("tracestate", "a=1")],
            &[("traceparent", &format!("{valid}-")), ("tracestate", "a=1")],
            &[("tracestate", "a=1")],
        ] {
            let (sent, state) = propagated(headers);
            assert_ne!(&sent[3..35], TRACE, "{headers:?}");
            assert_eq!(state, None, "{headers:?}");
        }
        println!("{} contexts sent over sockets", target.requests().len());
    }

    /// The `random-trace-id` flag (section 3.2.2.5.2) and the complete `tracestate` are propagated whether the
    /// SDK records spans, drops them or is disabled.
    #[test]
    fn context_propagates_for_every_sampler() {
        let target = FakeServer::start(Reply::Json(200, String::new()));
        let state = format!("a=1,{}@{}=2", "t".repeat(241), "s".repeat(14));
        for (variable, value) in [
            ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_SDK_DISABLED", "true"),
        ] {
            let harness = trace_context_harness().env(variable, value).serve();
            for flags in 0..=3 {
                let parent = format!("00-{TRACE}-b7ad6b7169203331-{flags:02x}");
                let headers = [("traceparent", parent.as_str()), ("tracestate", state.as_str())];
                let received = call_through(&harness, &target, &headers);
                let sent = &received.headers["traceparent"];
                assert_eq!(&sent[3..35], TRACE);
                let sent_flags = u8::from_str_radix(&sent[53..55], 16).unwrap();
                assert_eq!(sent_flags & 0b10, flags & 0b10, "{parent} with {variable}={value}");
                assert_eq!(received.headers["tracestate"], state, "{variable}={value}");
            }
        }
    }

    #[test]
    fn harness_calls_in_order() {
        let target = FakeServer::start(Reply::Json(200, String::new()));
        let harness = trace_context_harness().serve();
        let calls: Vec<_> = (0..3)
            .map(|index| json!({"url": format!("{}/{index}", target.url()), "arguments": []}))
            .collect();
        let response = Request::new("POST", "/test")
            .header("Content-Type", "application/json")
            .body(json!(calls).to_string())
            .send(harness.address());
        assert_eq!(response.status, 200);
        let lines: Vec<_> = target.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(lines, ["POST /0 HTTP/1.1", "POST /1 HTTP/1.1", "POST /2 HTTP/1.1"]);
    }
}
