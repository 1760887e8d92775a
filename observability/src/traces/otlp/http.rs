//! OTLP over http/protobuf through `opentelemetry-otlp`, with a client that also reads the responses.
//!
//! The exporter of that crate ignores partial success, accepts any 2xx response as OTLP, and has one error
//! text for all failures of a connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use prost::Message;
use tower::BoxError;

use super::{SendError, SpanTransport, first_line};
use crate::config::OtlpConfig;
use crate::error::error_chain;

/// Span exporter over http/protobuf.
#[derive(Debug)]
pub(crate) struct HttpExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    last_outcome: LastOutcome,
}

/// Outcome of the last request. The exporter trait of the SDK has no return value for it.
type LastOutcome = Arc<Mutex<Option<Result<ExportTracePartialSuccess, SendError>>>>;

impl HttpExporter {
    /// Creates the exporter. Must be called in the context of a runtime.
    pub(crate) fn new(
        otlp: &OtlpConfig,
        timeout: Duration,
        resource: &Resource,
    ) -> Result<Self, BoxError> {
        // A followed redirect would become a GET without the spans, and its 200 would count as an export.
        // Like gRPC and the calls of a client, it uses no proxy of the environment.
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        #[cfg(feature = "tls")]
        let client = match &otlp.certificates {
            Some(pem) => client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?),
            None if reqwest::Url::parse(&otlp.endpoint)?.scheme() == "https" => client,
            // Without it, reqwest loads the system's certificates, which some containers do not have.
            None => client.tls_certs_only([]),
        };
        let client = client.build()?;
        let last_outcome = LastOutcome::default();
        let headers = otlp.headers.clone();
        let client = RecordingClient { client, headers, last_outcome: Arc::clone(&last_outcome) };
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&otlp.endpoint)
            .with_timeout(timeout)
            .with_retry_policy(RetryPolicy::default().with_max_retries(0))
            .build()?;
        exporter.set_resource(resource);
        Ok(Self { exporter, last_outcome })
    }
}

impl SpanTransport for HttpExporter {
    async fn send(&self, batch: &[SpanData]) -> Result<ExportTracePartialSuccess, SendError> {
        self.last_outcome.lock().take();
        let result = self.exporter.export(batch.to_vec()).await;
        let outcome = self.last_outcome.lock().take();
        outcome.unwrap_or_else(|| {
            let details = result.err().map_or_else(String::new, |error| error.to_string());
            Err(SendError::Permanent(details))
        })
    }
}

/// HTTP client that keeps the outcome of each request for [`HttpExporter`].
#[derive(Debug)]
struct RecordingClient {
    client: reqwest::Client,
    /// Headers of the configuration, which replace those that `opentelemetry-otlp` reads itself.
    headers: HeaderMap,
    last_outcome: LastOutcome,
}

#[async_trait]
impl HttpClient for RecordingClient {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        request.headers_mut().extend(self.headers.clone());
        // The client reads at most 4 MiB of a response.
        let result = self.client.send_bytes(request).await.map_err(without_url);
        *self.last_outcome.lock() = Some(match &result {
            Ok(response) => classify(response),
            Err(error) => Err(SendError::Retryable(None, error_chain(error.as_ref()))),
        });
        result
    }
}

/// Classifies a response by the OTLP specification, section "OTLP/HTTP Response".
fn classify(response: &Response<Bytes>) -> Result<ExportTracePartialSuccess, SendError> {
    let status = response.status();
    if status.is_success() {
        // The receiver may have accepted the spans, so that a retry could duplicate them.
        return match parse_response(response) {
            Ok(response) => Ok(response.partial_success.unwrap_or_default()),
            Err(error) => {
                Err(SendError::Permanent(format!("{status}: the response is not OTLP: {error}")))
            }
        };
    }
    let message = error_message(response);
    let details = format!("{status}: {}", first_line(&message));
    Err(match status.as_u16() {
        413 => SendError::TooLarge(details),
        _ if SendError::is_about_size(&message) => SendError::TooLarge(details),
        429 | 502 | 503 | 504 => {
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
            let seconds = retry_after.and_then(|seconds| seconds.trim().parse().ok());
            SendError::Retryable(seconds.map(Duration::from_secs), details)
        }
        _ => SendError::Permanent(details),
    })
}

/// Returns the message of a failure, which is a `google.rpc.Status` if the receiver follows OTLP.
fn error_message(response: &Response<Bytes>) -> String {
    let content_type = response.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(|value| value == "application/x-protobuf")
        && let Ok(status) = tonic_types::Status::decode(response.body().as_ref())
    {
        return status.message;
    }
    String::from_utf8_lossy(response.body()).into_owned()
}

/// Removes the URL, which may contain a key.
fn without_url(error: HttpError) -> HttpError {
    match error.downcast::<reqwest::Error>() {
        Ok(error) => Box::new(error.without_url()),
        Err(error) => error,
    }
}

/// Parses a response. It should be protobuf like the request, but some receivers respond in JSON.
fn parse_response(
    response: &Response<Bytes>,
) -> Result<ExportTraceServiceResponse, Box<dyn std::error::Error>> {
    let body = response.body();
    let content_type = response.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    // A gRPC server that accepts HTTP/1.1 responds 200 to any path, and has the failure in `grpc-status`.
    if content_type.starts_with(b"application/grpc") {
        return Err("the backend speaks gRPC; set OTEL_EXPORTER_OTLP_PROTOCOL=grpc".into());
    }
    if !content_type.starts_with(b"application/json") || body.is_empty() {
        return Ok(ExportTraceServiceResponse::decode(body.as_ref())?);
    }
    let response: serde_json::Value = serde_json::from_slice(body)?;
    let partial = &response["partialSuccess"];
    // In protobuf's JSON encoding, 64-bit numbers are strings, and plain numbers are accepted.
    let spans = &partial["rejectedSpans"];
    let spans = spans.as_i64().or_else(|| spans.as_str()?.parse().ok());
    Ok(ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: spans.unwrap_or_default(),
            error_message: partial["errorMessage"].as_str().unwrap_or_default().to_owned(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_success_is_parsed() {
        let parse = |content_type: &str, body: &[u8]| {
            let response = Response::builder().header(CONTENT_TYPE, content_type);
            let response = response.body(Bytes::copy_from_slice(body)).unwrap();
            let partial = parse_response(&response).ok()?.partial_success.unwrap_or_default();
            Some((partial.rejected_spans, partial.error_message))
        };
        let partial_success = |spans, why: &str| Some((spans, why.to_owned()));
        let (proto, json) = ("application/x-protobuf", "application/json; charset=utf-8");
        // partial_success { rejected_spans: 300, error_message: "full" }
        let partial = b"\x0a\x09\x08\xac\x02\x12\x04full";
        assert_eq!(parse(proto, partial), partial_success(300, "full"));
        assert_eq!(parse("text/plain", partial), partial_success(300, "full"));
        let partial = br#"{"partialSuccess":{"rejectedSpans":"300","errorMessage":"full"}}"#;
        assert_eq!(parse(json, partial), partial_success(300, "full"));
        assert_eq!(
            parse(json, br#"{"partialSuccess":{"rejectedSpans":300}}"#),
            partial_success(300, "")
        );
        for nothing in ["{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#, ""] {
            assert_eq!(parse(json, nothing.as_bytes()), partial_success(0, ""), "{nothing}");
        }
        assert_eq!(parse(proto, b""), partial_success(0, ""));
        for garbage in ["<html>sign in</html>", "ok", "{}", "{"] {
            assert_eq!(parse(proto, garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(parse(json, b"ok"), None);
        assert_eq!(parse("application/grpc", b""), None);
    }

    #[test]
    fn status_decides_about_retry() {
        let classify = |status: u16, retry_after: &str, body: &'static str| {
            let response = Response::builder().status(status).header(RETRY_AFTER, retry_after);
            classify(&response.body(Bytes::from_static(body.as_bytes())).unwrap())
        };
        let unavailable = "503 Service Unavailable: busy".to_owned();
        let delay = Some(Duration::from_secs(90));
        assert_eq!(
            classify(503, "90", "busy\nsecond line"),
            Err(SendError::Retryable(delay, unavailable.clone()))
        );
        assert_eq!(classify(503, "soon", "busy"), Err(SendError::Retryable(None, unavailable)));
        assert!(matches!(classify(413, "", ""), Err(SendError::TooLarge(_))));
        let too_large = classify(400, "", "http: request body too large");
        assert!(matches!(too_large, Err(SendError::TooLarge(_))));
        assert!(matches!(classify(400, "", ""), Err(SendError::Permanent(_))));
    }
}
