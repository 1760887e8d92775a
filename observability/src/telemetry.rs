//! Shared state of the telemetry, its start and its shutdown.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::SpanContext;
use opentelemetry::trace::noop::NoopTracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tower::BoxError;
use tracing::{Level, Subscriber};
use tracing_log::{AsLog, LogTracer};
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Config, OtelConfig, ServiceInfo, variables};
use crate::error::Error;
use crate::logs::{Logger, NonBlockingWriter, unbuffered_stdout};
use crate::metrics::Metrics;
use crate::readiness::ReadinessChecks;
use crate::traces::propagation::{BoxPropagator, Propagation};
use crate::traces::{self, Traces};

/// Maximum share of the shutdown that is reserved for writing the last log lines.
const MAX_LOG_FLUSH: Duration = Duration::from_millis(500);

/// Warning if the process has a logger of the crate `log`.
const OTHER_LOGGER: &str =
    "another logger is installed; records of the crate `log` do not become log lines";

/// Warning if the process has a recorder of the crate `metrics`.
const OTHER_RECORDER: &str = "another recorder is installed; metrics of the crate `metrics` are missing in \
    /metrics unless it forwards to `Telemetry::recorder`";

/// Telemetry of one service. A clone shares its state.
#[derive(Clone)]
pub struct Telemetry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) service: ServiceInfo,
    pub(crate) config: Config,
    pub(crate) otel: OtelConfig,
    pub(crate) propagation: Propagation,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logger: Logger,
    pub(crate) ready: AtomicBool,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) readiness_checks: ReadinessChecks,
    /// The sampler creates no sampled span below an unsampled parent.
    pub(crate) is_parent_based: bool,
    traces: Traces,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// Starts logs, traces and metrics, and registers them as the process's globals: the `tracing`
/// subscriber, the `metrics` recorder, the logger of the crate `log`, OpenTelemetry's tracer provider and
/// propagator.
///
/// A recorder or a logger that the process has already is left alone, and a log line says so.
/// [`Telemetry::start`] registers nothing.
///
/// # Errors
/// [`Error::AlreadyInitialized`] if the process has a `tracing` subscriber, [`Error::InvalidSettings`] for
/// an invalid `OTEL_*` variable, and [`Error::Telemetry`] if a thread or an exporter cannot be created.
pub fn init(service: ServiceInfo, config: &Config) -> Result<Telemetry, Error> {
    Telemetry::builder(service, config).init()
}

/// Telemetry before its start; created with [`Telemetry::builder`].
#[derive(Debug)]
pub struct TelemetryBuilder {
    service: ServiceInfo,
    config: Config,
    propagators: Vec<BoxPropagator>,
}

impl TelemetryBuilder {
    /// Adds headers that continue a trace, such as those of B3, to the ones of `OTEL_PROPAGATORS`.
    ///
    /// If the headers of a request name several traces, that of the last propagator continues.
    pub fn propagator(
        mut self,
        propagator: impl TextMapPropagator + Send + Sync + 'static,
    ) -> Self {
        self.propagators.push(Box::new(propagator));
        self
    }

    /// Starts the telemetry and registers the process's globals; see [`init`].
    ///
    /// # Errors
    /// Those of [`init`].
    pub fn init(self) -> Result<Telemetry, Error> {
        let mut otel = read_otel(self.service)?;
        if tracing::dispatcher::has_been_set() {
            return Err(Error::AlreadyInitialized);
        }
        let max_level =
            traces::max_level(&self.config.log_filter).into_level().unwrap_or(Level::INFO);
        if LogTracer::init_with_filter(max_level.as_log().to_level_filter()).is_err() {
            otel.warnings.push(OTHER_LOGGER.to_owned());
        }
        let telemetry = self.build(otel)?;
        tracing::subscriber::set_global_default(telemetry.subscriber())
            .map_err(|_| Error::AlreadyInitialized)?;
        if metrics::set_global_recorder(telemetry.recorder()).is_err() {
            tracing::warn!(target: "observability", "{OTHER_RECORDER}");
        }
        let propagator = telemetry.0.propagation.text_map_propagator();
        opentelemetry::global::set_text_map_propagator(propagator);
        if telemetry.0.otel.disabled {
            opentelemetry::global::set_tracer_provider(NoopTracerProvider::new());
        } else {
            opentelemetry::global::set_tracer_provider(telemetry.tracer_provider());
        }
        install_panic_hook();
        Ok(telemetry)
    }

    /// Starts the telemetry without globals; see [`Telemetry::start`].
    ///
    /// # Errors
    /// Those of [`Telemetry::start`].
    pub fn start(self) -> Result<Telemetry, Error> {
        let otel = read_otel(self.service)?;
        self.build(otel)
    }

    fn build(self, otel: OtelConfig) -> Result<Telemetry, Error> {
        let stdout = unbuffered_stdout().map_err(|error| Error::telemetry("stdout", error))?;
        Telemetry::new(self, otel, stdout, Traces::start)
    }
}

fn read_otel(service: ServiceInfo) -> Result<OtelConfig, Error> {
    let mut otel = OtelConfig::read(&|name| std::env::var_os(name))
        .map_err(|errors| Error::InvalidSettings { program: service.name.to_owned(), errors })?;
    otel.warnings.extend(variables::warnings(std::env::vars_os()));
    Ok(otel)
}

impl Telemetry {
    /// Creates the builder of telemetry with options that are code.
    ///
    /// ```no_run
    /// # use opentelemetry_sdk::propagation::TraceContextPropagator as B3Propagator;
    /// # fn example(service: observability::ServiceInfo) -> Result<(), observability::Error> {
    /// let config = service.parse_or_exit();
    /// let telemetry =
    ///     observability::Telemetry::builder(service, &config).propagator(B3Propagator::new()).init()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(service: ServiceInfo, config: &Config) -> TelemetryBuilder {
        TelemetryBuilder { service, config: config.clone(), propagators: Vec::new() }
    }

    /// Starts logs, traces and metrics without registering any globals, for a process that has its own.
    ///
    /// Add [`tracing_layer`](Self::tracing_layer) to the subscriber. [`recorder`](Self::recorder) and
    /// [`tracer_provider`](Self::tracer_provider) are there for the other globals.
    ///
    /// ```no_run
    /// use observability::Telemetry;
    /// use tracing_subscriber::prelude::*;
    ///
    /// # fn example(config: observability::Config) -> Result<(), observability::Error> {
    /// const SERVICE: observability::ServiceInfo =
    ///     observability::service!("greeter", log_label: "G", listen_addr: "127.0.0.1:8082");
    /// let telemetry = Telemetry::start(SERVICE, &config)?;
    /// tracing_subscriber::registry().with(telemetry.tracing_layer()).init();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidSettings`] for an invalid `OTEL_*` variable, and [`Error::Telemetry`] if a thread or
    /// an exporter cannot be created.
    pub fn start(service: ServiceInfo, config: &Config) -> Result<Self, Error> {
        Self::builder(service, config).start()
    }

    pub(crate) fn new(
        builder: TelemetryBuilder,
        otel: OtelConfig,
        log: impl Write + Send + 'static,
        start_traces: impl FnOnce(&OtelConfig, Resource, &Metrics) -> Result<Traces, BoxError>,
    ) -> Result<Self, Error> {
        let TelemetryBuilder { service, config, propagators } = builder;
        let metrics = Arc::new(Metrics::new(
            service.name,
            service.version,
            service.revision,
            config.metrics_series_limit.get(),
            config.metrics_native_histograms,
        ));
        let resource = otel.resource(&service);
        metrics.set_target_info(
            resource.iter().map(|(name, value)| (name.as_str().to_owned(), value.to_string())),
        );
        let writer = NonBlockingWriter::start(log, metrics.dropped_lines.clone())
            .map_err(|error| Error::telemetry("log thread", error))?;
        let logger = Logger::new(writer, config.log_format, service.log_label, &config.log_filter);
        let traces = start_traces(&otel, resource, &metrics)
            .map_err(|error| Error::telemetry("span exporter", error))?;
        Ok(Self(Arc::new(Inner {
            is_parent_based: matches!(otel.sampler, Sampler::ParentBased(_) | Sampler::AlwaysOff),
            service,
            config,
            propagation: Propagation::new(otel.propagators, propagators),
            otel,
            metrics,
            logger,
            ready: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            readiness_checks: ReadinessChecks::default(),
            traces,
        })))
    }

    pub(crate) fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        traces::subscriber(self.tracer(), &self.0.logger, &self.0.config.log_filter)
    }

    /// Returns the tracer of the library, or `None` if tracing is disabled.
    pub(crate) fn tracer(&self) -> Option<SdkTracer> {
        (!self.0.otel.disabled).then(|| self.0.traces.tracer())
    }

    /// Returns the layer of a `tracing` subscriber that makes the spans and the log lines.
    pub fn tracing_layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        traces::layer(self.tracer(), &self.0.logger, &self.0.config.log_filter)
    }

    /// Returns the recorder that adds the metrics of the crate `metrics` to `/metrics`.
    pub fn recorder(&self) -> impl metrics::Recorder + Send + Sync + 'static + use<> {
        self.0.metrics.recorder()
    }

    /// Returns the provider whose spans are exported, for code that uses the OpenTelemetry API.
    pub fn tracer_provider(&self) -> SdkTracerProvider {
        self.0.traces.provider.clone()
    }

    /// Returns `span` if it is sampled and an exporter is configured. Exemplars refer only to such spans.
    pub(crate) fn exemplar_context<'a>(&self, span: &'a SpanContext) -> Option<&'a SpanContext> {
        (span.is_sampled() && self.0.traces.processor.is_some()).then_some(span)
    }

    /// Sets the upper bounds of the buckets of a histogram that the service records through the crate
    /// `metrics`, before it records the first sample.
    ///
    /// Without this, the bounds are [`DURATION_BUCKETS`](crate::metrics::DURATION_BUCKETS) if the name ends
    /// in `_seconds`, otherwise [`DEFAULT_BUCKETS`](crate::metrics::DEFAULT_BUCKETS).
    pub fn set_histogram_bounds(&self, name: &str, bounds: &[f64]) {
        self.0.metrics.set_bounds(name, bounds);
    }

    /// Returns `false` while the service drains, and after [`set_ready(false)`](Self::set_ready). Readiness
    /// checks have no effect.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// Sets whether the service accepts requests. If not, `/readyz` responds 503, and responses over HTTP/1.1
    /// close their connection.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Logs the warnings about `OTEL_*` variables.
    pub(crate) fn log_warnings(&self) {
        for warning in &self.0.otel.warnings {
            tracing::warn!(target: "observability", "{warning}");
        }
    }

    /// Exports the queued spans and writes the queued log lines, within `timeout`. Blocks the thread.
    ///
    /// Spans that cannot be exported are counted, and the last log lines say how many.
    pub fn shutdown(&self, timeout: Duration) {
        let started = Instant::now();
        if let Some(processor) = &self.0.traces.processor {
            let log_reserve = (timeout / 4).min(MAX_LOG_FLUSH);
            processor.stop(timeout - log_reserve);
            let dropped = processor.dropped();
            if dropped > 0 {
                tracing::warn!(target: "observability", spans = dropped, "spans dropped");
            }
        }
        tracing::info!(target: "observability", "stopped");
        self.0.logger.writer().flush(timeout.saturating_sub(started.elapsed()));
    }
}

/// Adds a log line to each panic, with the ids of the request in which it happens.
fn install_panic_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "observability", location, "panic: {message}");
        previous(panic);
    }));
}
