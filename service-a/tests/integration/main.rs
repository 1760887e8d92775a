//! Service A as its callers and operators meet it: the real binary, real sockets.
//!
//! A file for each part of what was promised; the names of the tests are the promises.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use testkit::{Process, ProcessBuilder};

mod faults;
#[cfg(unix)]
mod lifecycle;
mod logs;
mod malformed_requests;
mod metrics;
mod responses;
mod settings;
#[cfg(all(unix, feature = "tls"))]
mod tls;
mod traces;

/// Service A on a free port, with nothing set.
fn service_a() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_service-a"))
}

/// Service A with `/faults` enabled, and these faults set.
fn faulty(plan: &str) -> Process {
    let service = service_a().env("FAULTS_ENABLED", "true").serve();
    let answer = set_faults(&service, plan);
    assert_eq!(answer.status, 200, "{answer:?}");
    service
}

fn set_faults(service: &Process, plan: &str) -> testkit::http::Response {
    testkit::http::Request::new("PUT", "/faults")
        .header("Content-Type", "application/json")
        .body(plan)
        .send(service.address())
}
