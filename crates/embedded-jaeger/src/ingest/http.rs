//! OTLP/HTTP: `POST /v1/traces` with a protobuf body, plain or gzip:
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use prost::Message;
use tonic::{Code, Status};

use super::export::{ExportRequest, export, invalid_request};
use crate::store::Store;

const PROTOBUF: &str = "application/x-protobuf";

pub(crate) fn router(store: Arc<Store>) -> Router {
    let body_limit = DefaultBodyLimit::max(store.limits().max_request_bytes);
    Router::new().route("/v1/traces", post(export_traces)).layer(body_limit).with_state(store)
}

async fn export_traces(
    State(store): State<Arc<Store>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let request = decode_request(&headers, body, store.limits().max_request_bytes);
    match request.and_then(|request| export(&store, request)) {
        Ok(response) => protobuf(StatusCode::OK, &response),
        Err(status) => {
            store.update_stats(|stats| stats.rejected_requests += 1);
            error_response(&status)
        }
    }
}

fn decode_request(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    limit: usize,
) -> Result<ExportRequest, Status> {
    let media_type = header(headers, CONTENT_TYPE);
    if media_type.split(';').next().map(str::trim) != Some(PROTOBUF) {
        return Err(Status::unimplemented(format!(
            "content type {media_type:?} is not supported; send {PROTOBUF} \
             (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)"
        )));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
        _ => Status::invalid_argument(rejection.body_text()),
    })?;
    let request = match header(headers, CONTENT_ENCODING) {
        "" | "identity" => body,
        "gzip" => gunzip(&body, limit)?,
        other => {
            return Err(Status::unimplemented(format!(
                "content encoding {other:?} is not supported; send gzip or none"
            )));
        }
    };
    ExportRequest::decode(request).map_err(invalid_request)
}

/// Decompresses up to `limit` bytes. A small body can decompress to gigabytes.
fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, Status> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain).map_err(|error| {
        Status::invalid_argument(format!("cannot decompress the request body: {error}"))
    })?;
    if plain.len() > limit { Err(too_large(limit)) } else { Ok(plain.into()) }
}

fn too_large(limit: usize) -> Status {
    let message = format!("the request is larger than {limit} bytes; export smaller batches");
    Status::resource_exhausted(message)
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn protobuf(status: StatusCode, message: &impl Message) -> Response {
    (status, [(CONTENT_TYPE, PROTOBUF)], message.encode_to_vec()).into_response()
}

fn error_response(status: &Status) -> Response {
    let http_status = match status.code() {
        // The client may not be able to decode protobuf.
        Code::Unimplemented => {
            let text = format!("{}\n", status.message());
            let headers = [(ACCEPT_ENCODING, "gzip")];
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, headers, text).into_response();
        }
        Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    let message = status.message().to_owned();
    let body = tonic_types::Status { code: status.code() as i32, message, ..Default::default() };
    protobuf(http_status, &body)
}
