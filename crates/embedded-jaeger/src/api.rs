//! Jaeger's query API, as its UI uses it:
//! <https://www.jaegertracing.io/docs/latest/architecture/apis/#query-json-over-http>

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::ingest::{decode_json, export};
use crate::json::{ApiError, Envelope, QueryError, TracesJson};
use crate::json_stream::stream_json;
use crate::monitor;
use crate::query_params::{QueryParams, parse_trace_id};
use crate::search;
use crate::span::kind_name;
use crate::store::Store;

pub(crate) fn router(store: Arc<Store>) -> Router {
    let body_limit = DefaultBodyLimit::max(store.limits().max_request_bytes);
    Router::new()
        .route("/api/services", get(services))
        .route("/api/services/{service}/operations", get(operation_names))
        .route("/api/operations", get(operations))
        .route("/api/traces", get(find_traces))
        .route("/api/traces/{id}", get(get_trace))
        .route("/api/dependencies", get(dependencies))
        .route("/api/archive/{id}", any(|| not_implemented("archive storage")))
        .route("/api/transform", post(transform).layer(body_limit))
        .route("/api/metrics/{metric}", get(metrics))
        .route("/api/quality-metrics", any(|| not_implemented("quality metrics")))
        .route("/analytics/{*path}", any(|| not_implemented("deep dependencies")))
        .route("/api/{*path}", any(|| async { not_found("no such path in the query API") }))
        .with_state(store)
}

type PathParam = Result<Path<String>, PathRejection>;
type QueryResult = Result<Response, QueryError>;

async fn services(State(store): State<Arc<Store>>, Query(params): Query<QueryParams>) -> Response {
    stream_json(params, move |_| Envelope::counted(store.services()))
}

async fn operation_names(
    State(store): State<Arc<Store>>,
    service: PathParam,
    Query(params): Query<QueryParams>,
) -> QueryResult {
    let Path(service) = service.map_err(QueryError::bad_request)?;
    Ok(stream_json(params, move |_| {
        let operations = search::operations(&store, &service, None);
        let mut names: Vec<String> = operations.iter().map(|(name, _)| name.to_string()).collect();
        names.dedup();
        Envelope::counted(names)
    }))
}

async fn operations(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> QueryResult {
    let service = params.service()?;
    Ok(stream_json(params, move |params| {
        let operations: Vec<_> = search::operations(&store, &service, params.first("spanKind"))
            .iter()
            .map(|(name, kind)| json!({ "name": **name, "spanKind": kind_name(*kind) }))
            .collect();
        Envelope::counted(operations)
    }))
}

async fn find_traces(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> QueryResult {
    params.flag("raw")?;
    let ids: Vec<_> = params.all("traceID").map(parse_trace_id).collect::<Result<_, _>>()?;
    if ids.is_empty() {
        let query = params.trace_query()?;
        return Ok(stream_json(params, move |_| Envelope::new(TracesJson(query.run(&store)))));
    }
    let mut found = Vec::new();
    let mut errors = Vec::new();
    for id in ids {
        match store.trace(id) {
            Some(trace) => found.push(trace),
            None => {
                let msg = TRACE_NOT_FOUND.to_owned();
                errors.push(ApiError { code: None, msg, trace_id: Some(id) });
            }
        }
    }
    Ok(stream_json(params, move |_| Envelope::with_errors(TracesJson(found), errors)))
}

async fn get_trace(
    State(store): State<Arc<Store>>,
    id: PathParam,
    Query(params): Query<QueryParams>,
) -> QueryResult {
    let Path(id) = id.map_err(QueryError::bad_request)?;
    params.flag("raw")?;
    let trace = store.trace(parse_trace_id(&id)?).ok_or_else(|| not_found(TRACE_NOT_FOUND))?;
    Ok(stream_json(params, move |_| Envelope::new(TracesJson(vec![trace]))))
}

async fn metrics(
    State(store): State<Arc<Store>>,
    metric: PathParam,
    Query(params): Query<QueryParams>,
) -> Result<Json<Value>, QueryError> {
    let Path(metric) = metric.map_err(QueryError::bad_request)?;
    monitor::respond(&store, &metric, &params)
}

/// Converts an OTLP file, which the UI uploads, without storing it.
async fn transform(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
    body: Bytes,
) -> QueryResult {
    let converted = Store::new(store.limits().clone());
    let result = decode_json(&body).and_then(|request| export(&converted, request));
    result.map_err(|status| QueryError::bad_request(status.message()))?;
    Ok(stream_json(params, move |_| Envelope::new(TracesJson(converted.traces(|_| true)))))
}

async fn dependencies(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> QueryResult {
    let window = params.window_ns()?;
    Ok(stream_json(params, move |params| {
        let service = params.first("service");
        let calls: Vec<_> = search::dependencies(&store, window)
            .iter()
            .filter(|((parent, child), _)| service.is_none_or(|name| *name == **parent || *name == **child))
            .map(|((parent, child), count)| json!({ "parent": **parent, "child": **child, "callCount": count }))
            .collect();
        Envelope::new(calls)
    }))
}

const TRACE_NOT_FOUND: &str = "trace not found";

fn not_found(message: &str) -> QueryError {
    QueryError { status: StatusCode::NOT_FOUND, message: message.to_owned() }
}

async fn not_implemented(feature: &str) -> QueryError {
    let message = format!("{feature}: not in this in-memory Jaeger");
    QueryError { status: StatusCode::NOT_IMPLEMENTED, message }
}
