//! Eviction, rejected spans and the counters of both.

use embedded_jaeger::{Limits, Stats};

use crate::jaeger::Jaeger;
use crate::support::{of_service, span, text, trace_hex};

#[tokio::test]
async fn oldest_traces_are_evicted_first() {
    let jaeger = Jaeger::with(Limits { max_traces: 10, ..Limits::default() }).await;
    for trace in 1..=25 {
        jaeger.export_spans(vec![span(trace, 1, 0, "work"), span(trace, 2, 1, "more")]).await;
    }
    let mut kept = jaeger.search("service=service").await;
    kept.sort();
    assert_eq!(kept, (16..=25).map(trace_hex).collect::<Vec<_>>());
    let Stats { traces, spans, accepted_spans, evicted_traces, evicted_spans, .. } = jaeger.stats();
    assert_eq!((traces, spans, accepted_spans), (10, 20, 50));
    assert_eq!((evicted_traces, evicted_spans), (15, 30));
}

#[tokio::test]
async fn eviction_bounds_memory() {
    let max_bytes = 200_000;
    let jaeger = Jaeger::with(Limits { max_bytes, ..Limits::default() }).await;
    for trace in 1..=200 {
        let mut large = span(trace, 1, 0, &format!("operation {trace}"));
        large.attributes = vec![text("filler", &"x".repeat(5_000))];
        // Distinct names and resources, so that the parts that spans share count as well.
        jaeger.export(vec![of_service(&format!("service {trace}"), vec![large])]).await;
        assert!(jaeger.stats().bytes <= max_bytes, "{:?}", jaeger.stats());
    }
    let stats = jaeger.stats();
    assert!((20..40).contains(&stats.traces), "{stats:?}");
    let services = jaeger.data("/api/services").await;
    assert_eq!(
        services.as_array().unwrap().len(),
        stats.traces,
        "services of evicted traces remain"
    );
}

#[tokio::test]
async fn empty_store_has_zero_bytes() {
    let jaeger = Jaeger::with(Limits { max_bytes: 0, ..Limits::default() }).await;
    for trace in 1..=5 {
        jaeger.export_spans(vec![span(trace, 1, 0, "work")]).await;
    }
    let Stats { bytes, spans, evicted_traces, .. } = jaeger.stats();
    assert_eq!((bytes, spans, evicted_traces), (0, 0, 5));
}

#[tokio::test]
async fn full_trace_rejects_spans() {
    let jaeger = Jaeger::with(Limits { max_spans_per_trace: 5, ..Limits::default() }).await;
    let spans = (1..=8).map(|id| span(1, id, 0, "work")).collect();
    let rejected = jaeger.export_spans(spans).await.unwrap();
    assert_eq!(rejected.rejected_spans, 3);
    assert!(rejected.error_message.contains("5 spans"), "{}", rejected.error_message);
    assert_eq!(jaeger.export_spans(vec![span(2, 1, 0, "work")]).await, None);
    let stats = jaeger.stats();
    assert_eq!((stats.traces, stats.spans, stats.rejected_trace_full), (2, 6, 3));
}

#[tokio::test]
async fn one_trace_cannot_evict_all() {
    let limits = Limits { max_bytes: 100_000, ..Limits::default() };
    let jaeger = Jaeger::with(limits).await;
    jaeger.export_spans(vec![span(1, 1, 0, "before")]).await;
    let spans = (1..=100).map(|id| {
        let mut span = span(2, id, 0, "work");
        span.attributes = vec![text("filler", &"x".repeat(5_000))];
        span
    });
    let rejected = jaeger.export_spans(spans.collect()).await.unwrap();
    assert!(rejected.rejected_spans > 80, "{rejected:?}");
    assert_eq!(jaeger.search("service=service&operation=before").await, [trace_hex(1)]);
}

#[tokio::test]
async fn oversized_span_is_rejected() {
    let limits = Limits { max_span_bytes: 1_000, ..Limits::default() };
    let jaeger = Jaeger::with(limits).await;
    let mut large = span(1, 1, 0, "large");
    large.attributes = vec![text("filler", &"x".repeat(1_000))];
    let rejected = jaeger.export_spans(vec![large, span(1, 2, 0, "small")]).await.unwrap();
    assert_eq!(rejected.rejected_spans, 1);
    assert!(rejected.error_message.contains("1000 bytes"), "{}", rejected.error_message);
    let stats = jaeger.stats();
    assert_eq!((stats.spans, stats.rejected_span_too_large), (1, 1));
}

#[tokio::test]
async fn metrics_expose_store_stats() {
    let jaeger = Jaeger::with(Limits { max_traces: 1, ..Limits::default() }).await;
    let mut bad = span(3, 1, 0, "bad");
    bad.span_id = Vec::new();
    jaeger.export_spans(vec![span(1, 1, 0, "a"), span(2, 1, 0, "b"), bad]).await;
    jaeger.post(Vec::new(), &[]).await;
    let metrics = jaeger.get("/metrics").await.text().await.unwrap();
    for sample in [
        "otel_receiver_accepted_spans_total 2",
        "otel_receiver_refused_spans_total{reason=\"invalid_id\"} 1",
        "otel_receiver_refused_spans_total{reason=\"trace_full\"} 0",
        "otel_receiver_refused_requests_total 1",
        "otel_store_evicted_traces_total 1",
        "otel_store_evicted_spans_total 1",
        "otel_store_traces 1",
        "otel_store_spans 1",
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample} in\n{metrics}");
    }
}
