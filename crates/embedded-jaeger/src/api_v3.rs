//! Version 3 of Jaeger's query API, which responds with OTLP in JSON. Grafana and newer UIs use it:
//! <https://www.jaegertracing.io/docs/latest/architecture/apis/#query-json-over-http>

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::ids::SpanId;
use crate::json::QueryError;
use crate::json_stream::stream_json;
use crate::query_params::{QueryParams, parse_trace_id};
use crate::search;
use crate::span::{SpanSource, kind_name};
use crate::store::{Store, Trace};

pub(crate) fn router(store: Arc<Store>) -> Router {
    Router::new()
        .route("/api/v3/services", get(services))
        .route("/api/v3/operations", get(operations))
        .route("/api/v3/traces", get(find_traces))
        .route("/api/v3/traces/{id}", get(get_trace))
        .route("/api/v3/trace-summaries", get(summaries))
        .with_state(store)
}

/// Error in the JSON of the gRPC gateway.
struct GatewayError(QueryError);

impl From<QueryError> for GatewayError {
    fn from(error: QueryError) -> Self {
        Self(error)
    }
}

impl IntoResponse for GatewayError {
    fn into_response(self) -> Response {
        let QueryError { status, message } = self.0;
        let error = json!({ "httpCode": status.as_u16(), "message": message });
        (status, Json(json!({ "error": error }))).into_response()
    }
}

async fn services(State(store): State<Arc<Store>>) -> Json<Value> {
    Json(json!({ "services": store.services() }))
}

async fn operations(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> Result<Json<Value>, GatewayError> {
    let service = params.service()?;
    let kind = params.first("spanKind").or_else(|| params.first("span_kind"));
    let operations: Vec<_> = search::operations(&store, &service, kind)
        .iter()
        .map(|(name, kind)| {
            let kind = if *kind == SpanKind::Unspecified { SpanKind::Internal } else { *kind };
            json!({ "name": **name, "spanKind": kind_name(kind) })
        })
        .collect();
    Ok(Json(json!({ "operations": operations })))
}

async fn find_traces(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> Result<Response, GatewayError> {
    let found = params.trace_query_v3()?.run(&store);
    respond(params, found)
}

async fn get_trace(
    State(store): State<Arc<Store>>,
    id: Result<Path<String>, PathRejection>,
    Query(params): Query<QueryParams>,
) -> Result<Response, GatewayError> {
    let Path(id) = id.map_err(QueryError::bad_request)?;
    let found = store.trace(parse_trace_id(&id)?);
    respond(params, found.into_iter().collect())
}

fn respond(params: QueryParams, found: Vec<Arc<Trace>>) -> Result<Response, GatewayError> {
    if found.is_empty() {
        let message = "No traces found".to_owned();
        return Err(QueryError { status: StatusCode::NOT_FOUND, message }.into());
    }
    let resource_spans = ResourceSpansJson(found);
    Ok(stream_json(params, move |_| GatewayResult { result: TracesData { resource_spans } }))
}

#[derive(Serialize)]
struct GatewayResult {
    result: TracesData,
}

/// The OTLP message `TracesData`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TracesData {
    resource_spans: ResourceSpansJson,
}

/// Traces as a list of `ResourceSpans`, of which one trace is in memory at a time.
struct ResourceSpansJson(Vec<Arc<Trace>>);

impl Serialize for ResourceSpansJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flat_map(|trace| resource_spans(trace)))
    }
}

fn resource_spans(trace: &Trace) -> Vec<ResourceSpans> {
    let mut positions: HashMap<&SpanSource, usize> = HashMap::new();
    let mut found: Vec<ResourceSpans> = Vec::new();
    for record in &trace.spans {
        let position = *positions.entry(&record.source).or_insert_with_key(|source| {
            let scope = Some(source.decode_scope());
            found.push(ResourceSpans {
                resource: Some(source.decode_resource()),
                scope_spans: vec![ScopeSpans { scope, ..ScopeSpans::default() }],
                ..ResourceSpans::default()
            });
            found.len() - 1
        });
        found[position].scope_spans[0].spans.push(record.to_otlp(trace.id));
    }
    found
}

async fn summaries(
    State(store): State<Arc<Store>>,
    Query(params): Query<QueryParams>,
) -> Result<Json<Value>, GatewayError> {
    let found = params.trace_query_v3()?.run(&store);
    let summaries: Vec<_> = found.iter().map(|trace| summary(trace)).collect();
    Ok(Json(json!({ "summaries": summaries })))
}

fn summary(trace: &Trace) -> Value {
    // Numbers of spans and of failed spans by service.
    let mut services: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for span in &trace.spans {
        let [spans, errors] = services.entry(&span.source.service).or_default();
        *spans += 1;
        *errors += u64::from(span.failed);
    }
    let sum = |n: usize| services.values().map(|counts| counts[n]).sum::<u64>();
    let roots = trace.spans.iter().filter(|span| span.parent == SpanId::ZERO);
    let root = roots.min_by_key(|span| span.start_ns);
    let end_ns = trace.spans.iter().map(|span| span.end_ns).max().unwrap_or_default();
    let by_service: Vec<_> = services
        .iter()
        .map(|(name, [spans, errors])| {
            json!({ "name": name, "spanCount": spans, "errorSpanCount": errors })
        })
        .collect();
    json!({
        "traceId": trace.id.to_string(),
        "rootServiceName": root.map_or("", |root| &root.source.service),
        "rootOperationName": root.map_or("", |root| &root.name),
        "minStartTimeUnixNano": trace.start_ns().to_string(),
        "maxEndTimeUnixNano": end_ns.to_string(),
        "spanCount": sum(0),
        "errorSpanCount": sum(1),
        "services": by_service,
    })
}
