//! Metrics of served requests.

use std::time::Duration;

use opentelemetry::trace::SpanContext;

use super::handles::{DurationSeries, HandleCache, PerMethod};
use super::registry::Registry;
use super::{Outcome, SERVER_DURATION, URL_SCHEME, label};
use crate::http::KnownMethod;

/// Metric handles of one route.
///
/// Leaked on purpose: the number of routes is fixed, and a `&'static` reference avoids reference
/// counting per request.
pub(crate) struct ServerMetrics {
    registry: Registry,
    pub(crate) template: &'static str,
    span_names: PerMethod<&'static str>,
    durations: HandleCache<Outcome, DurationSeries>,
}

impl ServerMetrics {
    pub(super) fn new(registry: Registry, template: &'static str) -> Self {
        let (span_names, durations) = (PerMethod::default(), HandleCache::default());
        Self { registry, template, span_names, durations }
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
        let register = || {
            let mut labels = vec![
                label("http_request_method", outcome.method.as_str()),
                label("http_route", self.template),
                label("url_scheme", URL_SCHEME),
            ];
            outcome.add_labels(&mut labels);
            DurationSeries::register(&self.registry, SERVER_DURATION, &labels)
        };
        self.durations.with(&outcome, register, |series| series.record(duration, exemplar));
    }
}
