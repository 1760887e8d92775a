//! OTLP over gRPC through tonic, with the hand-written encoder.
//!
//! docs/adr/0004-hand-written-otlp-encoder.md has the reason.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status};
use tonic_types::StatusExt;
use tower::BoxError;

use super::{SendError, SpanTransport, encode, first_line};
use crate::config::OtlpConfig;

const EXPORT_PATH: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");

/// Span exporter over gRPC.
pub(crate) struct GrpcExporter {
    client: Grpc<Channel>,
    metadata: MetadataMap,
    resource: Vec<u8>,
}

impl GrpcExporter {
    /// Creates the exporter. Must be called in the context of a runtime.
    pub(crate) fn new(
        otlp: &OtlpConfig,
        timeout: Duration,
        resource: &Resource,
    ) -> Result<Self, BoxError> {
        let endpoint = Endpoint::from_shared(otlp.endpoint.clone())?
            .user_agent(concat!("observability/", env!("CARGO_PKG_VERSION")))?
            .timeout(timeout)
            // Without it, the channel keeps waiting for the connection of an abandoned export.
            .connect_timeout(timeout);
        #[cfg(feature = "tls")]
        let endpoint = if endpoint.uri().scheme_str() == Some("https") {
            let tls = tonic::transport::ClientTlsConfig::new();
            endpoint.tls_config(match &otlp.certificates {
                Some(pem) => tls.ca_certificate(tonic::transport::Certificate::from_pem(pem)),
                None => tls.with_enabled_roots(),
            })?
        } else {
            endpoint
        };
        // Receivers such as grpc-go compress the response like the request.
        let mut client =
            Grpc::new(endpoint.connect_lazy()).accept_compressed(CompressionEncoding::Gzip);
        if otlp.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let metadata = MetadataMap::from_headers(otlp.headers.clone());
        Ok(Self { client, metadata, resource: encode::resource(resource) })
    }

    async fn call(&self, request: Bytes) -> Result<ExportTraceServiceResponse, Status> {
        let mut client = self.client.clone();
        let unavailable = |error| Status::unavailable(crate::error::error_chain(&error));
        client.ready().await.map_err(unavailable)?;
        let request = Request::from_parts(self.metadata.clone(), Extensions::default(), request);
        Ok(client.unary(request, EXPORT_PATH, RawCodec).await?.into_inner())
    }
}

impl fmt::Debug for GrpcExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcExporter").finish_non_exhaustive()
    }
}

impl SpanTransport for GrpcExporter {
    async fn send(&self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError> {
        let mut request = Vec::with_capacity(self.resource.len() + batch.len() * 384);
        encode::request(&mut request, &self.resource, batch);
        match self.call(request.into()).await {
            Ok(response) => Ok(response.partial_success.unwrap_or_default()),
            Err(status) => Err(classify(&status)),
        }
    }
}

/// Classifies a status by the OTLP specification, section "OTLP/gRPC Response".
fn classify(status: &Status) -> SendError {
    let details = format!("{:?}: {}", status.code(), first_line(status.message()));
    if SendError::is_about_size(status.message()) {
        return SendError::TooLarge(details);
    }
    let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => SendError::Retryable(retry_delay, details),
        Code::ResourceExhausted if retry_delay.is_some() => {
            SendError::Retryable(retry_delay, details)
        }
        // A status with a source was not sent by the receiver. The connection broke.
        _ if status.source().is_some() => SendError::Retryable(None, details),
        _ => SendError::Permanent(details),
    }
}

/// Codec of a request that is encoded already.
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, request: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(request);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let response = ExportTraceServiceResponse::decode(from);
        response.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_decides_about_retry() {
        let is_retryable = |status| matches!(classify(&status), SendError::Retryable(None, _));
        assert!(is_retryable(Status::unavailable("")));
        assert!(!is_retryable(Status::invalid_argument("")));
        assert!(!is_retryable(Status::resource_exhausted("")));
        let delay = Some(Duration::from_secs(2));
        let details = tonic_types::ErrorDetails::with_retry_info(delay);
        let throttled = Status::with_error_details(Code::ResourceExhausted, "", details);
        assert!(matches!(classify(&throttled), SendError::Retryable(after, _) if after == delay));
        let broken = Status::from_error(std::io::Error::other("broken pipe").into());
        assert!(is_retryable(broken));
        for too_large in [
            Status::resource_exhausted("grpc: received message larger than max (9 vs. 4)"),
            Status::out_of_range("decoded message length too large"),
        ] {
            assert!(matches!(classify(&too_large), SendError::TooLarge(_)));
        }
    }
}
