//! Limits of a span.

use super::env_reader::EnvReader;

/// Limits of a span: OpenTelemetry specification, "Environment Variable Specification", sections "Attribute
/// Limits" and "Span Limits".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanLimits {
    /// Attributes of a span; `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`, or else `OTEL_ATTRIBUTE_COUNT_LIMIT`.
    pub(crate) attributes: usize,
    /// Characters of a text; `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`, or else
    /// `OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`. `None` is no limit.
    pub(crate) value_length: Option<usize>,
    /// `OTEL_SPAN_EVENT_COUNT_LIMIT`
    pub(crate) events: u32,
    /// `OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT`
    pub(crate) event_attributes: u32,
    /// `OTEL_SPAN_LINK_COUNT_LIMIT`
    pub(crate) links: u32,
    /// `OTEL_LINK_ATTRIBUTE_COUNT_LIMIT`
    pub(crate) link_attributes: u32,
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self {
            attributes: 128,
            value_length: None,
            events: 128,
            event_attributes: 128,
            links: 128,
            link_attributes: 128,
        }
    }
}

impl SpanLimits {
    pub(super) fn read(env: &mut EnvReader<'_>) -> Self {
        let default = Self::default();
        let mut count = |variable, default| env.parse(variable).unwrap_or(default);
        let events = count("OTEL_SPAN_EVENT_COUNT_LIMIT", default.events);
        let event_attributes = count("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", default.event_attributes);
        let links = count("OTEL_SPAN_LINK_COUNT_LIMIT", default.links);
        let link_attributes = count("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", default.link_attributes);
        Self {
            attributes: env
                .parse("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT")
                .or_else(|| env.parse("OTEL_ATTRIBUTE_COUNT_LIMIT"))
                .unwrap_or(default.attributes),
            value_length: env
                .parse("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT")
                .or_else(|| env.parse("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT")),
            events,
            event_attributes,
            links,
            link_attributes,
        }
    }
}
