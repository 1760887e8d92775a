//! Metrics of the UI's Monitor page.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::{Value as Json, json};

use crate::jaeger::Jaeger;
use crate::support::span;

/// Returns a server span of this duration, failed or not.
fn server_span(id: u64, operation: &str, ms: u64, failed: bool) -> Span {
    let span = span(id, id, 0, operation);
    let code = if failed { StatusCode::Error } else { StatusCode::Unset };
    Span {
        kind: SpanKind::Server as i32,
        end_time_unix_nano: span.start_time_unix_nano + ms * 1_000_000,
        status: Some(Status { code: code as i32, ..Status::default() }),
        ..span
    }
}

/// Returns the labels and the last value of each series.
fn last_values(family: &Json) -> Vec<(Json, Json)> {
    let last = |series: &Json| {
        let point = series["metricPoints"].as_array().unwrap().last().unwrap();
        assert!(point["timestamp"].as_str().unwrap().ends_with('Z'), "{point}");
        (series["labels"].clone(), point["gaugeValue"]["doubleValue"].clone())
    };
    family["metrics"].as_array().unwrap().iter().map(last).collect()
}

#[tokio::test]
async fn monitor_shows_rate_errors_durations() {
    let jaeger = Jaeger::start().await;
    let spans = (1..=4).map(|id| server_span(id, if id == 4 { "b" } else { "a" }, 8, id == 1));
    let client = Span { kind: SpanKind::Client as i32, ..span(9, 9, 0, "call") };
    jaeger.export_spans(spans.chain([client]).collect()).await;
    // The end lies after the time of arrival.
    let end = crate::support::now_ns() / 1_000_000 + 10_000;
    let query = async |metric: &str, rest: &str| {
        let path =
            format!("/api/metrics/{metric}?service=service&endTs={end}&lookback=1&step=1{rest}");
        let (status, family) = jaeger.json(&path).await;
        assert_eq!(status, 200, "{path}: {family}");
        family
    };
    let service = json!({"name": "service_name", "value": "service"});
    let errors = query("errors", "").await;
    assert_eq!(errors["name"], "service_error_rate");
    assert_eq!(last_values(&errors), [(json!([service]), json!(0.25))]);

    let latencies = query("latencies", "&quantile=0.5&groupByOperation=true").await;
    assert_eq!(latencies["name"], "service_operation_latencies");
    let operation = |name: &str| json!([service, {"name": "operation", "value": name}]);
    // The middle of the bucket from 4 ms to 8 ms.
    let expected = [(operation("a"), json!(6.0)), (operation("b"), json!(6.0))];
    assert_eq!(last_values(&latencies), expected);

    let calls = query("calls", "").await;
    let rate = last_values(&calls)[0].1.as_f64().unwrap();
    assert!((4.0 / 11.0..=4.0 / 9.0).contains(&rate), "{rate}");
    let client = query("calls", "&spanKind=client").await;
    assert!(last_values(&client)[0].1.as_f64().unwrap() < rate / 3.0, "{client}");
    assert_eq!(jaeger.data("/api/metrics/minstep").await, 15_000);
    let unknown = jaeger.json("/api/metrics/calls?service=unknown").await;
    assert_eq!(unknown.1["metrics"], json!([]));
}

#[tokio::test]
async fn invalid_monitor_query_is_named() {
    let jaeger = Jaeger::start().await;
    for (query, name) in [
        ("latencies?service=a", "quantile"),
        ("latencies?service=a&quantile=2", "quantile"),
        ("calls", "service"),
        ("calls?service=a&step=0", "step"),
        ("calls?service=a&step=1", "step"),
        ("calls?service=a&spanKind=any", "spanKind"),
        ("calls?service=a&groupByOperation=maybe", "groupByOperation"),
        ("unknown?service=a", "latencies"),
    ] {
        let (status, response) = jaeger.json(&format!("/api/metrics/{query}")).await;
        let message = response["errors"][0]["msg"].as_str().unwrap();
        assert!(status == 400 && message.contains(name), "{query}: {status} {message}");
    }
}
