//! Logs, traces and metrics of one service: started together, flushed together.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter as _};
use tokio::runtime::Runtime;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::client::ClientBuilder;
use crate::config::{Config, ServiceInfo};
use crate::error::Error;
use crate::export::{BatchSpanProcessor, GrpcExporter, HttpExporter, PartialSuccess};
use crate::log::{LogLayer, Logger, NonBlockingWriter};
use crate::metrics::Metrics;
use crate::otel::{BatchConfig, OtelConfig, OtlpConfig, Protocol};
use crate::serve::Server;
use crate::trace_context::TraceContextPropagator;

/// How often samples are folded into their buckets where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The telemetry of one service; a clone is the same telemetry.
#[derive(Clone)]
pub struct Telemetry(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) otel: OtelConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logger: Logger,
    pub(crate) ready: AtomicBool,
    pub(crate) in_flight: AtomicUsize,
    /// Whether a parent that is not sampled has no sampled children.
    pub(crate) is_parent_based: bool,
    provider: SdkTracerProvider,
    exporter: Option<BatchSpanProcessor>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// Starts logs, traces and metrics, and makes them the process's: the `tracing` subscriber, the
/// `metrics` recorder, OpenTelemetry's tracer provider and propagator. Once a process.
///
/// # Errors
/// Where the process has a subscriber or recorder already, or no thread or exporter can be made.
pub fn init(service: ServiceInfo, config: &Config) -> Result<Telemetry, Error> {
    let otel = OtelConfig::read(&|name| std::env::var_os(name))
        .map_err(|errors| Error::InvalidSettings { program: service.name.to_owned(), errors })?;
    let (telemetry, subscriber) = Telemetry::new(service, config, otel, io::stdout())?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| Error::AlreadyInitialized("tracing subscriber"))?;
    metrics::set_global_recorder(telemetry.0.metrics.recorder())
        .map_err(|_| Error::AlreadyInitialized("metrics recorder"))?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator);
    opentelemetry::global::set_tracer_provider(telemetry.0.provider.clone());
    install_panic_hook();
    Ok(telemetry)
}

impl Telemetry {
    /// Telemetry of its own, for nobody else in the process to see, and the subscriber that feeds it.
    pub(crate) fn new(
        service: ServiceInfo,
        config: &Config,
        otel: OtelConfig,
        log: impl Write + Send + 'static,
    ) -> Result<(Self, impl Subscriber + Send + Sync), Error> {
        let metrics = Metrics::new(service.name, service.version, service.revision)
            .map_err(|error| Error::telemetry("metrics", error))?;
        let metrics = Arc::new(metrics);
        let sink = NonBlockingWriter::start(log, metrics.dropped_lines.clone())
            .map_err(|error| Error::telemetry("log thread", error))?;
        let logger = Logger::new(sink, config.log_format, service.log_label, &config.log_filter);

        let resource = otel.resource(&service);
        let exporter = match &otel.otlp {
            Some(otlp) if !otel.disabled => {
                let exporter = start_exporter(otlp, &otel.batch, &resource, &metrics)
                    .map_err(|error| Error::telemetry("span exporter", error))?;
                Some(exporter)
            }
            _ => None,
        };
        let mut provider =
            SdkTracerProvider::builder().with_sampler(otel.sampler.clone()).with_resource(resource);
        if let Some(exporter) = &exporter {
            provider = provider.with_span_processor(exporter.clone());
        }
        let provider = provider.build();
        start_upkeep(&metrics).map_err(|error| Error::telemetry("metrics upkeep thread", error))?;

        let tracer = (!otel.disabled).then(|| provider.tracer("observability"));
        let subscriber = subscriber(tracer, &logger, &config.log_filter);
        let ready = AtomicBool::new(true);
        let in_flight = AtomicUsize::new(0);
        let is_parent_based = matches!(otel.sampler, Sampler::ParentBased(_) | Sampler::AlwaysOff);
        let config = config.clone();
        let inner = Inner {
            is_parent_based,
            config,
            otel,
            metrics,
            logger,
            ready,
            in_flight,
            provider,
            exporter,
        };
        Ok((Self(Arc::new(inner)), subscriber))
    }

    /// Puts everything around a router: spans, metrics, the access log and `x-trace-id` around its
    /// routes, and beside them `/metrics`, `/health`, `/livez` and `/readyz`.
    ///
    /// For those who serve a router themselves; [`serve`](Self::serve) does it all.
    pub fn instrument(&self, router: Router) -> Router {
        // Of two default fallbacks the merged one stays: what matches no route is observed too.
        self.admin_routes().merge(self.observe(router))
    }

    /// Wraps `router`, serves it until the process is told to stop, and flushes.
    ///
    /// # Errors
    /// Where an address cannot be listened on.
    pub async fn serve(&self, router: Router) -> Result<(), Error> {
        self.server(router).run().await
    }

    /// As [`serve`](Self::serve), with more to choose.
    pub fn server(&self, router: Router) -> Server {
        Server::new(self.clone(), router)
    }

    /// Builds clients whose calls are exemplar_context, measured and logged.
    pub fn client(&self) -> ClientBuilder {
        ClientBuilder::new(self.clone())
    }

    /// A span that somebody will be able to look at: it is sampled, and exported somewhere.
    pub(crate) fn exemplar_context<'a>(&self, span: &'a SpanContext) -> Option<&'a SpanContext> {
        (span.is_sampled() && self.0.exporter.is_some()).then_some(span)
    }

    /// Whether `/readyz` says that the service takes work.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Relaxed)
    }

    /// What `/readyz` says from now on.
    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::Relaxed);
    }

    /// Sends the spans and writes the log lines that wait, within `limit`; what cannot be sent by
    /// then is counted and said in the last line. Nothing is recorded after it. Blocks the thread.
    pub fn shutdown(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // The log's share, so that a backend that hangs cannot cost the last lines.
        let for_log = (limit / 4).min(Duration::from_millis(500));
        if let Some(exporter) = &self.0.exporter {
            exporter.stop(limit - for_log);
            let lost = self.0.metrics.spans.lost();
            if lost > 0 {
                tracing::warn!(target: "observability", spans = lost, "spans were lost");
            }
        }
        tracing::info!(target: "observability", "stopped");
        self.0.logger.sink().flush(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Spans go to `tracer`, events to the log.
fn subscriber(
    tracer: Option<SdkTracer>,
    logger: &Logger,
    log_filter: &Targets,
) -> impl Subscriber + Send + Sync + use<> {
    let log = LogLayer::new(logger.clone(), log_filter.clone());
    let log_level = Layer::<Registry>::max_level_hint(log_filter).unwrap_or(LevelFilter::TRACE);
    // A filter of a layer's own is asked at each step of a span's life, one for all only once for
    // each place in the code. So a layer has its own only where the log wants to see more.
    let (spans, filtered_spans) = if log_level <= LevelFilter::INFO {
        (tracer.map(span_layer), None)
    } else {
        (None, tracer.map(span_layer).map(|spans| spans.with_filter(LevelFilter::INFO)))
    };
    tracing_subscriber::registry()
        .with(filtered_spans)
        .with(spans)
        .with(log)
        .with(log_level.max(LevelFilter::INFO))
}

fn span_layer<S>(tracer: SdkTracer) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // What nobody looks at in a trace costs as much as what everybody does, so it is left out. The
    // guards of requests and calls make the context the current one, once and not at each poll.
    tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_tracer(tracer)
}

fn start_exporter(
    otlp: &OtlpConfig,
    batch: &BatchConfig,
    resource: &Resource,
    metrics: &Arc<Metrics>,
) -> Result<BatchSpanProcessor, Box<dyn std::error::Error + Send + Sync>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let batch = batch.clone();
    // Our own limit around each export comes first and names the reason; this one is the net below.
    let timeout = batch.export_timeout + Duration::from_secs(1);
    let (metrics, rejected) = (Arc::clone(metrics), PartialSuccess::default());
    match otlp.protocol {
        Protocol::Grpc => {
            let build = || GrpcExporter::new(otlp, timeout, rejected.clone());
            let (runtime, mut exporter) = build_on_runtime(runtime, build)?;
            exporter.set_resource(resource);
            Ok(BatchSpanProcessor::start(exporter, rejected, runtime, batch, metrics)?)
        }
        Protocol::HttpProtobuf => {
            let build = || HttpExporter::new(otlp, timeout, rejected.clone());
            let (runtime, mut exporter) = build_on_runtime(runtime, build)?;
            exporter.set_resource(resource);
            Ok(BatchSpanProcessor::start(exporter, rejected, runtime, batch, metrics)?)
        }
    }
}

/// A runtime may not simply be dropped on a thread where another one runs, as the service's does here.
fn build_on_runtime<T, E>(
    runtime: Runtime,
    build: impl FnOnce() -> Result<T, E>,
) -> Result<(Runtime, T), E> {
    let entered = runtime.enter();
    let built = build();
    drop(entered);
    match built {
        Ok(built) => Ok((runtime, built)),
        Err(error) => {
            runtime.shutdown_background();
            Err(error)
        }
    }
}

/// Until the telemetry is gone.
fn start_upkeep(metrics: &Arc<Metrics>) -> io::Result<()> {
    let metrics = Arc::downgrade(metrics);
    let upkeep = move || {
        while let Some(metrics) = metrics.upgrade() {
            metrics.upkeep();
            drop(metrics);
            thread::sleep(UPKEEP);
        }
    };
    thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(upkeep).map(|_| ())
}

/// A panic is a log line too, with the ids of the request it happened in.
fn install_panic_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(target: "observability", location, "panic: {message}");
        previous(panic);
    }));
}
