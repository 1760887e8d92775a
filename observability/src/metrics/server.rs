//! Metrics of served requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use opentelemetry::trace::SpanContext;

use super::handles::{HandleCache, PerMethod};
use super::registry::Registry;
use super::series::{Counter, Histogram};
use super::{Outcome, SERVER_DURATION, SERVER_ERRORS, label};
use crate::error::ErrorKind;
use crate::http::{KnownMethod, UrlScheme};

/// Metric handles of one route.
///
/// Leaked on purpose: the number of routes is fixed, and a `&'static` reference avoids reference
/// counting per request.
pub(crate) struct ServerMetrics {
    registry: Registry,
    pub(crate) template: &'static str,
    span_names: PerMethod<&'static str>,
    durations: HandleCache<(UrlScheme, Outcome), Arc<Histogram>>,
    errors: HandleCache<ErrorKind, Arc<Counter>>,
}

impl ServerMetrics {
    /// Creates the handles. The error counters of all named kinds and of 500 are 0 from now on, so that a
    /// rate includes the first error.
    pub(super) fn new(registry: Registry, template: &'static str) -> Self {
        let metrics = Self {
            registry,
            template,
            span_names: PerMethod::default(),
            durations: HandleCache::default(),
            errors: HandleCache::default(),
        };
        let server_error = ErrorKind::Status(StatusCode::INTERNAL_SERVER_ERROR);
        let more = [ErrorKind::CircuitOpen, ErrorKind::Overload, server_error];
        for kind in ErrorKind::ALL_NAMED.into_iter().chain(more) {
            metrics.error_counter(kind);
        }
        metrics
    }

    /// Returns the name of the route's server spans.
    pub(crate) fn span_name(&self, method: KnownMethod) -> &'static str {
        self.span_names.get(method, || format!("{} {}", method.span_name(), self.template).leak())
    }

    /// Records a request. `exemplar` is its span if the span is exported.
    pub(crate) fn record(
        &self,
        scheme: UrlScheme,
        outcome: Outcome,
        duration: Duration,
        exemplar: Option<&SpanContext>,
    ) {
        if let Some(kind) = outcome.error {
            self.error_counter(kind).increment_with(exemplar);
        }
        let register = || {
            let mut labels = vec![
                label("http_request_method", outcome.method.as_str()),
                label("http_route", self.template),
                label("url_scheme", scheme.as_str()),
            ];
            outcome.add_labels(&mut labels);
            self.registry.histogram(SERVER_DURATION, labels)
        };
        let seconds = duration.as_secs_f64();
        self.durations.get(&(scheme, outcome), register).record_with(seconds, exemplar);
    }

    fn error_counter(&self, kind: ErrorKind) -> &Counter {
        let register = || {
            let labels =
                vec![label("http_route", self.template), label("error_type", kind.as_label())];
            self.registry.counter_with_exemplar(SERVER_ERRORS, labels)
        };
        self.errors.get(&kind, register)
    }
}

/// Reason for which hyper rejects a request before it reaches a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    BadRequest,
    HeadersTooLarge,
    Timeout,
    Tls,
    Http2,
}

impl Rejection {
    /// Number of variants.
    pub(crate) const COUNT: usize = Self::ALL.len();

    pub(super) const ALL: [Self; 5] =
        [Self::BadRequest, Self::HeadersTooLarge, Self::Timeout, Self::Tls, Self::Http2];

    /// Returns the label value: the status of hyper's response, if there is one.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "400",
            Self::HeadersTooLarge => "431",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Http2 => "http2",
        }
    }
}
