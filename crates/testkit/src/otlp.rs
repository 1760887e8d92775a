//! OTLP collector for traces over gRPC and http/protobuf.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1 as wire;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;

use crate::event_log::EventLog;

/// OTLP protocol, a value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

impl Protocol {
    /// Returns the value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// Export request that the collector accepted.
#[derive(Debug, Clone)]
pub struct Export {
    /// Protocol of the request.
    pub protocol: Protocol,
    /// HTTP headers or gRPC metadata.
    pub headers: BTreeMap<String, String>,
    /// Spans, without those that were [rejected](Behavior::Reject).
    pub spans: Vec<Span>,
}

/// Span with its resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Trace id, 32 hex digits.
    pub trace_id: String,
    /// Span id, 16 hex digits.
    pub span_id: String,
    /// Span id of the parent, 16 hex digits; empty for a root span.
    pub parent_span_id: String,
    /// `tracestate` header.
    pub trace_state: String,
    /// Span name.
    pub name: String,
    /// `server`, `client`, `internal` or `other`.
    pub kind: &'static str,
    /// Attributes with their types.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// `error`, `ok`, or empty if the status is unset.
    pub status: &'static str,
    /// Description of the status.
    pub status_message: String,
    /// Resource attributes.
    pub resource: BTreeMap<String, serde_json::Value>,
    /// Time from start to end in nanoseconds.
    pub duration_ns: u64,
}

impl Span {
    /// Returns the service name from the resource.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").and_then(|name| name.as_str()).unwrap_or_default()
    }
}

/// Reaction of the collector to an export request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// Accepts all spans.
    Accept,
    /// Accepts all spans after a delay.
    AcceptAfter(Duration),
    /// Reports a partial success with this number of rejected spans, however many were sent.
    Reject(i64),
    /// Fails the request.
    Fail {
        /// gRPC status code, such as 14 (`UNAVAILABLE`).
        grpc: i32,
        /// HTTP status code, such as 503.
        http: u16,
    },
    /// Accepts and fails requests in turn. Failures have the status `INVALID_ARGUMENT` or 400.
    AlternateFailure {
        /// Selects failure for the next request.
        fail_next: bool,
    },
}

/// OTLP collector. Dropping it closes its listeners.
#[derive(Debug)]
pub struct OtlpCollector {
    grpc: SocketAddr,
    http: SocketAddr,
    state: CollectorState,
    _stop: oneshot::Sender<()>,
}

impl OtlpCollector {
    /// Starts a collector on two free ports.
    pub fn start() -> Self {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        Self::start_on(listen(), listen())
    }

    /// Starts a collector on these listeners.
    pub fn start_on(grpc: std::net::TcpListener, http: std::net::TcpListener) -> Self {
        for listener in [&grpc, &http] {
            listener.set_nonblocking(true).unwrap();
        }
        let state = CollectorState {
            exports: EventLog::default(),
            behavior: Arc::new(Mutex::new(Behavior::Accept)),
        };
        let (stop, stopped) = oneshot::channel();
        let collector = Self {
            grpc: grpc.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            state: state.clone(),
            _stop: stop,
        };
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve_grpc(grpc, state.clone()) => {}
                    () = serve_http(http, state) => {}
                    _ = stopped => {}
                }
            });
        });
        collector
    }

    /// Returns the address of the listener for `protocol`.
    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Grpc => self.grpc,
            Protocol::HttpProtobuf => self.http,
        }
    }

    /// Returns the endpoint URL for `protocol`.
    pub fn endpoint(&self, protocol: Protocol) -> String {
        format!("http://{}", self.address(protocol))
    }

    /// Returns the environment variables that make a service export its spans to this collector without
    /// delay.
    pub fn variables(&self, protocol: Protocol) -> [(&'static str, String); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint(protocol)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name().to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
        ]
    }

    /// Sets the reaction to all further export requests.
    pub fn set_behavior(&self, behavior: Behavior) {
        *self.state.behavior.lock() = behavior;
    }

    /// Returns the exports received so far.
    pub fn exports(&self) -> Vec<Export> {
        self.state.exports.events()
    }

    /// Returns the spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.exports().into_iter().flat_map(|export| export.spans).collect()
    }

    /// Waits until `count` spans of a trace have arrived and returns them, parents first.
    ///
    /// # Panics
    /// If more spans have arrived or their parents form a cycle.
    pub fn wait_for_trace(&self, trace_id: &str, count: usize) -> Vec<Span> {
        let description = format!("{count} spans of trace {trace_id}");
        let mut spans = self.state.exports.wait_for(&description, |exports| {
            let all = exports.iter().flat_map(|export| &export.spans);
            let spans: Vec<_> = all.filter(|span| span.trace_id == trace_id).cloned().collect();
            (spans.len() >= count).then_some(spans)
        });
        assert_eq!(spans.len(), count, "more than {description}: {spans:#?}");
        let mut ordered: Vec<Span> = Vec::new();
        while !spans.is_empty() {
            let has_no_parent_left =
                |span: &Span| !spans.iter().any(|other| other.span_id == span.parent_span_id);
            let next = spans.iter().position(has_no_parent_left).expect("spans without a cycle");
            ordered.push(spans.remove(next));
        }
        ordered
    }
}

#[derive(Debug, Clone)]
struct CollectorState {
    exports: EventLog<Export>,
    behavior: Arc<Mutex<Behavior>>,
}

impl CollectorState {
    /// Applies the behavior to a request. Returns the response, or the gRPC and HTTP status of a failure.
    async fn respond(&self) -> Result<ExportTraceServiceResponse, (i32, u16)> {
        let mut response = ExportTraceServiceResponse::default();
        let behavior = {
            let mut current = self.behavior.lock();
            let behavior = *current;
            if let Behavior::AlternateFailure { fail_next } = &mut *current {
                *fail_next = !*fail_next;
            }
            behavior
        };
        match behavior {
            Behavior::Accept | Behavior::AlternateFailure { fail_next: false } => {}
            Behavior::AcceptAfter(delay) => tokio::time::sleep(delay).await,
            Behavior::Reject(rejected_spans) => {
                let error_message = "not these".to_owned();
                response.partial_success =
                    Some(ExportTracePartialSuccess { rejected_spans, error_message });
            }
            Behavior::Fail { grpc, http } => return Err((grpc, http)),
            Behavior::AlternateFailure { fail_next: true } => return Err((3, 400)),
        }
        Ok(response)
    }

    fn record(
        &self,
        protocol: Protocol,
        headers: BTreeMap<String, String>,
        request: ExportTraceServiceRequest,
        response: &ExportTraceServiceResponse,
    ) {
        let spans = request.resource_spans.into_iter().flat_map(|resource_spans| {
            let resource = resource_spans.resource.unwrap_or_default().attributes;
            let spans = resource_spans.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.map(move |span| convert_span(span, &resource)).collect::<Vec<_>>()
        });
        let partial_success = response.partial_success.as_ref();
        let rejected = partial_success.map_or(0, |partial| partial.rejected_spans);
        let spans = spans.skip(usize::try_from(rejected).unwrap_or(0)).collect();
        self.exports.push(Export { protocol, headers, spans });
    }
}

async fn serve_grpc(listener: std::net::TcpListener, state: CollectorState) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let service = TraceServiceServer::new(state)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(incoming)
        .await
        .expect("serve OTLP over gRPC");
}

#[tonic::async_trait]
impl TraceService for CollectorState {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let status = |(code, _): (i32, _)| tonic::Status::new(code.into(), "refused");
        let response = self.respond().await.map_err(status)?;
        let headers = text_headers(&request.metadata().clone().into_headers());
        self.record(Protocol::Grpc, headers, request.into_inner(), &response);
        Ok(tonic::Response::new(response))
    }
}

async fn serve_http(listener: std::net::TcpListener, state: CollectorState) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let router = Router::new().route("/v1/traces", post(export_http)).with_state(state);
    axum::serve(listener, router).await.expect("serve OTLP over HTTP");
}

async fn export_http(
    State(state): State<CollectorState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, StatusCode> {
    let status = |(_, status)| StatusCode::from_u16(status).unwrap();
    let response = state.respond().await.map_err(status)?;
    let mut bytes = body.to_vec();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        bytes.clear();
        let decompressed = flate2::read::GzDecoder::new(&*body).read_to_end(&mut bytes);
        decompressed.map_err(|_| StatusCode::BAD_REQUEST)?;
    }
    let request = ExportTraceServiceRequest::decode(&*bytes);
    let request = request.map_err(|_| StatusCode::BAD_REQUEST)?;
    state.record(Protocol::HttpProtobuf, text_headers(&headers), request, &response);
    Ok(response.encode_to_vec())
}

fn text_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn convert_span(span: wire::Span, resource: &[KeyValue]) -> Span {
    let status = span.status.clone().unwrap_or_default();
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: hex(&span.parent_span_id),
        trace_state: span.trace_state.clone(),
        kind: match span.kind() {
            wire::span::SpanKind::Server => "server",
            wire::span::SpanKind::Client => "client",
            wire::span::SpanKind::Internal => "internal",
            _ => "other",
        },
        status: match status.code() {
            wire::status::StatusCode::Error => "error",
            wire::status::StatusCode::Ok => "ok",
            wire::status::StatusCode::Unset => "",
        },
        status_message: status.message,
        attributes: attributes(&span.attributes),
        resource: attributes(resource),
        duration_ns: span
            .end_time_unix_nano
            .checked_sub(span.start_time_unix_nano)
            .expect("a span that ends after its start"),
        name: span.name,
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, serde_json::Value> {
    let mut attributes = BTreeMap::new();
    for KeyValue { key, value, .. } in list {
        let previous = attributes.insert(key.clone(), to_json(value.as_ref()));
        assert_eq!(previous, None, "duplicate attribute {key}");
    }
    attributes
}

fn to_json(value: Option<&AnyValue>) -> serde_json::Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => (*number).into(),
        Some(Value::BoolValue(value)) => (*value).into(),
        Some(Value::ArrayValue(array)) => {
            array.values.iter().map(|value| to_json(Some(value))).collect()
        }
        other => format!("{other:?}").into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
