//! Integration tests of service B, with the real binary on real sockets and a fake service A.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
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

/// Returns a builder for service B on a free port that calls service A at this URL.
fn service_b(service_a_url: impl AsRef<str>) -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_service-b"))
        .env("SERVICE_A_URL", service_a_url.as_ref())
}

/// Returns the labels for service A in the metrics of service B.
fn server_labels(service_a: &FakeServer) -> [(&'static str, String); 2] {
    let address = service_a.address();
    [("server_address", address.ip().to_string()), ("server_port", address.port().to_string())]
}

const CLIENT_DURATION_COUNT: &str = "http_client_request_duration_seconds_count";
const CLIENT_ERRORS: &str = "http_client_request_errors_total";
const SERVER_DURATION_COUNT: &str = "http_server_request_duration_seconds_count";
