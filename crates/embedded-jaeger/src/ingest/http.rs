//! OTLP/HTTP: `POST /v1/traces` with a protobuf body, plain or gzip:
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::io::{self, Read as _};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{BoxError, Router};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost::Message;
use tonic::Code;

use super::export::{DecodeError, export};
use crate::store::Store;

const PROTOBUF: &str = "application/x-protobuf";

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new().route("/v1/traces", post(export_traces)).with_state(store)
}

async fn export_traces(
    State(store): State<Arc<Store>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ExportError> {
    let request = read_request(&headers, body, store.limits().max_request_bytes).await;
    let request =
        request.inspect_err(|_| store.update_stats(|stats| stats.rejected_requests += 1))?;
    // `export` counts the requests that it rejects.
    Ok(protobuf(StatusCode::OK, &export(&store, request)?))
}

async fn read_request(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ExportError> {
    let media_type = header(headers, CONTENT_TYPE);
    if media_type.split(';').next().map(str::trim) != Some(PROTOBUF) {
        return Err(ExportError::MediaType(media_type.to_owned()));
    }
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(ExportError::TooLarge(limit)),
        Err(error) => return Err(ExportError::Body(error)),
    };
    match header(headers, CONTENT_ENCODING) {
        "" | "identity" => Ok(body),
        "gzip" => gunzip(&body, limit),
        other => Err(ExportError::ContentEncoding(other.to_owned())),
    }
}

/// Decompresses up to `limit` bytes. A small body can decompress to gigabytes.
fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, ExportError> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > limit { Err(ExportError::TooLarge(limit)) } else { Ok(plain.into()) }
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn protobuf(status: StatusCode, message: &impl Message) -> Response {
    (status, [(CONTENT_TYPE, PROTOBUF)], message.encode_to_vec()).into_response()
}

/// Error of an export request that is rejected as a whole.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(
        "content type {0:?} is not supported; send {PROTOBUF} \
         (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)"
    )]
    MediaType(String),
    #[error("content encoding {0:?} is not supported; send gzip or none")]
    ContentEncoding(String),
    /// The limit is in bytes.
    #[error("the request is larger than {0} bytes; export smaller batches")]
    TooLarge(usize),
    #[error("cannot read the request body: {0}")]
    Body(#[source] BoxError),
    #[error("cannot decompress the request body: {0}")]
    Gzip(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl IntoResponse for ExportError {
    fn into_response(self) -> Response {
        let message = self.to_string();
        let (status, code) = match self {
            // The client may not be able to decode protobuf.
            Self::MediaType(_) | Self::ContentEncoding(_) => {
                let headers = [(ACCEPT_ENCODING, "gzip")];
                return (StatusCode::UNSUPPORTED_MEDIA_TYPE, headers, message + "\n")
                    .into_response();
            }
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted),
            Self::Body(_) | Self::Gzip(_) | Self::Decode(_) => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument)
            }
        };
        protobuf(status, &RpcStatus { code: code as i32, message })
    }
}

/// `google.rpc.Status`, the body of an error response in OTLP/HTTP.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}
