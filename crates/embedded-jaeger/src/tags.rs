//! OTLP attributes and fields as Jaeger's tags.
//!
//! The mapping is OpenTelemetry's own for Jaeger:
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

use crate::store::SpanRecord;

/// A typed key and value, as Jaeger's query API writes them.
#[derive(Debug, Serialize)]
pub(crate) struct Tag<'a> {
    pub(crate) key: Cow<'a, str>,
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
        Self { key: key.into(), kind: "string", value: TagValue::Text(value.into()) }
    }

    fn bool(key: &'a str, value: bool) -> Self {
        Self { key: key.into(), kind: "bool", value: TagValue::Bool(value) }
    }

    fn of(attribute: &'a KeyValue) -> Self {
        let (kind, value) = typed(attribute.value.as_ref());
        Self { key: attribute.key.as_str().into(), kind, value }
    }

    /// Whether the tag has this key, and this value when both are written as text.
    pub(crate) fn is(&self, key: &str, value: &str) -> bool {
        self.key == key
            && match &self.value {
                TagValue::Text(text) => text == value,
                TagValue::Bool(flag) => value == if *flag { "true" } else { "false" },
                TagValue::Int(number) => number.to_string() == value,
                TagValue::Float(number) => number.to_string() == value,
            }
    }
}

/// Browsers read numbers as doubles: beyond these an integer would change on its way.
const SAFE_INTEGERS: std::ops::RangeInclusive<i64> = -(1 << 53) + 1..=(1 << 53) - 1;

fn typed(value: Option<&AnyValue>) -> (&'static str, TagValue<'_>) {
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
            ("string", Text(json(nested).to_string().into()))
        }
        // An empty value, or one that stands in a table that only profiles have.
        None | Some(Value::StringValueStrindex(_)) => ("string", Text("".into())),
    }
}

/// A nested value; prost bounds the depth when it decodes.
fn json(value: &Value) -> Json {
    let of = |value: &AnyValue| value.value.as_ref().map_or(Json::Null, json);
    match value {
        Value::StringValue(text) => text.as_str().into(),
        Value::BoolValue(flag) => (*flag).into(),
        Value::IntValue(number) => (*number).into(),
        Value::DoubleValue(number) => (*number).into(),
        Value::BytesValue(bytes) => BASE64.encode(bytes).into(),
        Value::ArrayValue(array) => array.values.iter().map(of).collect(),
        Value::KvlistValue(list) => {
            let of_entry = |entry: &KeyValue| entry.value.as_ref().map_or(Json::Null, of);
            list.values.iter().map(|entry| (entry.key.clone(), of_entry(entry))).collect()
        }
        Value::StringValueStrindex(_) => Json::Null,
    }
}

/// The tags of a span: those of its scope, its attributes, then what OTLP keeps in fields.
pub(crate) fn of_span<'a>(
    record: &SpanRecord,
    rest: &'a Span,
    scope: &'a InstrumentationScope,
) -> Vec<Tag<'a>> {
    let mut tags = Vec::with_capacity(rest.attributes.len() + 6);
    let mut text = |key, value: &'a str| {
        if !value.is_empty() {
            tags.push(Tag::text(key, value));
        }
    };
    text("otel.scope.name", &scope.name);
    text("otel.scope.version", &scope.version);
    text("span.kind", record.kind.as_str());
    text("w3c.tracestate", &rest.trace_state);
    if let Some(status) = &rest.status {
        match status.code() {
            StatusCode::Ok => text("otel.status_code", "OK"),
            StatusCode::Error => text("otel.status_code", "ERROR"),
            StatusCode::Unset => {}
        }
        text("otel.status_description", &status.message);
    }
    if record.failed {
        tags.push(Tag::bool("error", true));
    }
    tags.extend(scope.attributes.iter().map(Tag::of));
    // The status decides on the error marker, whatever an attribute of that name says.
    let stated = |attribute: &&KeyValue| !(record.failed && attribute.key == "error");
    tags.extend(rest.attributes.iter().filter(stated).map(Tag::of));
    tags
}

/// The fields of an event's log: its name as `event`, then its attributes.
pub(crate) fn of_event(event: &Event) -> Vec<Tag<'_>> {
    let name = (!event.name.is_empty()).then(|| Tag::text("event", &*event.name));
    name.into_iter().chain(event.attributes.iter().map(Tag::of)).collect()
}

/// The tags of a process: its resource without the service's name.
pub(crate) fn of_resource(resource: &Resource) -> Vec<Tag<'_>> {
    let others = resource.attributes.iter().filter(|attribute| attribute.key != "service.name");
    others.map(Tag::of).collect()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};

    use super::*;

    fn written(value: Option<Value>) -> String {
        let attribute = KeyValue {
            key: "k".to_owned(),
            value: Some(AnyValue { value }),
            ..KeyValue::default()
        };
        serde_json::to_string(&Tag::of(&attribute)).unwrap()
    }

    #[test]
    fn tag_types_match_jaeger() {
        let list = KeyValueList {
            values: vec![KeyValue {
                key: "a".to_owned(),
                value: Some(AnyValue { value: Some(Value::IntValue(1)) }),
                ..KeyValue::default()
            }],
        };
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
            assert_eq!(written(value), format!(r#"{{"key":"k","type":{expected}"#));
        }
    }
}
