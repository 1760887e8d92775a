//! Propagation of W3C Trace Context, the headers `traceparent` and `tracestate`, and of W3C Baggage.
//!
//! The SDK's propagator accepts values that the specification rejects: duplicate headers, short ids,
//! version `0`, flags `1`. Source: <https://www.w3.org/TR/trace-context/>, sections 3.2 and 3.3, and the
//! `random-trace-id` flag of level 2, <https://www.w3.org/TR/trace-context-2/>. The flag of a caller is
//! propagated unchanged, and a trace that starts here has it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::propagation::text_map_propagator::FieldIter;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::BaggagePropagator;

use crate::config::Propagators;
use crate::hex::write_hex;

/// Header with the ids of the trace and the calling span, and the sampled flag.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Header with the state of tracing systems.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Header with key-value pairs of the application (<https://www.w3.org/TR/baggage/>).
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Maximum number of members of a `tracestate` (section 3.3.1.1).
const MAX_MEMBERS: usize = 32;

/// The `random-trace-id` flag (Trace Context Level 2, section 3.2.2.5.2).
pub(crate) const RANDOM: TraceFlags = TraceFlags::new(0x02);

/// Flags that have a meaning. Others must be sent as zero.
const KNOWN_FLAGS: TraceFlags = TraceFlags::new(0x03);

/// Returns a context with the caller's span, or `None` without a valid `traceparent`. The request then
/// starts a new trace, and `tracestate` is ignored (section 3.2.2.5).
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
    let (state, rejected) = match TraceState::from_key_value(members.iter().copied()) {
        Ok(state) => (state, None),
        Err(_) => (TraceState::NONE, Some(format_members(&members))),
    };
    let remote = RemoteContext {
        trace_id: parent.trace_id,
        is_random: parent.flags & RANDOM == RANDOM,
        state: rejected,
    };
    let span = SpanContext::new(parent.trace_id, parent.span_id, parent.flags, true, state);
    let cx = cx.with_remote_span_context(span);
    let replaces_another = cx.get::<RemoteContext>().is_some();
    let is_needed = !remote.is_random || remote.state.is_some() || replaces_another;
    Some(if is_needed { cx.with_value(remote) } else { cx })
}

/// Sets the two headers of a call to the span of `cx`, in place of any that are there.
pub fn inject(cx: &Context, headers: &mut HeaderMap) {
    inject_span(cx.span().span_context(), cx, headers);
}

/// Does the same with a span that is not the one of `cx`.
fn inject_span(span: &SpanContext, cx: &Context, headers: &mut HeaderMap) {
    headers.remove(TRACEPARENT);
    headers.remove(TRACESTATE);
    if !span.is_valid() {
        return;
    }
    let remote = cx.get::<RemoteContext>().filter(|remote| remote.trace_id == span.trace_id());
    let mut flags = span.trace_flags() & KNOWN_FLAGS;
    // A local span has the flag unless its caller lacks it, because the SDK generates trace ids at random.
    if !span.is_remote() && remote.is_none_or(|remote| remote.is_random) {
        flags = flags | RANDOM;
    }
    // The HTTP client clones the headers, and a clone of an owner's bytes allocates nothing.
    let value = Bytes::from_owner(format_traceparent(span, flags));
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(TRACEPARENT, value);
    }
    // Most traces have no state, and an empty header must not be sent (section 3.3.1.2).
    let state = if *span.trace_state() == TraceState::NONE {
        remote.and_then(|remote| HeaderValue::from_str(remote.state.as_ref()?).ok())
    } else {
        HeaderValue::from_str(&span.trace_state().header()).ok()
    };
    if let Some(value) = state.filter(|value| !value.is_empty()) {
        headers.insert(TRACESTATE, value);
    }
}

pub(crate) type BoxPropagator = Box<dyn TextMapPropagator + Send + Sync>;

/// Propagators of `OTEL_PROPAGATORS`, and those that the service has added.
#[derive(Debug)]
pub(crate) struct Propagation {
    selected: Propagators,
    added: Option<AddedPropagators>,
}

impl Propagation {
    pub(crate) fn new(selected: Propagators, added: Vec<BoxPropagator>) -> Self {
        let added = if added.is_empty() {
            None
        } else {
            Some(AddedPropagators(Arc::new(TextMapCompositePropagator::new(added))))
        };
        Self { selected, added }
    }

    /// Returns a context with what the headers hold, or `None` without any.
    pub(crate) fn extract(&self, headers: &HeaderMap) -> Option<Context> {
        let cx = if self.selected.trace_context { extract(headers) } else { None };
        let cx = if self.selected.baggage { extract_baggage(cx, headers) } else { cx };
        match &self.added {
            Some(added) => Some(added.extract_headers(&cx.unwrap_or_default(), headers)),
            None => cx,
        }
    }

    /// Sets the headers of a call to what `cx` holds, with `span` in place of its span if there is one.
    pub(crate) fn inject(&self, span: Option<&SpanContext>, cx: &Context, headers: &mut HeaderMap) {
        if self.selected.trace_context {
            inject_span(span.unwrap_or(cx.span().span_context()), cx, headers);
        }
        if self.selected.baggage && !cx.baggage().is_empty() {
            BaggagePropagator::new().inject_context(cx, &mut HeaderInjector(headers));
        }
        if let Some(added) = &self.added {
            let own = span.map(|span| cx.with_remote_span_context(span.clone()));
            added.inject_context(own.as_ref().unwrap_or(cx), &mut HeaderInjector(headers));
        }
    }

    /// Returns the same as a propagator of OpenTelemetry's API.
    pub(crate) fn text_map_propagator(&self) -> TextMapCompositePropagator {
        let mut parts: Vec<BoxPropagator> = Vec::new();
        if self.selected.trace_context {
            parts.push(Box::new(TraceContextPropagator));
        }
        if self.selected.baggage {
            parts.push(Box::new(BaggagePropagator::new()));
        }
        if let Some(added) = &self.added {
            parts.push(Box::new(added.clone()));
        }
        TextMapCompositePropagator::new(parts)
    }
}

fn extract_baggage(cx: Option<Context>, headers: &HeaderMap) -> Option<Context> {
    if !headers.contains_key(BAGGAGE) {
        return cx;
    }
    // Several headers are one list (RFC 9110, section 5.3).
    let values = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok());
    let list = values.collect::<Vec<_>>().join(",");
    let carrier = HashMap::from([(BAGGAGE.as_str().to_owned(), list)]);
    Some(BaggagePropagator::new().extract_with_context(&cx.unwrap_or_default(), &carrier))
}

/// Propagators of the service, shared with OpenTelemetry's API.
#[derive(Debug, Clone)]
struct AddedPropagators(Arc<TextMapCompositePropagator>);

impl AddedPropagators {
    fn extract_headers(&self, cx: &Context, headers: &HeaderMap) -> Context {
        let extracted = self.extract_with_context(cx, &HeaderExtractor(headers));
        let trace_id = extracted.span().span_context().trace_id();
        if trace_id == cx.span().span_context().trace_id() {
            return extracted;
        }
        // Other headers do not tell whether the trace id is random.
        extracted.with_value(RemoteContext { trace_id, is_random: false, state: None })
    }
}

impl TextMapPropagator for AddedPropagators {
    fn inject_context(&self, cx: &Context, injector: &mut dyn Injector) {
        self.0.inject_context(cx, injector);
    }

    fn extract_with_context(&self, cx: &Context, extractor: &dyn Extractor) -> Context {
        self.0.extract_with_context(cx, extractor)
    }

    fn fields(&self) -> FieldIter<'_> {
        self.0.fields()
    }
}

/// Part of a remote trace context that OpenTelemetry's types cannot hold. Propagated with its trace only.
#[derive(Debug)]
struct RemoteContext {
    trace_id: TraceId,
    /// The SDK clears the flags of a span that it does not record.
    is_random: bool,
    /// Valid `tracestate` that `TraceState` rejects, for example a key with a system id of 14 characters.
    state: Option<String>,
}

/// [`extract`] and [`inject`] as OpenTelemetry's propagator, for libraries that use the global one.
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

/// Parses `version "-" trace-id "-" parent-id "-" trace-flags`, lower-case hex (section 3.2.2).
fn parse_traceparent(value: &[u8]) -> Option<TraceParent> {
    const LENGTH: usize = 55;
    let value = trim(value);
    let (head, rest) = value.split_at_checked(LENGTH)?;
    let version = u8::try_from(hex(&head[..2])?).ok()?;
    let is_tail_valid = match version {
        0xff => false,
        0 => rest.is_empty(),
        // A later version may have more fields after another dash (section 3.2.4).
        _ => rest.is_empty() || rest[0] == b'-',
    };
    let has_dashes = [2, 35, 52].iter().all(|&at| head[at] == b'-');
    if !is_tail_valid || !has_dashes {
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

/// Parses the members of all headers in their order. Returns none if one is invalid or there are more than
/// 32 (section 3.3.1). The first member of a duplicate key is kept.
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

/// Returns `true` for 1 to 256 characters of `a-z 0-9 _ - * / @`, the first a letter or digit (Trace Context
/// Level 2, section 3.3.1.3.1).
fn is_valid_key(key: &[u8]) -> bool {
    let is_valid =
        |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=256).contains(&key.len())
        && matches!(key[0], b'a'..=b'z' | b'0'..=b'9')
        && key.iter().all(is_valid)
}

/// Returns `true` for 1 to 256 printable characters without `,` and `=` whose last is not a space (section
/// 3.3.1.3.2).
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
mod tests;
