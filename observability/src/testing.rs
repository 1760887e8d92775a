//! Telemetry for tests: what a service records is captured in memory.
//!
//! ```
//! use axum::{Router, routing::get};
//! use observability::testing::TestTelemetry;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let test = TestTelemetry::start();
//! let app = Router::new().route("/hello", get(async || "hello")).layer(test.layer());
//! assert_eq!(test.get(app, "/hello").await.body(), "hello");
//! assert_eq!(test.span("GET /hello").attributes["http.response.status_code"], "200");
//! assert_eq!(test.log_line("/hello")["level"], "info");
//! let labels = [("http_route", "/hello")];
//! assert_eq!(test.sample("http_server_request_duration_seconds_count", &labels), 1.0);
//! # });
//! ```
//!
//! Tests may run in parallel: nothing is global. Spans and events are captured on the thread that starts the
//! telemetry, so a test needs a single-threaded runtime, as `#[tokio::test]` has by default.

#![allow(clippy::panic, reason = "a failed assumption fails the test")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use metrics::LocalRecorderGuard;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use tower::Service;
use tracing::subscriber::DefaultGuard;

use crate::config::{Config, OtelConfig, ServiceInfo};
use crate::metrics::Format;
use crate::telemetry::Telemetry;
use crate::traces::{SpanCapture, Traces};

const SERVICE: ServiceInfo = ServiceInfo::new("test", "test", "127.0.0.1:0");

/// Maximum time that the log writer takes to write the lines of a test.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// [`Telemetry`] whose spans, samples and log lines a test can read.
pub struct TestTelemetry {
    telemetry: Telemetry,
    spans: SpanCapture,
    log: LogCapture,
    _subscriber: DefaultGuard,
    _recorder: LocalRecorderGuard<'static>,
}

impl fmt::Debug for TestTelemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestTelemetry").finish_non_exhaustive()
    }
}

impl Deref for TestTelemetry {
    type Target = Telemetry;

    fn deref(&self) -> &Telemetry {
        &self.telemetry
    }
}

impl TestTelemetry {
    /// Starts telemetry with the default settings.
    pub fn start() -> Self {
        Self::with_args([])
    }

    /// Starts telemetry with settings such as `--public-endpoint=true`. The environment is not read.
    ///
    /// # Panics
    /// If a setting is invalid, or the telemetry cannot be started.
    pub fn with_args<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        let args = ["test", "--log-format=json"].into_iter().chain(args).map(Into::into);
        let config: Config =
            SERVICE.parse_from(args, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        let otel = OtelConfig::read(&|_| None)
            .unwrap_or_else(|errors| panic!("default settings: {errors:?}"));
        let (spans, log) = (SpanCapture::default(), LogCapture::default());
        let builder = Telemetry::builder(SERVICE, &config);
        let capture = spans.clone();
        let traces = |otel: &_, resource, _: &_| Ok(Traces::captured(otel, resource, capture));
        let telemetry = Telemetry::new(builder, otel, log.clone(), traces)
            .unwrap_or_else(|error| panic!("{error}"));
        // A guard of a local recorder borrows it.
        let recorder = Box::leak(Box::new(telemetry.recorder()));
        Self {
            _subscriber: tracing::subscriber::set_default(telemetry.subscriber()),
            _recorder: metrics::set_default_local_recorder(recorder),
            telemetry,
            spans,
            log,
        }
    }

    /// Sends a GET request to a router and reads the response.
    ///
    /// # Panics
    /// If `path` is not valid, or the response body fails.
    pub async fn get(&self, app: Router, path: &str) -> Response<Bytes> {
        let request = Request::get(path).body(Body::empty());
        self.send(app, request.unwrap_or_else(|error| panic!("{path}: {error}"))).await
    }

    /// Sends a request to a router and reads the response.
    ///
    /// # Panics
    /// If the response body fails.
    pub async fn send(&self, mut app: Router, request: Request<Body>) -> Response<Bytes> {
        let Ok(response) = app.call(request).await;
        let (parts, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => Response::from_parts(parts, body.to_bytes()),
            Err(error) => panic!("response body failed: {error}"),
        }
    }

    /// Returns the spans that have ended, in the order of their ends.
    pub fn spans(&self) -> Vec<TestSpan> {
        self.spans.get().iter().map(TestSpan::from).collect()
    }

    /// Returns the last span with a name.
    ///
    /// # Panics
    /// If there is none.
    pub fn span(&self, name: &str) -> TestSpan {
        let spans = self.spans();
        let span = spans.iter().rfind(|span| span.name == name).cloned();
        span.unwrap_or_else(|| panic!("no span {name:?} among {spans:#?}"))
    }

    /// Returns the sum of the samples of a metric whose labels include `labels`, 0 if there are none.
    pub fn sample(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.telemetry.0.metrics.render(Format::Text);
        let page = String::from_utf8_lossy(&page);
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (known, known_labels) = series.split_once('{').unwrap_or((series, ""));
            let has =
                |(key, value): &(&str, &str)| known_labels.contains(&format!("{key}=\"{value}\""));
            (known == name && labels.iter().all(has)).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// Returns the log lines, as the JSON objects of `LOG_FORMAT=json`.
    ///
    /// # Panics
    /// If the log cannot be written.
    pub fn log_lines(&self) -> Vec<serde_json::Value> {
        self.telemetry.0.logger.writer().flush(FLUSH_TIMEOUT);
        let bytes = self.log.0.lock();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parse = |line| serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}"));
        lines.map(parse).collect()
    }

    /// Returns the last log line of a request to a route, or of an event with a message.
    ///
    /// # Panics
    /// If there is none.
    pub fn log_line(&self, endpoint_or_message: &str) -> serde_json::Value {
        let lines = self.log_lines();
        let is_wanted = |line: &&serde_json::Value| {
            [&line["endpoint"], &line["msg"]].iter().any(|value| *value == endpoint_or_message)
        };
        let line = lines.iter().rfind(is_wanted).cloned();
        line.unwrap_or_else(|| panic!("no line {endpoint_or_message:?} among {lines:#?}"))
    }
}

/// Span that has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TestSpan {
    /// Name, such as `GET /hello`.
    pub name: String,
    /// Kind, such as `Server`.
    pub kind: String,
    /// Trace id, 32 hex digits.
    pub trace_id: String,
    /// Span id, 16 hex digits.
    pub span_id: String,
    /// Span id of the parent, if there is one.
    pub parent_span_id: Option<String>,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Description of the status, if the status is an error.
    pub error: Option<String>,
    /// Names of the events.
    pub events: Vec<String>,
    /// Duration.
    pub duration: Duration,
}

impl From<&SpanData> for TestSpan {
    fn from(span: &SpanData) -> Self {
        let attribute = |attribute: &opentelemetry::KeyValue| {
            (attribute.key.to_string(), attribute.value.as_str().into_owned())
        };
        let has_parent = span.parent_span_id != SpanId::INVALID;
        Self {
            name: span.name.to_string(),
            kind: format!("{:?}", span.span_kind),
            trace_id: span.span_context.trace_id().to_string(),
            span_id: span.span_context.span_id().to_string(),
            parent_span_id: has_parent.then(|| span.parent_span_id.to_string()),
            attributes: span.attributes.iter().map(attribute).collect(),
            error: match &span.status {
                Status::Error { description } => Some(description.to_string()),
                _ => None,
            },
            events: span.events.iter().map(|event| event.name.to_string()).collect(),
            duration: span.end_time.duration_since(span.start_time).unwrap_or_default(),
        }
    }
}

/// Log output in memory.
#[derive(Clone, Default)]
struct LogCapture(Arc<Mutex<Vec<u8>>>);

impl Write for LogCapture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
