//! What the tests share: real processes, real sockets, an OTLP receiver.
//!
//! | to | use |
//! |---|---|
//! | run a service as the process that people run | [`ProcessBuilder`], [`Process`] |
//! | ask it something, also in ways no client would | [`http`] |
//! | stand in for a service that misbehaves | [`FakeServer`] |
//! | receive its spans | [`otlp::OtlpCollector`] |
//! | read its log | [`LogLine`] |
//! | read its metrics | [`prometheus::Page`] |
//! | take every way out of the network from it | `network::in_isolated_network` (Linux) |
//!
//! Nothing here sleeps to let something happen: what has to happen is waited for on a [`EventLog`], and
//! a wait that takes longer than [`TEST_TIMEOUT`] fails the test with all that did happen. Ports are the
//! system's choice, addresses are loopback, and what a test starts ends with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::time::Duration;

mod event_log;
mod fake_server;
pub mod http;
mod logfmt;
#[cfg(target_os = "linux")]
pub mod network;
pub mod otlp;
mod process;
pub mod prometheus;
#[cfg(feature = "tls")]
mod tls;

pub use event_log::EventLog;
#[cfg(target_os = "linux")]
pub use fake_server::listener_with_full_backlog;
pub use fake_server::{FakeServer, ReceivedRequest, Reply, ReservedPort};
pub use logfmt::LogLine;
pub use process::{Process, ProcessBuilder, ProcessOutput, Stdout};
#[cfg(feature = "tls")]
pub use tls::TlsProxy;

/// How long anything is waited for before the test fails. Long, since only a failing test waits that
/// long, and a loaded machine is no failure.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);
