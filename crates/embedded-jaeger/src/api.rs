//! Jaeger's query API, as its interface calls it.
//!
//! <https://www.jaegertracing.io/docs/latest/architecture/apis/#query-json-over-http>

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::json;
use serde_json::ser::{PrettyFormatter, Serializer};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::params::{self, BadRequest, Params};
use crate::render::{ApiError, Envelope, Traces};
use crate::search;
use crate::store::Store;

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(find_traces))
        .route("/api/traces/{id}", get(get_trace))
        .route("/api/dependencies", get(dependencies))
        // Kept by Jaeger in storages that there are none of here.
        .route("/api/archive/{id}", any(|| absent("archive storage")))
        .route("/api/transform", any(|| absent("transforming OTLP files")))
        .route("/api/metrics/{query}", any(|| absent("metrics storage")))
        .route("/api/quality-metrics", any(|| absent("quality metrics")))
        .route("/analytics/{*path}", any(|| absent("deep dependencies")))
        .route("/api/{*path}", any(not_found))
        .with_state(store)
}

type Query = RawQuery;
/// A part of the path, or why it is no text.
type PathText = Result<Path<String>, PathRejection>;

async fn services(State(store): State<Arc<Store>>, RawQuery(query): Query) -> Answer {
    let services = store.services();
    let total = services.len();
    write(query, Envelope::new(services, total))
}

async fn operation_names(
    State(store): State<Arc<Store>>,
    service: PathText,
    RawQuery(query): Query,
) -> Answer {
    let Path(service) = service?;
    let operations = compute(move || search::operations(&store, &service)).await?;
    let mut names: Vec<String> = operations.iter().map(|(name, _)| name.to_string()).collect();
    names.dedup();
    let total = names.len();
    write(query, Envelope::new(names, total))
}

async fn operations(State(store): State<Arc<Store>>, RawQuery(query): Query) -> Answer {
    let text = query.clone().unwrap_or_default();
    let params = Params::parse(&text);
    let service = params.service()?.to_owned();
    let kind = params.get("spanKind");
    let operations = compute(move || search::operations(&store, &service)).await?;
    let wanted: Vec<_> = operations
        .iter()
        .map(|(name, kind)| (name, kind.as_str()))
        .filter(|(_, of)| kind.is_none_or(|kind| kind == *of))
        .map(|(name, kind)| json!({ "name": &**name, "spanKind": kind }))
        .collect();
    let total = wanted.len();
    write(query, Envelope::new(wanted, total))
}

async fn find_traces(State(store): State<Arc<Store>>, RawQuery(query): Query) -> Answer {
    let text = query.clone().unwrap_or_default();
    let params = Params::parse(&text);
    let ids = params.trace_ids()?;
    if ids.is_empty() {
        let search = params.trace_query()?;
        let found = compute(move || search.run(&store)).await?;
        return write(query, Envelope::new(Traces(found), 0));
    }
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for id in ids {
        match store.trace(id) {
            Some(trace) => found.push(trace),
            None => {
                errors.push(ApiError { code: None, msg: NO_TRACE.to_owned(), trace_id: Some(id) })
            }
        }
    }
    let mut envelope = Envelope::new(Traces(found), 0);
    envelope.errors = (!errors.is_empty()).then_some(errors);
    write(query, envelope)
}

const NO_TRACE: &str = "trace not found";

async fn get_trace(
    State(store): State<Arc<Store>>,
    id: PathText,
    RawQuery(query): Query,
) -> Answer {
    let id = params::trace_id(&id?)?;
    let Some(trace) = store.trace(id) else {
        return Err(Failure(StatusCode::NOT_FOUND, NO_TRACE.to_owned()));
    };
    write(query, Envelope::new(Traces(vec![trace]), 0))
}

async fn dependencies(State(store): State<Arc<Store>>, RawQuery(query): Query) -> Answer {
    let text = query.clone().unwrap_or_default();
    let params = Params::parse(&text);
    let window = params.window_ns()?;
    let links = compute(move || search::dependencies(&store, window)).await?;
    let service = params.get("service");
    let links: Vec<_> = links
        .iter()
        .filter(|((parent, child), _)| service.is_none_or(|of| of == parent || of == child))
        .map(|((parent, child), count)| json!({ "parent": parent, "child": child, "callCount": count }))
        .collect();
    write(query, Envelope::new(links, 0))
}

async fn absent(what: &'static str) -> Failure {
    Failure(StatusCode::NOT_IMPLEMENTED, format!("{what}: not in this in-memory Jaeger"))
}

async fn not_found() -> Failure {
    Failure(StatusCode::NOT_FOUND, "no such path in the query API".to_owned())
}

type Answer = Result<Response, Failure>;

/// An error as Jaeger answers it.
struct Failure(StatusCode, String);

impl From<BadRequest> for Failure {
    fn from(BadRequest(message): BadRequest) -> Self {
        Self(StatusCode::BAD_REQUEST, message)
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, msg) = self;
        let error = ApiError { code: Some(status.as_u16()), msg, trace_id: None };
        let mut envelope = Envelope::new((), 0);
        envelope.errors = Some(vec![error]);
        (status, axum::Json(envelope)).into_response()
    }
}

/// Runs what takes more than a moment off the threads that serve connections.
async fn compute<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let stopped =
        |_| Failure(StatusCode::INTERNAL_SERVER_ERROR, "the query was stopped".to_owned());
    spawn_blocking(work).await.map_err(stopped)
}

/// Writes an answer piece by piece, no faster than the client reads: a search may find most of
/// the store, and its JSON is several times as large.
fn write<T: Serialize + Send + 'static>(query: Option<String>, answer: Envelope<T>) -> Answer {
    let pretty = query.is_some_and(|query| Params::parse(&query).pretty());
    let (pieces, rest) = mpsc::channel(2);
    spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE, Pieces(pieces));
        let written = if pretty {
            let indented = PrettyFormatter::with_indent(b"    ");
            answer.serialize(&mut Serializer::with_formatter(&mut out, indented))
        } else {
            answer.serialize(&mut Serializer::new(&mut out))
        };
        // It fails only where the client went away.
        let _ = written.map_err(io::Error::from).and_then(|()| out.flush());
    });
    let next = |mut rest: mpsc::Receiver<Bytes>| async {
        rest.recv().await.map(|piece| (Ok::<_, io::Error>(piece), rest))
    };
    let body = Body::from_stream(stream::unfold(rest, next));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

const PIECE: usize = 64 << 10;

struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(piece));
        sent.map(|()| piece.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
