//! Encoder of spans as OTLP protobuf, without intermediate types.
//!
//! The generated types of `opentelemetry-proto` need a `String` for each key and name, some 20 allocations
//! per span. This encoder writes a message in place and inserts its length. Source: opentelemetry-proto,
//! `trace.proto` and `common.proto`. The tests compare it with the generated types.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanContext, SpanId, SpanKind, Status, TraceState};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

/// `SpanFlags.CONTEXT_HAS_IS_REMOTE_MASK`
const HAS_IS_REMOTE: u32 = 0x100;
/// `SpanFlags.CONTEXT_IS_REMOTE_MASK`
const IS_REMOTE: u32 = 0x200;

/// Tag of `KeyValue.key`.
const KEY: u8 = 1 << 3 | Wire::Length as u8;
/// Tag of `KeyValue.value`.
const VALUE: u8 = 2 << 3 | Wire::Length as u8;
/// Tag of `AnyValue.string_value`.
const STRING_VALUE: u8 = 1 << 3 | Wire::Length as u8;

/// Encodes the resource, which is part of each request.
pub(super) fn resource(resource: &Resource) -> Vec<u8> {
    let mut buf = Vec::new();
    message(&mut buf, 1, |buf| {
        for (key, value) in resource {
            attribute(buf, 1, key.as_str(), value);
        }
    });
    string(&mut buf, 3, resource.schema_url().unwrap_or_default());
    buf
}

/// Encodes an `ExportTraceServiceRequest`. `resource` is the result of [`resource`].
pub(super) fn request(buf: &mut Vec<u8>, resource: &[u8], batch: &[SpanData]) {
    message_with_prefix::<3>(buf, 1, |buf| {
        buf.extend_from_slice(resource);
        // Usually one scope. Spans of other scopes come from tracers that the service creates itself.
        for spans in batch.chunk_by(|a, b| a.instrumentation_scope == b.instrumentation_scope) {
            message_with_prefix::<3>(buf, 2, |buf| {
                if let Some(first) = spans.first() {
                    scope(buf, &first.instrumentation_scope);
                }
                for one in spans {
                    message_with_prefix::<2>(buf, 2, |buf| span(buf, one));
                }
            });
        }
    });
}

/// Returns an upper bound of the encoded size of a span, in bytes.
pub(in crate::traces) fn max_size(span: &SpanData) -> usize {
    let events = span.events.events.iter();
    let links = span.links.links.iter();
    let description = match &span.status {
        Status::Error { description } => description.len(),
        _ => 0,
    };
    256 + span.name.len()
        + description
        + trace_state_size(&span.span_context)
        + attributes_size(&span.attributes)
        + events
            .map(|event| 64 + event.name.len() + attributes_size(&event.attributes))
            .sum::<usize>()
        + links
            .map(|link| {
                96 + trace_state_size(&link.span_context) + attributes_size(&link.attributes)
            })
            .sum::<usize>()
}

fn trace_state_size(span: &SpanContext) -> usize {
    if *span.trace_state() == TraceState::NONE { 0 } else { span.trace_state().header().len() }
}

fn attributes_size(attributes: &[KeyValue]) -> usize {
    attributes.iter().map(|one| 48 + one.key.as_str().len() + value_size(&one.value)).sum()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.as_str().len(),
        Value::Array(Array::String(values)) => values.iter().map(|v| 24 + v.as_str().len()).sum(),
        Value::Array(Array::Bool(values)) => 16 * values.len(),
        Value::Array(Array::I64(values)) => 24 * values.len(),
        Value::Array(Array::F64(values)) => 24 * values.len(),
        _ => 16,
    }
}

fn scope(buf: &mut Vec<u8>, scope: &InstrumentationScope) {
    message(buf, 1, |buf| {
        string(buf, 1, scope.name());
        string(buf, 2, scope.version().unwrap_or_default());
        attributes(buf, 3, scope.attributes());
    });
    string(buf, 3, scope.schema_url().unwrap_or_default());
}

fn span(buf: &mut Vec<u8>, span: &SpanData) {
    ids(buf, &span.span_context);
    if span.parent_span_id != SpanId::INVALID {
        bytes(buf, 4, &span.parent_span_id.to_bytes());
    }
    string(buf, 5, &span.name);
    let kind = match span.span_kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    };
    number(buf, 6, kind);
    time(buf, 7, span.start_time);
    time(buf, 8, span.end_time);
    attributes(buf, 9, &span.attributes);
    number(buf, 10, span.dropped_attributes_count.into());
    for one in &span.events.events {
        message(buf, 11, |buf| event(buf, one));
    }
    number(buf, 12, span.events.dropped_count.into());
    for one in &span.links.links {
        message(buf, 13, |buf| link(buf, one));
    }
    number(buf, 14, span.links.dropped_count.into());
    message(buf, 15, |buf| match &span.status {
        Status::Unset => {}
        Status::Ok => number(buf, 3, 1),
        Status::Error { description } => {
            string(buf, 2, description);
            number(buf, 3, 2);
        }
    });
    flags(buf, 16, &span.span_context, span.parent_span_is_remote);
}

fn event(buf: &mut Vec<u8>, event: &Event) {
    time(buf, 1, event.timestamp);
    string(buf, 2, &event.name);
    attributes(buf, 3, &event.attributes);
    number(buf, 4, event.dropped_attributes_count.into());
}

fn link(buf: &mut Vec<u8>, link: &Link) {
    ids(buf, &link.span_context);
    attributes(buf, 4, &link.attributes);
    number(buf, 5, link.dropped_attributes_count.into());
    flags(buf, 6, &link.span_context, link.span_context.is_remote());
}

/// Writes the first three fields of a span or a link.
fn ids(buf: &mut Vec<u8>, span: &SpanContext) {
    bytes(buf, 1, &span.trace_id().to_bytes());
    bytes(buf, 2, &span.span_id().to_bytes());
    if *span.trace_state() != TraceState::NONE {
        string(buf, 3, &span.trace_state().header());
    }
}

fn flags(buf: &mut Vec<u8>, field: u32, span: &SpanContext, is_remote: bool) {
    let remote = if is_remote { HAS_IS_REMOTE | IS_REMOTE } else { HAS_IS_REMOTE };
    let flags = u32::from(span.trace_flags().to_u8()) | remote;
    tag(buf, field, Wire::Fixed32);
    buf.extend_from_slice(&flags.to_le_bytes());
}

fn attributes<'a>(
    buf: &mut Vec<u8>,
    field: u32,
    attributes: impl IntoIterator<Item = &'a KeyValue>,
) {
    for one in attributes {
        attribute(buf, field, one.key.as_str(), &one.value);
    }
}

/// Writes a `KeyValue`. The length of a short text is known before it is written, which costs half as much
/// as a message whose length is inserted. Nearly all attributes are such texts.
fn attribute(buf: &mut Vec<u8>, field: u32, key: &str, value: &Value) {
    if let Value::String(text) = value
        && let (key, text) = (key.as_bytes(), text.as_str().as_bytes())
        && !key.is_empty()
        && let Ok(length @ ..0x80) = u8::try_from(key.len() + text.len() + 6)
    {
        let (key_length, text_length) = (key.len() as u8, text.len() as u8);
        tag(buf, field, Wire::Length);
        buf.extend_from_slice(&[length, KEY, key_length]);
        buf.extend_from_slice(key);
        buf.extend_from_slice(&[VALUE, text_length + 2, STRING_VALUE, text_length]);
        buf.extend_from_slice(text);
        return;
    }
    message(buf, field, |buf| {
        string(buf, 1, key);
        message(buf, 2, |buf| any_value(buf, value));
    });
}

/// Writes an `AnyValue`. The alternative that is set is written even if it is empty or zero.
fn any_value(buf: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) => any_string(buf, text),
        Value::Bool(flag) => any_bool(buf, *flag),
        Value::I64(number) => any_int(buf, *number),
        Value::F64(number) => any_double(buf, *number),
        Value::Array(array) => message(buf, 5, |buf| match array {
            Array::Bool(values) => each(buf, values, |buf, value| any_bool(buf, *value)),
            Array::I64(values) => each(buf, values, |buf, value| any_int(buf, *value)),
            Array::F64(values) => each(buf, values, |buf, value| any_double(buf, *value)),
            Array::String(values) => each(buf, values, any_string),
            // The enum is non-exhaustive. No other variant exists.
            _ => {}
        }),
        _ => any_string(buf, &StringValue::from(value.to_string())),
    }
}

fn each<T>(buf: &mut Vec<u8>, values: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    for value in values {
        message(buf, 1, |buf| write(buf, value));
    }
}

fn any_string(buf: &mut Vec<u8>, value: &StringValue) {
    bytes(buf, 1, value.as_str().as_bytes());
}

fn any_bool(buf: &mut Vec<u8>, value: bool) {
    tag(buf, 2, Wire::Varint);
    buf.push(value.into());
}

fn any_int(buf: &mut Vec<u8>, value: i64) {
    tag(buf, 3, Wire::Varint);
    // An int64 is the varint of its two's complement.
    varint(buf, value.cast_unsigned());
}

fn any_double(buf: &mut Vec<u8>, value: f64) {
    tag(buf, 4, Wire::Fixed64);
    buf.extend_from_slice(&value.to_le_bytes());
}

fn time(buf: &mut Vec<u8>, field: u32, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    tag(buf, field, Wire::Fixed64);
    buf.extend_from_slice(&u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
}

/// Writes a number. 0 is the default of proto3 and is omitted.
fn number(buf: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        tag(buf, field, Wire::Varint);
        varint(buf, value);
    }
}

/// Writes a string. An empty one is the default of proto3 and is omitted.
fn string(buf: &mut Vec<u8>, field: u32, value: &str) {
    if !value.is_empty() {
        bytes(buf, field, value.as_bytes());
    }
}

fn bytes(buf: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(buf, field, Wire::Length);
    varint(buf, value.len() as u64);
    buf.extend_from_slice(value);
}

/// Writes a nested message of up to 127 bytes, or a longer one at the cost of a move.
fn message(buf: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    message_with_prefix::<1>(buf, field, write);
}

/// Writes a nested message. Reserves `N` bytes for the length prefix and moves the contents if it has
/// another size.
fn message_with_prefix<const N: usize>(
    buf: &mut Vec<u8>,
    field: u32,
    write: impl FnOnce(&mut Vec<u8>),
) {
    tag(buf, field, Wire::Length);
    let start = buf.len();
    buf.extend_from_slice(&[0; N]);
    write(buf);
    let end = buf.len();
    varint(buf, (end - start - N) as u64);
    if buf.len() - end == N {
        buf.copy_within(end.., start);
        buf.truncate(end);
    } else {
        let prefix = buf.split_off(end);
        buf.splice(start..start + N, prefix);
    }
}

/// Wire type of a field.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
    Fixed32 = 5,
}

fn tag(buf: &mut Vec<u8>, field: u32, wire: Wire) {
    varint(buf, u64::from(field << 3 | wire as u32));
}

fn varint(buf: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buf.push(value as u8 | 0x80);
        value >>= 7;
    }
    buf.push(value as u8);
}

#[cfg(test)]
mod tests;
