//! JSON responses in one step.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use reqwest::Response;
use reqwest_middleware::RequestBuilder;
use serde::de::DeserializeOwned;

use super::error::CallError;
use super::middleware::GuardSlot;
use crate::error::ErrorKind;
use crate::http::truncate;

/// Maximum size of a body that [`RequestBuilderExt::fetch_json`] reads, in bytes.
pub const MAX_JSON_BODY: usize = 1024 * 1024;

/// Maximum size of a decoding error in a [`CallError`], in bytes, because it quotes the body.
const MAX_DECODE_ERROR: usize = 512;

/// Extension of reqwest's request builder.
pub trait RequestBuilderExt {
    /// Sends the request and decodes the JSON body of a 2xx response.
    ///
    /// A 204 response decodes like `null`. Sending and decoding are one call in span and metrics. If the
    /// body does not decode, the call fails with the kind `decode`.
    ///
    /// # Errors
    /// A [`CallError`] with the kind of the failure.
    fn fetch_json<T: DeserializeOwned>(self) -> impl Future<Output = Result<T, CallError>> + Send;
}

impl RequestBuilderExt for RequestBuilder {
    fn fetch_json<T: DeserializeOwned>(
        mut self,
    ) -> impl Future<Output = Result<T, CallError>> + Send {
        let mut extensions = std::mem::take(self.extensions());
        extensions.insert(GuardSlot::default());
        // Like `RequestBuilder::send`, but without a boxed future around the builder.
        let (client, request) = self.build_split();
        async move {
            let request = request.map_err(CallError::from_build_error)?;
            let method = request.method().clone();
            let mut response = client
                .execute_with_extensions(request, &mut extensions)
                .await
                .map_err(|error| CallError::from_send_error(&method, error))?;
            let result = decode(&mut response).await;
            if let Some(mut guard) = extensions.get_mut().and_then(GuardSlot::take) {
                guard.finish(result.as_ref().err().map(CallError::kind));
            }
            result.map_err(|error| error.with_request(&method, response.url()))
        }
    }
}

async fn decode<T: DeserializeOwned>(response: &mut Response) -> Result<T, CallError> {
    let status = response.status();
    if !status.is_success() {
        let details = format!("unexpected status {status}");
        return Err(CallError::invalid_response(ErrorKind::Status(status), details));
    }
    let invalid_body = |reason: &str| {
        let details = format!("invalid response body (status {}): {reason}", status.as_u16());
        CallError::invalid_response(ErrorKind::Decode, details)
    };
    let too_long = || invalid_body(&format!("more than {MAX_JSON_BODY} bytes"));
    let content_length = response.content_length();
    // Most bodies arrive in one chunk, which is decoded without a copy.
    let mut body = response.chunk().await.map_err(CallError::from_body_error)?.unwrap_or_default();
    if content_length != Some(body.len() as u64) {
        let mut whole = BytesMut::from(body);
        while let Some(chunk) = response.chunk().await.map_err(CallError::from_body_error)? {
            if whole.len() + chunk.len() > MAX_JSON_BODY {
                return Err(too_long());
            }
            whole.extend_from_slice(&chunk);
        }
        body = whole.freeze();
    }
    if body.len() > MAX_JSON_BODY {
        return Err(too_long());
    }
    if status == StatusCode::NO_CONTENT {
        body = Bytes::from_static(b"null");
    }
    serde_json::from_slice(&body).map_err(|error| {
        invalid_body(truncate(&error.to_string(), MAX_DECODE_ERROR)).with_source(error)
    })
}
