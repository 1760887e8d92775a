//! The `tracing` layer that writes a line for each event.

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Logger;
use super::encoder::{Key, LineEncoder, SpanFields, key};
use crate::error::error_chain;

/// Target of the spans of requests. Their fields are not repeated on the lines of events.
const HTTP_SPAN_TARGET: &str = "observability";

/// Layer that writes a line for each event, with the fields of its spans and the ids of the current one.
pub(crate) struct LogLayer {
    logger: Logger,
    filter: Targets,
    /// Dispatcher that maps spans to their OpenTelemetry contexts.
    dispatch: OnceLock<WeakDispatch>,
}

impl LogLayer {
    pub(crate) fn new(logger: Logger, filter: Targets) -> Self {
        Self { logger, filter, dispatch: OnceLock::new() }
    }

    /// Returns the explicit parent of an event, or else the current span.
    fn span_context(&self, event: &Event<'_>) -> SpanContext {
        let parent = event.parent().and_then(|parent| {
            let dispatch = self.dispatch.get()?.upgrade()?;
            tracing_opentelemetry::get_otel_context(parent, &dispatch)
        });
        match parent {
            Some(cx) => cx.span().span_context().clone(),
            None => opentelemetry::Context::map_current(|cx| cx.span().span_context().clone()),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    /// Returns the most verbose level of the log, but at least INFO, which spans have.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        let level = Layer::<S>::max_level_hint(&self.filter).unwrap_or(LevelFilter::TRACE);
        Some(level.max(LevelFilter::INFO))
    }

    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
        let metadata = attributes.metadata();
        if metadata.fields().is_empty() || metadata.target() == HTTP_SPAN_TARGET {
            return;
        }
        let fields = SpanFields::encode(self.logger.format, |line| {
            attributes.record(&mut FieldVisitor { line, source: Source::Span });
        });
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, cx: Context<'_, S>) {
        let Some(span) = cx.span(id) else { return };
        if span.extensions().get::<SpanFields>().is_none() {
            return;
        }
        // The extensions are not locked while values are formatted, because that may log events.
        let mut fields = SpanFields::encode(self.logger.format, |line| {
            values.record(&mut FieldVisitor { line, source: Source::Span });
        });
        if let Some(known) = span.extensions_mut().get_mut::<SpanFields>() {
            fields.add_earlier(self.logger.format, known);
            *known = fields;
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        // A record of the crate `log` has its target in a field.
        let record = event.normalized_metadata();
        let source = if record.is_some() { Source::LogRecord } else { Source::Event };
        let metadata = record.as_ref().unwrap_or_else(|| event.metadata());
        if !self.filter.would_enable(metadata.target(), metadata.level()) {
            return;
        }
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let span = self.span_context(event);
        self.logger.write_line(level, |line| {
            line.field_str(key!("target"), metadata.target());
            event.record(&mut FieldVisitor { line, source });
            for span in cx.event_scope(event).into_iter().flatten() {
                if let Some(fields) = span.extensions().get::<SpanFields>() {
                    line.span_fields(fields);
                }
            }
            line.span_context(&span);
        });
    }
}

/// Origin of fields.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Event,
    LogRecord,
    Span,
}

struct FieldVisitor<'a, 'b> {
    line: &'a mut LineEncoder<'b>,
    source: Source,
}

impl FieldVisitor<'_, '_> {
    /// Returns the key of a field, or `None` for fields that describe a span or a record of the crate `log`.
    fn key(&self, field: &Field) -> Option<Key<'static>> {
        match (self.source, field.name()) {
            (Source::Event | Source::LogRecord, "message") => Some(Key::Message),
            (Source::Span, name) if name.starts_with("otel.") => None,
            (Source::LogRecord, _) => None,
            (_, name) => Some(Key::Field(name)),
        }
    }
}

impl Visit for FieldVisitor<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match self.key(field) {
            Some(Key::Message) => self.line.field_quoted(Key::Message, value),
            Some(key) => self.line.field_str(key, value),
            None => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if let Some(key) = self.key(field) {
            self.line.field_number(key, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if let Some(key) = self.key(field) {
            self.line.field_number(key, value);
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if !value.is_finite() {
            self.record_str(field, &value.to_string());
        } else if let Some(key) = self.key(field) {
            self.line.field_literal(key, value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if let Some(key) = self.key(field) {
            self.line.field_literal(key, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        if let Some(key) = self.key(field) {
            self.line.field_quoted(key, &error_chain(value));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
