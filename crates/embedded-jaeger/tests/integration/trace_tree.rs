//! Malformed traces, whose JSON must not lead the UI into a cycle.

use std::collections::HashMap;

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::Link;
use serde_json::Value as Json;

use crate::jaeger::Jaeger;
use crate::support::{int, of_service, span, span_id, text, trace_hex, trace_id};

async fn spans_of(jaeger: &Jaeger, trace: u64) -> Vec<Json> {
    let mut data = jaeger.data(&format!("/api/traces/{}", trace_hex(trace))).await;
    let Json::Array(spans) = data[0]["spans"].take() else { panic!("no spans") };
    spans
}

/// Exports the spans of one trace and returns their JSON. Checks that the references have no cycle.
async fn rendered(spans: Vec<Span>) -> Vec<Json> {
    let jaeger = Jaeger::start().await;
    assert_eq!(jaeger.export_spans(spans).await, None);
    let spans = spans_of(&jaeger, 1).await;
    let references = |span: &Json| -> Vec<String> {
        let references = span["references"].as_array().unwrap().iter();
        references.map(|to| to["spanID"].as_str().unwrap().to_owned()).collect()
    };
    // Removes spans that refer to no remaining span. The spans that remain at the end form cycles.
    let mut remaining: HashMap<String, Vec<String>> = spans
        .iter()
        .map(|span| (span["spanID"].as_str().unwrap().to_owned(), references(span)))
        .collect();
    loop {
        let free: Vec<String> = remaining
            .iter()
            .filter(|(_, to)| !to.iter().any(|id| remaining.contains_key(id)))
            .map(|(id, _)| id.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        for id in free {
            remaining.remove(&id);
        }
    }
    assert!(remaining.is_empty(), "cycle: {remaining:?}");
    spans
}

/// Returns the warnings except those of clock skew. The spans of the tests start one after another.
fn warnings(spans: &[Json]) -> Vec<String> {
    let lists = spans.iter().filter_map(|span| span["warnings"].as_array());
    let warnings = lists.flatten().map(|warning| warning.as_str().unwrap().to_owned());
    warnings.filter(|warning| !warning.contains("clock skew")).collect()
}

#[tokio::test]
async fn self_parent_becomes_root() {
    let spans = rendered(vec![span(1, 1, 1, "self"), span(1, 2, 1, "child")]).await;
    assert_eq!(spans.len(), 2);
    let warnings = warnings(&spans);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("itself"), "{warnings:?}");
}

#[tokio::test]
async fn parent_cycle_is_broken_once() {
    // 1 → 3 → 2 → 1 is a cycle with the child 4, and 5 → 6 → 5 is another.
    let parents = [(1, 3), (2, 1), (3, 2), (4, 2), (5, 6), (6, 5)];
    let spans = rendered(parents.map(|(id, parent)| span(1, id, parent, "work")).to_vec()).await;
    assert_eq!(spans.len(), 6);
    let roots = spans.iter().filter(|span| span["references"] == Json::Array(Vec::new()));
    assert_eq!(roots.count(), 2);
    assert_eq!(warnings(&spans).len(), 2);
}

/// A span id that also occurs here does not make a link one to this trace.
#[tokio::test]
async fn link_to_other_trace_is_kept() {
    let jaeger = Jaeger::start().await;
    let mut child = span(1, 2, 1, "child");
    child.links = vec![Link { trace_id: trace_id(9), span_id: span_id(3), ..Link::default() }];
    jaeger.export_spans(vec![span(1, 1, 0, "root"), child, span(1, 3, 2, "grandchild")]).await;
    let data = jaeger.data(&format!("/api/traces/{}", trace_hex(1))).await;
    let spans = data[0]["spans"].as_array().unwrap();
    let child = spans.iter().find(|span| span["operationName"] == "child").unwrap();
    assert_eq!(child["references"][1]["traceID"], trace_hex(9), "{child}");
}

/// The UI takes only the first reference to a span of the trace as the way to the root.
#[tokio::test]
async fn link_after_parent_is_kept() {
    let jaeger = Jaeger::start().await;
    let linked = |id, to| {
        let link = Link { trace_id: trace_id(1), span_id: span_id(to), ..Link::default() };
        Span { links: vec![link], ..span(1, id, 1, "child") }
    };
    jaeger
        .export_spans(vec![span(1, 1, 0, "root"), linked(2, 3), linked(3, 2), linked(4, 1)])
        .await;
    let spans = spans_of(&jaeger, 1).await;
    let references = spans.iter().flat_map(|span| span["references"].as_array().unwrap());
    let texts = references.map(|to| format!("{} {}", to["refType"], to["spanID"]).replace('"', ""));
    let expected = [
        "CHILD_OF 0000000000000001",
        "FOLLOWS_FROM 0000000000000003",
        "CHILD_OF 0000000000000001",
        "FOLLOWS_FROM 0000000000000002",
        "FOLLOWS_FROM 0000000000000001",
    ];
    assert_eq!(texts.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn link_cycles_are_removed() {
    let link = |to: u64| Link { trace_id: trace_id(1), span_id: span_id(to), ..Link::default() };
    let mut root = span(1, 1, 0, "root");
    root.links = vec![link(1), link(3), link(99)];
    let mut late = span(1, 3, 2, "late");
    late.links = vec![link(2)];
    // The UI would use the link to the child as the parent, because the parent is unknown.
    let mut orphan = span(1, 4, 98, "orphan");
    orphan.links = vec![link(5)];
    let spans =
        rendered(vec![root, span(1, 2, 1, "middle"), late, orphan, span(1, 5, 4, "child")]).await;
    let links: Vec<&Json> = spans
        .iter()
        .flat_map(|span| span["references"].as_array().unwrap())
        .filter(|reference| reference["refType"] == "FOLLOWS_FROM")
        .map(|reference| &reference["spanID"])
        .collect();
    assert_eq!(links, ["0000000000000063", "0000000000000002"]);
    assert_eq!(warnings(&spans).len(), 3);
}

#[tokio::test]
async fn negative_duration_is_zero() {
    let mut backwards = span(1, 1, 0, "work");
    backwards.end_time_unix_nano = backwards.start_time_unix_nano - 5_000_000;
    let mut beyond = span(1, 2, 1, "work");
    (beyond.start_time_unix_nano, beyond.end_time_unix_nano) = (u64::MAX, 0);
    let spans = rendered(vec![backwards, beyond]).await;
    assert!(spans.iter().all(|span| span["duration"] == 0), "{spans:?}");
    assert_eq!(warnings(&spans).len(), 2);
}

/// A child must lie within its parent, unless both are of the same host.
#[tokio::test]
async fn clock_skew_is_reported() {
    let jaeger = Jaeger::start().await;
    let root = span(1, 1, 0, "root");
    let late = |id| Span {
        start_time_unix_nano: root.start_time_unix_nano + 5_000_000,
        end_time_unix_nano: root.end_time_unix_nano + 5_000_000,
        ..span(1, id, 1, "late")
    };
    let of_host = |name: &str, span: Span| {
        let mut spans = of_service(name, vec![span]);
        spans.resource.as_mut().unwrap().attributes.push(text("host.name", name));
        spans
    };
    let spans = [("one", root.clone()), ("one", late(2)), ("two", late(3))];
    jaeger.export(spans.map(|(name, span)| of_host(name, span)).to_vec()).await;
    let spans = spans_of(&jaeger, 1).await;
    let warnings = spans.iter().map(|span| span["warnings"][0].as_str());
    let expected = "clock skew adjustment disabled; not applying calculated delta of -5ms";
    assert_eq!(warnings.collect::<Vec<_>>(), [None, None, Some(expected)]);
}

#[tokio::test]
async fn duplicate_span_is_deduplicated() {
    let first = span(1, 1, 0, "work");
    let spans = rendered(vec![first.clone(), first.clone(), first]).await;
    assert_eq!(spans.len(), 1);
    assert_eq!(warnings(&spans), ["this span arrived 3 times"]);
}

/// Two different spans with the same id are both shown, and only copies count as duplicates.
#[tokio::test]
async fn span_id_collision_is_kept() {
    let first = span(1, 1, 0, "work");
    let mut other = first.clone();
    other.name = "other work".to_owned();
    let spans = rendered(vec![first.clone(), first.clone(), other, first]).await;
    assert_eq!(spans.len(), 2);
    assert_eq!(warnings(&spans), ["this span arrived 3 times"]);
}

#[tokio::test]
async fn deep_trace_is_truncated() {
    let spans = rendered((1..=2_500).map(|id| span(1, id, id - 1, "step")).collect()).await;
    assert_eq!(spans.len(), 2_500);
    assert_eq!(warnings(&spans).len(), 2);
}

#[tokio::test]
async fn missing_names_get_placeholders() {
    let jaeger = Jaeger::start().await;
    let mut nameless = of_service("", vec![span(1, 1, 0, "")]);
    jaeger.export(vec![nameless.clone()]).await;
    nameless.resource = None;
    jaeger.export(vec![nameless]).await;
    let services = jaeger.data("/api/services").await;
    assert_eq!(services, serde_json::json!(["empty-service-name", "missing-service-name"]));
    assert_eq!(
        jaeger.search("service=empty-service-name&operation=empty-span-name").await.len(),
        1
    );
}

#[tokio::test]
async fn many_services() {
    let jaeger = Jaeger::start().await;
    let resource_spans = (1..=10_000).map(|number| {
        of_service(&format!("service-{number:05}"), vec![span(number, 1, 0, "work")])
    });
    assert_eq!(jaeger.export(resource_spans.collect()).await, None);
    let services = jaeger.data("/api/services").await;
    assert_eq!(services.as_array().unwrap().len(), 10_000);
    assert_eq!(services[9_999], "service-10000");
    assert_eq!(jaeger.search("service=service-07777").await, [trace_hex(7_777)]);
}

#[tokio::test]
async fn ten_thousand_attributes_are_kept() {
    let jaeger = Jaeger::start().await;
    let mut wide = span(1, 1, 0, "work");
    wide.attributes = (0..10_000).map(|number| int(&format!("key.{number}"), number)).collect();
    wide.attributes.push(text("controls", "\u{0}\u{1b}[31m\u{2028}</script>"));
    jaeger.export_spans(vec![wide]).await;
    let spans = spans_of(&jaeger, 1).await;
    let tags = spans[0]["tags"].as_array().unwrap();
    assert!(tags.iter().any(|tag| tag["key"] == "key.9999" && tag["value"] == 9_999));
    assert!(tags.iter().any(|tag| tag["value"] == "\u{0}\u{1b}[31m\u{2028}</script>"));
}
