//! Nothing lost, nothing hung: what the services promise when everything around them goes wrong.
//!
//! Real processes, real sockets, loopback only. docs/reliability.md lists the promises and what was
//! measured. Tests that are `#[ignore]`d are the same ones with large numbers: `.ci/run reliability`.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod docs_in_sync;
mod information_disclosure;
mod otlp_backend;
mod overload;
mod shutdown;
mod soak;
mod support;
mod upstream_faults;
