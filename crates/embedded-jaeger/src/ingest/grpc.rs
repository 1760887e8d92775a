//! OTLP/gRPC: `TraceService/Export`.
//!
//! The service does not use tonic's generated code, because that code decodes the whole request
//! before `export` can apply its limits.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::body::Body;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tower::Service;

use super::export::export;
use crate::store::Store;

const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// gRPC service that exports into a store.
#[derive(Clone)]
pub(crate) struct TraceService(pub(crate) Arc<Store>);

impl TraceService {
    /// Counts a request that is too large, and replaces the status OUT_OF_RANGE that tonic returns
    /// for it. OTLP clients retry after OUT_OF_RANGE and drop the spans after RESOURCE_EXHAUSTED.
    fn map_oversized(&self, response: http::Response<Body>) -> http::Response<Body> {
        match Status::from_header_map(response.headers()) {
            Some(status) if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) => {
                self.0.update_stats(|stats| stats.rejected_requests += 1);
                Status::resource_exhausted(status.message()).into_http()
            }
            _ => response,
        }
    }
}

impl NamedService for TraceService {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl Service<http::Request<Body>> for TraceService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != EXPORT_PATH {
            let status = Status::unimplemented(format!("unknown method {}", request.uri().path()));
            return Box::pin(ready(Ok(status.into_http())));
        }
        let service = self.clone();
        Box::pin(async move {
            let mut server = Grpc::new(ExportCodec)
                .max_decoding_message_size(service.0.limits().max_request_bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            Ok(service.map_oversized(server.unary(service.clone(), request).await))
        })
    }
}

impl UnaryService<Bytes> for TraceService {
    type Response = ExportTraceServiceResponse;
    type Future = Ready<Result<Response<ExportTraceServiceResponse>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let result = export(&self.0, request.into_inner()).map(Response::new);
        ready(result.map_err(|error| Status::invalid_argument(error.to_string())))
    }
}

/// Codec that leaves requests encoded and encodes responses.
struct ExportCodec;

impl Codec for ExportCodec {
    type Encode = ExportTraceServiceResponse;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for ExportCodec {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn encode(&mut self, response: Self::Item, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        response.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for ExportCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buf.copy_to_bytes(buf.remaining())))
    }
}
