//! The query API: Jaeger's JSON and the parameters of a search.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::{Value as Json, json};

use crate::jaeger::Jaeger;
use crate::support::{
    attribute, call_echo, int, now_ns, of_service, request, span, span_id, text, trace_hex,
    trace_id,
};

#[tokio::test]
async fn span_json_matches_jaeger() {
    let jaeger = Jaeger::start().await;
    let full = Span {
        trace_id: trace_id(1),
        span_id: span_id(2),
        parent_span_id: span_id(1),
        trace_state: "vendor=1".to_owned(),
        name: "GET".to_owned(),
        kind: SpanKind::Client as i32,
        start_time_unix_nano: 1_700_000_000_000_001_999,
        end_time_unix_nano: 1_700_000_000_002_501_999,
        attributes: vec![int("server.port", 8080), attribute("ok", Value::BoolValue(false))],
        events: vec![Event {
            time_unix_nano: 1_700_000_000_001_000_000,
            name: "exception".to_owned(),
            attributes: vec![text("exception.type", "reset")],
            ..Event::default()
        }],
        links: vec![Link { trace_id: trace_id(9), span_id: span_id(7), ..Link::default() }],
        status: Some(Status { code: StatusCode::Error as i32, message: "no response".to_owned() }),
        dropped_attributes_count: 4,
        ..Span::default()
    };
    jaeger.export(vec![of_service("service-b", vec![full])]).await;
    let expected = json!([{
        "traceID": trace_hex(1),
        "spans": [{
            "traceID": trace_hex(1),
            "spanID": "0000000000000002",
            "operationName": "GET",
            "references": [
                { "refType": "CHILD_OF", "traceID": trace_hex(1), "spanID": "0000000000000001" },
                { "refType": "FOLLOWS_FROM", "traceID": trace_hex(9), "spanID": "0000000000000007" },
            ],
            "startTime": 1_700_000_000_000_001_u64,
            "duration": 2_500,
            "tags": [
                { "key": "otel.scope.name", "type": "string", "value": "observability" },
                { "key": "otel.scope.version", "type": "string", "value": "0.1.0" },
                { "key": "span.kind", "type": "string", "value": "client" },
                { "key": "w3c.tracestate", "type": "string", "value": "vendor=1" },
                { "key": "otel.status_code", "type": "string", "value": "ERROR" },
                { "key": "otel.status_description", "type": "string", "value": "no response" },
                { "key": "error", "type": "bool", "value": true },
                { "key": "server.port", "type": "int64", "value": 8080 },
                { "key": "ok", "type": "bool", "value": false },
            ],
            "logs": [{
                "timestamp": 1_700_000_000_001_000_u64,
                "fields": [
                    { "key": "event", "type": "string", "value": "exception" },
                    { "key": "exception.type", "type": "string", "value": "reset" },
                ],
            }],
            "processID": "p1",
            "warnings": [
                "parent span ID=0000000000000001 is not in the trace; skipping clock skew adjustment",
                "4 attributes were dropped before export",
            ],
        }],
        "processes": { "p1": {
            "serviceName": "service-b",
            "tags": [
                { "key": "service.version", "type": "string", "value": "0.1.0" },
                { "key": "telemetry.sdk.language", "type": "string", "value": "rust" },
                { "key": "telemetry.sdk.name", "type": "string", "value": "opentelemetry" },
            ],
        }},
        "warnings": null,
    }]);
    assert_eq!(jaeger.data(&format!("/api/traces/{}", trace_hex(1))).await, expected);
}

#[tokio::test]
async fn services_and_operations_are_sorted() {
    let jaeger = Jaeger::start().await;
    for trace in 1..=3 {
        jaeger.export(call_echo(trace, now_ns(), false)).await;
    }
    let (_, services) = jaeger.json("/api/services").await;
    let expected = json!({
        "data": ["service-a", "service-b"], "total": 2, "limit": 0, "offset": 0, "errors": null,
    });
    assert_eq!(services, expected);
    let names = jaeger.data("/api/services/service-b/operations").await;
    assert_eq!(names, json!(["GET", "GET /call-echo"]));
    let servers = jaeger.data("/api/operations?service=service-b&spanKind=server").await;
    assert_eq!(servers, json!([{ "name": "GET /call-echo", "spanKind": "server" }]));
    let operations = jaeger.data("/api/operations?service=service-b").await;
    assert_eq!(operations.as_array().unwrap().len(), 2);
    assert_eq!(jaeger.data("/api/services/unheard%2Fof/operations").await, json!([]));
}

#[tokio::test]
async fn search_finds_orphan_service() {
    let jaeger = Jaeger::start().await;
    jaeger.export(call_echo(1, now_ns(), false)).await;
    jaeger.export(vec![of_service("service-a", vec![span(2, 5, 4, "orphan")])]).await;
    assert_eq!(jaeger.search("service=service-b").await, [trace_hex(1)]);
    let mut found = jaeger.search("service=service-a").await;
    found.sort();
    assert_eq!(found, [trace_hex(1), trace_hex(2)]);
    let orphan = jaeger.data(&format!("/api/traces/{}", trace_hex(2))).await;
    assert_eq!(orphan[0]["spans"][0]["references"][0]["spanID"], "0000000000000004");
}

#[tokio::test]
async fn filters_narrow_search() {
    let jaeger = Jaeger::start().await;
    let now = now_ns();
    let minute = 60_000_000_000;
    jaeger.export(call_echo(1, now - 90 * minute, false)).await;
    jaeger.export(call_echo(2, now - 10 * minute, true)).await;
    jaeger.export(call_echo(3, now - 5 * minute, false)).await;
    let between =
        |from: u64, to: u64| format!("service=service-b&start={}&end={}", from / 1_000, to / 1_000);
    for (query, expected) in [
        ("service=service-b".to_owned(), &[3, 2, 1][..]),
        ("service=service-c".to_owned(), &[]),
        ("service=service-b&limit=2".to_owned(), &[3, 2]),
        ("service=service-b&lookback=1h".to_owned(), &[3, 2]),
        (between(now - 20 * minute, now - 7 * minute), &[2]),
        (between(now - minute, now), &[]),
        ("service=service-a&operation=GET+%2Fecho".to_owned(), &[3, 2, 1]),
        ("service=service-a&operation=GET".to_owned(), &[]),
        // The span of service-a takes 1.5 ms, those of service-b take 4.2 ms and 3.3 ms.
        ("service=service-a&minDuration=1.4ms&maxDuration=1.6ms".to_owned(), &[3, 2, 1]),
        ("service=service-a&minDuration=2ms".to_owned(), &[]),
        ("service=service-b&maxDuration=3ms".to_owned(), &[]),
        ("service=service-b&operation=GET&minDuration=4ms".to_owned(), &[]),
        // Tags of both syntaxes from attributes, a resource, a scope and fields of the span.
        ("service=service-a&tags=%7B%22error%22%3A%22true%22%7D".to_owned(), &[2]),
        ("service=service-a&tags=%7B%22error%22%3A%22true%22%7D&limit=1".to_owned(), &[2]),
        ("service=service-a&tag=http.response.status_code:200".to_owned(), &[3, 1]),
        ("service=service-a&tag=http.response.status_code:200&limit=1".to_owned(), &[3]),
        ("service=service-a&tag=service.version:0.1.0".to_owned(), &[3, 2, 1]),
        ("service=service-a&tag=otel.scope.name:observability".to_owned(), &[3, 2, 1]),
        ("service=service-b&tag=span.kind:client&tag=server.port:8080".to_owned(), &[3, 2, 1]),
        ("service=service-b&tag=span.kind:server&tag=server.port:8080".to_owned(), &[]),
        ("service=service-a&tag=http.response.status_code:20".to_owned(), &[]),
    ] {
        let expected: Vec<String> = expected.iter().copied().map(trace_hex).collect();
        assert_eq!(jaeger.search(&query).await, expected, "{query}");
    }
}

/// Conditions on tags that Jaeger evaluates in a way of their own.
#[tokio::test]
async fn search_evaluates_named_fields() {
    let jaeger = Jaeger::start().await;
    let with = |trace: u64, kind: SpanKind, code: StatusCode| Span {
        kind: kind as i32,
        status: Some(Status { code: code as i32, ..Status::default() }),
        ..span(trace, 1, 0, "work")
    };
    let mut linked = with(1, SpanKind::Server, StatusCode::Ok);
    let attributes = vec![attribute("ratio", Value::DoubleValue(1e-7))];
    linked.links =
        vec![Link { trace_id: trace_id(9), span_id: span_id(9), attributes, ..Link::default() }];
    let spans = vec![
        linked,
        with(2, SpanKind::Client, StatusCode::Error),
        with(3, SpanKind::Client, StatusCode::Unset),
    ];
    jaeger.export_spans(spans).await;
    for (tag, expected) in [
        ("error:true", &[2][..]),
        ("error:1", &[2]),
        ("error:false", &[1]),
        ("error:maybe", &[]),
        ("span.status:ERROR", &[2]),
        ("span.status:ok", &[1]),
        ("span.status:unset", &[3]),
        ("span.kind:SERVER", &[1]),
        ("scope.name:observability", &[1, 2, 3]),
        ("scope.version:9", &[]),
        ("resource.service.version:0.1.0", &[1, 2, 3]),
        ("resource.ratio:1e-7", &[]),
        ("service.name:service", &[1, 2, 3]),
        ("ratio:1e-7", &[1]),
    ] {
        let mut found = jaeger.search(&format!("service=service&tag={tag}")).await;
        found.sort_unstable();
        let expected: Vec<String> = expected.iter().copied().map(trace_hex).collect();
        assert_eq!(found, expected, "{tag}");
    }
}

#[tokio::test]
async fn uploaded_file_is_converted() {
    let jaeger = Jaeger::start().await;
    let file = serde_json::to_vec(&request(call_echo(1, now_ns(), false))).unwrap();
    let url = format!("http://{}/api/transform", jaeger.handle.ui_addr());
    let post = |body: Vec<u8>| jaeger.http.post(&url).body(body).send();
    let converted: Json =
        serde_json::from_slice(&post(file).await.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(converted["data"][0]["traceID"], trace_hex(1));
    assert_eq!(converted["data"][0]["spans"].as_array().unwrap().len(), 3);
    assert_eq!(post(b"{\"resourceSpans\":7}".to_vec()).await.unwrap().status(), 400);
    assert_eq!(jaeger.stats().spans, 0);
}

#[tokio::test]
async fn search_matches_event_fields() {
    let jaeger = Jaeger::start().await;
    let mut with_event = span(1, 1, 0, "work");
    with_event.events = vec![Event {
        name: "exception".to_owned(),
        attributes: vec![text("exception.type", "timeout")],
        ..Event::default()
    }];
    jaeger.export_spans(vec![with_event, span(2, 1, 0, "work")]).await;
    assert_eq!(jaeger.search("service=service&tag=event:exception").await, [trace_hex(1)]);
    assert_eq!(jaeger.search("service=service&tag=exception.type:timeout").await, [trace_hex(1)]);
}

#[tokio::test]
async fn get_traces_by_id() {
    let jaeger = Jaeger::start().await;
    for trace in [1, 2, 3] {
        jaeger.export(call_echo(trace, now_ns(), false)).await;
    }
    let query = format!("traceID={}&traceID={}&traceID=beef", trace_hex(3), trace_hex(1));
    let (status, response) = jaeger.json(&format!("/api/traces?{query}")).await;
    assert_eq!(status, 200);
    let ids: Vec<&Json> =
        response["data"].as_array().unwrap().iter().map(|trace| &trace["traceID"]).collect();
    assert_eq!(ids, [&json!(trace_hex(3)), &json!(trace_hex(1))]);
    let unknown = format!("{:0>32}", "beef");
    assert_eq!(response["errors"], json!([{ "msg": "trace not found", "traceID": unknown }]));
}

#[tokio::test]
async fn dependencies_count_calls() {
    let jaeger = Jaeger::start().await;
    let hour = 3_600_000_000_000;
    for (trace, start) in [(1, now_ns()), (2, now_ns()), (3, now_ns() - 3 * hour)] {
        jaeger.export(call_echo(trace, start, false)).await;
    }
    let link =
        |calls: u64| json!([{ "parent": "service-b", "child": "service-a", "callCount": calls }]);
    assert_eq!(jaeger.data("/api/dependencies").await, link(3));
    assert_eq!(jaeger.data("/api/dependencies?lookback=3600000").await, link(2));
    let end = (now_ns() - 2 * hour) / 1_000_000;
    let before = format!("/api/dependencies?endTs={end}&lookback=604800000");
    assert_eq!(jaeger.data(&before).await, link(1));
    assert_eq!(jaeger.data("/api/dependencies?service=service-c").await, json!([]));
}

#[tokio::test]
async fn errors_match_jaeger_format() {
    let jaeger = Jaeger::start().await;
    let unknown = format!("/api/traces/{}", trace_hex(404));
    for (path, code) in [
        ("/api/traces/nonsense", 400),
        ("/api/traces/0123456789012345678901234567890123", 400),
        ("/api/traces/%FF", 400),
        (&*unknown, 404),
        ("/api/traces", 400),
        ("/api/traces?service=a&limit=many", 400),
        ("/api/traces?service=a&minDuration=long", 400),
        ("/api/traces?traceID=nonsense", 400),
        ("/api/operations", 400),
        ("/api/dependencies?endTs=now", 400),
        ("/api/unheard/of", 404),
        ("/api/quality-metrics", 501),
        ("/analytics/v1/dependencies", 501),
    ] {
        let (status, response) = jaeger.json(path).await;
        assert_eq!(status.as_u16(), code, "{path}");
        assert_eq!(response["data"], Json::Null, "{path}");
        assert_eq!(response["errors"][0]["code"], code, "{path}");
        assert!(!response["errors"][0]["msg"].as_str().unwrap().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn pretty_print_indents_json() {
    let jaeger = Jaeger::start().await;
    jaeger.export(call_echo(1, now_ns(), false)).await;
    let path = format!("/api/traces/{}", trace_hex(1));
    let text = jaeger.get(&format!("{path}?raw=true&prettyPrint=true")).await.text().await.unwrap();
    assert!(text.starts_with("{\n    \"data\": [\n"), "{text}");
    assert_eq!(serde_json::from_str::<Json>(&text).unwrap()["data"], jaeger.data(&path).await);
}
