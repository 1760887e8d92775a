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

use normalize::differences;
use peer::Peer;
use queries::{DIFFERENT, queries};
use support::now_ns;
use traces::Traces;

const HOUR_NS: u64 = 3_600_000_000_000;

#[tokio::test]
#[ignore = "needs the program that `.ci/peers` builds"]
async fn responses_match_real_jaeger() {
    let (embedded, real) = (Peer::embedded().await, Peer::real());
    let traces = Traces::new(now_ns() / 1_000_000_000 * 1_000_000_000 - HOUR_NS);
    for trace in &traces.list {
        for spans in &trace.exports {
            embedded.export(spans.clone()).await;
            real.export(spans.clone()).await;
        }
    }
    let mut failures = Vec::new();
    let queries = queries(&traces);
    println!("{} traces, {} queries", traces.list.len(), queries.len());
    for query in &queries {
        let [ours, theirs] = [embedded.respond(query).await, real.respond(query).await];
        let mut found = Vec::new();
        differences("", &ours.normalized(), &theirs.normalized(), &mut found);
        let label = traces.label(query);
        let expected = DIFFERENT.iter().find(|(part, _)| label == *part);
        match (expected, found.is_empty()) {
            (Some((_, reason)), true) => {
                failures.push(format!("{label}: no difference, though {reason}"))
            }
            (None, false) => failures.push(format!("{label}\n    {}", found.join("\n    "))),
            _ => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
