//! Service B as its callers and operators meet it, with a service A that does as a script says.
//!
//! A file for each part of what was promised; the names of the tests are the promises.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use testkit::{FakeServer, ProcessBuilder};

mod cancellation;
mod failures;
#[cfg(unix)]
mod lifecycle;
mod logs;
mod resilience;
mod responses;
mod secrets;
mod settings;
mod traces;

/// Service B on a free port, calling service A at this URL.
fn service_b(service_a_url: impl AsRef<str>) -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_service-b"))
        .env("SERVICE_A_URL", service_a_url.as_ref())
}

/// The labels that name service A in B's metrics.
fn peer(service_a: &FakeServer) -> [(&'static str, String); 2] {
    let address = service_a.address();
    [("server_address", address.ip().to_string()), ("server_port", address.port().to_string())]
}

const CLIENT_DURATION_COUNT: &str = "http_client_request_duration_seconds_count";
const CLIENT_ERRORS: &str = "http_client_request_errors_total";
const SERVER_DURATION_COUNT: &str = "http_server_request_duration_seconds_count";
