//! Test support: child processes, a raw HTTP client, fake servers and an OTLP collector.
//!
//! | to | use |
//! |---|---|
//! | run a service as a child process | [`ProcessBuilder`], [`Process`] |
//! | send requests, malformed ones included | [`http`] |
//! | replace an upstream with one that misbehaves | [`FakeServer`] |
//! | receive spans | [`otlp::OtlpCollector`] |
//! | compare with a real Jaeger | [`RealJaeger`] |
//! | read log lines | [`LogLine`] |
//! | read metrics | [`prometheus::Page`] |
//! | run a test without a network | `network::in_isolated_network` (Linux) |
//!
//! Tests wait for events or conditions ([`wait_until`]) and fail after [`TEST_TIMEOUT`]. They never sleep
//! to let something happen. Ports are chosen by the system, addresses are loopback, and
//! processes and servers stop when their handles are dropped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed assumption fails the test"
)]

mod event_log;
mod fake_server;
pub mod http;
pub mod http2;
mod jaeger;
mod logfmt;
#[cfg(target_os = "linux")]
pub mod network;
pub mod otlp;
mod process;
pub mod prometheus;
mod reserved_port;
#[cfg(feature = "tls")]
pub mod tls;
mod wait;

pub use fake_server::{FakeServer, ReceivedRequest, Reply};
pub use jaeger::RealJaeger;
pub use logfmt::LogLine;
pub use process::{Process, ProcessBuilder, ProcessOutput, Stdout};
pub use reserved_port::ReservedPort;
#[cfg(target_os = "linux")]
pub use reserved_port::listener_with_full_backlog;
#[cfg(feature = "tls")]
pub use tls::TlsProxy;
pub use wait::{TEST_TIMEOUT, wait_until, wait_until_refused};
