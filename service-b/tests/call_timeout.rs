//! B keeps its time budget, whatever A does with the time.
//!
//! The one promise that is held against the clock stands alone in its test binary, and its cases come
//! one after the other: nothing else of the suite runs beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::time::Duration;

use testkit::{FakeServer, ProcessBuilder, Reply};

/// What a call may take beyond its budget.
const MARGIN: Duration = Duration::from_millis(250);

fn assert_in_time(case: &str, service_a_url: &str, budget: Option<u64>) {
    let launch =
        ProcessBuilder::new(env!("CARGO_BIN_EXE_service-b")).env("SERVICE_A_URL", service_a_url);
    let service = match budget {
        Some(ms) => launch.env("SERVICE_A_TIMEOUT_MS", ms.to_string()).serve(),
        None => launch.serve(),
    };
    let budget = Duration::from_millis(budget.unwrap_or(1000));
    let answer = service.get("/call-echo?msg=hello");
    assert_eq!((answer.status, &answer.json()["error"]), (503, &"timeout".into()), "{case}");
    println!("{case}: answered after {} ms of {budget:?}", answer.elapsed.as_millis());
    assert!(answer.elapsed >= budget, "{case}: {:?}", answer.elapsed);
    assert!(answer.elapsed < budget + MARGIN, "{case}: {:?}", answer.elapsed);
}

#[test]
fn slow_upstream_times_out_in_budget() {
    #[cfg(target_os = "linux")]
    {
        let (address, _sockets) = testkit::listener_with_full_backlog();
        assert_in_time("no connection", &format!("http://{address}"), None);
    }
    let cases = [
        ("no answer", Reply::Stall(Vec::new())),
        ("slow headers", Reply::SlowBody(b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec())),
        ("a body that stops", Reply::Stall(Reply::start_of(100, r#"{"echo":"#))),
        ("a slow body", Reply::SlowBody(Reply::start_of(100_000, r#"{"echo":""#))),
    ];
    for (case, reply) in cases {
        let service_a = FakeServer::start(reply);
        assert_in_time(case, &service_a.url(), None);
    }
    let silent = FakeServer::start(Reply::Stall(Vec::new()));
    assert_in_time("a budget of one's own", &silent.url(), Some(100));
}
