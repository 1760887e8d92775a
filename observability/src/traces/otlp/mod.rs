//! OTLP: the transports that send spans, and what a receiver reports about them.

pub(super) mod encode;
mod grpc;
mod http;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use tokio::runtime::Runtime;
use tower::BoxError;

use crate::config::{OtlpConfig, Protocol};
use crate::http::truncate;
use grpc::GrpcExporter;
use http::HttpExporter;

/// Maximum size of a receiver's message in the log, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Transport that makes one attempt to send a batch. The processor retries.
pub(super) trait SpanTransport {
    async fn send(&self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError>;
}

/// Exporter of the configured protocol.
pub(super) enum Exporter {
    Grpc(GrpcExporter),
    Http(HttpExporter),
}

impl Exporter {
    /// Creates the exporter, in a runtime of its thread.
    ///
    /// On failure the runtime is shut down in the background because it must not be dropped on a thread of
    /// another runtime.
    pub(super) fn build(
        otlp: &OtlpConfig,
        timeout: Duration,
        resource: &Resource,
    ) -> Result<(Runtime, Self), BoxError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let exporter = match otlp.protocol {
            Protocol::Grpc => GrpcExporter::new(otlp, timeout, resource).map(Self::Grpc),
            Protocol::HttpProtobuf => HttpExporter::new(otlp, timeout, resource).map(Self::Http),
        };
        drop(entered);
        match exporter {
            Ok(exporter) => Ok((runtime, exporter)),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }
}

impl Exporter {
    /// Returns the `otel.component.type` of the semantic conventions.
    pub(super) fn component_type(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "otlp_grpc_span_exporter",
            Self::Http(_) => "otlp_http_span_exporter",
        }
    }
}

impl SpanTransport for Exporter {
    async fn send(&self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError> {
        match self {
            Self::Grpc(exporter) => exporter.send(batch).await,
            Self::Http(exporter) => exporter.send(batch).await,
        }
    }
}

/// Reason for which an attempt failed. The text is for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The same batch may succeed later, but not within the delay that the receiver demands.
    Retryable(Option<Duration>, String),
    /// The receiver refuses the batch because of its size.
    TooLarge(String),
    /// The same batch fails again.
    Permanent(String),
}

impl SendError {
    /// Returns `true` if a receiver's message says that a request is too large. Receivers use several
    /// status codes for it.
    fn is_about_size(message: &str) -> bool {
        ["larger than max", "too large"].iter().any(|text| message.contains(text))
    }
}

/// Returns the number of rejected spans, at most `exported`, and the receiver's message. A negative number
/// counts as 0.
pub(super) fn rejected_spans(partial: ExportTracePartialSuccess, exported: u64) -> (u64, String) {
    let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(exported);
    (rejected, first_line(&partial.error_message).to_owned())
}

/// Returns the first line of a receiver's message, limited in size.
fn first_line(message: &str) -> &str {
    truncate(message.trim_start().lines().next().unwrap_or_default(), MAX_MESSAGE_BYTES)
}
