//! Traces: the tracer provider and its exporter, and the `tracing` subscriber that feeds them.
//!
//! ```
//! use http::HeaderMap;
//! use observability::traces::propagation::{TRACEPARENT, extract, inject};
//!
//! let caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
//! let incoming = HeaderMap::from_iter([(TRACEPARENT, caller.parse().unwrap())]);
//! let context = extract(&incoming).unwrap();
//! let mut outgoing = HeaderMap::new();
//! inject(&context, &mut outgoing);
//! assert_eq!(outgoing[TRACEPARENT], caller);
//! ```

mod attributes;
#[cfg(feature = "testing")]
mod capture;
mod end;
mod otlp;
mod probe;
mod processor;
pub mod propagation;
mod queue;
mod sampler;
mod worker;

use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::noop::NoopTracer;
use opentelemetry::trace::{Tracer, TracerProvider as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, TracerProviderBuilder};
use tower::BoxError;
use tracing::{Level, Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

use crate::config::{OtelConfig, OtlpConfig, SpanLimits};
use crate::logs::{LogLayer, Logger};
use crate::metrics::Metrics;

#[cfg(feature = "testing")]
pub(crate) use capture::SpanCapture;
pub(crate) use end::{end_after, relative_end};
use otlp::Exporter;
pub(crate) use probe::{export_once, test_span};
use processor::BatchSpanProcessor;
use sampler::CountingSampler;

/// Version of the semantic conventions that names and attributes follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

/// Tracer provider, and the processor that exports its spans if an endpoint is configured.
pub(crate) struct Traces {
    pub(crate) provider: SdkTracerProvider,
    pub(crate) processor: Option<BatchSpanProcessor>,
}

impl Traces {
    pub(crate) fn start(
        otel: &OtelConfig,
        resource: Resource,
        metrics: &Metrics,
    ) -> Result<Self, BoxError> {
        let processor = match &otel.otlp {
            Some(otlp) if !otel.disabled => Some(start_exporter(otlp, otel, &resource, metrics)?),
            _ => None,
        };
        let provider = provider_with_limits(&otel.span_limits).with_resource(resource);
        let sampler = otel.sampler.clone();
        let provider = match &processor {
            Some(processor) => provider
                .with_sampler(CountingSampler { sampler, unsampled: metrics.unsampled_spans() })
                .with_span_processor(processor.clone()),
            None => provider.with_sampler(sampler),
        };
        Ok(Self { provider: provider.build(), processor })
    }

    /// Creates traces whose spans are kept in memory.
    #[cfg(feature = "testing")]
    pub(crate) fn captured(otel: &OtelConfig, resource: Resource, spans: SpanCapture) -> Self {
        let provider = provider_with_limits(&otel.span_limits)
            .with_sampler(otel.sampler.clone())
            .with_resource(resource)
            .with_span_processor(spans.with_limits(otel.span_limits));
        Self { provider: provider.build(), processor: None }
    }

    pub(crate) fn tracer(&self) -> SdkTracer {
        let scope = InstrumentationScope::builder("observability")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL)
            .build();
        self.provider.tracer_with_scope(scope)
    }
}

/// Creates the builder of a provider. `finish_span` applies the limits of attributes, which keep those of the
/// outcome.
fn provider_with_limits(limits: &SpanLimits) -> TracerProviderBuilder {
    SdkTracerProvider::builder()
        .with_max_attributes_per_span(u32::MAX)
        .with_max_events_per_span(limits.events)
        .with_max_attributes_per_event(limits.event_attributes)
        .with_max_links_per_span(limits.links)
        .with_max_attributes_per_link(limits.link_attributes)
}

/// Creates the subscriber that sends spans to `tracer` and events to the log.
///
/// Spans are those of the level INFO and above, whatever the log filter, so that a trace does not depend on
/// it.
pub(crate) fn subscriber(
    tracer: Option<SdkTracer>,
    logger: &Logger,
    log_filter: &Targets,
) -> impl Subscriber + Send + Sync + use<> {
    let targets = log_filter.clone();
    let is_enabled = move |metadata: &Metadata<'_>| {
        *metadata.level() <= Level::INFO
            || (metadata.is_event() && targets.would_enable(metadata.target(), metadata.level()))
    };
    tracing_subscriber::registry()
        .with(layer(tracer, logger, log_filter))
        .with(filter_fn(is_enabled).with_max_level_hint(max_level(log_filter)))
}

/// Creates the layer that sends spans to `tracer` and events to the log. Without a tracer, a span has the
/// trace context of its parent.
pub(crate) fn layer<S>(
    tracer: Option<SdkTracer>,
    logger: &Logger,
    log_filter: &Targets,
) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let disabled = tracer.is_none().then(|| span_layer(NoopTracer::new()));
    // Spans have the events of the level INFO and above. A filter per layer is evaluated at each step of a
    // span's life, so there is one only if the log has other events.
    let (spans, filtered_spans) = if max_level(log_filter) <= LevelFilter::INFO {
        (tracer.map(span_layer), None)
    } else {
        (None, tracer.map(span_layer).map(|spans| spans.with_filter(LevelFilter::INFO)))
    };
    let log = LogLayer::new(logger.clone(), log_filter.clone());
    // The last layer decides the level, so it must not be an absent one.
    Layer::and_then(filtered_spans, spans).and_then(disabled).and_then(log)
}

/// Returns the most verbose level that the log or the traces use.
pub(crate) fn max_level(log_filter: &Targets) -> LevelFilter {
    let log_level = Layer::<Registry>::max_level_hint(log_filter).unwrap_or(LevelFilter::TRACE);
    log_level.max(LevelFilter::INFO)
}

fn span_layer<S, T>(tracer: T) -> OpenTelemetryLayer<S, T>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    T: Tracer<Span: Send + Sync> + 'static,
{
    // Code location, thread and target are disabled because they cost as much as useful attributes. The
    // outcome of a request sets its status, so errors of events are not exceptions of the span.
    tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_error_records_to_exceptions(false)
        .with_tracer(tracer)
}

fn start_exporter(
    otlp: &OtlpConfig,
    otel: &OtelConfig,
    resource: &Resource,
    metrics: &Metrics,
) -> Result<BatchSpanProcessor, BoxError> {
    // The processor's own timeout expires first and names the reason. This one is a safeguard.
    let timeout = otel.batch.export_timeout + Duration::from_secs(1);
    let endpoint = otlp.endpoint.parse()?;
    let (runtime, exporter) = Exporter::build(otlp, timeout, resource)?;
    Ok(BatchSpanProcessor::start(exporter, &endpoint, runtime, otel, metrics)?)
}
