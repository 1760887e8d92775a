//! The two Jaegers that are compared.

use std::env;
use std::net::SocketAddr;

use embedded_jaeger::{JaegerConfig, JaegerHandle};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message as _;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use testkit::{Process, ProcessBuilder, ReservedPort, wait_until};

use crate::normalize::Response;
use crate::queries::Query;
use crate::support::request;

/// A Jaeger with its addresses.
pub(crate) struct Peer<Handle> {
    otlp: SocketAddr,
    ui: SocketAddr,
    http: Client,
    _handle: Handle,
}

impl Peer<JaegerHandle> {
    pub(crate) async fn embedded() -> Self {
        let handle = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await.unwrap();
        let (otlp, ui) = (handle.otlp_http_addr(), handle.ui_addr());
        Self { otlp, ui, http: Client::new(), _handle: handle }
    }
}

impl Peer<Process> {
    /// Starts the program to which the variable `JAEGER` refers.
    pub(crate) fn real() -> Self {
        let program = env::var("JAEGER").expect("run .ci/peers");
        let [otlp, ui, grpc] = [(); 3].map(|()| ReservedPort::bind().release());
        let config = json!({
            "receivers": { "otlp": { "protocols": { "http": { "endpoint": otlp.to_string() } } } },
            "exporters": { "jaeger_storage_exporter": { "trace_storage": "memory" } },
            "extensions": {
                "jaeger_storage": { "backends": { "memory": { "memory": { "max_traces": 10_000 } } } },
                "jaeger_query": {
                    "storage": { "traces": "memory" },
                    "http": { "endpoint": ui.to_string() },
                    "grpc": { "endpoint": grpc.to_string() },
                },
            },
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": { "traces": {
                    "receivers": ["otlp"],
                    "exporters": ["jaeger_storage_exporter"],
                } },
                "telemetry": { "metrics": { "level": "none" } },
            },
        });
        let process = ProcessBuilder::new(program)
            .args(["--config", "env:CONFIG"])
            .env("CONFIG", config.to_string())
            .env("OTEL_TRACES_SAMPLER", "always_off") // Jaeger traces the requests to its API.
            .start();
        let is_ready = |line: &String| line.contains("Everything is ready");
        wait_until("Jaeger is ready", || process.stderr().iter().any(is_ready));
        Self { otlp, ui, http: Client::new(), _handle: process }
    }
}

impl<Handle> Peer<Handle> {
    /// Exports spans in one request.
    pub(crate) async fn export(&self, spans: Vec<ResourceSpans>) {
        let body = request(spans).encode_to_vec();
        let url = format!("http://{}/v1/traces", self.otlp);
        let post = self.http.post(url).header(CONTENT_TYPE, "application/x-protobuf").body(body);
        assert_eq!(post.send().await.unwrap().status(), 200);
    }

    pub(crate) async fn respond(&self, query: &Query) -> Response {
        let url = format!("http://{}{}", self.ui, query.target);
        let request = match &query.body {
            Some(body) => self.http.post(url).body(body.clone()),
            None => self.http.get(url),
        };
        let response = request.send().await.unwrap();
        Response {
            status: response.status().as_u16(),
            media_type: response
                .headers()
                .get(CONTENT_TYPE)
                .map_or_else(String::new, |value| value.to_str().unwrap().to_owned()),
            body: response.text().await.unwrap(),
        }
    }
}
