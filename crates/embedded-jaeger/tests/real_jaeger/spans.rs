//! Spans and attributes of the traces.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::Link;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use crate::support::{attribute, int, span, span_id, text, trace_id};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Number and start of a trace.
#[derive(Clone, Copy)]
pub(crate) struct New {
    pub(crate) number: u64,
    pub(crate) start_ns: u64,
}

impl New {
    /// Returns a span of 100 ms. A child with the id `n` starts and ends `n` ms inside of that time.
    pub(crate) fn span(self, id: u64, parent: u64, name: &str) -> Span {
        let inset = if parent == 0 { 0 } else { id * MS };
        Span {
            start_time_unix_nano: self.start_ns + inset,
            end_time_unix_nano: self.start_ns + 100 * MS - inset,
            ..span(self.number, id, parent, name)
        }
    }

    /// Returns a root span.
    pub(crate) fn root(self) -> Span {
        self.span(1, 0, "root")
    }

    /// Returns a child of the root, moved by a time in milliseconds.
    pub(crate) fn moved_child(self, ms: i64) -> Span {
        let child = self.span(2, 1, "child");
        let moved = |time: u64| time.checked_add_signed(ms * MS as i64).unwrap();
        Span {
            start_time_unix_nano: moved(child.start_time_unix_nano),
            end_time_unix_nano: moved(child.end_time_unix_nano),
            ..child
        }
    }
}

pub(crate) fn resource(attributes: Vec<KeyValue>, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

pub(crate) fn host(service: &str, key: &str, value: Value, span: Span) -> ResourceSpans {
    resource(vec![text("service.name", service), attribute(key, value)], vec![span])
}

pub(crate) fn string(value: &str) -> Value {
    Value::StringValue(value.to_owned())
}

pub(crate) fn array(values: Vec<Value>) -> Value {
    let values = values.into_iter().map(|value| AnyValue { value: Some(value) }).collect();
    Value::ArrayValue(ArrayValue { values })
}

pub(crate) fn map(values: Vec<KeyValue>) -> Value {
    Value::KvlistValue(KeyValueList { values })
}

pub(crate) fn link(trace: u64, id: u64, attributes: Vec<KeyValue>) -> Link {
    Link { trace_id: trace_id(trace), span_id: span_id(id), attributes, ..Link::default() }
}

/// Attributes with the text that a search compares.
pub(crate) const TAGS: &[(&str, &str)] = &[
    ("string", "text"),
    ("string.unicode", "zażółć 🦀 \"quoted\" <b>&amp;</b>"),
    ("string.lines", "a\nb\tc\u{1}"),
    ("string.number", "200"),
    ("bool.true", "true"),
    ("bool.false", "false"),
    ("int", "200"),
    ("int.negative", "-7"),
    ("int.unsafe", "9007199254740992"),
    ("int.min", "-9223372036854775808"),
    ("float", "0.25"),
    ("float.whole", "3"),
    ("float.small", "1e-7"),
    ("float.large", "1.5e+21"),
    ("bytes", "AAH+/w=="),
    ("array", r#"["a","b"]"#),
    ("array.mixed", r#"[1,0.5,"c"]"#),
    ("array.empty", "[]"),
    ("map", r#"{"a":"x","b":1,"c":["d"]}"#),
    ("map.empty", "{}"),
];

/// Attributes of every type.
pub(crate) fn attributes() -> Vec<(&'static str, Value)> {
    vec![
        ("string", string("text")),
        ("string.empty", string("")),
        ("string.unicode", string("zażółć 🦀 \"quoted\" <b>&amp;</b>")),
        ("string.lines", string("a\nb\tc\u{1}")),
        ("string.number", string("200")),
        ("bool.true", Value::BoolValue(true)),
        ("bool.false", Value::BoolValue(false)),
        ("int", Value::IntValue(200)),
        ("int.negative", Value::IntValue(-7)),
        ("int.safe", Value::IntValue((1 << 53) - 1)),
        ("int.unsafe", Value::IntValue(1 << 53)),
        ("int.min", Value::IntValue(i64::MIN)),
        ("float", Value::DoubleValue(0.25)),
        ("float.whole", Value::DoubleValue(3.0)),
        ("float.small", Value::DoubleValue(1e-7)),
        ("float.large", Value::DoubleValue(1.5e21)),
        ("bytes", Value::BytesValue(vec![0, 1, 254, 255])),
        ("bytes.empty", Value::BytesValue(vec![])),
        ("array", array(vec![string("a"), string("b")])),
        ("array.mixed", array(vec![Value::IntValue(1), Value::DoubleValue(0.5), string("c")])),
        ("array.empty", array(vec![])),
        ("array.bytes", array(vec![Value::BytesValue(vec![1])])),
        ("map.html", map(vec![text("a", "<b>&")])),
        ("map", map(vec![int("b", 1), text("a", "x"), attribute("c", array(vec![string("d")]))])),
        ("map.empty", map(vec![])),
    ]
}
