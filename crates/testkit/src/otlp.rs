//! A backend that takes spans over OTLP, gRPC and http/protobuf, and shows them to the test.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
use prost::Message;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding;

use crate::EventLog;

/// How spans are sent: the values of `OTEL_EXPORTER_OTLP_PROTOCOL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

impl Protocol {
    /// The value of the variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        }
    }
}

/// One export, as it arrived.
#[derive(Debug, Clone)]
pub struct Export {
    /// How.
    pub protocol: Protocol,
    /// The headers, or gRPC's metadata.
    pub headers: BTreeMap<String, String>,
    /// What, but for the spans that were [rejected](Behavior::Reject).
    pub spans: Vec<Span>,
}

/// A span, with the resource it is of.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits, empty for a root.
    pub parent_span_id: String,
    /// `tracestate` as it was passed on.
    pub trace_state: String,
    /// The name.
    pub name: String,
    /// `server`, `client` or `internal`.
    pub kind: &'static str,
    /// The attributes with their types.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// `error` where the status says so, `ok`, or empty.
    pub status: &'static str,
    /// What the status says beside that.
    pub status_message: String,
    /// What the spans say of their process.
    pub resource: BTreeMap<String, serde_json::Value>,
    /// From start to end, in nanoseconds.
    pub duration_ns: u64,
}

impl Span {
    /// The name of the service it is of.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").and_then(|name| name.as_str()).unwrap_or_default()
    }
}

/// What the backend does with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// It takes it.
    Accept,
    /// It takes it, after this while.
    TakeAfter(Duration),
    /// It takes it but for so many of its spans, which is what it says whatever it was sent.
    Reject(i64),
    /// It refuses it, with a status of gRPC's or of HTTP's.
    Fail {
        /// Such as 14, `UNAVAILABLE`.
        grpc: i32,
        /// Such as 503.
        http: u16,
    },
    /// It takes one and refuses the next (`INVALID_ARGUMENT`, 400), and so on.
    AlternateFailure {
        /// Whether it refuses this one.
        refuse: bool,
    },
}

/// The backend; it ends when it is dropped.
#[derive(Debug)]
pub struct OtlpCollector {
    grpc: SocketAddr,
    http: SocketAddr,
    exports: EventLog<Export>,
    manner: Arc<Mutex<Behavior>>,
    _stop: oneshot::Sender<()>,
}

impl OtlpCollector {
    /// Listens on two free ports.
    pub fn start() -> Self {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
        Self::serve(listen(), listen())
    }

    /// Listens on these.
    pub fn serve(grpc: std::net::TcpListener, http: std::net::TcpListener) -> Self {
        let exports = EventLog::default();
        let manner = Arc::new(Mutex::new(Behavior::Accept));
        let inbox = CollectorState { exports: exports.clone(), manner: Arc::clone(&manner) };
        let (stop, stopped) = oneshot::channel();
        for listener in [&grpc, &http] {
            listener.set_nonblocking(true).unwrap();
        }
        let receiver = Self {
            grpc: grpc.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            exports,
            manner,
            _stop: stop,
        };
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve_grpc(grpc, inbox.clone()) => {}
                    () = serve_http(http, inbox) => {}
                    _ = stopped => {}
                }
            });
        });
        receiver
    }

    /// Where it takes this protocol.
    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::Grpc => self.grpc,
            Protocol::HttpProtobuf => self.http,
        }
    }

    /// The variables that send a service's spans here, without delay.
    pub fn variables(&self, protocol: Protocol) -> [(&'static str, String); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", self.address(protocol))),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.name().to_owned()),
            ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
        ]
    }

    /// From the next export on, this is its manner.
    pub fn set_behavior(&self, manner: Behavior) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }

    /// The exports so far.
    pub fn exports(&self) -> Vec<Export> {
        self.exports.items()
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.exports().into_iter().flat_map(|export| export.spans).collect()
    }

    /// Waits until a trace has this many spans, and gives them, parents first.
    ///
    /// # Panics
    /// Where it has more, or where they are not one tree.
    pub fn wait_for_trace(&self, trace_id: &str, spans: usize) -> Vec<Span> {
        let what = format!("{spans} spans of trace {trace_id}");
        let mut found = self.exports.wait_for(&what, |exports| {
            let all = exports.iter().flat_map(|export| &export.spans);
            let found: Vec<_> = all.filter(|span| span.trace_id == trace_id).cloned().collect();
            (found.len() >= spans).then_some(found)
        });
        assert_eq!(found.len(), spans, "more than {what}: {found:#?}");
        let mut ordered: Vec<Span> = Vec::new();
        while !found.is_empty() {
            let is_next =
                |span: &Span| !found.iter().any(|other| other.span_id == span.parent_span_id);
            let next = found.iter().position(is_next).expect("spans without a circle");
            ordered.push(found.remove(next));
        }
        ordered
    }
}

#[derive(Debug, Clone)]
struct CollectorState {
    exports: EventLog<Export>,
    manner: Arc<Mutex<Behavior>>,
}

impl CollectorState {
    /// Waits where that is its manner, and says what is answered or how the export is refused.
    async fn receive(&self) -> Result<ExportTraceServiceResponse, (i32, u16)> {
        let mut answer = ExportTraceServiceResponse::default();
        let delay = {
            let mut manner = self.manner.lock().unwrap_or_else(PoisonError::into_inner);
            match *manner {
                Behavior::Accept => Duration::ZERO,
                Behavior::TakeAfter(delay) => delay,
                Behavior::Reject(rejected_spans) => {
                    let error_message = "not these".to_owned();
                    answer.partial_success =
                        Some(ExportTracePartialSuccess { rejected_spans, error_message });
                    Duration::ZERO
                }
                Behavior::Fail { grpc, http } => return Err((grpc, http)),
                Behavior::AlternateFailure { refuse } => {
                    *manner = Behavior::AlternateFailure { refuse: !refuse };
                    if refuse {
                        return Err((3, 400));
                    }
                    Duration::ZERO
                }
            }
        };
        tokio::time::sleep(delay).await;
        Ok(answer)
    }

    fn take(
        &self,
        protocol: Protocol,
        headers: BTreeMap<String, String>,
        request: ExportTraceServiceRequest,
        answer: &ExportTraceServiceResponse,
    ) {
        let spans = request.resource_spans.into_iter().flat_map(|of_resource| {
            let resource = of_resource.resource.unwrap_or_default().attributes;
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            spans.map(move |span| read(span, &resource)).collect::<Vec<_>>()
        });
        let rejected = answer.partial_success.as_ref().map_or(0, |partial| partial.rejected_spans);
        let spans = spans.skip(usize::try_from(rejected).unwrap_or(0)).collect();
        self.exports.push(Export { protocol, headers, spans });
    }
}

async fn serve_grpc(listener: std::net::TcpListener, inbox: CollectorState) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let service = TraceServiceServer::new(inbox)
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
        let refused = |(code, _): (i32, _)| tonic::Status::new(code.into(), "refused");
        let answer = self.receive().await.map_err(refused)?;
        let headers = text_headers(&request.metadata().clone().into_headers());
        self.take(Protocol::Grpc, headers, request.into_inner(), &answer);
        Ok(tonic::Response::new(answer))
    }
}

async fn serve_http(listener: std::net::TcpListener, inbox: CollectorState) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let router = Router::new().route("/v1/traces", post(export_http)).with_state(inbox);
    axum::serve(listener, router).await.expect("serve OTLP over HTTP");
}

async fn export_http(
    State(inbox): State<CollectorState>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Vec<u8>, StatusCode> {
    let refused = |(_, status)| StatusCode::from_u16(status).unwrap();
    let answer = inbox.receive().await.map_err(refused)?;
    let mut bytes = body.to_vec();
    if headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip") {
        bytes.clear();
        let unpacked = flate2::read::GzDecoder::new(&*body).read_to_end(&mut bytes);
        unpacked.map_err(|_| StatusCode::BAD_REQUEST)?;
    }
    let request = ExportTraceServiceRequest::decode(&*bytes);
    let request = request.map_err(|_| StatusCode::BAD_REQUEST)?;
    inbox.take(Protocol::HttpProtobuf, text_headers(&headers), request, &answer);
    Ok(answer.encode_to_vec())
}

fn text_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |value: &axum::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn read(span: wire::Span, resource: &[KeyValue]) -> Span {
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
            .expect("an end after the start"),
        name: span.name,
    }
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, serde_json::Value> {
    let mut attributes = BTreeMap::new();
    for KeyValue { key, value, .. } in list {
        let twice = attributes.insert(key.clone(), json(value.as_ref()));
        assert_eq!(twice, None, "an attribute twice: {key}");
    }
    attributes
}

fn json(value: Option<&AnyValue>) -> serde_json::Value {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::IntValue(number)) => (*number).into(),
        Some(Value::DoubleValue(number)) => (*number).into(),
        Some(Value::BoolValue(yes)) => (*yes).into(),
        Some(Value::ArrayValue(array)) => array.values.iter().map(|v| json(Some(v))).collect(),
        other => format!("{other:?}").into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
