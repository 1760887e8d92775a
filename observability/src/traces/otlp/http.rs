//! OTLP over http/protobuf through `opentelemetry-otlp`, with a client that also reads the responses.
//!
//! The exporter of that crate ignores partial success, accepts any 2xx response as OTLP, and has one error
//! text for all failures of a connection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use parking_lot::Mutex;
use prost::Message;

use super::PartialSuccess;
use crate::config::OtlpConfig;
use crate::error::error_chain;

/// Span exporter over http/protobuf.
#[derive(Debug)]
pub(crate) struct HttpExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    last_error: LastError,
}

/// Error of the last request that the exporter does not report itself.
type LastError = Arc<Mutex<Option<String>>>;

impl HttpExporter {
    /// Creates the exporter. Must be called in the context of a runtime.
    pub(crate) fn new(
        otlp: &OtlpConfig,
        timeout: Duration,
        partial_success: PartialSuccess,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        // A followed redirect would become a GET without the spans, and its 200 would count as an export.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        #[cfg(feature = "tls")]
        let client = match &otlp.certificates {
            Some(pem) => client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?),
            None if reqwest::Url::parse(&otlp.endpoint)?.scheme() == "https" => client,
            // Without it, reqwest loads the system's certificates, which some containers do not have.
            None => client.tls_certs_only([]),
        };
        let client = client.build()?;
        let last_error = LastError::default();
        let client =
            PartialSuccessClient { client, partial_success, last_error: Arc::clone(&last_error) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(&otlp.endpoint)
            .with_timeout(timeout)
            .build()?;
        Ok(Self { exporter, last_error })
    }
}

impl SpanExporter for HttpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match self.last_error.lock().take() {
            Some(last_error) => Err(OTelSdkError::InternalFailure(last_error)),
            None => result,
        }
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// HTTP client that keeps the partial success and the error of each response for [`HttpExporter`].
#[derive(Debug)]
struct PartialSuccessClient {
    client: reqwest::Client,
    partial_success: PartialSuccess,
    last_error: LastError,
}

#[async_trait]
impl HttpClient for PartialSuccessClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The client reads at most 4 MiB of a response.
        let result = self.client.send_bytes(request).await.map_err(without_url);
        *self.last_error.lock() = match &result {
            Ok(response) if response.status().is_success() => match parse_response(response) {
                Ok(response) => {
                    self.partial_success.set(response);
                    None
                }
                // Not an error of `send_bytes`, because the exporter would retry a request that succeeded.
                Err(error) => Some(format!("the response is not OTLP: {error}")),
            },
            Ok(_) => None,
            Err(error) => Some(error_chain(error.as_ref())),
        };
        result
    }
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
}
