//! Version 3 of the query API.

use opentelemetry_proto::tonic::trace::v1::TracesData;
use serde_json::json;

use crate::jaeger::Jaeger;
use crate::support::{call_echo, now_ns, trace_hex, trace_id};

const WINDOW: &str =
    "query.start_time_min=2020-01-01T00:00:00Z&query.start_time_max=2100-01-01T00:00:00.5Z";

#[tokio::test]
async fn v3_traces_are_otlp() {
    let jaeger = Jaeger::start().await;
    let sent = call_echo(1, now_ns(), true);
    jaeger.export(sent.clone()).await;
    let paths = [
        format!("/api/v3/traces/{}", trace_hex(1)),
        format!("/api/v3/traces?query.serviceName=service-a&{WINDOW}"),
        format!("/api/v3/traces?{WINDOW}&query.attributes=%7B%22error%22%3A%22true%22%7D"),
    ];
    for path in paths {
        let (status, response) = jaeger.json(&path).await;
        assert_eq!(status, 200, "{path}: {response}");
        let received: TracesData = serde_json::from_value(response["result"].clone()).unwrap();
        let key = |spans: &opentelemetry_proto::tonic::trace::v1::ResourceSpans| {
            format!("{:?}", spans.resource)
        };
        let (mut received, mut sent) = (received.resource_spans, sent.clone());
        received.sort_by_key(key);
        sent.sort_by_key(key);
        assert_eq!(received, sent, "{path}");
        assert_eq!(received[0].scope_spans[0].spans[0].trace_id, trace_id(1));
    }
}

#[tokio::test]
async fn v3_lists_services_and_summaries() {
    let jaeger = Jaeger::start().await;
    let start = now_ns();
    jaeger.export(call_echo(1, start, true)).await;
    let services = jaeger.json("/api/v3/services").await.1;
    assert_eq!(services, json!({"services": ["service-a", "service-b"]}));
    let path = "/api/v3/operations?service=service-a&span_kind=server";
    let operation = json!({"name": "GET /echo", "spanKind": "server"});
    assert_eq!(jaeger.json(path).await.1, json!({"operations": [operation]}));

    let path = format!("/api/v3/trace-summaries?query.search_depth=1&{WINDOW}");
    let summary = &jaeger.json(&path).await.1["summaries"][0];
    let expected = ["traceId", "rootServiceName", "rootOperationName", "minStartTimeUnixNano"];
    let values = [trace_hex(1), "service-b".into(), "GET /call-echo".into(), start.to_string()];
    for (key, value) in expected.into_iter().zip(values) {
        assert_eq!(summary[key], value, "{summary}");
    }
    assert_eq!(summary["spanCount"], 3, "{summary}");
    assert_eq!(summary["errorSpanCount"], 3, "{summary}");
    assert_eq!(summary["services"][1]["spanCount"], 2, "{summary}");
}

#[tokio::test]
async fn v3_errors_name_parameter() {
    let jaeger = Jaeger::start().await;
    for (path, status, text) in [
        (format!("/api/v3/traces?{WINDOW}"), 404, "No traces found"),
        (format!("/api/v3/traces/{}", trace_hex(9)), 404, "No traces found"),
        ("/api/v3/traces/xyz".to_owned(), 400, "traceID"),
        ("/api/v3/traces".to_owned(), 400, "query.start_time_min"),
        (format!("/api/v3/traces?{WINDOW}&query.durationMin=x"), 400, "query.durationMin"),
        (format!("/api/v3/traces?{WINDOW}&query.search_depth=0"), 400, "query.search_depth"),
        ("/api/v3/operations".to_owned(), 400, "service"),
    ] {
        let (code, response) = jaeger.json(&path).await;
        assert_eq!((code.as_u16(), &response["error"]["httpCode"]), (status, &json!(status)));
        let message = response["error"]["message"].as_str().unwrap();
        assert!(message.contains(text), "{path}: {message}");
    }
}
