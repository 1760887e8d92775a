//! W3C Trace Context, level 2, held against arbitrary headers and, through the harness that the W3C's
//! own suite drives, over sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use http::{HeaderMap, HeaderValue};
use observability::traces::propagation::{TRACEPARENT, TRACESTATE, extract, inject};
use opentelemetry::trace::TraceContextExt;
use proptest::prelude::*;

fn headers(parents: &[Vec<u8>], states: &[Vec<u8>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
        for value in values {
            // What is no header value at all is refused below us.
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(&name, value);
            }
        }
    }
    headers
}

/// The grammar of section 3.2.2 once more, in other words than the parser's.
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

/// Values that are nearly, or quite, a `traceparent`.
fn near_traceparent() -> impl Strategy<Value = Vec<u8>> {
    let valid = "(00|01|cc|ff)-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}";
    prop_oneof![
        3 => valid.prop_map(String::into_bytes),
        1 => "00-0{32}-[0-9a-f]{16}-01|00-[0-9a-f]{32}-0{16}-01".prop_map(String::into_bytes),
        1 => "(00|01|cc|ff|0|000|F0)[-_][0-9a-fA-F]{30,34}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-.{0,4})?"
            .prop_map(String::into_bytes),
        // One byte of a good one is another.
        3 => (valid, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(value, at, byte)| {
            let mut value = value.into_bytes();
            let at = at.index(value.len());
            value[at] = byte;
            value
        }),
        // A good one with something around it.
        2 => (" ?", valid, "-|-[a-z-]{0,3}|[.,;a0 \t]").prop_map(|(before, value, after)| {
            format!("{before}{value}{after}").into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

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

    #[test]
    fn what_is_taken_is_what_the_grammar_allows(value in near_traceparent()) {
        let headers = headers(std::slice::from_ref(&value), &[]);
        let Some(sent) = headers.get(TRACEPARENT) else { return Ok(()) };
        let legal = sent.to_str().is_ok_and(is_traceparent);
        prop_assert_eq!(extract(&headers).is_some(), legal, "{:?}", sent);
    }

    #[test]
    fn propagation_round_trip(
        parents in prop::collection::vec(near_traceparent(), 0..3),
        states in prop::collection::vec(near_tracestate(), 0..4),
    ) {
        let incoming = headers(&parents, &states);
        let taken = extract(&incoming);
        if incoming.get_all(TRACEPARENT).iter().count() != 1 {
            prop_assert!(taken.is_none());
        }
        let Some(taken) = taken else { return Ok(()) };
        let span = taken.span().span_context().clone();
        prop_assert!(span.is_valid() && span.is_remote());
        let mut outgoing = HeaderMap::new();
        inject(&taken, &mut outgoing);
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
            // Nothing is passed on that did not come.
            let came: Vec<u8> = states.join(&b',');
            let came = String::from_utf8_lossy(&came);
            for member in state.split(',') {
                prop_assert!(came.contains(member.trim_end()), "{member:?} of {came:?}");
            }
        }
        let again = extract(&outgoing).unwrap();
        prop_assert_eq!(again.span().span_context().clone(), span);
        let mut onwards = HeaderMap::new();
        inject(&again, &mut onwards);
        prop_assert_eq!(onwards, outgoing);
    }
}

#[cfg(unix)]
mod over_sockets {
    use super::*;
    use serde_json::json;
    use testkit::http::Request;
    use testkit::{FakeServer, Process, ProcessBuilder, ReceivedRequest, Reply};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    /// Has the harness call `target` once, and gives what arrived there.
    fn drive(harness: &Process, target: &FakeServer, headers: &[(&str, &str)]) -> ReceivedRequest {
        let already = target.requests().len();
        let calls = json!([{"url": format!("{}/callback", target.url()), "arguments": [1, "two"]}]);
        let mut request = Request::new("POST", "/test")
            .header("Content-Type", "application/json")
            .body(calls.to_string());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        assert_eq!(request.send(harness.address()).status, 200);
        let received = target.wait_for_request(already + 1);
        assert_eq!(received.line, "POST /callback HTTP/1.1");
        assert_eq!(received.headers["content-type"], "application/json");
        assert_eq!(received.body, br#"[1,"two"]"#);
        received
    }

    #[test]
    fn w3c_harness_propagates_context() {
        let target = FakeServer::start(Reply::Json(200, String::new()));
        let harness = ProcessBuilder::example("trace_context_harness").serve();
        let valid = format!("00-{TRACE}-b7ad6b7169203331-01");
        let future = format!("cc-{TRACE}-b7ad6b7169203331-01-what-may-come");
        let passed_on = |headers: &[(&str, &str)]| {
            let received = drive(&harness, &target, headers);
            let parent = received.headers["traceparent"].clone();
            assert!(is_traceparent(&parent) && parent.starts_with("00-"), "{parent}");
            (parent, received.headers.get("tracestate").cloned())
        };
        for parent in [&valid, &future] {
            let (sent, state) =
                passed_on(&[("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")]);
            assert_eq!(&sent[3..35], TRACE, "{parent}");
            // The call is a span of its own.
            assert_ne!(&sent[36..52], "b7ad6b7169203331");
            assert_eq!(state.as_deref(), Some("a=1,b=2"));
        }
        let long = (0..33).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        for state in ["", long.as_str(), "A=1", "a=1,=2"] {
            let (sent, state) = passed_on(&[("traceparent", &valid), ("tracestate", state)]);
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
            let (sent, state) = passed_on(headers);
            assert_ne!(&sent[3..35], TRACE, "{headers:?}");
            assert_eq!(state, None, "{headers:?}");
        }
        println!("{} contexts over sockets", target.requests().len());
    }

    /// The flag of level 2 (section 3.2.2.5.2) and whole `tracestate`s, whether the SDK records the
    /// request's spans, drops them or is switched off.
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
            let harness =
                ProcessBuilder::example("trace_context_harness").env(variable, value).serve();
            for flags in 0..=3 {
                let parent = format!("00-{TRACE}-b7ad6b7169203331-{flags:02x}");
                let headers = [("traceparent", parent.as_str()), ("tracestate", state.as_str())];
                let received = drive(&harness, &target, &headers);
                let sent = &received.headers["traceparent"];
                assert_eq!(&sent[3..35], TRACE);
                let sent_flags = u8::from_str_radix(&sent[53..55], 16).unwrap();
                assert_eq!(sent_flags & 0b10, flags & 0b10, "{parent} with {variable}={value}");
                assert_eq!(received.headers["tracestate"], state, "{variable}={value}");
            }
        }
    }

    #[test]
    fn a_list_of_calls_is_made_in_order() {
        let target = FakeServer::start(Reply::Json(200, String::new()));
        let harness = ProcessBuilder::example("trace_context_harness").serve();
        let calls: Vec<_> = (0..3)
            .map(|at| json!({"url": format!("{}/{at}", target.url()), "arguments": []}))
            .collect();
        let answer = Request::new("POST", "/test")
            .header("Content-Type", "application/json")
            .body(json!(calls).to_string())
            .send(harness.address());
        assert_eq!(answer.status, 200);
        let lines: Vec<_> = target.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(lines, ["POST /0 HTTP/1.1", "POST /1 HTTP/1.1", "POST /2 HTTP/1.1"]);
    }
}
