//! Single exports with the transports of the service, for `--check-telemetry`.

use std::future::Future;
use std::time::{Duration, SystemTime};

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};
use tower::BoxError;

use super::otlp::{Exporter, SendError, SpanTransport, rejected_spans};
use crate::config::OtlpConfig;

/// Makes one attempt to export `spans`. Returns the number of rejected spans and the receiver's message.
///
/// # Errors
/// The reason for which the attempt failed, for a person.
pub(crate) fn export_once(
    otlp: &OtlpConfig,
    timeout: Duration,
    resource: &Resource,
    spans: &[SpanData],
) -> Result<(u64, String), BoxError> {
    let (runtime, exporter) = Exporter::build(otlp, timeout, resource)?;
    let outcome = runtime.block_on(within(timeout, exporter.send(spans)));
    match outcome? {
        Ok(partial) => Ok(rejected_spans(partial, spans.len().try_into()?)),
        Err(
            SendError::Retryable(_, text) | SendError::TooLarge(text) | SendError::Permanent(text),
        ) => Err(text.into()),
    }
}

async fn within<T>(timeout: Duration, send: impl Future<Output = T>) -> Result<T, BoxError> {
    let no_response = |_| format!("no response within {} ms", timeout.as_millis()).into();
    tokio::time::timeout(timeout, send).await.map_err(no_response)
}

/// Creates a span that has ended.
pub(crate) fn test_span() -> SpanData {
    let ids = RandomIdGenerator::default();
    let (trace_id, span_id): (TraceId, SpanId) = (ids.new_trace_id(), ids.new_span_id());
    let now = SystemTime::now();
    SpanData {
        span_context: SpanContext::new(
            trace_id,
            span_id,
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "check-telemetry".into(),
        start_time: now,
        end_time: now,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("observability").build(),
    }
}
