//! Reliability tests of both services, with real processes on loopback sockets.
//!
//! `docs/reliability.md` lists what they cover and the measured values. `.ci/run reliability` runs the
//! ignored tests as well.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

mod docs_in_sync;
mod information_disclosure;
mod otlp_backend;
mod overload;
mod shutdown;
mod soak;
mod support;
mod upstream_faults;
