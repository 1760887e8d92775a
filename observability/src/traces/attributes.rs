//! Attributes of a span: each key once, and within the limit.
//!
//! The SDK appends every attribute that is set until the limit is reached. A key could then occur twice, and
//! the outcome of a request, which is set last, could be missing.

use opentelemetry::{Array, KeyValue, StringValue, Value};
use opentelemetry_sdk::trace::SpanData;

use crate::config::SpanLimits;

/// Attributes that are kept even if the limit is exceeded.
const REQUIRED: [&str; 4] =
    ["http.request.method", "http.route", "http.response.status_code", "error.type"];

/// Keeps the last value of each key, of an event the first, and what is within the limits. Of the attributes of
/// a span, the required ones are kept.
pub(super) fn normalize_attributes(span: &mut SpanData, limits: &SpanLimits) {
    let limit = limits.attributes;
    if may_have_duplicates(&span.attributes) {
        remove_duplicates(&mut span.attributes);
    }
    for event in &mut span.events.events {
        if may_have_duplicates(&event.attributes) {
            // The first ones are those of `tracing`: level and target.
            event.attributes.reverse();
            remove_duplicates(&mut event.attributes);
            event.attributes.reverse();
        }
    }
    if span.attributes.len() > limit {
        let count = span.attributes.len();
        let is_required = |attribute: &KeyValue| REQUIRED.contains(&attribute.key.as_str());
        let required = span.attributes.iter().filter(|one| is_required(one)).count();
        let mut others = limit.saturating_sub(required);
        span.attributes.retain(|attribute| {
            let is_kept = is_required(attribute) || others > 0;
            if is_kept && !is_required(attribute) {
                others -= 1;
            }
            is_kept
        });
        let dropped = u32::try_from(count - span.attributes.len()).unwrap_or(u32::MAX);
        span.dropped_attributes_count = span.dropped_attributes_count.saturating_add(dropped);
    }
    if let Some(length) = limits.value_length {
        let events = span.events.events.iter_mut().map(|event| &mut event.attributes);
        let links = span.links.links.iter_mut().map(|link| &mut link.attributes);
        for attributes in events.chain(links).chain([&mut span.attributes]) {
            attributes.iter_mut().for_each(|attribute| truncate(&mut attribute.value, length));
        }
    }
}

/// Truncates a text, or each text of an array, to a number of characters.
fn truncate(value: &mut Value, length: usize) {
    let truncate = |text: &mut StringValue| {
        if let Some((end, _)) = text.as_str().char_indices().nth(length) {
            *text = text.as_str()[..end].to_owned().into();
        }
    };
    match value {
        Value::String(text) => truncate(text),
        Value::Array(Array::String(texts)) => texts.iter_mut().for_each(truncate),
        _ => {}
    }
}

/// Returns `false` if all keys differ. A set of 64 bits instead of a comparison of each pair, because nearly
/// every span has only the attributes of its request. Their keys differ in their bits.
fn may_have_duplicates(attributes: &[KeyValue]) -> bool {
    let mut seen = 0_u64;
    attributes.iter().any(|attribute| {
        let bit = 1 << key_bit(attribute.key.as_str());
        let is_seen = seen & bit != 0;
        seen |= bit;
        is_seen
    })
}

fn key_bit(key: &str) -> usize {
    let bytes = key.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().map_or(0, usize::from);
    (bytes.len() + 3 * byte(bytes.len() / 4) + byte(bytes.len().saturating_sub(1))) % 64
}

fn remove_duplicates(attributes: &mut Vec<KeyValue>) {
    let mut kept: Vec<KeyValue> = Vec::with_capacity(attributes.len());
    for attribute in attributes.drain(..) {
        match kept.iter_mut().find(|known| known.key == attribute.key) {
            Some(known) => known.value = attribute.value,
            None => kept.push(attribute),
        }
    }
    *attributes = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A span with only the attributes of a request takes the fast path.
    #[test]
    fn keys_of_request_have_distinct_bits() {
        for keys in [
            &[
                "client.address",
                "error.type",
                "http.request.method",
                "http.response.status_code",
                "http.route",
                "network.peer.address",
                "network.peer.port",
                "network.protocol.version",
                "server.address",
                "server.port",
                "url.path",
                "url.scheme",
                "user_agent.original",
            ][..],
            &[
                "error.type",
                "http.request.method",
                "http.request.resend_count",
                "http.response.status_code",
                "server.address",
                "server.port",
                "url.full",
            ],
        ] {
            let attributes: Vec<_> = keys.iter().map(|key| KeyValue::new(*key, 1)).collect();
            let bits: Vec<_> = keys.iter().map(|key| (key_bit(key), *key)).collect();
            assert!(!may_have_duplicates(&attributes), "{bits:?}");
        }
    }

    #[test]
    fn texts_are_truncated_to_characters() {
        for (value, expected) in [
            ("äöü".into(), "äö".into()),
            ("ab".into(), "ab".into()),
            (Value::I64(12345), Value::I64(12345)),
            (
                Value::Array(Array::String(vec!["abc".into(), "".into()])),
                Value::Array(Array::String(vec!["ab".into(), "".into()])),
            ),
        ] {
            let mut truncated = value;
            truncate(&mut truncated, 2);
            assert_eq!(truncated, expected);
        }
    }

    #[test]
    fn last_value_of_key_is_kept() {
        let mut attributes =
            vec![KeyValue::new("a", 1), KeyValue::new("b", 2), KeyValue::new("a", 3)];
        assert!(may_have_duplicates(&attributes));
        remove_duplicates(&mut attributes);
        assert_eq!(attributes, [KeyValue::new("a", 3), KeyValue::new("b", 2)]);
    }
}
