//! Metrics of calls to other services.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Gauge, Label};
use opentelemetry::trace::SpanContext;

use super::family::OVERFLOW;
use super::handles::{HandleCache, PerMethod};
use super::registry::Registry;
use super::series::{Counter, Histogram};
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

/// Called server.
#[derive(Debug)]
pub(crate) struct ServerAddress {
    pub(crate) address: Arc<str>,
    pub(crate) port: u16,
}

/// Metric handles of calls to one server.
pub(crate) struct ClientMetrics {
    registry: Registry,
    pub(crate) server: ServerAddress,
    labels: [Label; 2],
    durations: HandleCache<Outcome, Arc<Histogram>>,
    errors: HandleCache<ErrorKind, Arc<Counter>>,
    active: PerMethod<Gauge>,
}

impl ClientMetrics {
    /// Creates the handles. The error counters of all named kinds are 0 from now on, so that a rate
    /// includes the first error.
    pub(super) fn new(registry: Registry, server: ServerAddressRef<'_>) -> Self {
        let labels = [
            label("server_address", server.address.to_owned()),
            label("server_port", server.port.to_string()),
        ];
        let metrics = Self::with_labels(registry, server, labels);
        for kind in ErrorKind::ALL_NAMED {
            metrics.error_counter(kind);
        }
        metrics
    }

    /// Creates the handles of a server that shares its series with all servers over the limit.
    pub(super) fn overflow(registry: Registry, server: ServerAddressRef<'_>) -> Self {
        let labels = [label("server_address", OVERFLOW), label("server_port", OVERFLOW)];
        Self::with_labels(registry, server, labels)
    }

    fn with_labels(registry: Registry, server: ServerAddressRef<'_>, labels: [Label; 2]) -> Self {
        Self {
            registry,
            server: ServerAddress { address: server.address.into(), port: server.port },
            labels,
            durations: HandleCache::default(),
            errors: HandleCache::default(),
            active: PerMethod::default(),
        }
    }

    pub(crate) fn active(&self, method: KnownMethod) -> &Gauge {
        self.active.get(method, || {
            let mut labels = self.labels.to_vec();
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
            self.error_counter(kind).increment_with(exemplar);
        }
        let register = || {
            let mut labels = self.labels.to_vec();
            labels.push(label("http_request_method", outcome.method.as_str()));
            outcome.add_labels(&mut labels);
            self.registry.histogram(CLIENT_DURATION, labels)
        };
        let seconds = duration.as_secs_f64();
        self.durations.get(&outcome, register).record_with(seconds, exemplar);
    }

    /// Records a call that the circuit breaker rejected.
    pub(crate) fn record_rejected(&self) {
        self.error_counter(ErrorKind::CircuitOpen).increment_with(None);
    }

    /// Records a retry.
    pub(crate) fn record_retry(&self) {
        self.registry.counter(CLIENT_RETRIES, self.labels.to_vec()).increment(1);
    }

    /// Returns the gauge of a circuit breaker. The counter of rejected calls is 0 from now on.
    pub(crate) fn circuit_breaker_open(&self) -> Gauge {
        self.error_counter(ErrorKind::CircuitOpen);
        self.registry.gauge(CLIENT_CIRCUIT_OPEN, self.labels.to_vec())
    }

    fn error_counter(&self, kind: ErrorKind) -> &Counter {
        let register = || {
            let mut labels = self.labels.to_vec();
            labels.push(label("error_type", kind.as_label()));
            self.registry.counter_with_exemplar(CLIENT_ERRORS, labels)
        };
        self.errors.get(&kind, register)
    }
}
