use super::*;

const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn parent(value: &str) -> Option<SpanContext> {
    let cx = extract(&headers(&[("traceparent", value)]))?;
    Some(cx.span().span_context().clone())
}

/// Returns the headers that are sent if these are received.
fn propagate(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut outgoing = HeaderMap::new();
    inject(&extract(&headers(pairs)).unwrap(), &mut outgoing);
    outgoing
}

fn state(values: &[&str]) -> String {
    let mut pairs = vec![("traceparent", VALID)];
    pairs.extend(values.iter().map(|value| ("tracestate", *value)));
    let outgoing = propagate(&pairs);
    outgoing.get(TRACESTATE).map_or("", |state| state.to_str().unwrap()).to_owned()
}

#[test]
fn headers_round_trip() {
    let incoming = headers(&[("traceparent", VALID), ("tracestate", "a=1,b@c=2")]);
    let cx = extract(&incoming).unwrap();
    let span = cx.span().span_context().clone();
    assert!(span.is_remote() && span.is_sampled());
    let mut outgoing = headers(&[("tracestate", "stale=1")]);
    inject(&cx, &mut outgoing);
    assert_eq!(outgoing, incoming);
}

#[test]
fn invalid_span_is_not_injected() {
    let mut outgoing = headers(&[("traceparent", VALID)]);
    inject(&Context::new(), &mut outgoing);
    assert!(outgoing.is_empty());
}

#[test]
fn malformed_traceparent_is_rejected() {
    for value in [
        "",
        "garbage",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x",
    ] {
        assert!(parent(value).is_none(), "{value:?} was accepted");
    }
}

#[test]
fn duplicate_traceparent_is_rejected() {
    assert!(extract(&headers(&[("traceparent", VALID), ("traceparent", VALID)])).is_none());
}

#[test]
fn future_versions_are_accepted() {
    for value in [
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like",
    ] {
        assert_eq!(propagate(&[("traceparent", value)])[TRACEPARENT], VALID);
    }
}

#[test]
fn unknown_flags_are_cleared() {
    for (flags, sent) in
        [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("fc", "00"), ("ff", "03")]
    {
        let incoming = VALID.replace("-01", &format!("-{flags}"));
        let outgoing = propagate(&[("traceparent", &incoming)]);
        assert_eq!(outgoing[TRACEPARENT], VALID.replace("-01", &format!("-{sent}")));
    }
}

#[test]
fn unrecorded_span_keeps_remote_context() {
    let long_key = format!("a=1,t@{}=2", "v".repeat(14));
    let random = VALID.replace("-01", "-02");
    let cx = extract(&headers(&[("traceparent", &random), ("tracestate", &long_key)])).unwrap();
    let trace_id = cx.span().span_context().trace_id();
    for (trace_id, flags, state) in
        [(trace_id, "02", Some(long_key.as_str())), (TraceId::from(1), "02", None)]
    {
        // As the SDK makes a span that it does not record.
        let flags_of_span = TraceFlags::default();
        let span = SpanContext::new(trace_id, 2.into(), flags_of_span, false, TraceState::NONE);
        let mut outgoing = HeaderMap::new();
        inject(&cx.with_remote_span_context(span), &mut outgoing);
        let sent = outgoing[TRACEPARENT].to_str().unwrap();
        assert_eq!(sent, format!("00-{trace_id}-0000000000000002-{flags}"));
        assert_eq!(outgoing.get(TRACESTATE).map(|state| state.to_str().unwrap()), state);
    }
}

#[test]
fn tracestate_headers_are_joined_in_order() {
    assert_eq!(state(&["a=1, b=2 ,", "", "\tc=3"]), "a=1,b=2,c=3");
    assert_eq!(state(&["0tenant@sys=x y", "k/*_-9=!"]), "0tenant@sys=x y,k/*_-9=!");
}

/// Level 2 permits `@` at any place after the first character.
#[test]
fn level_2_keys_are_accepted() {
    let long_key = format!("{}@=1", "k".repeat(255));
    for member in ["foo@=1", "foo@@bar=1", "1a=1", "a@0b=1", "a@b@c=1", &long_key] {
        assert_eq!(state(&[member]), member);
    }
}

#[test]
fn invalid_member_discards_tracestate() {
    for value in [
        "A=1", "a", "=1", "a=", "a=b=c", "a=\u{e9}", "@a=1", "_a=1", "-a=1", "*a=1", "/a=1",
        "a b=1", "aB=1", "a.b=1",
    ] {
        assert_eq!(state(&["ok=1", value]), "", "{value:?} was accepted");
    }
}

#[test]
fn tracestate_length_limits() {
    let key = |length| format!("{}=1", "k".repeat(length));
    let value = |length| format!("a={}", "v".repeat(length));
    for legal in [key(1), key(256), value(1), value(256)] {
        assert_eq!(state(&["ok=1", &legal]), format!("ok=1,{legal}"));
    }
    for too_long in [key(257), value(257)] {
        assert_eq!(state(&["ok=1", &too_long]), "", "{too_long:?} was accepted");
    }
}

#[test]
fn tracestate_member_limit() {
    let list = |n| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(state(&[&list(32)]), list(32));
    assert_eq!(state(&[&list(33)]), "");
}

#[test]
fn first_duplicate_key_is_kept() {
    assert_eq!(state(&["a=1,b=2", "a=3"]), "a=1,b=2");
}

#[test]
fn propagator_matches_functions() {
    let map = std::collections::HashMap::from([
        ("traceparent".to_owned(), VALID.to_owned()),
        ("tracestate".to_owned(), "a=1".to_owned()),
    ]);
    let cx = TraceContextPropagator.extract(&map);
    let mut out = std::collections::HashMap::new();
    TraceContextPropagator.inject_context(&cx, &mut out);
    assert_eq!(out, map);
}
