//! The least that the crates below the library cost: a span for each request by tower-http's trace layer and
//! tracing-opentelemetry, with one attribute, without an exporter, metrics and log lines.

use anyhow::Result;
use axum::Router;
use axum::extract::Request;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower_http::trace::TraceLayer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Adds the layer to `router` and registers the subscriber.
pub(crate) fn add(router: Router) -> Result<Router> {
    let tracer = SdkTracerProvider::builder().build().tracer("bench");
    let spans = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_tracer(tracer);
    tracing_subscriber::registry().with(spans).with(LevelFilter::INFO).try_init()?;
    let layer = TraceLayer::new_for_http()
        .make_span_with(|_: &Request| tracing::info_span!("request", otel.kind = "server"))
        .on_request(())
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        .on_failure(());
    Ok(router.layer(layer))
}
