//! Metrics of served requests.

use std::time::Duration;

use opentelemetry::trace::SpanContext;

use super::handles::{DurationSeries, HandleCache, PerMethod};
use super::registry::Registry;
use super::{Outcome, SERVER_DURATION, label};
use crate::http::{KnownMethod, UrlScheme};

/// Metric handles of one route.
///
/// Leaked on purpose: the number of routes is fixed, and a `&'static` reference avoids reference
/// counting per request.
pub(crate) struct ServerMetrics {
    registry: Registry,
    pub(crate) template: &'static str,
    span_names: PerMethod<&'static str>,
    durations: HandleCache<(UrlScheme, Outcome), DurationSeries>,
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
        scheme: UrlScheme,
        outcome: Outcome,
        duration: Duration,
        exemplar: Option<&SpanContext>,
    ) {
        let register = || {
            let mut labels = vec![
                label("http_request_method", outcome.method.as_str()),
                label("http_route", self.template),
                label("url_scheme", scheme.as_str()),
            ];
            outcome.add_labels(&mut labels);
            DurationSeries::register(&self.registry, SERVER_DURATION, &labels)
        };
        self.durations
            .with(&(scheme, outcome), register, |series| series.record(duration, exemplar));
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
