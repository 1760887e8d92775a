//! Conversion of OTLP attributes and fields to Jaeger's tags, as OpenTelemetry specifies it:
//! <https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/>

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::Event, status::StatusCode};
use serde::Serialize;
use serde_json::Value as Json;

use crate::span::{SpanRecord, kind_name};

/// A key and a typed value in the format of Jaeger's query API.
#[derive(Debug, Serialize)]
pub(crate) struct Tag<'a> {
    key: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    value: TagValue<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum TagValue<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl<'a> Tag<'a> {
    fn text(key: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        Self { key, kind: "string", value: TagValue::Text(value.into()) }
    }

    fn bool(key: &'a str, value: bool) -> Self {
        Self { key, kind: "bool", value: TagValue::Bool(value) }
    }

    fn from_attribute(attribute: &'a KeyValue) -> Self {
        let (kind, value) = typed_value(attribute.value.as_ref());
        Self { key: &attribute.key, kind, value }
    }

    /// Returns `true` if the tag has this key, and this value when it is written as text.
    pub(crate) fn matches(&self, key: &str, value: &str) -> bool {
        self.key == key
            && match &self.value {
                TagValue::Text(text) => text == value,
                TagValue::Bool(flag) => value == if *flag { "true" } else { "false" },
                TagValue::Int(number) => number.to_string() == value,
                TagValue::Float(number) => number.to_string() == value,
            }
    }
}

/// Integers that browsers represent exactly, because they parse JSON numbers as doubles.
const SAFE_INTEGERS: std::ops::RangeInclusive<i64> = -(1 << 53) + 1..=(1 << 53) - 1;

fn typed_value(value: Option<&AnyValue>) -> (&'static str, TagValue<'_>) {
    use TagValue::{Bool, Float, Int, Text};
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => ("string", Text(text.into())),
        Some(Value::BoolValue(flag)) => ("bool", Bool(*flag)),
        Some(Value::IntValue(number)) if SAFE_INTEGERS.contains(number) => ("int64", Int(*number)),
        Some(Value::IntValue(number)) => ("int64", Text(number.to_string().into())),
        Some(Value::DoubleValue(number)) if number.is_finite() => ("float64", Float(*number)),
        Some(Value::DoubleValue(number)) => ("float64", Text(number.to_string().into())),
        Some(Value::BytesValue(bytes)) => ("binary", Text(BASE64.encode(bytes).into())),
        Some(nested @ (Value::ArrayValue(_) | Value::KvlistValue(_))) => {
            ("string", Text(to_json(nested).to_string().into()))
        }
        // Only profiles have the table to which the second variant refers.
        None | Some(Value::StringValueStrindex(_)) => ("string", Text("".into())),
    }
}

/// Converts a nested value. The recursion is bounded because prost limits the depth of messages.
fn to_json(value: &Value) -> Json {
    let any_to_json = |value: &AnyValue| value.value.as_ref().map_or(Json::Null, to_json);
    match value {
        Value::StringValue(text) => text.as_str().into(),
        Value::BoolValue(flag) => (*flag).into(),
        Value::IntValue(number) => (*number).into(),
        Value::DoubleValue(number) => (*number).into(),
        Value::BytesValue(bytes) => BASE64.encode(bytes).into(),
        Value::ArrayValue(array) => array.values.iter().map(any_to_json).collect(),
        Value::KvlistValue(list) => {
            let member = |entry: &KeyValue| {
                (entry.key.clone(), entry.value.as_ref().map_or(Json::Null, any_to_json))
            };
            list.values.iter().map(member).collect()
        }
        Value::StringValueStrindex(_) => Json::Null,
    }
}

/// Returns the tags of a span: its scope, the OTLP fields without a place in Jaeger's model, and
/// its attributes. `span` holds the fields that `record` does not.
pub(crate) fn span_tags<'a>(
    record: &SpanRecord,
    span: &'a Span,
    scope: &'a InstrumentationScope,
) -> Vec<Tag<'a>> {
    let mut tags = Vec::with_capacity(span.attributes.len() + 6);
    let mut push_text = |key, value: &'a str| {
        if !value.is_empty() {
            tags.push(Tag::text(key, value));
        }
    };
    push_text("otel.scope.name", &scope.name);
    push_text("otel.scope.version", &scope.version);
    push_text("span.kind", kind_name(record.kind));
    push_text("w3c.tracestate", &span.trace_state);
    if let Some(status) = &span.status {
        match status.code() {
            StatusCode::Ok => push_text("otel.status_code", "OK"),
            StatusCode::Error => push_text("otel.status_code", "ERROR"),
            StatusCode::Unset => {}
        }
        push_text("otel.status_description", &status.message);
    }
    if record.failed {
        tags.push(Tag::bool("error", true));
    }
    tags.extend(scope.attributes.iter().map(Tag::from_attribute));
    // The status takes precedence over an attribute of the same name.
    let is_kept = |attribute: &&KeyValue| !(record.failed && attribute.key == "error");
    tags.extend(span.attributes.iter().filter(is_kept).map(Tag::from_attribute));
    tags
}

/// Returns the fields of an event's log: its name as `event`, then its attributes.
pub(crate) fn event_fields(event: &Event) -> Vec<Tag<'_>> {
    let name = (!event.name.is_empty()).then(|| Tag::text("event", &*event.name));
    name.into_iter().chain(event.attributes.iter().map(Tag::from_attribute)).collect()
}

/// Returns the tags of a process: its resource attributes without `service.name`.
pub(crate) fn process_tags(resource: &Resource) -> Vec<Tag<'_>> {
    let others = resource.attributes.iter().filter(|attribute| attribute.key != "service.name");
    others.map(Tag::from_attribute).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    use super::*;

    fn attribute(key: &str, value: Option<Value>) -> KeyValue {
        let value = Some(AnyValue { value });
        KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
    }

    #[test]
    fn tag_types_match_jaeger() {
        let list = KeyValueList { values: vec![attribute("a", Some(Value::IntValue(1)))] };
        let array = ArrayValue { values: vec![AnyValue { value: Some(Value::KvlistValue(list)) }] };
        for (value, expected) in [
            (Some(Value::StringValue("é\"".to_owned())), r#""string","value":"é\""}"#),
            (Some(Value::BoolValue(true)), r#""bool","value":true}"#),
            (Some(Value::IntValue(-7)), r#""int64","value":-7}"#),
            (Some(Value::IntValue(i64::MAX)), r#""int64","value":"9223372036854775807"}"#),
            (Some(Value::DoubleValue(1.5)), r#""float64","value":1.5}"#),
            (Some(Value::DoubleValue(f64::NAN)), r#""float64","value":"NaN"}"#),
            (Some(Value::BytesValue(vec![1, 2])), r#""binary","value":"AQI="}"#),
            (Some(Value::ArrayValue(array)), r#""string","value":"[{\"a\":1}]"}"#),
            (None, r#""string","value":""}"#),
        ] {
            let json = serde_json::to_string(&Tag::from_attribute(&attribute("k", value))).unwrap();
            assert_eq!(json, format!(r#"{{"key":"k","type":{expected}"#));
        }
    }
}
