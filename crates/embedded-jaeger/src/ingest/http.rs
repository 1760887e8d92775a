//! OTLP/HTTP: `POST /v1/traces` with a body in protobuf or JSON, plain or gzip:
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
use serde::Serialize;
use tonic::{Code, Status};

use super::export::{ExportRequest, decode_json, export, invalid_request};
use crate::store::Store;

/// Encoding of a request and of its response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    fn from_headers(headers: &HeaderMap) -> Result<Self, Status> {
        let media_type = header(headers, CONTENT_TYPE);
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        let find = |encoding: &Self| encoding.media_type().eq_ignore_ascii_case(essence);
        [Self::Protobuf, Self::Json].into_iter().find(find).ok_or_else(|| {
            Status::unimplemented(format!(
                "content type {media_type:?} is not supported; send application/x-protobuf \
                 (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf) or application/json"
            ))
        })
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    fn response(self, status: StatusCode, message: &(impl Message + Serialize)) -> Response {
        let body = match self {
            Self::Protobuf => message.encode_to_vec(),
            // It cannot fail because the keys are texts.
            Self::Json => serde_json::to_vec(message).unwrap_or_default(),
        };
        (status, [(CONTENT_TYPE, self.media_type())], body).into_response()
    }
}

pub(crate) fn router(store: Arc<Store>) -> Router {
    let body_limit = DefaultBodyLimit::max(store.limits().max_request_bytes);
    Router::new().route("/v1/traces", post(export_traces)).layer(body_limit).with_state(store)
}

async fn export_traces(
    State(store): State<Arc<Store>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let encoding = Encoding::from_headers(&headers);
    let result = encoding.clone().and_then(|encoding| {
        let body = read_body(&headers, body, store.limits().max_request_bytes)?;
        let request = match encoding {
            Encoding::Protobuf => ExportRequest::decode(body).map_err(invalid_request),
            Encoding::Json => decode_json(&body),
        };
        export(&store, request?)
    });
    let encoding = encoding.unwrap_or(Encoding::Protobuf);
    match result {
        Ok(response) => encoding.response(StatusCode::OK, &response),
        Err(status) => {
            store.update_stats(|stats| stats.rejected_requests += 1);
            error_response(encoding, &status)
        }
    }
}

/// Returns the body without its content coding.
fn read_body(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    limit: usize,
) -> Result<Bytes, Status> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
        _ => Status::invalid_argument(rejection.body_text()),
    })?;
    match header(headers, CONTENT_ENCODING).to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(body),
        "gzip" => gunzip(&body, limit),
        other => Err(Status::unimplemented(format!(
            "content encoding {other:?} is not supported; send gzip or none"
        ))),
    }
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

/// `google.rpc.Status`, without details.
#[derive(Clone, PartialEq, Message, Serialize)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

fn error_response(encoding: Encoding, status: &Status) -> Response {
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
    let (code, message) = (status.code() as i32, status.message().to_owned());
    encoding.response(http_status, &RpcStatus { code, message })
}
