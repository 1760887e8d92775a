//! W3C Trace Context: `traceparent` and `tracestate`, in and out, to the letter.
//!
//! The SDK's own extractor takes values that the specification rejects (duplicates, short ids,
//! version `0`, flags `1`), so reading and writing the two headers is done here.
//! Source: <https://www.w3.org/TR/trace-context/>, sections 3.2 and 3.3, and of level 2
//! (<https://www.w3.org/TR/trace-context-2/>) the flag `random-trace-id`, which goes on as it came.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

/// The header that names the trace, the calling span and whether it is sampled.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what other tracing systems want passed on.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Members a `tracestate` may have at most (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// The trace's id was made at random, says whoever made it (level 2, section 3.2.2.5.2).
const RANDOM: TraceFlags = TraceFlags::new(0x02);

/// The flags that have a meaning; others are to be sent as zero.
const KNOWN_FLAGS: TraceFlags = TraceFlags::new(0x03);

/// The caller's span in a context of its own, or `None` where there is no `traceparent` or it is not a
/// valid one: then the request starts a new trace, and `tracestate` counts for nothing (section 3.2.2.5).
pub fn extract(headers: &HeaderMap) -> Option<Context> {
    extract_into(&Context::new(), headers)
}

fn extract_into(cx: &Context, headers: &HeaderMap) -> Option<Context> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let parent = parse_traceparent(value.as_bytes())?;
    let members = parse_tracestate(headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes));
    let (state, refused) = match TraceState::from_key_value(members.iter().copied()) {
        Ok(state) => (state, None),
        Err(_) => (TraceState::NONE, Some(format_members(&members))),
    };
    let received = RemoteContext {
        trace_id: parent.trace_id,
        is_random: parent.flags & RANDOM == RANDOM,
        state: refused,
    };
    let span = SpanContext::new(parent.trace_id, parent.span_id, parent.flags, true, state);
    let cx = cx.with_remote_span_context(span);
    let takes_place_of_another = cx.get::<RemoteContext>().is_some();
    let is_needed = received.is_random || received.state.is_some() || takes_place_of_another;
    Some(if is_needed { cx.with_value(received) } else { cx })
}

/// Writes the two headers for a call made in `cx`; removes what was there.
pub fn inject(cx: &Context, headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    let span = cx.span();
    let span = span.span_context();
    if !span.is_valid() {
        return;
    }
    let received =
        cx.get::<RemoteContext>().filter(|received| received.trace_id == span.trace_id());
    let mut flags = span.trace_flags() & KNOWN_FLAGS;
    if received.is_some_and(|received| received.is_random) {
        flags = flags | RANDOM;
    }
    if let Ok(value) = HeaderValue::from_bytes(&format_traceparent(span, flags)) {
        headers.insert(TRACEPARENT, value);
    }
    // Most traces carry no state, and an empty header is not to be sent (section 3.3.1.2).
    let state = if *span.trace_state() == TraceState::NONE {
        received.and_then(|received| HeaderValue::from_str(received.state.as_ref()?).ok())
    } else {
        HeaderValue::from_str(&span.trace_state().header()).ok()
    };
    if let Some(value) = state.filter(|value| !value.is_empty()) {
        headers.insert(TRACESTATE, value);
    }
}

/// What came with a trace and would be lost on its way through OpenTelemetry's types. It goes on with
/// that trace only.
#[derive(Debug)]
struct RemoteContext {
    trace_id: TraceId,
    /// The SDK gives a span that it does not record no flags at all.
    is_random: bool,
    /// Legal, but refused by `TraceState`, as a key is whose system id has 14 characters.
    state: Option<String>,
}

/// The same rules behind OpenTelemetry's interface, for libraries that use the global propagator.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceContextPropagator;

impl TextMapPropagator for TraceContextPropagator {
    fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
        let mut headers = HeaderMap::with_capacity(2);
        inject(cx, &mut headers);
        for (name, value) in &headers {
            if let Ok(value) = value.to_str() {
                injector.set(name.as_str(), value.to_owned());
            }
        }
    }

    fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
        let mut headers = HeaderMap::with_capacity(2);
        for name in [TRACEPARENT, TRACESTATE] {
            for value in extractor.get_all(name.as_str()).unwrap_or_default() {
                if let Ok(value) = HeaderValue::from_str(value) {
                    headers.append(name.clone(), value);
                }
            }
        }
        extract_into(cx, &headers).unwrap_or_else(|| cx.clone())
    }

    fn fields(&self) -> FieldIter<'_> {
        static FIELDS: std::sync::LazyLock<[String; 2]> =
            std::sync::LazyLock::new(|| ["traceparent".to_owned(), "tracestate".to_owned()]);
        FieldIter::new(&*FIELDS)
    }
}

struct TraceParent {
    trace_id: TraceId,
    span_id: SpanId,
    flags: TraceFlags,
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, lower-case hex (section 3.2.2).
fn parse_traceparent(value: &[u8]) -> Option<TraceParent> {
    const LENGTH: usize = 55;
    let value = trim(value);
    let (head, rest) = value.split_at_checked(LENGTH)?;
    let version = u8::try_from(hex(&head[..2])?).ok()?;
    let tail_is_legal = match version {
        0xff => false,
        0 => rest.is_empty(),
        // A later version may say more behind another dash (section 3.2.4).
        _ => rest.is_empty() || rest[0] == b'-',
    };
    let dashes = [2, 35, 52].iter().all(|&at| head[at] == b'-');
    if !tail_is_legal || !dashes {
        return None;
    }
    let trace_id = hex(&head[3..35])?;
    let span_id = u64::try_from(hex(&head[36..52])?).ok()?;
    let flags = u8::try_from(hex(&head[53..55])?).ok()?;
    if trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(TraceParent {
        trace_id: TraceId::from(trace_id),
        span_id: SpanId::from(span_id),
        flags: TraceFlags::new(flags) & KNOWN_FLAGS,
    })
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

fn format_traceparent(span: &SpanContext, flags: TraceFlags) -> [u8; 55] {
    let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut value[3..35], &span.trace_id().to_bytes());
    write_hex(&mut value[36..52], &span.span_id().to_bytes());
    write_hex(&mut value[53..55], &[flags.to_u8()]);
    value
}

/// Writes `bytes` as lower-case hex; `to` is twice as long.
pub(crate) fn write_hex(to: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// The two digits of each byte: ids are written up to three times a request.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 0xf]];
        byte += 1;
    }
    pairs
};

/// A list of `key=value`, over all headers in their order. One member that is not legal, or more
/// than 32, and none is taken (section 3.3.1); of a key that comes twice the first is kept.
fn parse_tracestate<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Vec<(&'a str, &'a str)> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    for header in headers {
        for member in header.split(|&byte| byte == b',') {
            let member = trim(member);
            if member.is_empty() {
                continue;
            }
            match parse_member(member) {
                Some(member) if members.len() < MAX_MEMBERS => members.push(member),
                _ => return Vec::new(),
            }
        }
    }
    if members.len() > 1 {
        let mut seen = HashSet::with_capacity(members.len());
        members.retain(|(key, _)| seen.insert(*key));
    }
    members
}

fn format_members(members: &[(&str, &str)]) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}={value}")).collect();
    members.join(",")
}

fn parse_member(member: &[u8]) -> Option<(&str, &str)> {
    let member = std::str::from_utf8(member).ok()?;
    let (key, value) = member.split_once('=')?;
    (is_valid_key(key.as_bytes()) && is_valid_value(value.as_bytes())).then_some((key, value))
}

/// `simple-key`, or `tenant-id "@" system-id` (section 3.3.1.3.1).
fn is_valid_key(key: &[u8]) -> bool {
    let legal = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/'))
    };
    let starts_with_letter = |part: &[u8]| part.first().is_some_and(u8::is_ascii_lowercase);
    match key.iter().position(|&byte| byte == b'@') {
        None => key.len() <= 256 && starts_with_letter(key) && legal(key),
        Some(at) => {
            let (tenant, system) = (&key[..at], &key[at + 1..]);
            (1..=241).contains(&tenant.len())
                && tenant[0].is_ascii_alphanumeric()
                && legal(tenant)
                && system.len() <= 14
                && starts_with_letter(system)
                && legal(system)
        }
    }
}

/// 1 to 256 printable characters without `,` and `=`, the last one no space (section 3.3.1.3.2).
fn is_valid_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len())
        && value.last() != Some(&b' ')
        && value.iter().all(|byte| matches!(byte, 0x20..=0x7e) && !matches!(byte, b',' | b'='))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
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

    /// What goes out again where this comes in.
    fn passed_on(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut outgoing = HeaderMap::new();
        inject(&extract(&headers(pairs)).unwrap(), &mut outgoing);
        outgoing
    }

    fn state(values: &[&str]) -> String {
        let mut pairs = vec![("traceparent", VALID)];
        pairs.extend(values.iter().map(|value| ("tracestate", *value)));
        let outgoing = passed_on(&pairs);
        outgoing.get(TRACESTATE).map_or("", |state| state.to_str().unwrap()).to_owned()
    }

    #[test]
    fn what_comes_in_goes_out() {
        let incoming = headers(&[("traceparent", VALID), ("tracestate", "a=1,b@c=2")]);
        let cx = extract(&incoming).unwrap();
        let span = cx.span().span_context().clone();
        assert!(span.is_remote() && span.is_sampled());
        let mut outgoing = headers(&[("tracestate", "stale=1")]);
        inject(&cx, &mut outgoing);
        assert_eq!(outgoing, incoming);
    }

    #[test]
    fn an_invalid_span_is_not_sent() {
        let mut outgoing = headers(&[("traceparent", VALID)]);
        inject(&Context::new(), &mut outgoing);
        assert!(outgoing.is_empty());
    }

    #[test]
    fn malformed_traceparents_start_a_new_trace() {
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
            assert!(parent(value).is_none(), "{value:?} was taken");
        }
    }

    #[test]
    fn two_traceparents_start_a_new_trace() {
        assert!(extract(&headers(&[("traceparent", VALID), ("traceparent", VALID)])).is_none());
    }

    #[test]
    fn future_versions_are_accepted() {
        for value in [
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-will-be-like",
        ] {
            assert_eq!(passed_on(&[("traceparent", value)])[TRACEPARENT], VALID);
        }
    }

    #[test]
    fn unknown_flags_are_cleared() {
        for (flags, sent) in
            [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("fc", "00"), ("ff", "03")]
        {
            let incoming = VALID.replace("-01", &format!("-{flags}"));
            let outgoing = passed_on(&[("traceparent", &incoming)]);
            assert_eq!(outgoing[TRACEPARENT], VALID.replace("-01", &format!("-{sent}")));
        }
    }

    #[test]
    fn remote_context_propagates_through_unrecorded_span() {
        let long_key = format!("a=1,t@{}=2", "v".repeat(14));
        let random = VALID.replace("-01", "-02");
        let cx = extract(&headers(&[("traceparent", &random), ("tracestate", &long_key)])).unwrap();
        let trace_id = cx.span().span_context().trace_id();
        for (trace_id, flags, state) in
            [(trace_id, "02", Some(long_key.as_str())), (TraceId::from(1), "00", None)]
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

    #[test]
    fn invalid_member_discards_tracestate() {
        for value in [
            "A=1", "0a=1", "a", "=1", "a=", "a=b=c", "a=\u{e9}", "a@=1", "@a=1", "a@b@c=1",
            "a@0b=1", "a b=1", "_a@b=1",
        ] {
            assert_eq!(state(&["ok=1", value]), "", "{value:?} was taken");
        }
    }

    #[test]
    fn tracestate_length_limits() {
        let key = |length| format!("{}=1", "k".repeat(length));
        let value = |length| format!("a={}", "v".repeat(length));
        let keys = |tenant, system| format!("{}@{}=1", "t".repeat(tenant), "s".repeat(system));
        for legal in [key(256), value(256), keys(241, 14), keys(1, 14), keys(241, 1)] {
            assert_eq!(state(&["ok=1", &legal]), format!("ok=1,{legal}"));
        }
        for too_long in [key(257), value(257), keys(242, 1), keys(1, 15)] {
            assert_eq!(state(&["ok=1", &too_long]), "", "{too_long:?} was taken");
        }
    }

    #[test]
    fn tracestate_member_limit() {
        let list = |n| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&[&list(32)]), list(32));
        assert_eq!(state(&[&list(33)]), "");
    }

    #[test]
    fn the_first_of_a_repeated_key_is_kept() {
        assert_eq!(state(&["a=1,b=2", "a=3"]), "a=1,b=2");
    }

    #[test]
    fn the_propagator_keeps_the_same_rules() {
        let map = std::collections::HashMap::from([
            ("traceparent".to_owned(), VALID.to_owned()),
            ("tracestate".to_owned(), "a=1".to_owned()),
        ]);
        let cx = TraceContextPropagator.extract(&map);
        let mut out = std::collections::HashMap::new();
        TraceContextPropagator.inject_context(&cx, &mut out);
        assert_eq!(out, map);
    }
}
