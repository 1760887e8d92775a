//! A Jaeger on free ports, and clients to it.

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
    pub(crate) running: JaegerHandle,
    pub(crate) http: Client,
}

pub(crate) fn any_ports(limits: Limits) -> JaegerConfig {
    JaegerConfig { limits, ..JaegerConfig::with_ephemeral_ports() }
}

impl Jaeger {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let running = embedded_jaeger::start(any_ports(limits)).await.unwrap();
        Self { running, http: Client::new() }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.running.store().stats()
    }

    pub(crate) async fn grpc(&self) -> TraceServiceClient<Channel> {
        let addr = format!("http://{}", self.running.otlp_grpc_addr());
        TraceServiceClient::connect(addr).await.unwrap()
    }

    /// Exports over gRPC; answers what was refused.
    pub(crate) async fn export(
        &self,
        spans: Vec<ResourceSpans>,
    ) -> Option<ExportTracePartialSuccess> {
        let answer = self.grpc().await.export(request(spans)).await.unwrap();
        answer.into_inner().partial_success
    }

    /// Exports spans of one service.
    pub(crate) async fn export_spans(&self, spans: Vec<Span>) -> Option<ExportTracePartialSuccess> {
        self.export(vec![of_service("service", spans)]).await
    }

    /// Posts a body to `/v1/traces`.
    pub(crate) async fn post(&self, body: Vec<u8>, headers: &[(&str, &str)]) -> Response {
        let url = format!("http://{}/v1/traces", self.running.otlp_http_addr());
        let request = self.http.post(url).body(body);
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        let url = format!("http://{}{path}", self.running.ui_addr());
        self.http.get(url).send().await.unwrap()
    }

    /// The JSON of a path, whatever its status.
    pub(crate) async fn json(&self, path: &str) -> (StatusCode, Json) {
        let answer = self.get(path).await;
        let status = answer.status();
        assert_eq!(answer.headers()["content-type"], "application/json", "{path}");
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    /// The `data` of a path that answers 200.
    pub(crate) async fn data(&self, path: &str) -> Json {
        let (status, mut json) = self.json(path).await;
        assert_eq!(status, 200, "{path}: {json}");
        json["data"].take()
    }

    /// The ids of the traces that a search finds, in its order.
    pub(crate) async fn found(&self, query: &str) -> Vec<String> {
        let traces = self.data(&format!("/api/traces?{query}")).await;
        let ids = traces
            .as_array()
            .unwrap()
            .iter()
            .map(|trace| trace["traceID"].as_str().unwrap().to_owned());
        ids.collect()
    }
}

pub(crate) fn encoded(spans: Vec<ResourceSpans>) -> Vec<u8> {
    let request: ExportTraceServiceRequest = request(spans);
    request.encode_to_vec()
}
