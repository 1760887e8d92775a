//! Error of a failed call.

use std::error::Error;
use std::sync::Arc;

use http::{Method, StatusCode};
use reqwest::Url;

use crate::error::{ErrorKind, Failure, causes, error_chain};
use crate::http::redact_url;

/// Error of a failed call.
///
/// Displays the request without credentials, and the error with its causes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{details}")]
pub struct CallError {
    kind: ErrorKind,
    details: String,
    has_response: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl CallError {
    /// Creates the error of a call whose response is not usable.
    pub(super) fn invalid_response(kind: ErrorKind, details: String) -> Self {
        Self { kind, details, has_response: true, source: None }
    }

    /// Creates the error of a call whose response body failed.
    pub(super) fn from_body_error(error: reqwest::Error) -> Self {
        let (kind, error) = (ErrorKind::from_reqwest(&error), error.without_url());
        Self::invalid_response(kind, error_chain(&error)).with_source(error)
    }

    /// Creates the error of a call without a response.
    pub(super) fn from_send_error(method: &Method, error: reqwest_middleware::Error) -> Self {
        let url = error.url().cloned();
        let (kind, has_response) = (ErrorKind::from_middleware(&error), is_parse_error(&error));
        let error = error.without_url();
        let details = error_chain(&error);
        let error = Self { kind, details, has_response, source: Some(Arc::new(error)) };
        match url {
            Some(url) => error.with_request(method, &url),
            None => error,
        }
    }

    /// Creates the error of a request that cannot be built, for example because its URL is invalid.
    pub(super) fn from_build_error(error: reqwest::Error) -> Self {
        let (kind, error) = (ErrorKind::from_reqwest(&error), error.without_url());
        let details = error_chain(&error);
        Self { kind, details, has_response: false, source: Some(Arc::new(error)) }
    }

    pub(super) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Adds the request to the details.
    pub(super) fn with_request(mut self, method: &Method, url: &Url) -> Self {
        self.details = format!("{method} {}: {}", redact_url(url), self.details);
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns a description for a person: the URL without query and credentials, and the causes.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// Returns the status that a gateway would send (RFC 9110, sections 15.6.3 to 15.6.5): 504 for a
    /// timeout, 502 if the server's response is not usable, 503 otherwise.
    pub fn http_status(&self) -> StatusCode {
        match self.kind {
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ if self.has_response => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::new(error.kind, error.http_status(), error.details)
    }
}

/// Returns `true` if the server's response is not HTTP.
fn is_parse_error(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.downcast_ref().is_some_and(hyper::Error::is_parse))
}
