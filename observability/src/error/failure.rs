use http::StatusCode;

use super::ErrorKind;

/// Cause of a failed request, for metrics, span and log line.
///
/// A handler inserts it into the extensions of its response, so that all of them name the failure with
/// the word that the response body has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Failure {
    /// Kind of the failure.
    pub kind: ErrorKind,
    /// Description for a person: the error and its causes, without credentials.
    pub details: String,
    /// Status in the log line, which may say more than the status of the response.
    pub http_status: StatusCode,
}

impl Failure {
    /// Creates a failure.
    pub fn new(kind: ErrorKind, http_status: StatusCode, details: impl Into<String>) -> Self {
        Self { kind, details: details.into(), http_status }
    }
}
