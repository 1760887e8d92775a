//! Jaeger's query API, as its UI uses it:
//! <https://www.jaegertracing.io/docs/latest/architecture/apis/#query-json-over-http>

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Serialize;
use serde_json::json;
use serde_json::ser::{PrettyFormatter, Serializer};
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use crate::ids::TraceId;
use crate::json::{ApiError, Envelope, TracesJson};
use crate::query_params::{ParamError, QueryParams, parse_trace_id};
use crate::search;
use crate::span::kind_name;
use crate::store::Store;

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(find_traces))
        .route("/api/traces/{id}", get(get_trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/archive/{id}", any(|| not_implemented("archive storage")))
        .route("/api/transform", any(|| not_implemented("transforming OTLP files")))
        .route("/api/metrics/{query}", any(|| not_implemented("metrics storage")))
        .route("/api/quality-metrics", any(|| not_implemented("quality metrics")))
        .route("/analytics/{*path}", any(|| not_implemented("deep dependencies")))
        .route("/api/{*path}", any(|| async { QueryError::UnknownPath }))
        .with_state(store)
}

type PathParam = Result<Path<String>, PathRejection>;
type QueryResult = Result<Response, QueryError>;

/// Error of a request to the query API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    #[error(transparent)]
    Query(#[from] serde_html_form::de::Error),
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("{}", .0.body_text())]
    Path(#[from] PathRejection),
    #[error("no such path in the query API")]
    UnknownPath,
    #[error("trace not found")]
    TraceNotFound,
    #[error("{0}: not in this in-memory Jaeger")]
    NotImplemented(&'static str),
    /// The runtime shuts down, or the query panicked.
    #[error("the query was stopped")]
    Aborted(#[from] JoinError),
}

impl QueryError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Query(_) | Self::Param(_) | Self::Path(_) => StatusCode::BAD_REQUEST,
            Self::UnknownPath | Self::TraceNotFound => StatusCode::NOT_FOUND,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Aborted(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let status = self.status();
        let error = ApiError { code: Some(status.as_u16()), msg: self.to_string(), trace_id: None };
        (status, Json(Envelope::with_errors((), vec![error]))).into_response()
    }
}

impl<S: Sync> FromRequestParts<S> for QueryParams {
    type Rejection = QueryError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, QueryError> {
        Ok(serde_html_form::from_str(parts.uri.query().unwrap_or_default())?)
    }
}

async fn services(State(store): State<Arc<Store>>, params: QueryParams) -> QueryResult {
    let services = store.services();
    let total = services.len();
    stream_json(&params, Envelope::new(services, total))
}

async fn operation_names(
    State(store): State<Arc<Store>>,
    service: PathParam,
    params: QueryParams,
) -> QueryResult {
    let Path(service) = service?;
    let operations = spawn_blocking(move || search::operations(&store, &service)).await?;
    let mut names: Vec<String> = operations.iter().map(|(name, _)| name.to_string()).collect();
    names.dedup();
    let total = names.len();
    stream_json(&params, Envelope::new(names, total))
}

async fn operations(State(store): State<Arc<Store>>, params: QueryParams) -> QueryResult {
    let service = params.required_service()?;
    let operations = spawn_blocking(move || search::operations(&store, &service)).await?;
    let wanted_kind = params.span_kind.first();
    let operations: Vec<_> = operations
        .iter()
        .map(|(name, kind)| (name, kind_name(*kind)))
        .filter(|(_, kind)| wanted_kind.is_none_or(|wanted| wanted == *kind))
        .map(|(name, kind)| json!({ "name": &**name, "spanKind": kind }))
        .collect();
    let total = operations.len();
    stream_json(&params, Envelope::new(operations, total))
}

async fn find_traces(State(store): State<Arc<Store>>, params: QueryParams) -> QueryResult {
    let ids: Vec<TraceId> = params.trace_id.all().map(parse_trace_id).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        let query = params.trace_query()?;
        let found = spawn_blocking(move || query.run(&store)).await?;
        return stream_json(&params, Envelope::new(TracesJson(found), 0));
    }
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for id in ids {
        match store.trace(id) {
            Some(trace) => found.push(trace),
            None => {
                let msg = QueryError::TraceNotFound.to_string();
                errors.push(ApiError { code: None, msg, trace_id: Some(id) });
            }
        }
    }
    stream_json(&params, Envelope::with_errors(TracesJson(found), errors))
}

async fn get_trace(
    State(store): State<Arc<Store>>,
    id: PathParam,
    params: QueryParams,
) -> QueryResult {
    let trace = store.trace(parse_trace_id(&id?)?).ok_or(QueryError::TraceNotFound)?;
    stream_json(&params, Envelope::new(TracesJson(vec![trace]), 0))
}

async fn dependencies(State(store): State<Arc<Store>>, params: QueryParams) -> QueryResult {
    let window = params.window_ns()?;
    let calls = spawn_blocking(move || search::dependencies(&store, window)).await?;
    let service = params.service.first();
    let calls: Vec<_> = calls
        .iter()
        .filter(|((parent, child), _)| service.is_none_or(|name| name == parent || name == child))
        .map(|((parent, child), count)| json!({ "parent": parent, "child": child, "callCount": count }))
        .collect();
    stream_json(&params, Envelope::new(calls, 0))
}

async fn not_implemented(feature: &'static str) -> QueryError {
    QueryError::NotImplemented(feature)
}

/// Size of the chunks of a response in bytes.
const CHUNK_SIZE: usize = 64 << 10;

/// Serializes a response in chunks, at the speed at which the client reads. A search may match most
/// of the store, and its JSON is several times as large.
fn stream_json<T: Serialize + Send + 'static>(
    params: &QueryParams,
    envelope: Envelope<T>,
) -> QueryResult {
    let is_pretty = params.pretty_print.first().is_some_and(|value| value != "false");
    let (sender, mut chunks) = mpsc::channel(2);
    spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(CHUNK_SIZE, ChunkWriter(sender));
        let result = if is_pretty {
            let indented = PrettyFormatter::with_indent(b"    ");
            envelope.serialize(&mut Serializer::with_formatter(&mut out, indented))
        } else {
            envelope.serialize(&mut Serializer::new(&mut out))
        };
        // It fails only if the client has disconnected.
        let _ = result.map_err(io::Error::from).and_then(|()| out.flush());
    });
    let chunks =
        stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| chunk.map(io::Result::Ok)));
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(chunks)).into_response())
}

/// Writer that sends each write as a chunk and blocks while the channel is full.
struct ChunkWriter(mpsc::Sender<Bytes>);

impl Write for ChunkWriter {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(chunk));
        sent.map(|()| chunk.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
