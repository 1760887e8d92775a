//! The `tracing` layer that writes a line for each event.

use std::error::Error;
use std::fmt;
use std::sync::OnceLock;

use opentelemetry::trace::{SpanContext, TraceContextExt};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::Logger;
use super::encoder::{Key, LineEncoder, key};
use crate::error::error_chain;

/// Layer that writes a line for each event, with the ids of its span.
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

    /// Returns the span of an event, or else that of the request.
    fn span_context<S>(&self, event: &Event<'_>, cx: &Context<'_, S>) -> SpanContext
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let event_cx = cx.event_span(event).and_then(|span| {
            let dispatch = self.dispatch.get()?.upgrade()?;
            tracing_opentelemetry::get_otel_context(&span.id(), &dispatch)
        });
        match event_cx {
            Some(cx) => cx.span().span_context().clone(),
            None => opentelemetry::Context::map_current(|cx| cx.span().span_context().clone()),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let metadata = event.metadata();
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
        let span = self.span_context(event, &cx);
        self.logger.write_line(level, |line| {
            line.field_str(key!("target"), metadata.target());
            event.record(&mut FieldVisitor { line });
            line.span_context(&span);
        });
    }
}

struct FieldVisitor<'a, 'b> {
    line: &'a mut LineEncoder<'b>,
}

fn key_of(field: &Field) -> Key<'static> {
    match field.name() {
        "message" => key!("msg"),
        name => Key::Dynamic(name),
    }
}

impl Visit for FieldVisitor<'_, '_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.line.field_quoted(key!("msg"), value);
        } else {
            self.line.field_str(Key::Dynamic(field.name()), value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.line.field_number(key_of(field), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.line.field_number(key_of(field), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.line.field_literal(key_of(field), value);
        } else {
            self.line.field_str(key_of(field), &value.to_string());
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.line.field_literal(key_of(field), value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.line.field_quoted(key_of(field), &error_chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
