//! An encoded span without its decoding, which would allocate each key and value of its attributes.
//!
//! The store keeps most fields encoded. They are only checked, so that decoding them later cannot fail.

use std::str;

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::encoding::decode_varint;
use prost::{DecodeError, Message};

/// Type of a field.
#[derive(Clone, Copy)]
enum Field {
    Varint,
    Fixed64,
    Fixed32,
    Bytes,
    Text,
    Message(&'static [Field]),
    /// No field has this number.
    Reserved,
}

// The messages of OTLP. The first field has the number 1.
static SPAN: [Field; 16] = [
    Field::Bytes,
    Field::Bytes,
    Field::Text,
    Field::Bytes,
    Field::Text,
    Field::Varint,
    Field::Fixed64,
    Field::Fixed64,
    Field::Message(&KEY_VALUE),
    Field::Varint,
    Field::Message(&EVENT),
    Field::Varint,
    Field::Message(&LINK),
    Field::Varint,
    Field::Message(&STATUS),
    Field::Fixed32,
];
static EVENT: [Field; 4] = [Field::Fixed64, Field::Text, Field::Message(&KEY_VALUE), Field::Varint];
static LINK: [Field; 6] = [
    Field::Bytes,
    Field::Bytes,
    Field::Text,
    Field::Message(&KEY_VALUE),
    Field::Varint,
    Field::Fixed32,
];
static STATUS: [Field; 3] = [Field::Reserved, Field::Text, Field::Varint];
static KEY_VALUE: [Field; 3] = [Field::Text, Field::Message(&ANY_VALUE), Field::Varint];
static ANY_VALUE: [Field; 8] = [
    Field::Text,
    Field::Varint,
    Field::Varint,
    Field::Fixed64,
    Field::Message(&ARRAY_VALUE),
    Field::Message(&KEY_VALUE_LIST),
    Field::Bytes,
    Field::Varint,
];
static ARRAY_VALUE: [Field; 1] = [Field::Message(&ANY_VALUE)];
static KEY_VALUE_LIST: [Field; 1] = [Field::Message(&KEY_VALUE)];

/// Maximum depth of messages in a span. It is the limit of prost.
const MAX_DEPTH: u32 = 100;

/// Fields of a span that the store keeps decoded. Numbers of enumerations may be unknown.
#[derive(Default)]
pub(super) struct SpanFields<'a> {
    pub(super) trace_id: &'a [u8],
    pub(super) span_id: &'a [u8],
    pub(super) parent_span_id: &'a [u8],
    pub(super) name: &'a str,
    pub(super) kind: i32,
    pub(super) start_time_unix_nano: u64,
    pub(super) end_time_unix_nano: u64,
    pub(super) status_code: i32,
}

impl<'a> SpanFields<'a> {
    /// Reads a span and replaces the contents of `remaining` by its other fields. Returns `None` for a span that
    /// prost rejects, and for one with fields that OTLP does not define.
    pub(super) fn read(span: &'a [u8], remaining: &mut Vec<u8>) -> Option<Self> {
        remaining.clear();
        let mut fields = Self::default();
        let mut rest = span;
        // The fields that are not read, from the first that is not yet in `remaining`.
        let mut unread = span;
        while !rest.is_empty() {
            let field = rest;
            match next_field(&mut rest)? {
                (1, Value::Bytes(id)) => fields.trace_id = id,
                (2, Value::Bytes(id)) => fields.span_id = id,
                (4, Value::Bytes(id)) => fields.parent_span_id = id,
                (5, Value::Bytes(name)) => fields.name = str::from_utf8(name).ok()?,
                (6, Value::Varint(kind)) => fields.kind = kind as i32,
                (7, Value::Fixed64(time)) => fields.start_time_unix_nano = time,
                (8, Value::Fixed64(time)) => fields.end_time_unix_nano = time,
                (number, value) => {
                    check_field(&SPAN, number, value, MAX_DEPTH)?;
                    if let (15, Value::Bytes(status)) = (number, value) {
                        fields.status_code = status_code(status)?.unwrap_or(fields.status_code);
                    }
                    continue;
                }
            }
            remaining.extend_from_slice(&unread[..unread.len() - field.len()]);
            unread = rest;
        }
        remaining.extend_from_slice(unread);
        Some(fields)
    }
}

/// Encodes a span again, without fields that OTLP does not define.
///
/// # Errors
/// It is no span.
pub(super) fn normalize(span: &[u8]) -> Result<Vec<u8>, DecodeError> {
    Span::decode(span).map(|span| span.encode_to_vec())
}

/// Returns the code of an encoded status that is valid.
fn status_code(mut status: &[u8]) -> Option<Option<i32>> {
    let mut code = None;
    while !status.is_empty() {
        if let (3, Value::Varint(number)) = next_field(&mut status)? {
            code = Some(number as i32);
        }
    }
    Some(code)
}

/// Value of an encoded field.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// Removes the first field from `message` and returns its number and value.
#[inline(always)]
fn next_field<'a>(message: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(message)?;
    let value = match key & 7 {
        0 => Value::Varint(varint(message)?),
        1 => Value::Fixed64(u64::from_le_bytes(take(message, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(message)?;
            Value::Bytes(take(message, usize::try_from(length).ok()?)?)
        }
        5 => take(message, 4).map(|_| Value::Fixed32)?,
        _ => return None,
    };
    Some((key >> 3, value))
}

/// Removes the first `length` bytes.
#[inline(always)]
fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (bytes, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(bytes)
}

/// Removes the first varint. Most have one byte.
#[inline(always)]
fn varint(message: &mut &[u8]) -> Option<u64> {
    match message.split_first() {
        Some((byte, rest)) if *byte < 0x80 => {
            *message = rest;
            Some(u64::from(*byte))
        }
        _ => decode_varint(message).ok(),
    }
}

/// Returns `None` if the field is not one of `fields`, or if its value is invalid or nests too deep.
#[inline]
fn check_field(fields: &[Field], number: u64, value: Value<'_>, max_depth: u32) -> Option<()> {
    let position = usize::try_from(number.checked_sub(1)?).ok()?;
    match (fields.get(position)?, value) {
        (Field::Varint, Value::Varint(_))
        | (Field::Fixed64, Value::Fixed64(_))
        | (Field::Fixed32, Value::Fixed32)
        | (Field::Bytes, Value::Bytes(_)) => Some(()),
        (Field::Text, Value::Bytes(text)) if text.is_ascii() => Some(()),
        (Field::Text, Value::Bytes(text)) => str::from_utf8(text).ok().map(drop),
        (Field::Message(fields), Value::Bytes(message)) => {
            check_message(fields, message, max_depth.checked_sub(1)?)
        }
        _ => None,
    }
}

fn check_message(fields: &[Field], mut message: &[u8], max_depth: u32) -> Option<()> {
    while !message.is_empty() {
        let (number, value) = next_field(&mut message)?;
        check_field(fields, number, value, max_depth)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, ArrayValue, KeyValue, KeyValueList, any_value,
    };
    use opentelemetry_proto::tonic::trace::v1::Status;
    use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};

    use super::*;

    fn attribute(value: any_value::Value) -> KeyValue {
        let value = Some(AnyValue { value: Some(value) });
        KeyValue { key: "ключ".to_owned(), value, key_strindex: 1 }
    }

    fn array(values: Vec<AnyValue>) -> any_value::Value {
        any_value::Value::ArrayValue(ArrayValue { values })
    }

    /// Returns a span with every field and every type of value.
    fn full_span() -> Span {
        let list = KeyValueList { values: vec![attribute(any_value::Value::BoolValue(true))] };
        let attributes = vec![
            attribute(any_value::Value::StringValue("é".to_owned())),
            attribute(any_value::Value::IntValue(-1)),
            attribute(any_value::Value::DoubleValue(0.5)),
            attribute(any_value::Value::BytesValue(vec![0xFF])),
            attribute(any_value::Value::StringValueStrindex(300)),
            attribute(any_value::Value::KvlistValue(list)),
            attribute(array(vec![AnyValue { value: None }])),
        ];
        let event = Event {
            time_unix_nano: 3,
            name: "event".to_owned(),
            attributes: attributes[..1].to_vec(),
            dropped_attributes_count: 1,
        };
        let link = Link {
            trace_id: vec![2; 16],
            span_id: vec![3; 8],
            trace_state: "a=b".to_owned(),
            attributes: attributes[1..2].to_vec(),
            dropped_attributes_count: 1,
            flags: 1,
        };
        Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            trace_state: "a=b".to_owned(),
            parent_span_id: vec![3; 8],
            flags: 0x101,
            name: "名".to_owned(),
            kind: 2,
            start_time_unix_nano: 1,
            end_time_unix_nano: 2,
            attributes,
            dropped_attributes_count: 1,
            events: vec![event],
            dropped_events_count: 2,
            links: vec![link],
            dropped_links_count: 3,
            status: Some(Status { message: "bad".to_owned(), code: 2 }),
        }
    }

    /// Reads a span, and puts it together again with the remaining fields. It is encoded, because an encoded
    /// NaN is equal to itself.
    fn read(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut remaining = Vec::new();
        let fields = SpanFields::read(encoded, &mut remaining)?;
        let span = Span {
            trace_id: fields.trace_id.to_vec(),
            span_id: fields.span_id.to_vec(),
            parent_span_id: fields.parent_span_id.to_vec(),
            name: fields.name.to_owned(),
            kind: fields.kind,
            start_time_unix_nano: fields.start_time_unix_nano,
            end_time_unix_nano: fields.end_time_unix_nano,
            ..Span::decode(remaining.as_slice()).unwrap()
        };
        let code = span.status.as_ref().map_or(0, |status| status.code);
        assert_eq!(fields.status_code, code);
        Some(span.encode_to_vec())
    }

    /// Asserts that a span is read as prost decodes it. Returns `true` if it is read without normalization.
    fn assert_reads_like_prost(encoded: &[u8]) -> bool {
        let read_at_once = read(encoded);
        let Ok(normalized) = normalize(encoded) else {
            assert_eq!(read_at_once, None, "{encoded:?}");
            return false;
        };
        assert_eq!(read(&normalized).as_ref(), Some(&normalized), "{encoded:?}");
        assert_eq!(read_at_once.as_ref().unwrap_or(&normalized), &normalized, "{encoded:?}");
        read_at_once.is_some()
    }

    #[test]
    fn damaged_spans_read_like_prost() {
        let encoded = full_span().encode_to_vec();
        assert!(assert_reads_like_prost(&encoded));
        for bit in 0..encoded.len() * 8 {
            let mut damaged = encoded.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_reads_like_prost(&damaged);
        }
        for length in 0..encoded.len() {
            assert_reads_like_prost(&encoded[..length]);
        }
    }

    #[test]
    fn repeated_fields_read_like_prost() {
        let twice = full_span().encode_to_vec().repeat(2);
        assert!(assert_reads_like_prost(&twice));
        // A status without a code does not replace the code of the first.
        let status = Some(Status { message: "more".to_owned(), code: 0 });
        let with_status = Span { status, ..Span::default() }.encode_to_vec();
        assert!(assert_reads_like_prost(&[full_span().encode_to_vec(), with_status].concat()));
    }

    #[test]
    fn unknown_fields_are_removed() {
        let mut encoded = full_span().encode_to_vec();
        encoded.extend([0xFA, 0x07, 0x01, 0x00]);
        assert!(!assert_reads_like_prost(&encoded));
    }

    #[test]
    fn depth_is_limited_like_prost() {
        let mut value = AnyValue { value: None };
        let mut accepted = 0;
        for _ in 0..60 {
            let attribute = KeyValue { value: Some(value.clone()), ..KeyValue::default() };
            let span = Span { attributes: vec![attribute], ..Span::default() };
            accepted += u32::from(assert_reads_like_prost(&span.encode_to_vec()));
            value = AnyValue { value: Some(array(vec![value])) };
        }
        assert!((40..60).contains(&accepted), "{accepted}");
    }
}
