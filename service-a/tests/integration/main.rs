//! Integration tests of service A, with the real binary on real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

use testkit::http::{Connection, Request};
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

/// Returns a builder for service A on a free port, with default settings.
fn service_a() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_service-a"))
}

/// Starts service A with these faults.
fn service_a_with_faults(faults: &str) -> Process {
    let service = service_a().env("FAULTS_ENABLED", "true").serve();
    service.set_faults(faults);
    service
}

/// Sends a request to `/echo` and waits until it is in flight.
fn start_echo(service: &Process) -> Connection {
    let connection = Request::new("GET", "/echo?msg=hello").start(service.address());
    service.wait_for_metrics("a request in flight", |page| {
        page.value("http_server_active_requests", &[("http_request_method", "GET")]) == Some(1.0)
    });
    connection
}
