//! Metrics: the registry, the handles of each instrumented part, and the rendered page.
//!
//! The library's own series are recorded through handles kept in `Metrics`, not through the global
//! recorder, so that several services can run in one test. Metrics that a service creates with
//! `metrics::counter!` and the like reach the same registry through the global recorder.
//!
//! ```
//! # fn handler(started: std::time::Instant) {
//! metrics::counter!("orders_total", "kind" => "book").increment(1);
//! metrics::histogram!("order_duration_seconds").record(started.elapsed());
//! # }
//! ```

mod client;
mod exemplar;
mod exposition;
mod family;
mod handles;
mod log;
mod names;
mod native;
mod outcome;
mod process;
mod protobuf;
mod registry;
mod runtime;
mod series;
mod server;
mod span;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Label, Recorder, SharedString};
use parking_lot::RwLock;

use crate::error::GrpcStatus;
use crate::http::{KnownMethod, UrlScheme};

use client::ServerAddressRef;
use family::Problem;
use handles::PerMethod;
use process::ProcessMetrics;
use registry::Registry;
use runtime::RuntimeMetrics;
use span::SpanMetrics;

pub(crate) use client::ClientMetrics;
pub(crate) use exposition::Format;
pub(crate) use log::DroppedLines;
pub(crate) use names::UNMATCHED_ROUTE;
pub use names::{
    BUILD_INFO, CLIENT_ACTIVE, CLIENT_CIRCUIT_OPEN, CLIENT_DURATION, CLIENT_ERRORS, CLIENT_RETRIES,
    DEFAULT_BUCKETS, DURATION_BUCKETS, EXPORT_DURATION, LOG_LINES_LOST, METRICS_REJECTED,
    SERVER_ACTIVE, SERVER_DURATION, SERVER_ERRORS, SERVER_REJECTED, SPAN_QUEUE_CAPACITY,
    SPAN_QUEUE_SIZE, SPANS_EXPORTED, SPANS_INFLIGHT, SPANS_LIVE, SPANS_PROCESSED, SPANS_STARTED,
    TARGET_INFO, TOKIO_ALIVE_TASKS, TOKIO_BUSY, TOKIO_QUEUE_DEPTH, TOKIO_WORKERS,
};
pub(crate) use outcome::Outcome;
pub(crate) use server::{Rejection, ServerMetrics};
pub(crate) use span::{ExportDurations, ExportFailure, ParentOrigin, SpanCounts, UnsampledSpans};

/// Metrics of one service.
pub(crate) struct Metrics {
    registry: Registry,
    process: ProcessMetrics,
    runtime: RuntimeMetrics,
    routes: RwLock<HashMap<&'static str, &'static ServerMetrics>>,
    /// Number of gRPC methods that were to be added to `routes`.
    grpc_methods: AtomicUsize,
    server_active: [PerMethod<Gauge>; UrlScheme::COUNT],
    rejected: [Counter; Rejection::COUNT],
    clients: RwLock<BTreeMap<Box<str>, Vec<Arc<ClientMetrics>>>>,
    spans: OnceLock<SpanMetrics>,
    pub(crate) dropped_lines: DroppedLines,
}

impl Metrics {
    /// Creates the metrics of a build. A family has at most `series_limit` series.
    pub(crate) fn new(
        service: &str,
        version: &str,
        revision: &str,
        series_limit: usize,
        has_native_histograms: bool,
    ) -> Self {
        let registry = Registry::new(series_limit, has_native_histograms);
        names::describe(&registry);
        registry
            .gauge(
                BUILD_INFO,
                vec![
                    label("service", service.to_owned()),
                    label("version", version.to_owned()),
                    label("revision", revision.to_owned()),
                ],
            )
            .set(1.0);
        Self {
            process: ProcessMetrics::new(&registry),
            runtime: RuntimeMetrics::new(&registry),
            routes: RwLock::default(),
            grpc_methods: AtomicUsize::new(0),
            server_active: Default::default(),
            rejected: Rejection::ALL.map(|reason| {
                registry.counter(SERVER_REJECTED, vec![label("error_type", reason.as_str())])
            }),
            clients: RwLock::default(),
            spans: OnceLock::new(),
            dropped_lines: DroppedLines::new(&registry),
            registry,
        }
    }

    /// Returns the recorder, for `metrics::set_global_recorder`.
    pub(crate) fn recorder(&self) -> impl Recorder + Send + Sync + 'static + use<> {
        self.registry.clone()
    }

    /// Sets the attributes of the resource, the labels of [`TARGET_INFO`].
    pub(crate) fn set_target_info(&self, attributes: impl Iterator<Item = (String, String)>) {
        let labels = attributes.map(|(name, value)| Label::new(name, value)).collect();
        self.registry.info(TARGET_INFO, labels);
    }

    /// Sets the upper bounds of the buckets of a histogram.
    pub(crate) fn set_bounds(&self, name: &str, bounds: &[f64]) {
        self.registry.set_bounds(name, bounds);
    }

    /// Renders all metrics.
    pub(crate) fn render(&self, format: Format) -> Vec<u8> {
        self.process.collect(&self.registry);
        self.runtime.collect();
        if let Some(spans) = self.spans.get() {
            spans.collect();
        }
        self.registry.render(format)
    }

    /// Registers the metrics of the pipeline that ends in the exporter `component_type`. Each scrape reads
    /// `counts`. Has no effect on the numbers if there is a pipeline already.
    pub(crate) fn observe_spans(
        &self,
        component_type: &'static str,
        endpoint: &reqwest::Url,
        queue_capacity: usize,
        counts: impl Fn() -> SpanCounts + Send + Sync + 'static,
    ) -> ExportDurations {
        let labels = span::exporter_labels(component_type, endpoint);
        self.spans
            .get_or_init(|| SpanMetrics::new(&self.registry, queue_capacity, &labels, counts));
        ExportDurations { registry: self.registry.clone(), labels }
    }

    pub(crate) fn unsampled_spans(&self) -> UnsampledSpans {
        UnsampledSpans::new(&self.registry)
    }

    pub(crate) fn server_active(&self, method: KnownMethod, scheme: UrlScheme) -> &Gauge {
        self.server_active[scheme as usize].get(method, || {
            let labels = vec![
                label("http_request_method", method.as_str()),
                label("url_scheme", scheme.as_str()),
            ];
            self.registry.gauge(SERVER_ACTIVE, labels)
        })
    }

    /// Returns the counter of requests that hyper rejects for a reason.
    pub(crate) fn rejected(&self, reason: Rejection) -> &Counter {
        &self.rejected[reason as usize]
    }

    /// Returns the metrics of a route. `template` is the route's, never the path of a request.
    pub(crate) fn route(&self, template: &str) -> &'static ServerMetrics {
        if let Some(route) = self.routes.read().get(template) {
            return route;
        }
        let mut routes = self.routes.write();
        if let Some(route) = routes.get(template) {
            return route;
        }
        let template: &'static str = template.to_owned().leak();
        let route: &'static ServerMetrics =
            Box::leak(Box::new(ServerMetrics::new(self.registry.clone(), template)));
        routes.insert(template, route);
        route
    }

    /// Returns the metrics of a gRPC method. Clients make up the names of methods, so that a call which the
    /// service rejected does not add one, and the number of methods is bounded.
    pub(crate) fn grpc_route(&self, path: &str, status: GrpcStatus) -> &'static ServerMetrics {
        if let Some(route) = self.routes.read().get(path) {
            return route;
        }
        if status.is_rejection() {
            return self.route(UNMATCHED_ROUTE);
        }
        if self.grpc_methods.fetch_add(1, Ordering::Relaxed) >= self.max_peers() {
            self.registry.report(SERVER_ERRORS, Problem::SeriesLimit);
            return self.route(UNMATCHED_ROUTE);
        }
        self.route(path)
    }

    /// Returns the metrics of calls to one server.
    pub(crate) fn client(&self, url: &reqwest::Url) -> Arc<ClientMetrics> {
        let server = ServerAddressRef::from_url(url);
        // The key is the address alone, so that a known server is found without an allocation.
        let find = |clients: &BTreeMap<Box<str>, Vec<Arc<ClientMetrics>>>| {
            let clients = clients.get(server.address)?;
            clients.iter().find(|client| client.server.port == server.port).cloned()
        };
        if let Some(client) = find(&self.clients.read()) {
            return client;
        }
        let mut clients = self.clients.write();
        if let Some(client) = find(&clients) {
            return client;
        }
        let servers = clients.values().map(Vec::len).sum::<usize>();
        if servers >= self.max_peers() {
            drop(clients);
            self.registry.report(CLIENT_ERRORS, Problem::SeriesLimit);
            return Arc::new(ClientMetrics::overflow(self.registry.clone(), server));
        }
        let client = Arc::new(ClientMetrics::new(self.registry.clone(), server));
        clients.entry(server.address.into()).or_default().push(Arc::clone(&client));
        client
    }

    /// Returns the maximum number of called servers, and of gRPC methods.
    fn max_peers(&self) -> usize {
        (self.registry.limit() / SERIES_PER_PEER).max(1)
    }
}

/// Share of the series limit that a called server or a gRPC method takes: its error kinds and some status
/// codes.
const SERIES_PER_PEER: usize = 16;

fn label(name: &'static str, value: impl Into<SharedString>) -> Label {
    Label::new(name, value)
}

#[cfg(test)]
mod tests;
