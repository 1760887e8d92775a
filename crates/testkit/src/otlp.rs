//! OTLP collector for traces over gRPC and http/protobuf.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1 as wire;
use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_types::StatusExt;

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
    pub headers: HeaderMap,
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
    /// `server`, `client` or `other`.
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
    /// Trace ids of the links.
    pub links: Vec<String>,
    /// Number of attributes that were dropped.
    pub dropped_attributes: u32,
    /// Attributes of the events, by name.
    pub events: Vec<(String, BTreeMap<String, serde_json::Value>)>,
    /// Name, version and schema URL of the scope.
    pub scope: (String, String, String),
}

impl Span {
    /// Returns the service name from the resource.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").and_then(|name| name.as_str()).unwrap_or_default()
    }
}

/// Reaction of the collector to an export request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behavior {
    /// Accepts all spans.
    #[default]
    Accept,
    /// Accepts all spans after a delay.
    AcceptAfter(Duration),
    /// Reports a partial success with this number of rejected spans, however many were sent.
    Reject(i64),
    /// Refuses requests with more spans than this because of their size.
    LimitSpans(usize),
    /// Fails the request and demands this delay before a retry, in whole seconds.
    Throttle(Duration),
    /// Fails the request.
    Fail {
        /// gRPC status code, such as 14 (`UNAVAILABLE`).
        grpc: i32,
        /// HTTP status code, such as 503.
        http: u16,
    },
}

/// OTLP collector. Dropping it closes its listener.
#[derive(Debug)]
pub struct OtlpCollector {
    address: SocketAddr,
    state: CollectorState,
    _runtime: Runtime,
}

impl OtlpCollector {
    /// Starts a collector on a free port.
    pub fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("listen"))
    }

    /// Starts a collector on this listener.
    pub fn start_on(listener: TcpListener) -> Self {
        Self::start_with(listener, None)
    }

    /// Starts a collector on a free port that has only this protocol.
    pub fn start_only(protocol: Protocol) -> Self {
        Self::start_with(TcpListener::bind("127.0.0.1:0").expect("listen"), Some(protocol))
    }

    fn start_with(listener: TcpListener, only: Option<Protocol>) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = CollectorState::default();
        let runtime = Runtime::new().unwrap();
        runtime.spawn(serve(listener, state.clone(), only));
        Self { address, state, _runtime: runtime }
    }

    /// Returns the address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the endpoint URL for both protocols.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the environment variables that make a service export its spans to this collector without
    /// delay.
    pub fn variables(&self, protocol: Protocol) -> [(&'static str, String); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url()),
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

#[derive(Debug, Clone, Default)]
struct CollectorState {
    exports: EventLog<Export>,
    behavior: Arc<Mutex<Behavior>>,
}

impl CollectorState {
    /// Applies the behavior to a request and records the accepted spans.
    async fn handle(
        &self,
        protocol: Protocol,
        headers: HeaderMap,
        request: ExportTraceServiceRequest,
    ) -> Result<ExportTraceServiceResponse, Failure> {
        let mut rejected_spans = 0;
        let behavior = *self.behavior.lock();
        match behavior {
            Behavior::Accept => {}
            Behavior::AcceptAfter(delay) => tokio::time::sleep(delay).await,
            Behavior::Reject(count) => rejected_spans = count,
            Behavior::LimitSpans(limit) => {
                let resources = request.resource_spans.iter();
                let scopes = resources.flat_map(|resource| &resource.scope_spans);
                if scopes.map(|scope| scope.spans.len()).sum::<usize>() > limit {
                    let message = "grpc: received message larger than max";
                    return Err(Failure { grpc: 8, http: 413, message, retry_after: None });
                }
            }
            Behavior::Throttle(delay) => {
                let (message, retry_after) = ("refused", Some(delay));
                return Err(Failure { grpc: 14, http: 503, message, retry_after });
            }
            Behavior::Fail { grpc, http } => {
                let (message, retry_after) = ("refused", None);
                return Err(Failure { grpc, http, message, retry_after });
            }
        }
        let spans = request.resource_spans.into_iter().flat_map(|resource_spans| {
            let resource = resource_spans.resource.unwrap_or_default().attributes;
            let scopes = resource_spans.scope_spans.into_iter();
            let spans = scopes.flat_map(|scope| {
                let name = scope.scope.unwrap_or_default();
                let name = (name.name, name.version, scope.schema_url);
                scope.spans.into_iter().map(move |span| (span, name.clone()))
            });
            spans
                .map(move |(span, scope)| Span { scope, ..convert_span(span, &resource) })
                .collect::<Vec<_>>()
        });
        let spans = spans.skip(usize::try_from(rejected_spans).unwrap_or(0)).collect();
        self.exports.push(Export { protocol, headers, spans });
        let partial_success = (rejected_spans != 0).then(|| ExportTracePartialSuccess {
            rejected_spans,
            error_message: "not these".to_owned(),
        });
        Ok(ExportTraceServiceResponse { partial_success })
    }
}

/// Response to a request that fails.
struct Failure {
    grpc: i32,
    http: u16,
    message: &'static str,
    retry_after: Option<Duration>,
}

async fn serve(listener: TcpListener, state: CollectorState, only: Option<Protocol>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let grpc = TraceServiceServer::new(state.clone())
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let http = post(export_http).with_state(state);
    let router = match only {
        None => Routes::new(grpc).into_axum_router().route("/v1/traces", http),
        Some(Protocol::Grpc) => Routes::new(grpc).into_axum_router(),
        Some(Protocol::HttpProtobuf) => axum::Router::new().route("/v1/traces", http),
    };
    Server::builder()
        .accept_http1(only != Some(Protocol::Grpc))
        .add_routes(router.into())
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
        .expect("serve OTLP");
}

#[tonic::async_trait]
impl TraceService for CollectorState {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let (metadata, _, request) = request.into_parts();
        let response = self.handle(Protocol::Grpc, metadata.into_headers(), request).await;
        let status = |Failure { grpc, message, retry_after, .. }| {
            let details = tonic_types::ErrorDetails::with_retry_info(retry_after);
            match retry_after {
                Some(_) => tonic::Status::with_error_details(grpc.into(), message, details),
                None => tonic::Status::new(grpc.into(), message),
            }
        };
        response.map(tonic::Response::new).map_err(status)
    }
}

async fn export_http(
    State(state): State<CollectorState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, Response> {
    let bad_request = || StatusCode::BAD_REQUEST.into_response();
    let mut bytes = body.to_vec();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        bytes.clear();
        let decompressed = flate2::read::GzDecoder::new(&*body).read_to_end(&mut bytes);
        decompressed.map_err(|_| bad_request())?;
    }
    let request = ExportTraceServiceRequest::decode(&*bytes).map_err(|_| bad_request())?;
    let response = state.handle(Protocol::HttpProtobuf, headers, request).await;
    let failure = |Failure { http, message, retry_after, .. }| {
        let mut response = (StatusCode::from_u16(http).unwrap(), message).into_response();
        if let Some(delay) = retry_after {
            response.headers_mut().insert("retry-after", delay.as_secs().into());
        }
        response
    };
    response.map(|response| response.encode_to_vec()).map_err(failure)
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
        duration_ns: span.end_time_unix_nano - span.start_time_unix_nano,
        dropped_attributes: span.dropped_attributes_count,
        events: span.events.iter().map(|e| (e.name.clone(), attributes(&e.attributes))).collect(),
        scope: Default::default(),
        links: span.links.iter().map(|link| hex(&link.trace_id)).collect(),
        name: span.name,
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, serde_json::Value> {
    let mut attributes = BTreeMap::new();
    for KeyValue { key, value, .. } in list {
        let json = match value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => text.as_str().into(),
            Some(Value::IntValue(number)) => (*number).into(),
            Some(Value::BoolValue(value)) => (*value).into(),
            other => format!("{other:?}").into(),
        };
        let previous = attributes.insert(key.clone(), json);
        assert_eq!(previous, None, "duplicate attribute {key}");
    }
    attributes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
