//! OTLP: the transports that send spans, and what a receiver reports about them.

mod encode;
mod grpc;
mod http;

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use parking_lot::Mutex;

pub(super) use grpc::GrpcExporter;
pub(super) use http::HttpExporter;

/// Maximum size of a receiver's message in the log, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Partial success of the last export. A clone shares its state.
///
/// The SDK's exporter trait has no return value for it.
#[derive(Debug, Clone, Default)]
pub(super) struct PartialSuccess(Arc<Mutex<ExportTracePartialSuccess>>);

impl PartialSuccess {
    fn set(&self, response: ExportTraceServiceResponse) {
        *self.0.lock() = response.partial_success.unwrap_or_default();
    }

    /// Takes the number of rejected spans, at most `exported`, and the receiver's message. A negative
    /// number counts as 0.
    pub(super) fn take(&self, exported: u64) -> (u64, String) {
        let mut partial = std::mem::take(&mut *self.0.lock());
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0).min(exported);
        let end = partial.error_message.floor_char_boundary(MAX_MESSAGE_BYTES);
        partial.error_message.truncate(end);
        (rejected, partial.error_message)
    }
}
