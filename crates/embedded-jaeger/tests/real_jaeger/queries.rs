//! Queries to which both Jaegers respond.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_nanos;
use reqwest::Url;
use serde_json::json;

use crate::spans::{SECOND, TAGS};
use crate::support::{request, trace_hex};
use crate::traces::Traces;

#[derive(Debug)]
pub(crate) struct Query {
    /// Path and query.
    pub(crate) target: String,
    /// Body of a `POST` request.
    pub(crate) body: Option<String>,
}

/// Services of the traces, and one that has none.
const SERVICES: [&str; 25] = [
    "one",
    "service-a",
    "service-b",
    "orphan",
    "roots",
    "chain",
    "order",
    "exports",
    "first",
    "third",
    "links",
    "front",
    "back",
    "kinds",
    "status",
    "events",
    "names",
    "scopes",
    "attributes",
    "resources",
    "usługa 🦀",
    "a/b c?d",
    "times",
    "missing-service-name",
    "unknown",
];

const KINDS: [&str; 7] =
    ["internal", "server", "client", "producer", "consumer", "CLIENT", "other"];

/// Searches in a service.
const SEARCHES: &[(&str, &[(&str, &str)])] = &[
    ("service-b", &[("operation", "GET")]),
    ("service-b", &[("operation", "get")]),
    ("names", &[("operation", "żółw 🐢")]),
    ("chain", &[("operation", "level 7")]),
    ("one", &[("operation", "all")]),
    ("times", &[("minDuration", "1ns")]),
    ("times", &[("minDuration", "2ns")]),
    ("times", &[("minDuration", "1us")]),
    ("times", &[("minDuration", "1µs")]),
    ("times", &[("minDuration", "24h")]),
    ("times", &[("minDuration", "24h0.001s")]),
    ("times", &[("maxDuration", "1us")]),
    ("times", &[("maxDuration", "999ns")]),
    ("times", &[("minDuration", "500ns"), ("maxDuration", "1h")]),
    ("times", &[("minDuration", "1s"), ("maxDuration", "1ms")]),
    ("times", &[("minDuration", "5")]),
    ("times", &[("minDuration", "soon")]),
    ("times", &[("maxDuration", "")]),
    ("links", &[("limit", "1")]),
    ("links", &[("limit", "3")]),
    ("links", &[("limit", "1000")]),
    ("links", &[("limit", "many")]),
    ("links", &[("limit", "99999999999")]),
    ("one", &[("start", "0"), ("end", "1")]),
    ("one", &[("start", "0")]),
    ("one", &[("end", "1")]),
    ("one", &[("start", "soon")]),
    ("one", &[("end", "1e9")]),
    ("one", &[("raw", "true")]),
    ("one", &[("raw", "maybe")]),
    ("one", &[("raw", "T")]),
    ("one", &[("lookback", "1m")]),
    ("links", &[("limit", "0")]),
    ("links", &[("limit", "99999")]),
    ("scope attributes", &[("tag", "scope.kind:test")]),
    ("unnamed", &[]),
    ("unnamed", &[("operation", "empty-span-name")]),
    ("own id", &[]),
    ("zipkin server", &[]),
    ("sdk", &[]),
    ("no time", &[]),
    ("duplicates", &[]),
    ("service-name-wrong-type", &[]),
    ("one", &[("prettyPrint", "true")]),
    ("one", &[("unknown", "parameter")]),
    ("status", &[("tag", "error:true")]),
    ("status", &[("tags", r#"{"error":"true"}"#)]),
    ("status", &[("tags", r#"{"error":"true","other":"x"}"#)]),
    ("status", &[("tag", "error")]),
    ("status", &[("tags", "[]")]),
    ("status", &[("tags", r#"{"a":{}}"#)]),
    ("status", &[("tags", "{")]),
    ("status", &[("tags", "{}")]),
    ("attributes", &[("tag", "string:text"), ("tag", "int:200")]),
    ("attributes", &[("tag", "int:200"), ("tags", r#"{"bool.true":"true"}"#)]),
    ("attributes", &[("tag", "int:2")]),
    ("attributes", &[("tag", "INT:200")]),
    ("attributes", &[("tag", "string:TEXT")]),
    ("resources", &[("tag", "instance:2")]),
    ("resources", &[("tag", "instance:3")]),
    ("resources", &[("tag", "int:200")]),
    ("events", &[("tag", "exception.type:timeout")]),
    ("service-a", &[("tag", "http.response.status_code:500")]),
    ("service-a", &[("tag", "http.response.status_code:500"), ("limit", "1")]),
    (
        "service-a",
        &[("operation", "GET /echo"), ("tag", "server.port:8080"), ("minDuration", "1ms")],
    ),
    ("service-a", &[("operation", "GET /echo"), ("tag", "server.port:8081")]),
];

/// Paths outside of a search.
const PATHS: &[&str] = &[
    "/api/services",
    "/api/v3/services",
    "/api/operations",
    "/api/traces",
    "/api/traces?traceID=xyz",
    "/api/traces/xyz",
    "/api/traces/0",
    "/api/traces/12345678901234567890123456789012345",
    "/api/traces/000000000000000000000000000000ff",
    "/api/v3/traces",
    "/api/v3/traces/xyz",
    "/api/v3/traces/000000000000000000000000000000ff",
    "/api/dependencies",
    "/api/dependencies?lookback=1800000",
    "/api/dependencies?service=service-a",
    "/api/dependencies?service=unknown",
    "/api/unknown",
    "/api/quality-metrics",
    "/api/dependencies?endTs=soon",
    "/api/dependencies?lookback=1h",
    "/api/dependencies?endTs=1&lookback=1",
];

/// Queries to which the responses differ, and the reason. A trace id is replaced by the name of the trace.
pub(crate) const DIFFERENT: &[(&str, &str)] = &[
    ("/api/traces/link to own id in other trace", OWN_ID),
    ("/api/traces?service=own+id", OWN_ID),
    ("/api/traces/scope with attributes", SCOPE),
    ("/api/traces?service=scope+attributes&tag=scope.kind%3Atest", SCOPE),
    ("/api/traces/sdk attribute on the span", SDK),
    ("/api/traces?service=sdk", SDK),
    ("/api/traces/client and server with one id", ZIPKIN),
    ("/api/traces?service=zipkin+server", ZIPKIN),
    ("/api/v3/traces/no duration?raw_traces=true", DURATION),
    ("/api/v3/traces/end before start?raw_traces=true", DURATION),
    ("/api/v3/operations?service=kinds", "version 2.20 calls an unspecified kind internal"),
    ("/api/traces?service=unnamed&operation=empty-span-name", "version 2.20 has this name"),
    ("/api/traces?service=status&tag=error%3Atrue", ERROR),
    ("/api/traces?service=status&tags=%7B%22error%22%3A%22true%22%7D", ERROR),
    ("/api/traces?service=one&lookback=1m", "the real Jaeger ignores the parameter"),
    ("/api/traces?service=links&limit=0", "the real Jaeger responds with 500"),
    ("/api/traces?service=links&limit=99999", "the real Jaeger responds with 500"),
    ("/api/unknown", "the real Jaeger responds with the page of the UI"),
    ("/api/quality-metrics", "the real Jaeger responds with an example"),
];
const OWN_ID: &str = "the UI would take the link as the parent, which would be the span itself";
const SCOPE: &str = "the real Jaeger omits the attributes of a scope";
const SDK: &str = "the real Jaeger moves attributes of the SDK to the process";
const ZIPKIN: &str =
    "the real Jaeger changes the span id of the server, which Zipkin's libraries share";
const DURATION: &str = "the real Jaeger changes a duration that is not positive to 1 ns";
const DUPLICATE: &str = "the real Jaeger removes a duplicate without a warning";
const ERROR: &str = "version 2.13 takes every text as false";

/// Traces whose warnings differ, and the reason.
pub(crate) const DIFFERENT_WARNINGS: &[(&str, &str)] = &[
    ("link to own id in other trace", OWN_ID),
    ("no duration", DURATION),
    ("end before start", DURATION),
    ("duplicate in one export", DUPLICATE),
    ("duplicate in two exports", DUPLICATE),
    ("client and server with one id", ZIPKIN),
];

fn target(path: &str, params: &[(&str, &str)]) -> String {
    let url = Url::parse_with_params(&format!("http://test{path}"), params).unwrap();
    format!("{}?{}", url.path(), url.query().unwrap_or_default())
}

/// Returns all queries. Those of a time depend on the time of the traces.
pub(crate) fn queries(traces: &Traces) -> Vec<Query> {
    let mut targets: Vec<String> = PATHS.iter().map(|&path| path.to_owned()).collect();
    for trace in &traces.list {
        targets.push(format!("/api/traces/{}", trace.id));
        targets.push(format!("/api/v3/traces/{}?raw_traces=true", trace.id));
    }
    for service in SERVICES {
        let url = Url::parse_with_params("http://test/", [("s", service)]).unwrap();
        let encoded = url.query().unwrap()[2..].replace('+', "%20");
        targets.push(format!("/api/services/{encoded}/operations"));
        targets.push(target("/api/operations", &[("service", service)]));
        targets.push(target("/api/v3/operations", &[("service", service)]));
        targets.push(target("/api/traces", &[("service", service)]));
    }
    for kind in KINDS {
        for service in ["kinds", "service-b"] {
            targets.push(target("/api/operations", &[("service", service), ("spanKind", kind)]));
        }
        targets.push(target("/api/v3/operations", &[("service", "kinds"), ("span_kind", kind)]));
    }
    for (key, text) in TAGS {
        let json = json!({ *key: text }).to_string();
        targets.push(target("/api/traces", &[("service", "attributes"), ("tags", &json)]));
        targets.push(target(
            "/api/traces",
            &[("service", "attributes"), ("tag", &format!("{key}:{text}"))],
        ));
    }
    for (service, params) in SEARCHES {
        let params: Vec<_> =
            [("service", *service)].into_iter().chain(params.iter().copied()).collect();
        targets.push(target("/api/traces", &params));
    }
    let ids = [90, 3, 1_000, 1].map(trace_hex);
    let ids = ids.each_ref().map(|id| ("traceID", &**id));
    targets.push(target("/api/traces", &ids));
    targets.push(target("/api/traces", &ids[2..3]));
    targets.extend(searches_in_time(traces));
    let mut queries: Vec<Query> =
        targets.into_iter().map(|target| Query { target, body: None }).collect();
    queries.extend(bodies(traces));
    queries
}

/// Returns searches with times between those of the traces.
fn searches_in_time(traces: &Traces) -> Vec<String> {
    let last = traces.list.len() as u64;
    let windows = [(0, last), (0, last / 2), (last / 2, last), (20, 30), (last + 1, last + 2)];
    let in_window = windows.into_iter().flat_map(|(from, to)| {
        let [from, to] =
            [from, to].map(|second| traces.start_ns + second * SECOND + SECOND / 10 * 7);
        let [start, end] = [from, to].map(|ns| (ns / 1_000).to_string());
        let of_service = |service| {
            target("/api/traces", &[("service", service), ("start", &start), ("end", &end)])
        };
        let [endpoint, lookback] =
            [to / 1_000_000, (to - from) / 1_000_000].map(|ms| ms.to_string());
        let dependencies = [("endTs", &*endpoint), ("lookback", &*lookback)];
        let [start, end] = [from, to]
            .map(|ns| format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(ns)).to_string());
        let v3 = |more: &[(&str, &str)]| {
            let always = [
                ("query.start_time_min", &*start),
                ("query.start_time_max", &end),
                ("query.raw_traces", "true"),
                ("query.num_traces", "1000"),
            ];
            target("/api/v3/traces", &[&always, more].concat())
        };
        [
            of_service("attributes"),
            of_service("front"),
            of_service("times"),
            target("/api/dependencies", &dependencies),
            v3(&[("query.service_name", "attributes")]),
            v3(&[("query.service_name", "chain"), ("query.operation_name", "level 7")]),
            v3(&[("query.service_name", "times"), ("query.duration_min", "1h")]),
            v3(&[("query.service_name", "times"), ("query.duration_max", "1us")]),
            v3(&[("query.service_name", "one"), ("query.duration_max", "soon")]),
            v3(&[("query.service_name", "unknown")]),
        ]
    });
    in_window.collect()
}

/// Returns uploads of files.
fn bodies(traces: &Traces) -> Vec<Query> {
    let files = traces.list.iter().filter(|trace| trace.exports.len() == 1);
    let files =
        files.map(|trace| serde_json::to_string(&request(trace.exports[0].clone())).unwrap());
    let invalid = ["", "{", "[]", r#"{"resourceSpans":7}"#, "{}"].map(str::to_owned);
    files
        .take(10)
        .chain(invalid)
        .map(|body| Query { target: "/api/transform".to_owned(), body: Some(body) })
        .collect()
}
