//! Every metric: its name, help, labels and buckets, and the handles through which it is recorded.
//!
//! Names are OpenTelemetry's stable HTTP names in Prometheus' spelling: dots become underscores, a
//! unit becomes a suffix. Each label comes from a closed set; docs/telemetry.md lists them all.
//!
//! Our own series are recorded through handles kept in `Metrics`, not through the global
//! recorder, so that several services can live in one test. What a service registers itself with
//! `metrics::counter!` and its like goes to the global recorder, which is the same one.

mod exemplars;
mod histograms;
pub(crate) mod openmetrics;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{
    BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanContext, SpanRef};

use crate::error_kind::ErrorKind;
use crate::log::DroppedLines;
use crate::method::Method;

use exemplars::{ExemplarSlots, Exemplars};
use histograms::{Histogram, Histograms};

/// Duration from a request's arrival to the end of its response body, in seconds.
pub const SERVER_DURATION: &str = "http_server_request_duration_seconds";
/// Requests being served now.
pub const SERVER_ACTIVE: &str = "http_server_active_requests";
/// Duration of a call from its start to the end of the answer's body, in seconds.
pub const CLIENT_DURATION: &str = "http_client_request_duration_seconds";
/// Calls under way now.
pub const CLIENT_ACTIVE: &str = "http_client_active_requests";
/// Failed calls by error kind.
pub const CLIENT_ERRORS: &str = "http_client_request_errors_total";
/// Calls that were made again since no connection could be made.
pub const CLIENT_RETRIES: &str = "http_client_request_retries_total";
/// 1 while the circuit breaker keeps calls from being made, 0 otherwise.
pub const CLIENT_CIRCUIT_OPEN: &str = "http_client_circuit_breaker_open";
/// Sampled spans that were started.
pub const SPANS_STARTED: &str = "otel_sdk_span_started_total";
/// Spans that left the queue for the exporter, and those the queue refused.
pub const SPANS_PROCESSED: &str = "otel_sdk_processor_span_processed_total";
/// Spans the backend took, and those it did not.
pub const SPANS_EXPORTED: &str = "otel_sdk_exporter_span_exported_total";
/// Log lines that never reached stdout's reader.
pub const LOG_LINES_LOST: &str = "log_lines_lost_total";
/// Always 1; its labels say what runs.
pub const BUILD_INFO: &str = "build_info";

/// Upper bounds of the duration buckets, in seconds: those that the semantic conventions for HTTP
/// metrics advise, section "Metric: http.server.request.duration".
pub const DURATION_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const SERVER_DURATION_HELP: &str =
    "Duration of served requests, from arrival to the end of the response body.";
const CLIENT_DURATION_HELP: &str = "Duration of calls, from start to the end of the response body.";

/// Requests are served in the clear; TLS ends in front of the service.
pub(crate) const URL_SCHEME: &str = "http";

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// All that is measured in one service.
pub(crate) struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    histograms: Arc<Histograms>,
    exemplars: Arc<Exemplars>,
    process: metrics_process::Collector,
    routes: RwLock<HashMap<&'static str, &'static ServerMetrics>>,
    server_active: PerMethod<Gauge>,
    clients: RwLock<HashMap<Box<str>, Vec<Arc<ClientMetrics>>>>,
    pub(crate) spans: SpanMetrics,
    pub(crate) dropped_lines: DroppedLines,
}

impl Metrics {
    pub(crate) fn new(service: &str, version: &str, revision: &str) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&DURATION_BUCKETS)?.build_recorder();
        let recorder = Arc::new(recorder);
        describe(&recorder);
        let process = metrics_process::Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        gauge(
            &recorder,
            BUILD_INFO,
            vec![
                label("service", service.to_owned()),
                label("version", version.to_owned()),
                label("revision", revision.to_owned()),
            ],
        )
        .set(1.0);
        Ok(Self {
            handle: recorder.handle(),
            histograms: Arc::default(),
            exemplars: Arc::default(),
            process,
            routes: RwLock::default(),
            server_active: PerMethod::default(),
            clients: RwLock::default(),
            spans: SpanMetrics::new(&recorder),
            dropped_lines: DroppedLines {
                queue_full: counter(
                    &recorder,
                    LOG_LINES_LOST,
                    vec![label("error_type", "queue_full")],
                ),
                write_failed: counter(
                    &recorder,
                    LOG_LINES_LOST,
                    vec![label("error_type", "write_failed")],
                ),
            },
            recorder,
        })
    }

    /// The recorder, for `metrics::set_global_recorder`.
    pub(crate) fn recorder(&self) -> Arc<PrometheusRecorder> {
        Arc::clone(&self.recorder)
    }

    /// The whole page in OpenMetrics, exemplars included.
    pub(crate) fn render_openmetrics(&self) -> String {
        openmetrics::render(&self.render(), &self.exemplars)
    }

    /// The whole page in the classic text format.
    pub(crate) fn render(&self) -> String {
        metrics::with_local_recorder(&self.recorder, || self.process.collect());
        // A counter of the facade holds whole numbers; seconds of CPU are kept in a gauge instead.
        let mut page = self.handle.render().replacen(
            "# TYPE process_cpu_seconds_total gauge",
            "# TYPE process_cpu_seconds_total counter",
            1,
        );
        self.histograms.render(&mut page, |name| match name {
            SERVER_DURATION => SERVER_DURATION_HELP,
            _ => CLIENT_DURATION_HELP,
        });
        page
    }

    /// Folds the samples of histograms that a service has of its own into their buckets, so that one
    /// that nobody scrapes does not grow.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(crate) fn server_active(&self, method: Method) -> &Gauge {
        self.server_active.get(method, || {
            gauge(
                &self.recorder,
                SERVER_ACTIVE,
                vec![
                    label("http_request_method", method.as_str()),
                    label("url_scheme", URL_SCHEME),
                ],
            )
        })
    }

    /// What is kept for one route. `template` is a route's own, never a request's path.
    pub(crate) fn route(&self, template: &str) -> &'static ServerMetrics {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = known.get(template) {
            return route;
        }
        drop(known);
        let mut known = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = known.get(template) {
            return route;
        }
        let template: &'static str = template.to_owned().leak();
        let route: &'static ServerMetrics = Box::leak(Box::new(ServerMetrics {
            histograms: Arc::clone(&self.histograms),
            exemplars: Arc::clone(&self.exemplars),
            template,
            span_names: PerMethod::default(),
            durations: HandleCache::default(),
        }));
        known.insert(template, route);
        route
    }

    /// The series of calls to one peer; made at the first call, or when the client is built.
    pub(crate) fn client(&self, url: &reqwest::Url) -> Arc<ClientMetrics> {
        let peer = ServerAddressRef::of(url);
        let known = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        // By address first, so that a known peer is found without a copy of its name.
        let ports = known.get(peer.address).map(Vec::as_slice).unwrap_or_default();
        if let Some(metrics) = ports.iter().find(|metrics| metrics.peer.port == peer.port) {
            return Arc::clone(metrics);
        }
        drop(known);
        let mut known = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        let ports = known.entry(peer.address.into()).or_default();
        if let Some(metrics) = ports.iter().find(|metrics| metrics.peer.port == peer.port) {
            return Arc::clone(metrics);
        }
        let metrics = Arc::new(ClientMetrics::new(self, peer));
        ports.push(Arc::clone(&metrics));
        metrics
    }
}

/// One route's names and series, kept as long as the process lives: there are only as many as a
/// service has routes, and what lives for ever needs neither copies nor counts of its users.
pub(crate) struct ServerMetrics {
    histograms: Arc<Histograms>,
    exemplars: Arc<Exemplars>,
    pub(crate) template: &'static str,
    span_names: PerMethod<&'static str>,
    durations: HandleCache<Outcome, DurationSeries>,
}

impl ServerMetrics {
    /// What the server span of such a request is called.
    pub(crate) fn span_name(&self, method: Method) -> &'static str {
        self.span_names.get(method, || format!("{} {}", method.span_name(), self.template).leak())
    }

    /// One served request; `trace` is its span where somebody will be able to look at it.
    pub(crate) fn request(
        &self,
        outcome: Outcome,
        duration: Duration,
        trace: Option<&SpanContext>,
    ) {
        let register = || {
            let mut labels = vec![
                label("http_request_method", outcome.method.as_str()),
                label("http_route", self.template),
                label("url_scheme", URL_SCHEME),
            ];
            outcome.add_labels(&mut labels);
            DurationSeries::register(&self.histograms, &self.exemplars, SERVER_DURATION, labels)
        };
        self.durations.with(&outcome, register, |timed| timed.record(duration, trace));
    }
}

/// How a request ended, for labels and span attributes alike. `status` is `None` where no answer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Outcome {
    pub(crate) method: Method,
    pub(crate) status: Option<StatusCode>,
    pub(crate) error: Option<ErrorKind>,
}

impl Outcome {
    /// The same on a span, by the semantic conventions for HTTP spans.
    pub(crate) fn set_attributes(&self, span: &SpanRef<'_>) {
        if let Some(status) = self.status {
            let status = i64::from(status.as_u16());
            span.set_attribute(KeyValue::new("http.response.status_code", status));
        }
        if let Some(error) = self.error {
            span.set_attribute(KeyValue::new("error.type", error.as_label()));
        }
    }

    fn add_labels(&self, labels: &mut Vec<Label>) {
        if let Some(status) = self.status {
            labels.push(label("http_response_status_code", status.as_str().to_owned()));
        }
        if let Some(error) = self.error {
            labels.push(label("error_type", error.as_label()));
        }
    }
}

/// Whom a URL names.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ServerAddressRef<'a> {
    address: &'a str,
    port: u16,
}

impl<'a> ServerAddressRef<'a> {
    fn of(url: &'a reqwest::Url) -> Self {
        let address = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        Self { address, port: url.port_or_known_default().unwrap_or_default() }
    }
}

/// Whom a client calls: the label values `server_address` and `server_port`.
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

/// The series of calls to one peer.
pub(crate) struct ClientMetrics {
    recorder: Arc<PrometheusRecorder>,
    histograms: Arc<Histograms>,
    exemplars: Arc<Exemplars>,
    pub(crate) peer: ServerAddress,
    durations: HandleCache<Outcome, DurationSeries>,
    errors: HandleCache<ErrorKind, CounterWithExemplar>,
    active: PerMethod<Gauge>,
}

impl ClientMetrics {
    /// Every named kind stands at 0 from here on, so that a rate is right from the first error on.
    fn new(all: &Metrics, peer: ServerAddressRef<'_>) -> Self {
        let metrics = Self {
            recorder: Arc::clone(&all.recorder),
            histograms: Arc::clone(&all.histograms),
            exemplars: Arc::clone(&all.exemplars),
            peer: ServerAddress { address: peer.address.into(), port: peer.port },
            durations: HandleCache::default(),
            errors: HandleCache::default(),
            active: PerMethod::default(),
        };
        for kind in ErrorKind::ALL_NAMED {
            metrics.error(kind, |error| error.counter.increment(0));
        }
        metrics
    }

    pub(crate) fn active(&self, method: Method) -> &Gauge {
        self.active.get(method, || {
            let mut labels = self.peer.labels();
            labels.push(label("http_request_method", method.as_str()));
            gauge(&self.recorder, CLIENT_ACTIVE, labels)
        })
    }

    /// One finished call; `trace` is its span where somebody will be able to look at it.
    pub(crate) fn request(
        &self,
        outcome: Outcome,
        duration: Duration,
        trace: Option<&SpanContext>,
    ) {
        if let Some(kind) = outcome.error {
            self.error(kind, |error| error.increment(trace));
        }
        let register = || {
            let mut labels = self.peer.labels();
            labels.push(label("http_request_method", outcome.method.as_str()));
            outcome.add_labels(&mut labels);
            DurationSeries::register(&self.histograms, &self.exemplars, CLIENT_DURATION, labels)
        };
        self.durations.with(&outcome, register, |timed| timed.record(duration, trace));
    }

    /// A call that was not made, since the circuit breaker is open.
    pub(crate) fn record_rejected(&self) {
        self.error(ErrorKind::CircuitOpen, |error| error.increment(None));
    }

    /// A call that is made again.
    pub(crate) fn retried(&self) {
        counter(&self.recorder, CLIENT_RETRIES, self.peer.labels()).increment(1);
    }

    pub(crate) fn circuit_open(&self) -> Gauge {
        gauge(&self.recorder, CLIENT_CIRCUIT_OPEN, self.peer.labels())
    }

    fn error(&self, kind: ErrorKind, f: impl FnOnce(&CounterWithExemplar)) {
        let register = || {
            let mut labels = self.peer.labels();
            labels.push(label("error_type", kind.as_label()));
            let exemplars = self.exemplars.counter(CLIENT_ERRORS, &labels);
            CounterWithExemplar {
                counter: counter(&self.recorder, CLIENT_ERRORS, labels),
                exemplars,
            }
        };
        self.errors.with(&kind, register, f);
    }
}

/// A histogram's series of durations, and its exemplars.
struct DurationSeries {
    buckets: Arc<Histogram>,
    exemplars: Arc<ExemplarSlots>,
}

impl DurationSeries {
    fn register(
        histograms: &Histograms,
        exemplars: &Exemplars,
        name: &'static str,
        labels: Vec<Label>,
    ) -> Self {
        let exemplars = exemplars.histogram(name, &labels);
        Self { buckets: histograms.register(name, &labels), exemplars }
    }

    fn record(&self, duration: Duration, trace: Option<&SpanContext>) {
        self.buckets.record(duration);
        if let Some(trace) = trace {
            self.exemplars.observe(duration.as_secs_f64(), trace);
        }
    }
}

/// A counter's series, and its exemplar.
struct CounterWithExemplar {
    counter: Counter,
    exemplars: Arc<ExemplarSlots>,
}

impl CounterWithExemplar {
    fn increment(&self, trace: Option<&SpanContext>) {
        self.counter.increment(1);
        if let Some(trace) = trace {
            self.exemplars.count(trace);
        }
    }
}

/// What became of the sampled spans: `started = exported + every series with an error_type`, once
/// the queue is empty.
pub(crate) struct SpanMetrics {
    recorder: Arc<PrometheusRecorder>,
    started: Counter,
    processed: Counter,
    queue_full: Counter,
    exported: Counter,
    failed: HandleCache<&'static str, Counter>,
    lost: AtomicU64,
}

impl SpanMetrics {
    fn new(recorder: &Arc<PrometheusRecorder>) -> Self {
        let metrics = Self {
            recorder: Arc::clone(recorder),
            started: counter(recorder, SPANS_STARTED, vec![]),
            processed: counter(recorder, SPANS_PROCESSED, vec![]),
            queue_full: counter(recorder, SPANS_PROCESSED, vec![label("error_type", "queue_full")]),
            exported: counter(recorder, SPANS_EXPORTED, vec![]),
            failed: HandleCache::default(),
            lost: AtomicU64::new(0),
        };
        for reason in crate::export::FAILURES {
            metrics.failed(0, reason);
        }
        metrics
    }

    pub(crate) fn started(&self) {
        self.started.increment(1);
    }

    /// The queue had no room for a span.
    pub(crate) fn refused(&self) {
        self.queue_full.increment(1);
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Spans left the queue for the exporter.
    pub(crate) fn processed(&self, spans: u64) {
        self.processed.increment(spans);
    }

    pub(crate) fn exported(&self, spans: u64) {
        self.exported.increment(spans);
    }

    /// Spans that will not arrive; `reason` is one of [`crate::export::FAILURES`].
    pub(crate) fn failed(&self, spans: u64, reason: &'static str) {
        let register =
            || counter(&self.recorder, SPANS_EXPORTED, vec![label("error_type", reason)]);
        self.failed.with(&reason, register, |counter| counter.increment(spans));
        self.lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// Spans lost so far, for whatever reason.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Handles by label value, in the order of their first use. Every key is from a closed set, of which
/// a service sees a few, so looking through them costs less than hashing one.
struct HandleCache<K, H>(RwLock<Vec<(K, H)>>);

impl<K, H> Default for HandleCache<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Clone, H> HandleCache<K, H> {
    fn with<T>(&self, key: &K, register: impl FnOnce() -> H, f: impl FnOnce(&H) -> T) -> T {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = known.iter().find(|(known, _)| known == key) {
            return f(handle);
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, handle)) = known.iter().find(|(known, _)| known == key) {
            return f(handle);
        }
        let handle = register();
        let result = f(&handle);
        known.push((key.clone(), handle));
        result
    }
}

/// One of something for each method, made when first asked for.
struct PerMethod<T>([OnceLock<T>; Method::COUNT]);

impl<T> Default for PerMethod<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; Method::COUNT])
    }
}

impl<T> PerMethod<T> {
    fn get(&self, method: Method, make: impl FnOnce() -> T) -> &T {
        self.0[method.index()].get_or_init(make)
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let gauge = |name: &'static str, help: &'static str| {
        recorder.describe_gauge(name.into(), None, help.into());
    };
    let counter = |name: &'static str, help: &'static str| {
        recorder.describe_counter(name.into(), None, help.into());
    };
    gauge(SERVER_ACTIVE, "Requests being served.");
    gauge(CLIENT_ACTIVE, "Calls under way.");
    counter(CLIENT_ERRORS, "Failed calls, by error kind.");
    counter(CLIENT_RETRIES, "Calls that were made again since no connection could be made.");
    gauge(CLIENT_CIRCUIT_OPEN, "1 while the circuit breaker keeps calls from being made.");
    counter(SPANS_STARTED, "Sampled spans that were started.");
    counter(
        SPANS_PROCESSED,
        "Spans that left the queue for the exporter; with error_type, spans the queue refused.",
    );
    counter(
        SPANS_EXPORTED,
        "Spans the backend took; with error_type, spans that were lost on the way.",
    );
    counter(LOG_LINES_LOST, "Log lines that were not written.");
    gauge(BUILD_INFO, "What runs, in labels; always 1.");
}

fn label(name: &'static str, value: impl Into<SharedString>) -> Label {
    Label::new(name, value)
}

fn gauge(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Gauge {
    recorder.register_gauge(&Key::from_parts(name, labels), &METADATA)
}

fn counter(recorder: &PrometheusRecorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("service-a", "1.2.3", "abc").unwrap()
    }

    fn outcome(status: u16, error: Option<ErrorKind>) -> Outcome {
        Outcome { method: Method::GET, status: Some(StatusCode::from_u16(status).unwrap()), error }
    }

    #[test]
    fn request_records_histogram_sample() {
        let metrics = metrics();
        metrics.route("/echo").request(outcome(200, None), Duration::from_millis(30), None);
        let page = metrics.render();
        let labels = r#"http_request_method="GET",http_route="/echo",url_scheme="http",http_response_status_code="200""#;
        for line in [
            "# TYPE http_server_request_duration_seconds histogram".to_owned(),
            format!("http_server_request_duration_seconds_bucket{{{labels},le=\"0.025\"}} 0"),
            format!("http_server_request_duration_seconds_bucket{{{labels},le=\"0.05\"}} 1"),
            format!("http_server_request_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 1"),
            format!("http_server_request_duration_seconds_count{{{labels}}} 1"),
        ] {
            assert!(page.lines().any(|l| l == line), "no {line} in {page}");
        }
    }

    #[test]
    fn error_counters_start_at_zero() {
        let metrics = metrics();
        let url = "http://127.0.0.1:8080/".parse().unwrap();
        let peer = metrics.client(&url);
        let line = |kind: &str, n| {
            format!(
                r#"http_client_request_errors_total{{server_address="127.0.0.1",server_port="8080",error_type="{kind}"}} {n}"#
            )
        };
        let page = metrics.render();
        for kind in ErrorKind::ALL_NAMED {
            assert!(page.contains(&line(kind.as_str(), 0)), "{kind} in {page}");
        }
        peer.request(
            outcome(500, Some(ErrorKind::Status(StatusCode::INTERNAL_SERVER_ERROR))),
            Duration::ZERO,
            None,
        );
        assert!(metrics.render().contains(&line("500", 1)));
    }

    #[test]
    fn a_peer_is_named_as_the_url_names_it() {
        let url = "https://user:secret@[::1]/x".parse().unwrap();
        assert_eq!(ServerAddressRef::of(&url), ServerAddressRef { address: "::1", port: 443 });
    }

    #[test]
    fn build_info_and_process_metrics() {
        let page = metrics().render();
        assert!(
            page.contains(r#"build_info{service="service-a",version="1.2.3",revision="abc"} 1"#),
            "{page}"
        );
        for name in ["otel_sdk_span_started_total 0", "process_start_time_seconds "] {
            assert!(page.contains(name), "no {name} in {page}");
        }
        #[cfg(target_os = "linux")]
        assert!(page.contains("# TYPE process_cpu_seconds_total counter"), "{page}");
    }

    #[test]
    fn exemplars_keep_latest_trace() {
        use opentelemetry::trace::{SpanId, TraceFlags, TraceState};
        let span = |id: u128| {
            let span_id = SpanId::from(0xab);
            SpanContext::new(id.into(), span_id, TraceFlags::SAMPLED, false, TraceState::NONE)
        };
        let metrics = metrics();
        let timeout = Some(ErrorKind::Timeout);
        for (id, ms) in [(1, 900), (2, 1000), (3, 30)] {
            metrics.route("/e\"o").request(
                outcome(200, None),
                Duration::from_millis(ms),
                Some(&span(id)),
            );
        }
        let peer = metrics.client(&"http://127.0.0.1:8080/".parse().unwrap());
        peer.request(outcome(503, timeout), Duration::from_secs(20), Some(&span(4)));
        peer.request(outcome(503, timeout), Duration::from_secs(20), None);

        let page = metrics.render_openmetrics();
        let exemplar = |part: &str| {
            let line = page.lines().find(|line| line.contains(part) && line.contains(" # "));
            line.and_then(|line| line.split_once(" # ")).map(|(_, exemplar)| exemplar.to_owned())
        };
        let shown = |part: &str, id: u32, value: &str| {
            let start = format!("{{trace_id=\"{id:032x}\",span_id=\"00000000000000ab\"}} {value} ");
            let found = exemplar(part).unwrap_or_default();
            assert!(found.starts_with(&start), "{part}: {found} in {page}");
        };
        shown(
            "server_request_duration_seconds_bucket{http_request_method=\"GET\",http_route=\"/e\\\"o\",url_scheme=\"http\",http_response_status_code=\"200\",le=\"1.0\"}",
            2,
            "1",
        );
        shown("http_response_status_code=\"200\",le=\"0.05\"}", 3, "0.03");
        shown("le=\"+Inf\"}", 4, "20");
        shown(
            "http_client_request_errors_total{server_address=\"127.0.0.1\",server_port=\"8080\",error_type=\"timeout\"} 2",
            4,
            "1",
        );
        assert_eq!(exemplar("error_type=\"refused\"} 0"), None);
        assert!(!metrics.render().contains(" # {"), "the classic page has none");
    }
}
