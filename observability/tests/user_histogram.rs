//! Metrics that a service records through the `metrics` crate.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::ProcessBuilder;
use testkit::http::Request;

const SAMPLES: i64 = 1_000_000;
/// Memory of a sample that is kept until a scrape, in bytes: a value and a timestamp.
const KEPT_SAMPLE_BYTES: i64 = 16;

/// Memory is bounded without scrapes, and scrapes while samples are recorded drop none.
#[test]
fn user_histogram_needs_no_scrape() {
    // With several worker threads each would keep freed memory in a separate arena.
    let service =
        ProcessBuilder::example("user_histogram").env("TOKIO_WORKER_THREADS", "2").serve();
    let record = Request::new("POST", &format!("/record/{SAMPLES}"));
    let before = service.resident_kib();
    assert_eq!(record.send(service.address()).status, 200);
    let growth = service.resident_kib() - before;
    println!("{SAMPLES} samples without a scrape: {growth} KiB more");
    assert!(growth * 1024 < KEPT_SAMPLE_BYTES * SAMPLES / 2, "{growth} KiB");

    let mut recording = record.start(service.address());
    let mut last = SAMPLES as f64;
    let mut scrapes = 0;
    while last < 2.0 * SAMPLES as f64 {
        let count = service.metrics().value("user_seconds_count", &[]).unwrap();
        assert!(count >= last, "{count} after {last}");
        last = count;
        scrapes += 1;
    }
    assert_eq!(recording.response().unwrap().status, 200);
    assert_eq!(last, 2.0 * SAMPLES as f64);
    println!("{SAMPLES} samples during {scrapes} scrapes: none dropped");
}

/// Unusual metrics give valid pages, and each problem causes one warning.
#[test]
fn user_metrics_are_valid() {
    let service = ProcessBuilder::example("user_histogram").serve();
    for _ in 0..2 {
        let response = Request::new("POST", "/unusual").send(service.address());
        assert_eq!(response.status, 200);
        service.wait_for_access_line(response.trace_id());
    }
    // Parsing fails if a line is malformed or a series occurs twice.
    let page = service.metrics();
    for (name, labels, value) in [
        ("jobs_total", vec![], 2.0),
        ("a_b_total", vec![], 4.0),
        ("pairs_total", vec![("_", "3"), ("a_b", "1;2")], 4.0),
        ("not_finite_seconds_count", vec![], 0.0),
        ("user_bytes_bucket", vec![("exported_le", "x"), ("le", "1e+06")], 0.0),
        ("visits_total", vec![("user", "_OTHER")], 2.0 * 98_000.0),
        ("metrics_rejected_total", vec![("error_type", "name_conflict")], 4.0),
        ("metrics_rejected_total", vec![("error_type", "not_finite")], 4.0),
    ] {
        assert_eq!(page.value(name, &labels), Some(value), "{name} {labels:?}");
    }
    let warnings = |metric: &str| {
        let lines = service.log();
        lines.iter().filter(|line| line.get("metric") == Some(metric)).count()
    };
    for (metric, expected) in
        [("jobs", 1), ("jobs_created", 1), ("a_b_total", 1), ("pairs", 1), ("visits", 1)]
    {
        assert_eq!(warnings(metric), expected, "{metric}");
    }
}
