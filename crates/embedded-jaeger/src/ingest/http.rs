//! OTLP/HTTP: `POST /v1/traces` with a protobuf body, plain or gzip.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost::Message;

use crate::store::Store;

const PROTOBUF: &str = "application/x-protobuf";

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new().route("/v1/traces", post(export)).with_state(store)
}

async fn export(State(store): State<Arc<Store>>, headers: HeaderMap, body: Body) -> Response {
    let answer = match receive(&headers, body, store.limits().max_request_bytes).await {
        // `export` counts what it refuses itself.
        Ok(request) => super::export(&store, request).map_err(|broken| Refusal::broken(&broken)),
        Err(refusal) => {
            store.count(|stats| stats.refused_requests += 1);
            Err(refusal)
        }
    };
    match answer {
        Ok(taken) => protobuf(StatusCode::OK, &taken),
        Err(refusal) => refusal.into_response(),
    }
}

async fn receive(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let media_type = header(headers, CONTENT_TYPE);
    if media_type.split(';').next().map(str::trim) != Some(PROTOBUF) {
        return Err(Refusal::media_type(media_type));
    }
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Refusal::too_large(limit)),
        Err(error) => return Err(Refusal::unreadable(&*error)),
    };
    match header(headers, CONTENT_ENCODING) {
        "" | "identity" => Ok(body),
        "gzip" => gunzip(&body, limit),
        other => Err(Refusal::content_encoding(other)),
    }
}

/// Stops at the limit: a small body can unpack to gigabytes.
fn gunzip(body: &[u8], limit: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let read = MultiGzDecoder::new(body).take(limit as u64 + 1).read_to_end(&mut plain);
    read.map_err(|error| Refusal::unreadable(&error))?;
    if plain.len() > limit { Err(Refusal::too_large(limit)) } else { Ok(plain.into()) }
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn protobuf(status: StatusCode, message: &impl Message) -> Response {
    (status, [(CONTENT_TYPE, PROTOBUF)], message.encode_to_vec()).into_response()
}

/// `google.rpc.Status`, which OTLP/HTTP prescribes as the body of a failure.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// A request refused whole.
struct Refusal {
    status: StatusCode,
    code: tonic::Code,
    message: String,
}

impl Refusal {
    fn broken(broken: &super::Broken) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, broken.to_string())
    }

    fn unreadable(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::invalid(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
    }

    fn too_large(limit: usize) -> Self {
        Self {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            code: tonic::Code::ResourceExhausted,
            message: format!("the request is larger than {limit} bytes; export smaller batches"),
        }
    }

    fn media_type(given: &str) -> Self {
        let message = format!(
            "content-type {given:?} is not taken; send {PROTOBUF} \
             (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)"
        );
        Self::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    fn content_encoding(given: &str) -> Self {
        let message = format!("content-encoding {given:?} is not taken; send gzip or none");
        Self::invalid(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    fn invalid(status: StatusCode, message: String) -> Self {
        Self { status, code: tonic::Code::InvalidArgument, message }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            // The sender spoke another format: it would not read protobuf either.
            return (self.status, [(ACCEPT_ENCODING, "gzip")], self.message + "\n").into_response();
        }
        let status = RpcStatus { code: self.code as i32, message: self.message };
        protobuf(self.status, &status)
    }
}
