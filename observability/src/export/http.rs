//! OTLP over http/protobuf: `opentelemetry-otlp` does the talking, through a client that reads the
//! receiver's answers too.
//!
//! Its exporter drops the number of rejected spans, takes any answer with a good status for OTLP, and
//! has one text for all that goes wrong on the way. Here each of them is said and counted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;

use super::{PartialSuccess, lock};
use crate::error_kind::error_chain;
use crate::otel::OtlpConfig;

/// Sends spans to an OTLP receiver.
#[derive(Debug)]
pub(crate) struct HttpExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    last_error: LastError,
}

/// What went wrong with the last request, where something did.
type LastError = Arc<Mutex<Option<String>>>;

impl HttpExporter {
    /// To be called within a runtime. `rejected` is told what the receiver did not take.
    pub(crate) fn new(
        otlp: &OtlpConfig,
        timeout: Duration,
        rejected: PartialSuccess,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        // Spans, and the key they come with, go where they were sent and nowhere else: followed, an answer
        // that sends them elsewhere would be asked for without them, and look as if they had arrived.
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        #[cfg(feature = "tls")]
        let client = match &otlp.certificates {
            Some(pem) => client.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?),
            None if reqwest::Url::parse(&otlp.endpoint)?.scheme() == "https" => client,
            // Otherwise it would want the system's, which are not there in every container.
            None => client.tls_certs_only([]),
        };
        let client = client.build()?;
        let last_error = LastError::default();
        let reading =
            PartialSuccessClient { client, rejected, last_error: Arc::clone(&last_error) };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(reading)
            .with_endpoint(&otlp.endpoint)
            .with_timeout(timeout)
            .build()?;
        Ok(Self { exporter, last_error })
    }
}

impl SpanExporter for HttpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        match lock(&self.last_error).take() {
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

/// Passes requests and answers on, and keeps what is in them for [`HttpExporter`].
#[derive(Debug)]
struct PartialSuccessClient {
    client: reqwest::Client,
    rejected: PartialSuccess,
    last_error: LastError,
}

#[async_trait]
impl HttpClient for PartialSuccessClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // It reads 4 MiB of an answer at most.
        let result = self.client.send_bytes(request).await.map_err(without_url);
        *lock(&self.last_error) = match &result {
            Ok(answer) if answer.status().is_success() => match read(answer) {
                Ok(answer) => {
                    self.rejected.put(answer);
                    None
                }
                // No error of the client's: it would be sent again, and may have been taken.
                Err(last_error) => Some(format!("the receiver's answer is not OTLP: {last_error}")),
            },
            Ok(_) => None,
            Err(error) => Some(error_chain(error.as_ref())),
        };
        result
    }
}

/// The URL may hold a key, and is what was set anyway.
fn without_url(error: HttpError) -> HttpError {
    match error.downcast::<reqwest::Error>() {
        Ok(error) => Box::new(error.without_url()),
        Err(error) => error,
    }
}

/// The answer comes as the request went, in protobuf; there are receivers that answer in JSON all the
/// same.
fn read(
    answer: &Response<Bytes>,
) -> Result<ExportTraceServiceResponse, Box<dyn std::error::Error>> {
    let body = answer.body();
    let is_json = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json || body.is_empty() {
        return Ok(ExportTraceServiceResponse::decode(body.as_ref())?);
    }
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    let partial = &answer["partialSuccess"];
    // Protobuf's JSON has 64-bit numbers as strings, and takes plain ones.
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
        let read = |content_type: &str, body: &[u8]| {
            let answer = Response::builder().header(CONTENT_TYPE, content_type);
            let answer = answer.body(Bytes::copy_from_slice(body)).unwrap();
            let partial = read(&answer).ok()?.partial_success.unwrap_or_default();
            Some((partial.rejected_spans, partial.error_message))
        };
        let said = |spans, why: &str| Some((spans, why.to_owned()));
        let (proto, json) = ("application/x-protobuf", "application/json; charset=utf-8");
        // partial_success { rejected_spans: 300, error_message: "full" }
        let partial = b"\x0a\x09\x08\xac\x02\x12\x04full";
        assert_eq!(read(proto, partial), said(300, "full"));
        assert_eq!(read("text/plain", partial), said(300, "full"));
        let partial = br#"{"partialSuccess":{"rejectedSpans":"300","errorMessage":"full"}}"#;
        assert_eq!(read(json, partial), said(300, "full"));
        assert_eq!(read(json, br#"{"partialSuccess":{"rejectedSpans":300}}"#), said(300, ""));
        for nothing in ["{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#, ""] {
            assert_eq!(read(json, nothing.as_bytes()), said(0, ""), "{nothing}");
        }
        assert_eq!(read(proto, b""), said(0, ""));
        for garbage in ["<html>sign in</html>", "ok", "{}", "{"] {
            assert_eq!(read(proto, garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(read(json, b"ok"), None);
    }
}
