//! OTLP over gRPC through tonic, with the hand-written encoder.
//!
//! docs/adr/0004-hand-written-otlp-encoder.md has the reason.

use std::env;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::HeaderMap;
use http::uri::PathAndQuery;
use opentelemetry_otlp::{OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TRACES_HEADERS};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use tokio::time::sleep;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Extensions, Request, Status};
use tonic_types::StatusExt;

use super::{PartialSuccess, encode};
use crate::config::OtlpConfig;

const EXPORT_PATH: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");

/// Delays before the retries, those of `opentelemetry-otlp`.
const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];

/// Span exporter over gRPC.
pub(crate) struct GrpcExporter {
    client: Grpc<Channel>,
    metadata: MetadataMap,
    resource: Vec<u8>,
    partial_success: PartialSuccess,
}

impl GrpcExporter {
    /// Creates the exporter. Must be called in the context of a runtime.
    pub(crate) fn new(
        otlp: &OtlpConfig,
        timeout: Duration,
        partial_success: PartialSuccess,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
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
        let mut client = Grpc::new(endpoint.connect_lazy());
        if otlp.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let headers = env::var(OTEL_EXPORTER_OTLP_TRACES_HEADERS)
            .or_else(|_| env::var(OTEL_EXPORTER_OTLP_HEADERS));
        let metadata = MetadataMap::from_headers(parse_headers(&headers.unwrap_or_default()));
        Ok(Self { client, metadata, resource: Vec::new(), partial_success })
    }

    async fn send(&self, request: Bytes) -> Result<ExportTraceServiceResponse, Status> {
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

impl SpanExporter for GrpcExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut request = Vec::with_capacity(self.resource.len() + batch.len() * 384);
        encode::request(&mut request, &self.resource, &batch);
        drop(batch);
        let request = Bytes::from(request);
        let mut delays = RETRY_DELAYS.into_iter();
        loop {
            let status = match self.send(request.clone()).await {
                Ok(response) => {
                    self.partial_success.set(response);
                    return Ok(());
                }
                Err(status) => status,
            };
            match (retry_after(&status), delays.next()) {
                (Some(min_delay), Some(delay)) => sleep(delay.max(min_delay)).await,
                _ => {
                    let details = format!("{:?}: {}", status.code(), status.message());
                    return Err(OTelSdkError::InternalFailure(details));
                }
            }
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = encode::resource(resource);
    }
}

/// Returns the minimum delay before a retry, or `None` if the status is not retryable. Source: OTLP
/// specification, section "OTLP/gRPC Response".
fn retry_after(status: &Status) -> Option<Duration> {
    let retry_delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Some(retry_delay.unwrap_or_default()),
        Code::ResourceExhausted => retry_delay,
        _ => None,
    }
}

/// Parses `key=value,key2=value2` with percent-encoded values. Invalid headers are ignored.
fn parse_headers(text: &str) -> HeaderMap {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let headers = pairs.filter_map(|(name, value)| {
        let name = http::HeaderName::from_str(name.trim()).ok()?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().ok()?;
        Some((name, http::HeaderValue::from_str(&value).ok()?))
    });
    headers.collect()
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
    fn otlp_headers_are_parsed() {
        let headers = parse_headers("api-key=a%20secret, X-Tenant = t=1 ,broken,bad name=x,empty=");
        let read: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(read, [("api-key", "a secret"), ("x-tenant", "t=1"), ("empty", "")]);
    }

    #[test]
    fn only_transient_status_is_retried() {
        assert_eq!(retry_after(&Status::unavailable("")), Some(Duration::ZERO));
        assert_eq!(retry_after(&Status::invalid_argument("")), None);
        assert_eq!(retry_after(&Status::resource_exhausted("")), None);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(Duration::from_secs(2)));
        let throttled = Status::with_error_details(Code::ResourceExhausted, "", details);
        assert_eq!(retry_after(&throttled), Some(Duration::from_secs(2)));
    }
}
