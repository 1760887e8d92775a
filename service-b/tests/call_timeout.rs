//! Timeout of calls to service A.
//!
//! This test measures time. It is alone in its binary and runs its cases one after the other, so that no
//! other test slows it down.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use std::time::Duration;

use testkit::{FakeServer, ProcessBuilder, Reply};

/// Upper bound of each case. The replies never end, so that a call without an effective timeout exceeds it. It is
/// far above the timeouts and below the default of `IDLE_TIMEOUT_MS`, so that a busy machine does not.
const UPPER_BOUND: Duration = Duration::from_secs(8);

/// Checks that a call fails at its timeout and not before. The default is 1000 ms.
fn assert_times_out(case: &str, service_a_url: &str, timeout_ms: Option<u64>) {
    let mut service =
        ProcessBuilder::new(env!("CARGO_BIN_EXE_service-b")).env("SERVICE_A_URL", service_a_url);
    if let Some(ms) = timeout_ms {
        service = service.env("SERVICE_A_TIMEOUT_MS", ms.to_string());
    }
    let service = service.serve();
    let timeout = Duration::from_millis(timeout_ms.unwrap_or(1000));
    let response = service.get("/call-echo?msg=hello");
    assert_eq!((response.status, &response.json()["error"]), (503, &"timeout".into()), "{case}");
    println!("{case}: response after {} ms, timeout {timeout:?}", response.elapsed.as_millis());
    assert!(response.elapsed >= timeout, "{case}: {:?}", response.elapsed);
    assert!(response.elapsed < UPPER_BOUND, "{case}: {:?}", response.elapsed);
}

#[test]
fn slow_upstream_times_out_in_budget() {
    #[cfg(target_os = "linux")]
    {
        let (address, _sockets) = testkit::listener_with_full_backlog();
        assert_times_out("no connection", &format!("http://{address}"), None);
    }
    let cases = [
        ("no response", Reply::Stall(Vec::new())),
        ("slow headers", Reply::SlowBody(b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec())),
        ("stalled body", Reply::Stall(Reply::start_of(100, r#"{"echo":"#))),
        ("slow body", Reply::SlowBody(Reply::start_of(100_000, r#"{"echo":""#))),
    ];
    for (case, reply) in cases {
        let service_a = FakeServer::start(reply);
        assert_times_out(case, &service_a.url(), None);
    }
    // Above the default, so that a call with the default timeout ends too early.
    let service_a = FakeServer::start(Reply::Stall(Vec::new()));
    assert_times_out("configured timeout", &service_a.url(), Some(2000));
}
