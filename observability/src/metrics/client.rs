//! Metrics of calls to other services.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, Label};
use opentelemetry::trace::SpanContext;

use super::handles::{CounterWithExemplar, DurationSeries, HandleCache, PerMethod};
use super::registry::Registry;
use super::{
    CLIENT_ACTIVE, CLIENT_CIRCUIT_OPEN, CLIENT_DURATION, CLIENT_ERRORS, CLIENT_RETRIES, Outcome,
    label,
};
use crate::error::ErrorKind;
use crate::http::KnownMethod;

/// Server of a URL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ServerAddressRef<'a> {
    pub(super) address: &'a str,
    pub(super) port: u16,
}

impl<'a> ServerAddressRef<'a> {
    pub(super) fn from_url(url: &'a reqwest::Url) -> Self {
        let address = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        Self { address, port: url.port_or_known_default().unwrap_or_default() }
    }
}

/// Called server, the labels `server_address` and `server_port`.
#[derive(Debug)]
pub(crate) struct ServerAddress {
    pub(crate) address: Arc<str>,
    pub(crate) port: u16,
}

impl ServerAddress {
    fn labels(&self) -> Vec<Label> {
        vec![
            label("server_address", Arc::clone(&self.address)),
            label("server_port", self.port.to_string()),
        ]
    }
}

/// Metric handles of calls to one server.
pub(crate) struct ClientMetrics {
    registry: Registry,
    pub(crate) server: ServerAddress,
    durations: HandleCache<Outcome, DurationSeries>,
    errors: HandleCache<ErrorKind, CounterWithExemplar>,
    active: PerMethod<Gauge>,
}

impl ClientMetrics {
    /// Creates the handles. The error counters of all named kinds are 0 from now on, so that a rate
    /// includes the first error.
    pub(super) fn new(registry: Registry, server: ServerAddressRef<'_>) -> Self {
        let metrics = Self {
            registry,
            server: ServerAddress { address: server.address.into(), port: server.port },
            durations: HandleCache::default(),
            errors: HandleCache::default(),
            active: PerMethod::default(),
        };
        for kind in ErrorKind::ALL_NAMED {
            metrics.with_error_counter(kind, |_| ());
        }
        metrics
    }

    pub(crate) fn active(&self, method: KnownMethod) -> &Gauge {
        self.active.get(method, || {
            let mut labels = self.server.labels();
            labels.push(label("http_request_method", method.as_str()));
            self.registry.gauge(CLIENT_ACTIVE, labels)
        })
    }

    /// Records a finished call. `exemplar` is its span if the span is exported.
    pub(crate) fn record(
        &self,
        outcome: Outcome,
        duration: Duration,
        exemplar: Option<&SpanContext>,
    ) {
        if let Some(kind) = outcome.error {
            self.with_error_counter(kind, |counter| counter.increment(exemplar));
        }
        let register = || {
            let mut labels = self.server.labels();
            labels.push(label("http_request_method", outcome.method.as_str()));
            outcome.add_labels(&mut labels);
            DurationSeries::register(&self.registry, CLIENT_DURATION, &labels)
        };
        self.durations.with(&outcome, register, |series| series.record(duration, exemplar));
    }

    /// Records a call that the circuit breaker rejected.
    pub(crate) fn record_rejected(&self) {
        self.with_error_counter(ErrorKind::CircuitOpen, |counter| counter.increment(None));
    }

    /// Records a retry.
    pub(crate) fn record_retry(&self) {
        self.registry.counter(CLIENT_RETRIES, self.server.labels()).increment(1);
    }

    pub(crate) fn circuit_breaker_open(&self) -> Gauge {
        self.registry.gauge(CLIENT_CIRCUIT_OPEN, self.server.labels())
    }

    fn with_error_counter(&self, kind: ErrorKind, f: impl FnOnce(&CounterWithExemplar)) {
        let register = || {
            let mut labels = self.server.labels();
            labels.push(label("error_type", kind.as_label()));
            CounterWithExemplar::register(&self.registry, CLIENT_ERRORS, labels)
        };
        self.errors.with(&kind, register, f);
    }
}
