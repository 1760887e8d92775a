//! Outcome of a request or call, as labels and as span attributes.

use http::StatusCode;
use metrics::Label;
use opentelemetry::KeyValue;

use super::label;
use crate::error::ErrorKind;
use crate::http::KnownMethod;

/// Outcome of a request or call. `status` is `None` without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Outcome {
    pub(crate) method: KnownMethod,
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorKind>,
}

impl Outcome {
    /// Returns status code and error type as attributes, by the semantic conventions for HTTP spans. A
    /// cancellation and a gRPC status that the client causes are not errors of the span.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = KeyValue> {
        let status = self.status.map(|status| i64::from(status.as_u16()));
        let is_span_error = |error: &ErrorKind| match error {
            ErrorKind::Canceled => false,
            ErrorKind::Grpc(_) => error.is_server_error(),
            _ => true,
        };
        let error = self.error.filter(is_span_error).map(ErrorKind::as_label);
        let status = status.map(|status| KeyValue::new("http.response.status_code", status));
        status.into_iter().chain(error.map(|error| KeyValue::new("error.type", error)))
    }

    pub(super) fn add_labels(&self, labels: &mut Vec<Label>) {
        if let Some(status) = self.status {
            labels.push(label("http_response_status_code", status.as_str().to_owned()));
        }
        if let Some(error) = self.error {
            labels.push(label("error_type", error.as_label()));
        }
    }
}
