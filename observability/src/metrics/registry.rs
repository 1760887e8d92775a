//! Registry of all series, and the recorder through which a service adds its own.

use std::sync::Arc;

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::formatting::{
    sanitize_description, sanitize_label_key, sanitize_metric_name,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::exemplar::Exemplars;
use super::histogram::{self, Histograms};

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Registry of all series. A clone shares it.
///
/// Counters and gauges are those of the Prometheus recorder. Histograms are [`Histograms`].
#[derive(Clone)]
pub(super) struct Registry {
    prometheus: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    histograms: Arc<Histograms>,
    exemplars: Arc<Exemplars>,
}

impl Registry {
    pub(super) fn new() -> Self {
        let prometheus = PrometheusBuilder::new().build_recorder();
        Self {
            handle: prometheus.handle(),
            prometheus: Arc::new(prometheus),
            histograms: Arc::default(),
            exemplars: Arc::default(),
        }
    }

    pub(super) fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.prometheus.register_gauge(&Key::from_parts(name, labels), &METADATA)
    }

    pub(super) fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.prometheus.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    pub(super) fn histogram(&self, name: &str, labels: &[Label]) -> Arc<histogram::Histogram> {
        self.histograms.register(name, labels)
    }

    pub(super) fn exemplars(&self) -> &Exemplars {
        &self.exemplars
    }

    /// Renders all series in the Prometheus text format.
    pub(super) fn render(&self) -> String {
        let mut page = self.handle.render();
        self.histograms.render(&mut page);
        page
    }
}

impl Recorder for Registry {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.prometheus.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.prometheus.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.histograms.describe(&sanitize_metric_name(name.as_str()), sanitize_description(&help));
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.prometheus.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.prometheus.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let sanitize =
            |label: &Label| Label::new(sanitize_label_key(label.key()), label.value().to_owned());
        let labels: Vec<_> = key.labels().map(sanitize).collect();
        self.histograms.register(&sanitize_metric_name(key.name()), &labels).into()
    }
}
