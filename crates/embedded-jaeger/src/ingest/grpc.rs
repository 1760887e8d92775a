//! OTLP/gRPC: `TraceService/Export`.
//!
//! The generated service of opentelemetry-proto would decode a request as a whole.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::post;
use http::{Response, Uri};
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::export::{ExportRequest, export};
use crate::store::Store;

const EXPORT_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route(EXPORT_PATH, post(export_traces))
        .fallback(async |uri: Uri| -> Response<Body> {
            Status::unimplemented(format!("unknown method {}", uri.path())).into_http()
        })
        .with_state(store)
}

async fn export_traces(State(store): State<Arc<Store>>, request: Request) -> Response<Body> {
    let service = service_fn(|request: tonic::Request<ExportRequest>| {
        ready(export(&store, request.into_inner()).map(tonic::Response::new))
    });
    let response = Grpc::new(ProstCodec::default())
        .max_decoding_message_size(store.limits().max_request_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .unary(service, request)
        .await;
    let Some(status) = Status::from_header_map(response.headers()) else { return response };
    store.update_stats(|stats| stats.rejected_requests += 1);
    match status.code() {
        // tonic's code for an oversized request makes OTLP clients retry.
        Code::OutOfRange => Status::resource_exhausted(status.message()).into_http(),
        // tonic's code for a request that it cannot decode blames the server.
        Code::Internal => Status::invalid_argument(status.message()).into_http(),
        _ => response,
    }
}
