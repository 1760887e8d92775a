//! Traces: the tracer provider and its exporter, and the `tracing` subscriber that feeds them.

mod otlp;
mod processor;
pub mod propagation;
mod queue;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::runtime::Runtime;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::config::{BatchConfig, OtelConfig, OtlpConfig, Protocol, ServiceInfo};
use crate::http::redact_url;
use crate::logs::{LogLayer, Logger};
use crate::metrics::Metrics;

use otlp::{GrpcExporter, HttpExporter};
use processor::BatchSpanProcessor;

type BoxError = Box<dyn Error + Send + Sync>;

/// Tracer provider, and the processor that exports its spans if an endpoint is configured.
pub(crate) struct Traces {
    pub(crate) provider: SdkTracerProvider,
    pub(crate) processor: Option<BatchSpanProcessor>,
}

impl Traces {
    pub(crate) fn start(
        service: &ServiceInfo,
        otel: &OtelConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, BoxError> {
        let resource = otel.resource(service);
        let processor = match &otel.otlp {
            Some(otlp) if !otel.disabled => {
                Some(start_exporter(otlp, &otel.batch, &resource, metrics)?)
            }
            _ => None,
        };
        let mut provider =
            SdkTracerProvider::builder().with_sampler(otel.sampler.clone()).with_resource(resource);
        if let Some(processor) = &processor {
            provider = provider.with_span_processor(processor.clone());
        }
        Ok(Self { provider: provider.build(), processor })
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        self.provider.tracer("observability")
    }
}

/// Creates the subscriber that sends spans to `tracer` and events to the log.
pub(crate) fn subscriber(
    tracer: Option<SdkTracer>,
    logger: &Logger,
    log_filter: &Targets,
) -> impl Subscriber + Send + Sync + use<> {
    let log = LogLayer::new(logger.clone(), log_filter.clone());
    let log_level = Layer::<Registry>::max_level_hint(log_filter).unwrap_or(LevelFilter::TRACE);
    // A filter per layer is evaluated at each step of a span's life, a global filter once per callsite.
    // The span layer therefore has a filter only if the log enables more than INFO.
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
    // Code location, thread and target are disabled because they cost as much as useful attributes.
    // Context activation is disabled because the request and call guards attach the context themselves.
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
) -> Result<BatchSpanProcessor, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The processor's own timeout expires first and names the reason. This one is a safeguard.
    let timeout = batch.export_timeout + Duration::from_secs(1);
    let (metrics, batch) = (Arc::clone(metrics), batch.clone());
    let url = redact_url(&otlp.endpoint.parse()?);
    match otlp.protocol {
        Protocol::Grpc => {
            let build = || GrpcExporter::new(otlp, timeout, resource);
            let (runtime, exporter) = build_on_runtime(runtime, build)?;
            Ok(BatchSpanProcessor::start(exporter, url, runtime, batch, metrics)?)
        }
        Protocol::HttpProtobuf => {
            let build = || HttpExporter::new(otlp, timeout, resource);
            let (runtime, exporter) = build_on_runtime(runtime, build)?;
            Ok(BatchSpanProcessor::start(exporter, url, runtime, batch, metrics)?)
        }
    }
}

/// Builds an exporter in the context of `runtime`.
///
/// On failure the runtime is shut down in the background because it must not be dropped on a thread of
/// another runtime.
fn build_on_runtime<T>(
    runtime: Runtime,
    build: impl FnOnce() -> Result<T, BoxError>,
) -> Result<(Runtime, T), BoxError> {
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
