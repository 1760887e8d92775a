//! Histogram that a service records through the `metrics` crate.

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
