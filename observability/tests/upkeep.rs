//! Upkeep of histograms that a service records through the `metrics` crate. The recorder keeps each sample
//! until a scrape or the upkeep adds it to a bucket.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::fs;

use testkit::http::Request;
use testkit::{Process, ProcessBuilder, wait_until};

/// Memory of a pending sample in bytes: a value and a timestamp.
const PENDING_SAMPLE_BYTES: i64 = 16;
const SAMPLES: i64 = 1_000_000;

fn user_histogram() -> ProcessBuilder {
    // With several worker threads each would keep freed memory in a separate arena.
    ProcessBuilder::example("user_histogram").env("TOKIO_WORKER_THREADS", "1")
}

fn record(service: &Process) {
    let request = Request::new("POST", &format!("/record/{SAMPLES}"));
    assert_eq!(request.send(service.address()).status, 200);
}

/// Returns a field of a `status` file in `/proc`.
fn status_field(status: &str, name: &str) -> String {
    let field = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    field.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

/// Returns whether the upkeep thread is asleep and how often it has gone to sleep. It sleeps once after each
/// run.
fn upkeep_sleeps(service: &Process) -> (bool, u64) {
    let threads = fs::read_dir(format!("/proc/{}/task", service.id())).unwrap();
    let statuses = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    // A thread may exit before its file is read.
    let status = statuses.flatten().find(|status| status_field(status, "Name") == "metrics-upkeep");
    let status = status.expect("an upkeep thread");
    let sleeps = status_field(&status, "voluntary_ctxt_switches").parse().unwrap();
    (status_field(&status, "State").starts_with('S'), sleeps)
}

/// Waits until all samples recorded so far are in their buckets.
fn wait_for_upkeep(service: &Process) {
    let (is_asleep, sleeps) = upkeep_sleeps(service);
    // A run in progress may have missed the last samples.
    let target = if is_asleep { sleeps + 1 } else { sleeps + 2 };
    wait_until("the upkeep", || upkeep_sleeps(service).1 >= target);
}

/// Memory stays bounded without scrapes, and no sample is dropped.
#[test]
fn user_histogram_needs_no_scrape() {
    let service = user_histogram().serve();
    let before = service.resident_kib();
    record(&service);
    wait_for_upkeep(&service);
    record(&service);
    let growth = service.resident_kib() - before;
    println!("{} samples without a scrape: {growth} KiB more", 2 * SAMPLES);
    // The second million reuses the memory of the first.
    assert!(growth * 1024 < PENDING_SAMPLE_BYTES * SAMPLES * 3 / 2, "{growth} KiB");
    let count = service.metrics().value("user_seconds_count", &[]);
    assert_eq!(count, Some(2.0 * SAMPLES as f64));
}
