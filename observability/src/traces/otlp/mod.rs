//! OTLP: the transports that send spans, and what a receiver reports about them.

pub(super) mod encode;
mod grpc;
mod http;

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
use opentelemetry_sdk::trace::SpanData;

pub(super) use grpc::GrpcExporter;
pub(super) use http::HttpExporter;

/// Maximum size of a receiver's message in the log, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Transport that makes one attempt to send a batch. The processor retries.
pub(super) trait SpanTransport {
    async fn send(&self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError>;
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
    let line = message.trim_start().lines().next().unwrap_or_default();
    &line[..line.floor_char_boundary(MAX_MESSAGE_BYTES)]
}
