//! Comparison with a real Jaeger, which `.ci/peers` builds: both receive the same traces and respond to the
//! same queries.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod normalize;
mod peer;
mod queries;
mod spans;
#[path = "../integration/support.rs"]
mod support;
mod traces;

use embedded_jaeger::JaegerHandle;
use normalize::differences;
use peer::Peer;
use queries::{DIFFERENT, DIFFERENT_WARNINGS, Query, queries};
use support::now_ns;
use testkit::RealJaeger;
use traces::Traces;

const HOUR_NS: u64 = 3_600_000_000_000;

/// Returns both Jaegers with the same traces.
async fn start() -> (Peer<JaegerHandle>, Peer<RealJaeger>, Traces) {
    let (embedded, real) = (Peer::embedded().await, Peer::real());
    let traces = Traces::new(now_ns() / 1_000_000_000 * 1_000_000_000 - HOUR_NS);
    for trace in &traces.list {
        for spans in &trace.exports {
            embedded.export(spans.clone()).await;
            real.export(spans.clone()).await;
        }
    }
    (embedded, real, traces)
}

#[tokio::test]
#[ignore = "needs the program that `.ci/peers` builds"]
async fn responses_match_real_jaeger() {
    let (embedded, real, traces) = start().await;
    let mut failures = Vec::new();
    let queries = queries(&traces);
    println!("{} traces, {} queries", traces.list.len(), queries.len());
    for query in &queries {
        let [ours, theirs] = [embedded.respond(query).await, real.respond(query).await];
        let found = differences(&ours.normalized(), &theirs.normalized());
        failures.extend(failure(&traces.label(query), found, DIFFERENT));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Returns a text if there are differences that the table does not expect, or if there are none that it expects.
fn failure(label: &str, found: Vec<String>, expected: &[(&str, &str)]) -> Option<String> {
    match (expected.iter().find(|(name, _)| *name == label), found.is_empty()) {
        (Some((_, reason)), true) => Some(format!("{label}: no difference, though {reason}")),
        (None, false) => Some(format!("{label}\n    {}", found.join("\n    "))),
        _ => None,
    }
}

/// The warnings of version 2.13 depend on the host only in version 3 of its API. Version 2.20 has the same
/// warnings in both.
#[tokio::test]
#[ignore = "needs the program that `.ci/peers` builds"]
async fn warnings_match_real_jaeger() {
    let (embedded, real, traces) = start().await;
    let (mut failures, mut count) = (Vec::new(), 0);
    for trace in &traces.list {
        // A response of the real Jaeger adds the warnings to the stored trace.
        let query = |path| Query { target: format!("{path}/{}", trace.id), body: None };
        let ours = embedded.respond(&query("/api/traces")).await.warnings();
        let theirs = real.respond(&query("/api/v3/traces")).await.warnings();
        count += theirs.len();
        let found =
            if ours == theirs { vec![] } else { vec![format!("{ours:?} instead of {theirs:?}")] };
        failures.extend(failure(&trace.name, found, DIFFERENT_WARNINGS));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(count > 10, "{count} warnings");
}
