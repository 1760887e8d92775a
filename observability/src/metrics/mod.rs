//! Metrics: the registry, the handles of each instrumented part, and the rendered page.
//!
//! The library's own series are recorded through handles kept in `Metrics`, not through the global
//! recorder, so that several services can run in one test. Metrics that a service creates with
//! `metrics::counter!` and the like reach the same recorder through the global one.

mod client;
mod exemplar;
mod handles;
mod histogram;
mod log;
mod names;
pub(crate) mod openmetrics;
mod outcome;
mod process;
mod server;
mod span;

use std::collections::HashMap;
use std::sync::Arc;

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{
    BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use parking_lot::RwLock;

use crate::http::KnownMethod;

use client::ServerAddressRef;
use exemplar::Exemplars;
use handles::PerMethod;
use histogram::Histograms;
use process::ProcessMetrics;

pub(crate) use client::ClientMetrics;
pub(crate) use log::DroppedLines;
pub use names::{
    BUILD_INFO, CLIENT_ACTIVE, CLIENT_CIRCUIT_OPEN, CLIENT_DURATION, CLIENT_ERRORS, CLIENT_RETRIES,
    DURATION_BUCKETS, LOG_LINES_LOST, SERVER_ACTIVE, SERVER_DURATION, SPANS_EXPORTED,
    SPANS_PROCESSED, SPANS_STARTED,
};
pub(crate) use names::{UNMATCHED_ROUTE, URL_SCHEME};
pub(crate) use outcome::Outcome;
pub(crate) use server::ServerMetrics;
pub(crate) use span::{ExportFailure, SpanMetrics};

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Metrics of one service.
pub(crate) struct Metrics {
    registry: Registry,
    handle: PrometheusHandle,
    process: ProcessMetrics,
    routes: RwLock<HashMap<&'static str, &'static ServerMetrics>>,
    server_active: PerMethod<Gauge>,
    clients: RwLock<HashMap<Box<str>, Vec<Arc<ClientMetrics>>>>,
    pub(crate) spans: SpanMetrics,
    pub(crate) dropped_lines: DroppedLines,
}

impl Metrics {
    pub(crate) fn new(service: &str, version: &str, revision: &str) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS)?.build_recorder();
        let handle = recorder.handle();
        names::describe(&recorder);
        let registry = Registry {
            recorder: Arc::new(recorder),
            histograms: Arc::default(),
            exemplars: Arc::default(),
        };
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
        Ok(Self {
            handle,
            process: ProcessMetrics::new(&registry.recorder),
            routes: RwLock::default(),
            server_active: PerMethod::default(),
            clients: RwLock::default(),
            spans: SpanMetrics::new(&registry),
            dropped_lines: DroppedLines::new(&registry),
            registry,
        })
    }

    /// Returns the recorder, for `metrics::set_global_recorder`.
    pub(crate) fn recorder(&self) -> Arc<PrometheusRecorder> {
        Arc::clone(&self.registry.recorder)
    }

    /// Renders all metrics in the Prometheus text format.
    pub(crate) fn render(&self) -> String {
        self.process.collect(&self.registry.recorder);
        let mut page = ProcessMetrics::fix_types(&self.handle.render());
        self.registry.histograms.render(&mut page, names::duration_help);
        page
    }

    /// Renders all metrics in OpenMetrics, with exemplars.
    pub(crate) fn render_openmetrics(&self) -> String {
        openmetrics::render(&self.render(), &self.registry.exemplars)
    }

    /// Folds the samples of histograms that the service itself records into their buckets, so that their
    /// memory is bounded without scrapes.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(crate) fn server_active(&self, method: KnownMethod) -> &Gauge {
        self.server_active.get(method, || {
            let labels = vec![
                label("http_request_method", method.as_str()),
                label("url_scheme", URL_SCHEME),
            ];
            self.registry.gauge(SERVER_ACTIVE, labels)
        })
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

    /// Returns the metrics of calls to one server.
    pub(crate) fn client(&self, url: &reqwest::Url) -> Arc<ClientMetrics> {
        let server = ServerAddressRef::from_url(url);
        // The key is the address alone, so that a known server is found without an allocation.
        let find = |clients: &HashMap<Box<str>, Vec<Arc<ClientMetrics>>>| {
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
        let client = Arc::new(ClientMetrics::new(self.registry.clone(), server));
        clients.entry(server.address.into()).or_default().push(Arc::clone(&client));
        client
    }
}

/// Registry of all series. A clone shares it.
#[derive(Clone)]
struct Registry {
    recorder: Arc<PrometheusRecorder>,
    histograms: Arc<Histograms>,
    exemplars: Arc<Exemplars>,
}

impl Registry {
    fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }
}

fn label(name: &'static str, value: impl Into<SharedString>) -> Label {
    Label::new(name, value)
}

#[cfg(test)]
mod tests;
