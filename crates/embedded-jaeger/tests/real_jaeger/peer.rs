//! The two Jaegers that are compared.

use std::env;
use std::net::SocketAddr;

use embedded_jaeger::{JaegerConfig, JaegerHandle};
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message as _;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use testkit::RealJaeger;

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

impl Peer<RealJaeger> {
    /// Starts the program to which the variable `JAEGER` refers.
    pub(crate) fn real() -> Self {
        let program = env::var("JAEGER").expect("run .ci/peers");
        let handle = RealJaeger::start(&program, 10_000, &[]);
        Self { otlp: handle.otlp_http, ui: handle.ui, http: Client::new(), _handle: handle }
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
