//! The line of a request.

use opentelemetry::trace::SpanContext;
use opentelemetry::{KeyValue, Value};

use super::Logger;
use super::encoder::{Key, key};
use crate::http::{MAX_CLIENT_TEXT_BYTES, truncate};

/// Finished request.
pub(crate) struct AccessEntry<'a> {
    /// Route template.
    pub(crate) endpoint: &'a str,
    pub(crate) method: &'a str,
    /// Path without query, if it is to be logged.
    pub(crate) path: Option<&'a str>,
    /// `None` if the client disconnected before the response.
    pub(crate) http_status: Option<u16>,
    /// The service failed, or a service that it depends on.
    pub(crate) is_server_error: bool,
    /// Error kind and details.
    pub(crate) failure: Option<(&'a str, &'a str)>,
    pub(crate) latency_ms: u64,
    /// Fields that the handler added.
    pub(crate) fields: &'a [KeyValue],
    pub(crate) span: &'a SpanContext,
}

impl Logger {
    /// Writes the line of a request. `status` is `ok` for a status below 400, otherwise `error`.
    pub(crate) fn access(&self, entry: &AccessEntry<'_>) {
        let (is_enabled, level, is_ok) = match entry.http_status {
            Some(..400) if entry.failure.is_none() => (self.access[0], "info", true),
            Some(500..) => (self.access[2], "error", false),
            _ if entry.is_server_error => (self.access[2], "error", false),
            _ => (self.access[1], "warn", false),
        };
        if !is_enabled {
            return;
        }
        self.write_line(level, |line| {
            line.field_str(key!("endpoint"), entry.endpoint);
            line.field_raw_str(key!("status"), if is_ok { "ok" } else { "error" });
            if !is_ok {
                if let Some(status) = entry.http_status {
                    line.field_number(key!("http_status"), status);
                }
                if let Some((kind, details)) = entry.failure {
                    line.field_quoted(key!("error"), kind);
                    line.field_quoted(key!("complete_error"), details);
                }
            }
            line.field_number(key!("latency_ms"), entry.latency_ms);
            line.field_raw_str(key!("method"), entry.method);
            if is_ok && let Some(status) = entry.http_status {
                line.field_number(key!("http_status"), status);
            }
            if let Some(path) = entry.path {
                line.field_str(key!("path"), truncate(path, MAX_CLIENT_TEXT_BYTES));
            }
            for field in entry.fields {
                let key = Key::Recorded(field.key.as_str());
                match &field.value {
                    Value::I64(number) => line.field_number(key, *number),
                    Value::Bool(value) => line.field_literal(key, value),
                    Value::F64(number) if number.is_finite() => line.field_literal(key, number),
                    value => line.field_str(key, &value.as_str()),
                }
            }
            line.span_context(entry.span);
        });
    }
}
