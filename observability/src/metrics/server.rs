//! Metrics of served requests.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use opentelemetry::trace::SpanContext;

use super::handles::{HandleCache, PerMethod};
use super::registry::Registry;
use super::series::{Counter, Histogram};
use super::{Outcome, SERVER_DURATION, SERVER_ERRORS, URL_SCHEME, label};
use crate::error::ErrorKind;
use crate::http::KnownMethod;

/// Metric handles of one route.
///
/// Leaked on purpose: the number of routes is fixed, and a `&'static` reference avoids reference
/// counting per request.
pub(crate) struct ServerMetrics {
    registry: Registry,
    pub(crate) template: &'static str,
    span_names: PerMethod<&'static str>,
    durations: HandleCache<Outcome, Arc<Histogram>>,
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
            metrics.with_error_counter(kind, |_| ());
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
        outcome: Outcome,
        duration: Duration,
        exemplar: Option<&SpanContext>,
    ) {
        if let Some(kind) = outcome.error {
            self.with_error_counter(kind, |counter| counter.increment_with(exemplar));
        }
        let register = || {
            let mut labels = vec![
                label("http_request_method", outcome.method.as_str()),
                label("http_route", self.template),
                label("url_scheme", URL_SCHEME),
            ];
            outcome.add_labels(&mut labels);
            self.registry.histogram(SERVER_DURATION, labels)
        };
        let seconds = duration.as_secs_f64();
        self.durations.with(&outcome, register, |series| series.record_with(seconds, exemplar));
    }

    fn with_error_counter(&self, kind: ErrorKind, f: impl FnOnce(&Counter)) {
        let register = || {
            let labels =
                vec![label("http_route", self.template), label("error_type", kind.as_label())];
            self.registry.counter_with_exemplar(SERVER_ERRORS, labels)
        };
        self.errors.with(&kind, register, |counter| f(counter));
    }
}
