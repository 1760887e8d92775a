//! OTLP/gRPC: the one method of `TraceService`.
//!
//! Served by hand and not by the generated code, which would decode the whole request before
//! anything could look at it.

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

use crate::store::Store;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// `opentelemetry.proto.collector.trace.v1.TraceService` over a store.
#[derive(Clone)]
pub(crate) struct TraceService(pub(crate) Arc<Store>);

impl TraceService {
    /// Turns tonic's OUT_OF_RANGE for a large message, which OTLP tells exporters to try again,
    /// into RESOURCE_EXHAUSTED, after which they drop it; and counts either.
    fn refusal_counted(&self, answer: http::Response<Body>) -> http::Response<Body> {
        match Status::from_header_map(answer.headers()) {
            Some(status) if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) => {
                self.0.count(|stats| stats.refused_requests += 1);
                Status::resource_exhausted(status.message()).into_http()
            }
            _ => answer,
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
        if request.uri().path() != EXPORT {
            let unknown = Status::unimplemented(format!("no method {}", request.uri().path()));
            return Box::pin(ready(Ok(unknown.into_http())));
        }
        let service = self.clone();
        Box::pin(async move {
            let mut server = Grpc::new(Export)
                .max_decoding_message_size(service.0.limits().max_request_bytes)
                .accept_compressed(CompressionEncoding::Gzip);
            Ok(service.refusal_counted(server.unary(service.clone(), request).await))
        })
    }
}

impl UnaryService<Bytes> for TraceService {
    type Response = ExportTraceServiceResponse;
    type Future = Ready<Result<Response<ExportTraceServiceResponse>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let answer = super::export(&self.0, request.into_inner());
        ready(
            answer
                .map(Response::new)
                .map_err(|broken| Status::invalid_argument(broken.to_string())),
        )
    }
}

/// Hands the request on as bytes, and encodes the answer.
struct Export;

impl Codec for Export {
    type Encode = ExportTraceServiceResponse;
    type Decode = Bytes;
    type Encoder = Export;
    type Decoder = Export;

    fn encoder(&mut self) -> Export {
        Export
    }

    fn decoder(&mut self) -> Export {
        Export
    }
}

impl Encoder for Export {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn encode(&mut self, answer: Self::Item, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Export {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
