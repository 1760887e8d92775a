//! Conversion of OTLP attributes and fields to Jaeger's tags, as OpenTelemetry specifies it:
//! <https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::Event, status::StatusCode};
use serde::Serialize;
use serde_json::Value as Json;

use crate::span::{SERVICE_NAME, SpanRecord, kind_name};

/// A key and a typed value in the format of Jaeger's query API.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Tag {
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: Json,
}

/// Integers that browsers represent exactly, because they parse JSON numbers as doubles.
const SAFE_INTEGERS: std::ops::RangeInclusive<i64> = -(1 << 53) + 1..=(1 << 53) - 1;

impl Tag {
    fn new(key: &str, value: String) -> Self {
        Self { key: key.to_owned(), kind: "string", value: value.into() }
    }

    pub(crate) fn from_attribute(attribute: KeyValue) -> Self {
        let (kind, value) = match attribute.value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => ("string", text.into()),
            Some(Value::BoolValue(flag)) => ("bool", flag.into()),
            Some(Value::IntValue(number)) if SAFE_INTEGERS.contains(&number) => {
                ("int64", number.into())
            }
            Some(Value::IntValue(number)) => ("int64", number.to_string().into()),
            Some(Value::DoubleValue(number)) if number.is_finite() => ("float64", number.into()),
            Some(Value::DoubleValue(number)) => ("float64", number.to_string().into()),
            Some(Value::BytesValue(bytes)) => ("binary", BASE64.encode(bytes).into()),
            Some(nested @ (Value::ArrayValue(_) | Value::KvlistValue(_))) => {
                ("string", to_json(&nested).to_string().into())
            }
            // Only profiles have the table to which the second variant refers.
            None | Some(Value::StringValueStrindex(_)) => ("string", "".into()),
        };
        Self { key: attribute.key, kind, value }
    }

    /// Returns `true` if the tag has this key, and this value when it is written as text.
    pub(crate) fn matches(&self, key: &str, value: &str) -> bool {
        self.key == key && self.text() == value
    }

    /// Returns the value as text, as the UI shows it.
    pub(crate) fn text(&self) -> String {
        match &self.value {
            Json::String(text) => text.clone(),
            Json::Number(number) if number.is_f64() => {
                float_text(number.as_f64().unwrap_or_default())
            }
            other => other.to_string(),
        }
    }
}

/// Returns a number as the UI shows it: 1, 0.25, 1e-7 or 1e+21.
fn float_text(number: f64) -> String {
    if number == 0.0 || (1e-6..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    if text.contains("e-") { text } else { text.replace('e', "e+") }
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
pub(crate) fn span_tags(record: &SpanRecord, span: Span, scope: &InstrumentationScope) -> Vec<Tag> {
    let status = span.status.unwrap_or_default();
    let status_code = match status.code() {
        StatusCode::Ok => "OK",
        StatusCode::Error => "ERROR",
        StatusCode::Unset => "",
    };
    let mut tags = Vec::with_capacity(span.attributes.len() + 6);
    for (key, value) in [
        ("otel.scope.name", scope.name.clone()),
        ("otel.scope.version", scope.version.clone()),
        ("span.kind", kind_name(record.kind).to_owned()),
        ("w3c.tracestate", span.trace_state),
        ("otel.status_code", status_code.to_owned()),
        ("otel.status_description", status.message),
    ] {
        if !value.is_empty() {
            tags.push(Tag::new(key, value));
        }
    }
    if record.failed {
        tags.push(Tag { key: "error".to_owned(), kind: "bool", value: true.into() });
    }
    tags.extend(scope.attributes.iter().cloned().map(Tag::from_attribute));
    tags.extend(span.attributes.into_iter().map(Tag::from_attribute));
    tags
}

/// Returns the fields of an event's log: its name as `event` if no attribute has that key, then its attributes.
pub(crate) fn event_fields(event: Event) -> Vec<Tag> {
    let is_named = event.attributes.iter().any(|attribute| attribute.key == "event");
    let name = (!event.name.is_empty() && !is_named).then(|| Tag::new("event", event.name));
    name.into_iter().chain(event.attributes.into_iter().map(Tag::from_attribute)).collect()
}

/// Returns the tags of a process: its resource attributes without `service.name`.
pub(crate) fn process_tags(resource: Resource) -> Vec<Tag> {
    let others = resource.attributes.into_iter().filter(|attribute| attribute.key != SERVICE_NAME);
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
    fn floats_are_written_like_ui() {
        for (number, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (-0.25, "-0.25"),
            (1e20, "100000000000000000000"),
            (1.5e21, "1.5e+21"),
            (0.000_001, "0.000001"),
            (-1e-7, "-1e-7"),
        ] {
            assert_eq!(float_text(number), text);
        }
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
            let json = serde_json::to_string(&Tag::from_attribute(attribute("k", value))).unwrap();
            assert_eq!(json, format!(r#"{{"key":"k","type":{expected}"#));
        }
    }
}
