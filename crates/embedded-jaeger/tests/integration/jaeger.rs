//! A Jaeger on free ports with its clients.

use embedded_jaeger::{JaegerConfig, JaegerHandle, Limits, Stats};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message as _;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value as Json;
use tonic::transport::Channel;

use crate::support::{of_service, request};

pub(crate) struct Jaeger {
    pub(crate) handle: JaegerHandle,
    pub(crate) http: Client,
}

impl Jaeger {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let config = JaegerConfig { limits, ..JaegerConfig::with_ephemeral_ports() };
        let handle = embedded_jaeger::start(config).await.unwrap();
        Self { handle, http: Client::new() }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.handle.stats()
    }

    pub(crate) async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.handle.otlp_grpc_addr());
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn grpc(&self) -> TraceServiceClient<Channel> {
        TraceServiceClient::new(self.channel().await)
    }

    /// Exports over gRPC. Returns the partial success.
    pub(crate) async fn export(
        &self,
        spans: Vec<ResourceSpans>,
    ) -> Option<ExportTracePartialSuccess> {
        let response = self.grpc().await.export(request(spans)).await.unwrap();
        response.into_inner().partial_success
    }

    /// Exports spans of one service.
    pub(crate) async fn export_spans(&self, spans: Vec<Span>) -> Option<ExportTracePartialSuccess> {
        self.export(vec![of_service("service", spans)]).await
    }

    /// Sends a body to `POST /v1/traces`.
    pub(crate) async fn post(&self, body: Vec<u8>, headers: &[(&str, &str)]) -> Response {
        let url = format!("http://{}/v1/traces", self.handle.otlp_http_addr());
        let request = self.http.post(url).body(body);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let url = format!("http://{}{path}", self.handle.ui_addr());
        self.http.get(url).send().await.unwrap()
    }

    /// Returns the status and the JSON of a path.
    pub(crate) async fn json(&self, path: &str) -> (StatusCode, Json) {
        let response = self.get(path).await;
        let status = response.status();
        assert_eq!(response.headers()["content-type"], "application/json", "{path}");
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    /// Returns the `data` of a path whose status is 200.
    pub(crate) async fn data(&self, path: &str) -> Json {
        let (status, mut json) = self.json(path).await;
        assert_eq!(status, 200, "{path}: {json}");
        json["data"].take()
    }

    /// Returns the ids of the traces that a search finds, in the order of the response.
    pub(crate) async fn search(&self, query: &str) -> Vec<String> {
        let traces = self.data(&format!("/api/traces?{query}")).await;
        let ids = traces.as_array().unwrap().iter().map(|trace| trace["traceID"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }
}

pub(crate) fn encoded(spans: Vec<ResourceSpans>) -> Vec<u8> {
    let request: ExportTraceServiceRequest = request(spans);
    request.encode_to_vec()
}
