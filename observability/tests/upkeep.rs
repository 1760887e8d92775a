//! Histograms that a service has of its own keep each sample until a scrape or the upkeep folds it into
//! its bucket.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;
use std::thread;
use std::time::Instant;

use testkit::http::Request;
use testkit::{Process, ProcessBuilder, TEST_TIMEOUT};

/// What a sample takes while it waits, in bytes: a number and a time.
const WAITING_SAMPLE: i64 = 16;
const SAMPLES: i64 = 1_000_000;

fn own_histogram() -> ProcessBuilder {
    // What one thread gives back is what it takes next; of several each has memory of its own.
    ProcessBuilder::example("own_histogram").env("TOKIO_WORKER_THREADS", "1")
}

fn record(service: &Process) {
    let request = Request::new("POST", &format!("/record/{SAMPLES}"));
    assert_eq!(request.send(service.address()).status, 200);
}

/// One line of a `status` file below `/proc`.
fn line(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
}

/// Whether the upkeep's thread is asleep, and how often it has gone to sleep: once after each time that
/// it did its work.
fn upkeep(service: &Process) -> (bool, u64) {
    let threads = fs::read_dir(format!("/proc/{}/task", service.id())).unwrap();
    let statuses = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")));
    // A thread may be gone before its file is read.
    let status = statuses.flatten().find(|status| line(status, "Name") == "metrics-upkeep");
    let status = status.expect("a thread for the upkeep");
    let sleeps = line(&status, "voluntary_ctxt_switches").parse().unwrap();
    (line(&status, "State").starts_with('S'), sleeps)
}

/// Waits until all that is recorded by now was seen to.
fn wait_for_upkeep(service: &Process) {
    let (asleep, sleeps) = upkeep(service);
    // Work that is under way may have missed the last samples.
    let wanted = if asleep { sleeps + 1 } else { sleeps + 2 };
    let deadline = Instant::now() + TEST_TIMEOUT;
    while upkeep(service).1 < wanted {
        assert!(Instant::now() < deadline, "time was up without upkeep");
        thread::yield_now();
    }
}

#[test]
fn user_histogram_needs_no_scrape() {
    let service = own_histogram().serve();
    let before = service.resident_kib();
    record(&service);
    wait_for_upkeep(&service);
    record(&service);
    let growth = service.resident_kib() - before;
    println!("{} samples, nobody scrapes: {growth} KiB more", 2 * SAMPLES);
    // The second million takes the place of the first.
    assert!(growth * 1024 < WAITING_SAMPLE * SAMPLES * 3 / 2, "{growth} KiB");
    // And none is lost.
    let counted = service.metrics().value("own_seconds_count", &[]);
    assert_eq!(counted, Some(2.0 * SAMPLES as f64));
}
